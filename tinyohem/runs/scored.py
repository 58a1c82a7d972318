"""How much of its validation split a run's figures cover, and the command that scores all of it."""

import shlex
from collections.abc import Iterable
from pathlib import Path


def in_part(scored: int | None, stories: int | None) -> bool:
    """Whether figures are known to cover a part of the validation stories only.

    Args:
        scored: stories that the figures cover.
        stories: of the split.
    """
    return bool(scored and stories and scored < stories)


def coverage(scored: int | None, stories: int | None) -> str:
    """Return `62 of 1,000`, or `all 1,000`; empty where nobody knows."""
    if not scored or not stories:
        return ""
    return f"{scored:,} of {stories:,}" if in_part(scored, stories) else f"all {stories:,}"


def scoring_command(folders: Iterable[Path]) -> str:
    """Return the command line that scores these runs on all of their validation stories."""
    return " && ".join(f"tinyohem eval-perplexity {shlex.quote(str(path))}" for path in folders)
