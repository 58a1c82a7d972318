"""Story files: plain text, JSON, Parquet or Arrow, each also as `.gz` or `.zst`.

Every reader is a generator that holds at most one buffer and one story, and no story may exceed
`MAX_STORY_BYTES`. What counts as a row (`blocks.py` counts
the same without parsing):

    .txt       what stands between two `<|endoftext|>` markers
    .jsonl     a line that is not blank: one JSON object, or a string (.ndjson is the same)
    .json      an element of the one array in the file, or one of the values in a row
    .parquet   a row
    .arrow     a row

A null story is an empty one.
"""

import codecs
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tinyohem.data.columns import read_columns
from tinyohem.data.json_rows import read_json
from tinyohem.data.story_text import (
    DEFAULT_TEXT_FIELD,
    MAX_STORY_BYTES,
    broken_json,
    decoded,
    story_text,
    too_long,
)
from tinyohem.data.tokenizer import END_OF_TEXT
from tinyohem.errors import InputError
from tinyohem.io.remote import RemoteFile, is_url
from tinyohem.io.streams import COMPRESSIONS, open_measured

_READ_BYTES = 1 << 20
_FORMATS = (".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")

KNOWN_SUFFIXES = f"known are {', '.join(_FORMATS)}, each also with {' or '.join(COMPRESSIONS)}"


def file_format(path: Path | RemoteFile) -> str | None:
    """Return the suffix that names a story file's format, less any compression; None if unknown."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = Path(path.stem).suffix.lower()
    return {".ndjson": ".jsonl"}.get(suffix, suffix) if suffix in _FORMATS else None


def name_with_split(name: str, split: str) -> str:
    """Return a data set's name with its split; a single file, always train, without.

    Args:
        name: as the user typed it.
    """
    path = RemoteFile(name, 0) if is_url(name) else Path(name)
    a_file = file_format(path) is not None and not any(c in str(path) for c in "*?[")
    return name if a_file else f"{name} ({split})"


def read_texts(path: Path, text_field: str = DEFAULT_TEXT_FIELD) -> Iterator[str]:
    """Stream the unchanged text of every row of one story file.

    Raises:
        InputError: the file cannot be read, is damaged, is not UTF-8 or not in its format, lacks
            the field, or holds a story that is not text or larger than `MAX_STORY_BYTES`.
    """
    with readable(path):
        match file_format(path):
            case ".txt" | ".jsonl":
                with open_rows(path) as (stream, _):
                    yield from parse_rows(stream, path, text_field)
            case ".json":
                yield from read_json(path, text_field)
            case ".parquet" | ".arrow" as suffix:
                yield from read_columns(path, text_field, suffix)
            case _:
                raise unknown_format(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of reading a damaged file into an `InputError` that names it."""
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        hint = "the file may be damaged or cut short; fetch or write it again"
        raise InputError(f"{path} cannot be read: {error}", hint) from error


@contextmanager
def open_rows(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Open a `.txt` or `.jsonl` file after any byte order mark; see `open_measured`."""
    with open_measured(path) as (stream, position):
        if stream.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
            stream.read(len(codecs.BOM_UTF8))
        yield stream, position


def parse_rows(stream: BinaryIO, path: Path, text_field: str, line: int = 1) -> Iterator[str]:
    """Yield the text of every row of a `.txt` or `.jsonl` stream, a whole file or part of one.

    Args:
        path: of the file, for its format and for messages.
        line: of the file that the stream begins on, from 1.

    Raises:
        InputError: as `read_texts`.
    """
    if file_format(path) == ".txt":
        return _parse_txt(stream, path, line)
    return _parse_jsonl(stream, path, text_field, line)


def _parse_txt(stream: BinaryIO, path: Path, line: int) -> Iterator[str]:
    """Yield the texts between markers; blank text after the last marker is no story."""
    marker, pending = END_OF_TEXT.encode(), b""
    while chunk := stream.read(_READ_BYTES):
        *stories, pending = (pending + chunk).split(marker)
        for story in stories:
            yield decoded(story, path, line)
            line += story.count(b"\n")
        if len(pending) > MAX_STORY_BYTES:
            raise too_long(f"{path}:{line}")
    if pending.strip():
        yield decoded(pending, path, line)


def _parse_jsonl(stream: BinaryIO, path: Path, text_field: str, line: int) -> Iterator[str]:
    while data := stream.readline(MAX_STORY_BYTES + 1):
        where = f"{path}:{line}"
        if len(data) > MAX_STORY_BYTES:
            raise too_long(where)
        text = decoded(data, path, line)
        line += 1
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise broken_json(where, error) from None
        yield story_text(record, text_field, where)


def unknown_format(path: Path) -> InputError:
    """Return the error for a file whose suffix names no format."""
    return InputError(f"{path} is no story file", KNOWN_SUFFIXES)
