"""tinyohem: token-level online hard example mining for small language models.

`tinyohem.api` documents `train`, `evaluate`, `score_difficulty`, `compare` and `load_run`;
`OhemLoss` is the loss for a training loop of your own.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOMES = dict.fromkeys(
    ("train", "evaluate", "score_difficulty", "compare", "load_run"), "tinyohem.api"
) | {"OhemLoss": "tinyohem.ohem.module"}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Load what is asked for, and torch with it, only then."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
