"""Hashes of story files; a file that this process has hashed is not read again until it changes."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_file
from tinyohem.progress import Progress

EachFile = Callable[[Callable[[Path], str], Iterable[Path]], Iterator[str]]  # such as `map`
_State = tuple[Path, int, int, int, int, int]

# A report opens the same corpus again for each of its runs.
_hashed: dict[_State, str] = {}
# A file may change twice within one tick of its clock: one that has just changed is hashed again.
_SETTLED_NS = 3_000_000_000


def hash_story_files(files: list[Path], each: EachFile, progress: Progress) -> list[str]:
    """Return the SHA-256 of each file in hex.

    Raises:
        InputError: a file cannot be read.
    """
    states = [_settled_state(path) for path in files]
    found = [_hashed.get(state) if state else None for state in states]
    new = [index for index, sha256 in enumerate(found) if sha256 is None]
    if new:
        progress.start("fingerprint", len(new), "files", transient=True)
        hashes = each(_hash_story_file, [files[index] for index in new])
        for done, (index, sha256) in enumerate(zip(new, hashes, strict=True), 1):
            found[index] = sha256
            if state := states[index]:
                _hashed[state] = sha256
            progress.advance(done)
        progress.finish()
    return [sha256 for sha256 in found if sha256 is not None]


def _settled_state(path: Path) -> _State | None:
    """Return what changes with a file's content; None where that cannot be relied on."""
    if type(path) is not type(Path()):
        return None  # at a URL
    try:
        stat = path.stat()
    except OSError:
        return None
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) <= _SETTLED_NS:
        return None
    times = stat.st_mtime_ns, stat.st_ctime_ns
    return path.absolute(), stat.st_dev, stat.st_ino, stat.st_size, *times


def _hash_story_file(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror or error}"
        raise InputError(what, "check its permissions") from error
