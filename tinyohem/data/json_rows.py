"""JSON files of stories: one array of rows, or a sequence of rows, read in pieces."""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.data.story_text import (
    DEFAULT_TEXT_FIELD,
    MAX_STORY_BYTES,
    UTF8_HINT,
    broken_json,
    story_text,
)
from tinyohem.errors import InputError
from tinyohem.io.streams import open_binary

_READ_BYTES = 1 << 20
_JSON = json.JSONDecoder()
_JSON_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(path: Path, text_field: str) -> Iterator[str]:
    """Stream the text of every row; see `story_text.story_text` for what a row may be.

    Raises:
        InputError: as `readers.read_texts`.
    """
    with open_binary(path) as stream:
        window = _JsonWindow(stream, path)
        if window.peek() == "[":
            yield from _read_array(window, text_field)
            return
        first = True
        while window.peek():
            where, record = window.where(), window.value()
            if first and not window.peek():
                _refuse_a_table(record, text_field, where)
            first = False
            yield _text_of(record, text_field, where)


def _read_array(window: "_JsonWindow", text_field: str) -> Iterator[str]:
    window.position += 1
    more = window.peek() != "]"
    while more:
        window.peek()
        where, record = window.where(), window.value()
        yield _text_of(record, text_field, where)
        more = window.peek() == ","
        window.position += more
    if window.peek() != "]":
        raise broken_json(window.where(), "the array is cut short")
    window.position += 1
    if window.peek():
        raise broken_json(window.where(), "text after the end of the array")


def _text_of(record: object, text_field: str, where: str) -> str:
    """Return the story of one row.

    An object without the default field may have "story" instead, as the `all_data` files of
    TinyStories do. A field that the user named has no alternative.
    """
    if isinstance(record, Mapping) and text_field == DEFAULT_TEXT_FIELD not in record:
        text_field = "story" if "story" in record else text_field
    return story_text(record, text_field, where)


def _refuse_a_table(record: object, text_field: str, where: str) -> None:
    """Refuse a file of one object that holds the rows or columns of a table."""
    if not isinstance(record, Mapping) or isinstance(record.get(text_field), str):
        return
    if holders := [name for name, value in record.items() if isinstance(value, list | dict)]:
        raise InputError(
            f'{where}: one object with rows or columns under "{holders[0]}"',
            "write the rows as one array, or one a line; pandas does with orient='records'",
        )


class _JsonWindow:
    """The unparsed part of a JSON file, extended from the stream on demand."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.stream, self.path = stream, path
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.position = "", 0
        self.line, self.counted = 1, 0  # the line of text[counted]

    def where(self, position: int | None = None) -> str:
        """Name file and line of a position, by default the current one, never an earlier one."""
        position = self.position if position is None else position
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return f"{self.path}:{self.line}"

    def extend(self) -> bool:
        """Drop the parsed part and double the rest; return False at the file's end."""
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
        """Skip white space and return the next character, or nothing at the file's end."""
        while True:
            space = _JSON_SPACE.match(self.text, self.position)
            self.position = space.end() if space else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.extend():
                return ""

    def value(self) -> Any:
        """Parse the value at the current position and step over it."""
        while True:
            try:
                value, self.position = _JSON.raw_decode(self.text, self.position)
                return value
            except (ValueError, RecursionError) as error:
                # Cut off by the window or broken: only more text can show which.
                if len(self.text) - self.position <= MAX_STORY_BYTES and self.extend():
                    continue
                raise broken_json(self.where(getattr(error, "pos", None)), error) from None
