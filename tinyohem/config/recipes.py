"""Merge a run's values; later ones win.

Their order: defaults, a recipe (laid over the one it extends), flags, `--set section.key=value`.
"""

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tinyohem.config.aliases import WITHDRAWN, current_name, nearest, suggest_key
from tinyohem.config.run import RunConfig, known_keys, reject_unknown_keys, validate_config
from tinyohem.config.sections import ConfigTree
from tinyohem.errors import InputError, plainly


def load_config(
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
) -> RunConfig:
    """Merge a recipe, flags (`{"ohem.ratio": 0.5}`) and `section.key=value` into one config.

    Raises:
        InputError: an unknown recipe or key (the nearest name is suggested), or a bad value.
    """
    return validate_config(config_tree(recipe, overrides or {}, assignments))


def config_tree(
    recipe: str | None, overrides: Mapping[str, Any], assignments: Iterable[str]
) -> ConfigTree:
    """Merge as `load_config` does, but leave the result unchecked."""
    tree = read_recipe(recipe) if recipe else {}
    for key, value in overrides.items():
        assign(tree, key, value)
    for assignment in assignments:
        key, equals, literal = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment!r} has no '='", "write --set section.key=value")
        assign(tree, key.strip(), parse_literal(literal.strip()))
    return tree


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes."""
    folder = resources.files("tinyohem_recipes")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def recipe_text(name: str) -> str:
    """Return the TOML of a built-in recipe or of a file that ends in `.toml`."""
    if name.endswith(".toml"):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # not UTF-8, or a name with a null byte
            raise InputError(
                f"cannot read the recipe {name}: {plainly(error)}", "check the path"
            ) from None
    if name not in recipe_names():
        raise InputError(
            f"there is no recipe {name!r}{nearest(name, recipe_names())}",
            "`tinyohem recipes list` shows them; a file of your own must end in .toml",
        )
    return (resources.files("tinyohem_recipes") / f"{name}.toml").read_text(encoding="utf-8")


def read_recipe(name: str) -> ConfigTree:
    """Return a recipe's tree, laid over the one it `extends` (one level)."""
    tree, parent = _parse_recipe(name)
    if parent is None:
        return tree
    base, grandparent = _parse_recipe(parent)
    if grandparent is not None:
        raise InputError(
            f"recipe {name!r} extends {parent!r}, which extends a third one",
            "recipes extend one level only: copy what is needed",
        )
    return overlay(base, tree)


def _parse_recipe(name: str) -> tuple[ConfigTree, str | None]:
    """Return a recipe's sections and the name of the one it extends."""
    try:
        tree = parse_toml(recipe_text(name))
    except ValueError as error:
        raise InputError(f"recipe {name!r} is not TOML: {error}", "mend that line") from None
    tree.pop("description", None)
    parent = tree.pop("extends", None)
    if not isinstance(parent, str | None):
        raise InputError(f"recipe {name!r} extends {parent!r}, not a name", "name one recipe")
    reject_unknown_keys(tree)
    return tree, parent


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> ConfigTree:
    """Lay one config tree over another, key by key; neither is changed."""
    return {name: {**base.get(name, {}), **top.get(name, {})} for name in {**base, **top}}


def parse_literal(text: str) -> Any:
    """Read a TOML value or `null`; anything else, such as a bare word, is a string."""
    if text == "null":  # as in config.json: TOML has no word for it
        return None
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def parse_toml(text: str) -> ConfigTree:
    """Read TOML.

    Raises:
        ValueError: it is none.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def assign(tree: ConfigTree, dotted: str, value: Any) -> None:
    """Set `section.key` in a config tree."""
    section, _, key = dotted.partition(".")
    if not key:
        guess = suggest_key(dotted, known_keys())
        raise InputError(f"{dotted!r} names no key{guess}", "write --set section.key=value")
    if dotted in WITHDRAWN:
        reject_unknown_keys({section: {key: value}})
    tree.setdefault(section, {})[current_name(section, key)] = value
