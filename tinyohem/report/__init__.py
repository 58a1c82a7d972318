"""One page about runs or a comparison: what was logged, what was selected, what came out."""
