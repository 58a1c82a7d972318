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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.artifacts import open_binary
from tinyohem.data.tokenizer import END_OF_TEXT
from tinyohem.errors import InputError

DEFAULT_TEXT_FIELD = "text"

# Longer than any story by a factor of ten thousand, short enough for any memory: a file that
# decompresses without end, or holds no separator at all, stops here.
MAX_STORY_BYTES = 64 << 20

_READ_BYTES = 1 << 20
_PARQUET_ROWS = 1024
_BYTE_ORDER_MARK = "\ufeff"
_FORMATS = (".txt", ".jsonl", ".json", ".parquet")
_COMPRESSIONS = (".gz", ".zst")
_JSON = json.JSONDecoder()
_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_DAMAGED_HINT = "the file may be damaged or cut short; fetch or write it again"
_UTF8_HINT = "convert the file to UTF-8"

KNOWN_SUFFIXES = f"known are {', '.join(_FORMATS)}, each also with {' or '.join(_COMPRESSIONS)}"


def file_format(path: Path) -> str | None:
    """Return the suffix that names a story file's format, less any compression; None if unknown."""
    suffix = Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
    return suffix if suffix in _FORMATS else None


def read_texts(path: Path, text_field: str = DEFAULT_TEXT_FIELD) -> Iterator[str]:
    """Stream the text of every row of one story file, as it stands there.

    Raises:
        InputError: the file cannot be read, is damaged, is not UTF-8 or not in its format, lacks
            the field, or holds a story that is not text or larger than `MAX_STORY_BYTES`.
    """
    import pyarrow

    try:
        match file_format(path):
            case ".txt":
                yield from _read_txt(path)
            case ".jsonl":
                yield from _read_jsonl(path, text_field)
            case ".json":
                yield from _read_json(path, text_field)
            case ".parquet":
                yield from _read_parquet(path, text_field)
            case _:
                raise unknown_format(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}", _DAMAGED_HINT) from error


def story_text(record: object, field: str, where: str) -> str:
    """Return the story in one record of a JSON file or a Hub data set.

    Raises:
        InputError: `record` is not an object, lacks the field, or the field is not proper text.
    """
    if not isinstance(record, Mapping):
        raise InputError(
            f"{where}: {_kind(record)} where an object with the story should be",
            'each line should read {"text": "..."}',
        )
    if field not in record:
        raise _missing_field(where, field, list(record))
    return _checked_text(record[field], where)


def _checked_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: the story is {_kind(value)}, not text", "name a field of text")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        # JSON can spell half of a pair, "\ud83d"; no tokenizer and no file can hold it.
        raise InputError(
            f"{where}: the story holds half of a surrogate pair", "write the file again as UTF-8"
        ) from None
    if size > MAX_STORY_BYTES:
        raise _too_long(where)
    return value


def _read_txt(path: Path) -> Iterator[str]:
    for number, (line, story) in enumerate(_split_txt(path)):
        text = _decoded(story, path, line)
        yield text.removeprefix(_BYTE_ORDER_MARK) if number == 0 else text


def _split_txt(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield what the markers separate and the line it begins on.

    Blank text after the last marker is the file's end, not a story.
    """
    marker, pending, line = END_OF_TEXT.encode(), b"", 1
    with open_binary(path) as stream:
        while chunk := stream.read(_READ_BYTES):
            *stories, pending = (pending + chunk).split(marker)
            for story in stories:
                yield line, story
                line += story.count(b"\n")
            if len(pending) > MAX_STORY_BYTES:
                raise _too_long(f"{path}:{line}")
    if pending.strip():
        yield line, pending


def _read_jsonl(path: Path, text_field: str) -> Iterator[str]:
    with open_binary(path) as stream:
        number = 0
        while line := stream.readline(MAX_STORY_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_STORY_BYTES:
                raise _too_long(where)
            text = _decoded(line, path, number)
            if number == 1:
                text = text.removeprefix(_BYTE_ORDER_MARK)
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _broken_json(where, error) from None
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
            raise _broken_json(window.where(), "the array is cut short")
        window.position += 1
        if window.peek():
            raise _broken_json(window.where(), "text after the end of the array")


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
            raise InputError(f"{self.path}:{line}: not UTF-8: {error.reason}", _UTF8_HINT) from None
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
            raise _broken_json(self.where(), "no object where one with a story should be")
        while True:
            try:
                value, self.position = _JSON.raw_decode(self.text, self.position)
                return value
            except (ValueError, RecursionError) as error:
                # Cut off at the window's end, or broken: only more text can tell.
                if len(self.text) - self.position <= MAX_STORY_BYTES and self.extend():
                    continue
                raise _broken_json(self.where(getattr(error, "pos", None)), error) from None


def _read_parquet(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    with _seekable(path) as stream:
        table = pyarrow.parquet.ParquetFile(stream)
        names = table.schema_arrow.names
        if text_field not in names:
            raise _missing_field(str(path), text_field, names)
        row = 0
        for batch in table.iter_batches(_PARQUET_ROWS, columns=[text_field]):
            try:
                values = batch.column(0).to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}: not UTF-8 in rows {row} to {row + len(batch) - 1}: {error.reason}",
                    _UTF8_HINT,
                ) from None
            for value in values:
                yield _checked_text(value, f"{path}: row {row}")
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


def _decoded(data: bytes, path: Path, line: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(f"{path}:{line}: not UTF-8: {error.reason}", _UTF8_HINT) from None


def _broken_json(where: str, reason: Exception | str) -> InputError:
    reason = getattr(reason, "msg", reason)  # without the position, which `where` tells
    limit = f"each story must be one whole JSON object of at most {MAX_STORY_BYTES >> 20} MiB"
    return InputError(f"{where}: broken JSON: {reason}", limit)


def _missing_field(where: str, field: str, fields: list[str]) -> InputError:
    known = ", ".join(fields) or "none"
    return InputError(
        f'{where}: no field "{field}"; the fields are: {known}', "name one with --text-field"
    )


def _too_long(where: str) -> InputError:
    return InputError(
        f"{where}: a story of more than {MAX_STORY_BYTES >> 20} MiB",
        f"separate stories with {END_OF_TEXT} in a .txt file, by line ends in a .jsonl file",
    )


def _kind(value: object) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "an array", "str": "text"}
    return names.get(type(value).__name__, f"of type {type(value).__name__}")
