"""Blocks of a corpus's rows: one process cuts them, any process parses them.

Cutting only looks for separators. The slow part, JSON and decoding, happens in `texts`; until
then a block is bytes, which are cheap to send to another process.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from tinyohem.data.readers import file_format, open_rows, parse_rows, read_texts, readable
from tinyohem.data.story_text import MAX_STORY_BYTES, too_long
from tinyohem.data.tokenizer import END_OF_TEXT

BLOCK_ROWS = 4096
BLOCK_BYTES = 8 << 20
_READ_BYTES = 1 << 20

Item = TypeVar("Item")


class Measured(Protocol):
    """Consecutive rows, empty ones included, that need no parsing to be counted."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def size(self) -> int:
        """Bytes or characters to read."""


@dataclass(frozen=True)
class TextBlock:
    """Rows already parsed."""

    values: list[str]

    @property
    def rows(self) -> int:
        """See `Measured`."""
        return len(self.values)

    @property
    def size(self) -> int:
        """See `Measured`."""
        return sum(map(len, self.values))

    def texts(self) -> Iterator[str]:
        """Yield the text of every row."""
        return iter(self.values)


@dataclass(frozen=True)
class FileBlock:
    """Complete rows of a `.txt` or `.jsonl` file, not parsed yet.

    Attributes:
        path: the file, for messages.
        line: line of the file that the block begins on, from 1.
        data: the decompressed bytes.
        rows: see `Measured`.
        text_field: the field that holds the story.
    """

    path: Path
    line: int
    data: bytes
    rows: int
    text_field: str

    @property
    def size(self) -> int:
        """See `Measured`."""
        return len(self.data)

    def texts(self) -> Iterator[str]:
        """Yield the text of every row; errors are those of `readers.read_texts`."""
        return parse_rows(io.BytesIO(self.data), self.path, self.text_field, self.line)


Block = TextBlock | FileBlock


def batched(
    items: Iterable[Item], size: Callable[[Item], int], most: int, largest: int
) -> Iterator[list[Item]]:
    """Gather items into lists that end at `most` items or a total size of `largest`."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if len(batch) == most or total >= largest:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def blocks_of(texts: Iterable[str]) -> Iterator[TextBlock]:
    """Gather texts into blocks."""
    return map(TextBlock, batched(texts, len, BLOCK_ROWS, BLOCK_BYTES))


def read_blocks(path: Path, text_field: str) -> Iterator[tuple[Block, int]]:
    """Cut a story file into blocks, each with the bytes of the file read by its end.

    The second number is 0 for formats that cannot be cut without parsing.

    Raises:
        InputError: as `readers.read_texts`, except for what parsing finds.
    """
    if file_format(path) in (".txt", ".jsonl"):
        yield from _cut(path, text_field)
    else:
        for block in blocks_of(read_texts(path, text_field)):
            yield block, 0


def _cut(path: Path, text_field: str) -> Iterator[tuple[FileBlock, int]]:
    separator = b"\n" if file_format(path) == ".jsonl" else END_OF_TEXT.encode()
    line, pending, complete = 1, b"", 0  # `complete` rows of `pending` have their separator
    with readable(path), open_rows(path) as (stream, position):
        while chunk := stream.read(_READ_BYTES):
            # A separator may lie across two reads.
            unseen = max(0, len(pending) - len(separator) + 1)
            pending += chunk
            complete += pending.count(separator, unseen)
            while complete >= BLOCK_ROWS or (complete and len(pending) >= BLOCK_BYTES):
                taken = min(complete, BLOCK_ROWS)
                rows, end = _first_rows(pending, separator, taken)
                yield FileBlock(path, line, pending[:end], rows, text_field), position()
                line += pending.count(b"\n", 0, end)
                pending, complete = pending[end:], complete - taken
            if not complete and len(pending) > MAX_STORY_BYTES:
                raise too_long(f"{path}:{line}")
        if pending:
            rows, end = _first_rows(pending, separator, complete)
            rest = pending[end:]
            rows += bool(rest.strip()) and not (separator == b"\n" and _is_blank(rest))
            yield FileBlock(path, line, pending, rows, text_field), position()


def _first_rows(data: bytes, separator: bytes, count: int) -> tuple[int, int]:
    """Return how many of the first `count` pieces are rows, and where the last piece ends.

    A blank text is a row, a blank line is not: the rows that `readers.parse_rows` yields.
    """
    rows = end = 0
    for _ in range(count):
        start, end = end, data.index(separator, end) + len(separator)
        rows += separator != b"\n" or not _is_blank(data[start:end])
    return rows, end


def _is_blank(line: bytes) -> bool:
    return not line.startswith(b"{") and not line.decode(errors="replace").strip()
