"""Story files: plain text, JSON lines, a JSON array or Parquet, each also as `.gz` or `.zst`.

Every reader is a generator whose memory does not grow with the file: it holds at most one buffer
and one story, and no story may exceed `MAX_STORY_BYTES`. What counts as a row:

    .txt       what stands between two `<|endoftext|>` markers
    .jsonl     a line that is not blank: one JSON object
    .json      an element of the one array in the file, each an object
    .parquet   a row
"""

import codecs
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.artifacts import open_binary, open_measured
from tinyohem.data.records import (
    MAX_STORY_BYTES,
    UTF8_HINT,
    broken_json,
    checked_text,
    decoded,
    missing_field,
    story_text,
    too_long,
)
from tinyohem.data.tokenizer import END_OF_TEXT
from tinyohem.errors import InputError

DEFAULT_TEXT_FIELD = "text"

_READ_BYTES = 1 << 20
_PARQUET_ROWS = 1024
_BYTE_ORDER_MARK = codecs.BOM_UTF8
_FORMATS = (".txt", ".jsonl", ".json", ".parquet")
_COMPRESSIONS = (".gz", ".zst")
_JSON = json.JSONDecoder()
_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_DAMAGED_HINT = "the file may be damaged or cut short; fetch or write it again"

KNOWN_SUFFIXES = f"known are {', '.join(_FORMATS)}, each also with {' or '.join(_COMPRESSIONS)}"


def file_format(path: Path) -> str | None:
    """Return the suffix that names a story file's format, less any compression; None if unknown."""
    suffix = Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
    return suffix if suffix in _FORMATS else None


def name_with_split(name: str, split: str) -> str:
    """Tell a data set with its split, but a single file without: that one always counts as train.

    Args:
        name: as the user typed it.
    """
    a_file = file_format(Path(name)) is not None and not any(c in name for c in "*?[")
    return name if a_file else f"{name} ({split})"


def read_texts(path: Path, text_field: str = DEFAULT_TEXT_FIELD) -> Iterator[str]:
    """Stream the text of every row of one story file, as it stands there.

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
                yield from _read_json(path, text_field)
            case ".parquet":
                yield from _read_parquet(path, text_field)
            case _:
                raise unknown_format(path)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises while it is read into an `InputError` that names it."""
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}", _DAMAGED_HINT) from error


@contextmanager
def open_rows(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Open a `.txt` or `.jsonl` file behind its byte order mark, if any: see `open_measured`."""
    with open_measured(path) as (stream, position):
        if stream.peek(len(_BYTE_ORDER_MARK)).startswith(_BYTE_ORDER_MARK):
            stream.read(len(_BYTE_ORDER_MARK))
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
    """Yield what the markers separate; blank text after the last one is the end, not a story."""
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


def _read_json(path: Path, text_field: str) -> Iterator[str]:
    """Stream one array of objects.

    The `all_data` files of TinyStories name the field "story": it stands in for the default field
    in an object that lacks that one. A field that the user named has no stand-in.
    """
    with open_binary(path) as stream:
        window = _JsonWindow(stream, path)
        if window.peek() != "[":
            raise InputError(
                f"{window.where()}: not a JSON array", "a file of one object a line is a .jsonl"
            )
        window.position += 1
        more = window.peek() != "]"
        while more:
            window.peek()
            where, record = window.where(), window.value()
            is_all_data = text_field == DEFAULT_TEXT_FIELD not in record and "story" in record
            yield story_text(record, "story" if is_all_data else text_field, where)
            more = window.peek() == ","
            window.position += more
        if window.peek() != "]":
            raise broken_json(window.where(), "the array is cut short")
        window.position += 1
        if window.peek():
            raise broken_json(window.where(), "text after the end of the array")


class _JsonWindow:
    """The part of a JSON file that is not parsed yet, extended from the stream on demand."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path = stream, path
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position = "", 0
        self.line, self.counted = 1, 0  # the line of text[counted]

    def where(self, position: int | None = None) -> str:
        """Name file and line of a position, by default the current one; never goes back."""
        position = self.position if position is None else position
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return f"{self.path}:{self.line}"

    def extend(self) -> bool:
        """Drop what was parsed and double the rest; False at the file's end."""
        self.where()
        self.text = self.text[self.position :]
        self.position = self.counted = 0
        # Doubling keeps the repeated parsing of one long value linear in its length.
        data = self.stream.read(max(_READ_BYTES, len(self.text)))
        try:
            self.text += self.decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self.line + self.text.count("\n") + error.object.count(b"\n", 0, error.start)
            raise InputError(f"{self.path}:{line}: not UTF-8: {error.reason}", UTF8_HINT) from None
        return bool(data)

    def peek(self) -> str:
        """Skip white space and return the next character, empty at the file's end."""
        while True:
            space = _JSON_SPACE.match(self.text, self.position)
            self.position = space.end() if space else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.extend():
                return ""

    def value(self) -> dict[str, Any]:
        """Parse the object at the current position and step over it."""
        if self.peek() != "{":
            raise broken_json(self.where(), "no object where one with a story should be")
        while True:
            try:
                value, self.position = _JSON.raw_decode(self.text, self.position)
                return value
            except (ValueError, RecursionError) as error:
                # Cut off at the window's end, or broken: only more text can tell.
                if len(self.text) - self.position <= MAX_STORY_BYTES and self.extend():
                    continue
                raise broken_json(self.where(getattr(error, "pos", None)), error) from None


def _read_parquet(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    with _seekable(path) as stream:
        metadata = pyarrow.parquet.read_metadata(stream)
        leaves = [column.path for column in metadata.schema]
        if text_field not in leaves:
            names = metadata.schema.to_arrow_schema().names
            raise missing_field(str(path), text_field, names)
        # A text that a dictionary repeats stays one text: a page of a few bytes may repeat one of
        # megabytes a thousand times.
        table = pyarrow.parquet.ParquetFile(stream, metadata=metadata, read_dictionary=[text_field])
        row = 0
        for batch in table.iter_batches(_PARQUET_ROWS, columns=[text_field]):
            try:
                batch.validate(full=True)
            except pyarrow.ArrowInvalid as error:
                rows = f"rows {row} to {row + len(batch) - 1}"
                raise InputError(f"{path}: not UTF-8 in {rows}: {error}", UTF8_HINT) from None
            for value in batch.column(0):
                yield checked_text(value.as_py(), f"{path}: row {row}")
                row += 1


@contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """Open a file at random access; a compressed one by way of a temporary file."""
    if path.suffix not in _COMPRESSIONS:
        with path.open("rb") as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as whole:
        with open_binary(path) as stream:
            shutil.copyfileobj(stream, whole, _READ_BYTES)
        whole.seek(0)
        yield whole


def unknown_format(path: Path) -> InputError:
    """Return the error for a file whose suffix names no format."""
    return InputError(f"{path} is no story file", KNOWN_SUFFIXES)
