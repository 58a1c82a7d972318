"""Hashes of story files, and pairs of files that hold the same stories."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tinyohem.data.readers import file_format, read_texts
from tinyohem.data.story_hash import story_hash
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_file
from tinyohem.progress import Progress

EachFile = Callable[[Callable[[Path], str], Iterable[Path]], Iterator[str]]  # such as `map`
_State = tuple[Path, int, int, int, int, int]

# Kept by this process: a report opens the same corpus for each of its runs.
_hashed: dict[_State, str] = {}
# A file may change twice within a tick of its clock: one that has just changed is hashed again.
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
    """Return what changes with a file's content, None if that is not reliable."""
    if not isinstance(path, Path):  # at a URL
        return None
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


def twins(files: Sequence[Path], shas: Sequence[str], text_field: str) -> list[tuple[Path, Path]]:
    """Return pairs of files that begin with the same story, such as `x.jsonl` and `x.jsonl.gz`.

    Each file is paired with the first one like it. Files of one suffix, such as shards, are paired
    only if all their bytes are equal, which needs no reading.

    Args:
        files: at least one.
        shas: hash of each.
        text_field: of those files.
    """
    of_one_kind = len({(file_format(path), path.suffix) for path in files}) == 1
    beginnings = shas if of_one_kind else [_first_story(path, text_field) for path in files]
    first: dict[str, Path] = {}
    pairs = []
    for path, beginning in zip(files, beginnings, strict=True):
        if beginning is not None and first.setdefault(beginning, path) is not path:
            pairs.append((first[beginning], path))
    return pairs


def _first_story(path: Path, text_field: str) -> str | None:
    """Return the hash of a file's first story, None if there is none or it is unreadable."""
    try:
        texts = read_texts(path, text_field)
        return next((str(story_hash(text)) for text in texts if text.strip()), None)
    except InputError:
        return None  # reported when the corpus is read
