"""Files and folders that survive a kill: under a name stands the whole old or new content."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tinyohem.io.names import utf8_path

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.(partial|replaced)")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_leftover(path: Path) -> bool:
    """Tell whether a killed process left `path` half-written, or its lock."""
    return path.name.startswith(".") and path.suffix in (".partial", ".replaced", ".lock")


def drop_leftovers(*folders: Path) -> None:
    """Remove what killed processes left half-written in these folders, but not below them.

    Only the sole writer of the folders may call it: another process's files look the same.
    """
    for path in [path for folder in folders if folder.is_dir() for path in folder.iterdir()]:
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing; it appears at `path` once it is whole and synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with _naming(path), partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears at `path` once it is whole; it replaces an existing one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    replaced = partial.with_suffix(".replaced")
    partial.mkdir()
    try:
        with _naming(path):
            yield utf8_path(partial)
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if path.exists():  # moved aside whole, so that `path` is never half a folder
            os.replace(path, replaced)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise an OSError that names the file if the disk is full, whichever library wrote.

    Libraries in Rust give the error number in a text only: safetensors in its own error,
    tokenizers in a bare `Exception`.
    """
    try:
        yield
    except Exception as error:
        match = re.search(r"\(os error (\d+)\)$", str(error))
        code = error.errno if isinstance(error, OSError) else match and int(match[1])
        if code in _NO_ROOM or (code and not isinstance(error, OSError)):
            raise OSError(code, os.strerror(code), str(path)) from None
        raise
