"""Hashes of files, folders and JSON values."""

import hashlib
from pathlib import Path
from typing import Any

from tinyohem.io.json import encode_json


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder, in hex, by its path from there."""
    return {name: hash_file(path) for name, path in files_below(folder).items()}


def files_below(folder: Path) -> dict[str, Path]:
    """Return every file under a folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order, in hex."""
    return hashlib.sha256(encode_json(value, sort_keys=True)).hexdigest()
