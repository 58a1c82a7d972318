"""Where prepared corpora lie."""

import os
from pathlib import Path


def data_dir() -> Path:
    """Return the folder of prepared corpora: `$TINYOHEM_DATA`, by default `data/` here."""
    return Path(os.environ.get("TINYOHEM_DATA", "data"))
