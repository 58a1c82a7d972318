"""Hashes of files, folders and JSON values."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from tinyohem.io.compressed import _encoded

_BUFFER_BYTES = 1 << 20


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder, in hex, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def checksum_file(path: Path) -> int:
    """Return the CRC-32 of a file's bytes: finds damage, not malice, at five times the speed."""
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_BUFFER_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(_encoded(text)).hexdigest()
