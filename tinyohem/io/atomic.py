"""Files and folders that survive a kill: what stands under a name is whole, old or new."""

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
    """Whether `path` is what a killed process had begun to write, of use to nobody."""
    return path.name.startswith(".") and path.suffix in (".partial", ".replaced", ".lock")


def drop_leftovers(*folders: Path) -> None:
    """Remove what killed processes had begun to write in these folders, not in those below.

    For the one process that writes there: another's would look the same.
    """
    for path in [path for folder in folders if folder.is_dir() for path in folder.iterdir()]:
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears under `path` only once it is whole and synced."""
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
    """Fill a folder that appears under `path` only once it is whole; replaces an existing one."""
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
        if path.exists():  # moved aside whole: what stands at `path` is never half a folder
            os.replace(path, replaced)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file where the disk is full, whichever library was writing.

    Rust's say so in a text alone: safetensors in an error of its own, tokenizers in a bare
    `Exception`.
    """
    try:
        yield
    except Exception as error:
        match = re.search(r"\(os error (\d+)\)$", str(error))
        code = error.errno if isinstance(error, OSError) else match and int(match[1])
        if code in _NO_ROOM or (code and not isinstance(error, OSError)):
            raise OSError(code, os.strerror(code), str(path)) from None
        raise
