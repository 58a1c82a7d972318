"""Score how hard each story is, and order the training windows by it (the curriculum)."""
