"""The built-in recipes, data only; installed as `tinyohem_recipes` so that a wheel carries them."""
