"""Files: where they stand, atomic writes, hashes, JSON lines, compressed text and bytes.

Everything the project writes goes through here, so that a kill at any moment leaves either the old
file or the new one, never half of one.
"""

import hashlib
import io
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.errors import InputError

MAX_JSON_BYTES = 64 << 20  # of a file, or of a line; a metrics row has some 500
MAX_EXPANSION = 1_000  # times the bytes read so far; text, even repeated, stays far below

_MAX_JSON_DEPTH = 32
_BUFFER_BYTES = 1 << 20
_FREE_BYTES = 64 << 20  # what any compressed file may expand to


def data_dir() -> Path:
    """Return the folder of prepared corpora: `$TINYOHEM_DATA`, by default `data/` here."""
    return Path(os.environ.get("TINYOHEM_DATA", "data"))


def is_leftover(path: Path) -> bool:
    """Whether `path` is what a killed process had begun to write, of use to nobody."""
    return path.name.startswith(".") and path.suffix in (".partial", ".replaced")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears under `path` only once it is whole and synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as stream:
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
        yield partial
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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as stream:
        stream.write(text.encode())


def read_json(path: Path) -> Any:
    """Read one JSON file, which may come from a stranger.

    Raises:
        ValueError: it is too large, not UTF-8, or not what `parse_json` takes.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise ValueError("it is no file")
    if status.st_size > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES >> 20} MiB")
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """Return a JSON value in which every number can be computed with and every text be written.

    Raises:
        ValueError: it is not JSON, is nested deeper than 32 levels, or holds a number that is not
            finite or needs more than 64 bits, or half of a surrogate pair.
    """
    try:
        value = json.loads(
            text, parse_constant=_no_number, parse_float=_finite_float, parse_int=_small_int
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(_MAX_JSON_DEPTH):
        for part in level:
            if isinstance(part, str):
                part.encode()
        level = [child for part in level for child in _children(part)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _finite_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _small_int(text: str) -> int:
    # The length first: Python takes quadratic time for the digits, and refuses some thousands.
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; a last line cut short by a kill is left out.

    Raises:
        InputError: a line before the last is damaged.
    """
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    with path.open("rb") as stream:
        for number in count(1):
            line = stream.readline(MAX_JSON_BYTES)
            if not line.endswith(b"\n") and len(line) < MAX_JSON_BYTES:
                return rows
            if line.rstrip(b"\n"):
                rows.append(_parse_line(path, number, line))
    raise AssertionError


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line.decode())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}: line {number} is damaged", "delete that line, or mend it")
    return value


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a plain, `.gz` or `.zst` file and stream its uncompressed bytes.

    Raises:
        OSError: the file cannot be opened or, while reading, is damaged or cut short.
    """
    with open_measured(path) as (stream, _):
        yield stream


@contextmanager
def open_measured(path: Path) -> Iterator[tuple["io.BufferedReader[Any]", Callable[[], int]]]:
    """Open like `open_binary`; the function tells how many bytes of the file itself were read."""
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if codec is None:
        with path.open("rb") as plain:
            yield plain, plain.tell
        return
    import pyarrow

    # Not the zstandard package: its reader ends without a word where a frame is cut short. A frame
    # that asks for a window of more than 128 MiB is refused by libzstd.
    with (
        pyarrow.OSFile(str(path)) as raw,
        pyarrow.CompressedInputStream(raw, codec) as stream,
        io.BufferedReader(_Bounded(stream, raw.tell), _BUFFER_BYTES) as buffered,
    ):
        yield buffered, raw.tell


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends in an `OSError` where it expands beyond any text."""

    def __init__(self, stream: Any, position: Callable[[], int]) -> None:
        self._stream, self._position, self._done = stream, position, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._done += len(data)
        if self._done > _FREE_BYTES + MAX_EXPANSION * self._position():
            raise OSError(f"it expands to more than {MAX_EXPANSION:,} times its size")
        return len(data)


def append_line(stream: BinaryIO, value: dict[str, Any]) -> None:
    """Append one JSON object as a line."""
    stream.write((json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode())


def compress(content: bytes) -> bytes:
    """Return one zstd frame that knows its content's size and checksum."""
    import zstandard

    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def decompress(frame: bytes, size: int) -> bytes:
    """Return the `size` bytes that `compress` was given.

    Raises:
        ValueError: the frame is damaged, is not alone, or holds another number of bytes. That is
            asked of its header, before any memory is taken.
    """
    import zstandard

    try:
        if zstandard.frame_content_size(frame) != size:
            raise ValueError(f"not a zstd frame of {size:,} bytes")
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
