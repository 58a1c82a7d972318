"""Where prepared data is cached: tokenizers, token stores, scores."""

import os
from pathlib import Path


def data_dir() -> Path:
    """Return `$TINYOHEM_DATA`, by default `data/` in the working directory."""
    return Path(os.environ.get("TINYOHEM_DATA", "data"))
