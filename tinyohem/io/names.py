"""Handle file names that are not UTF-8, whose bytes Python spells as halves of surrogate pairs."""

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


def shown(text: str) -> str:
    """Return a text that can be written as UTF-8, with such bytes as `\\xe9`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # another half of a pair, which JSON may hold
        return text.encode("utf-8", "backslashreplace").decode()


def utf8_path(path: Path) -> Path:
    """Return a path that libraries in Rust and Arrow accept: `path`, or a link to it."""
    target = path.absolute()
    try:
        str(target).encode()
        return path
    except UnicodeEncodeError:
        link = _links() / hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
    if not link.is_symlink():
        link.symlink_to(target)
    return link


@cache
def _links() -> Path:
    """Return a folder that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="tinyohem-names-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
