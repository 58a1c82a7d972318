"""Files as streams of bytes, decompressed from gzip or zstd: local or behind a URL."""

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.errors import InputError

MAX_EXPANSION = 1_000  # times the bytes read so far; even repeated text stays far below
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}  # codecs by suffix

_BUFFER_BYTES = 1 << 20
_FREE_BYTES = 64 << 20  # any compressed file may expand to this
_POINTER = b"version https://git-lfs.github.com/spec/"  # begins every git-lfs pointer
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # neither begins UTF-8 text


@contextmanager
def open_plain(path: Path) -> Iterator["io.BufferedReader[Any]"]:
    """Open a file without decompressing it.

    Raises:
        InputError: it is a git-lfs pointer.
        OSError: it cannot be opened.
    """
    with path.open("rb") as stream:
        if stream.peek(len(_POINTER)).startswith(_POINTER):
            raise InputError(
                f"{path} is a git-lfs pointer, the content was not fetched",
                "run `git lfs pull` in that clone, or download the file itself",
            )
        yield stream


def refuse_pointers(folder: Path) -> None:
    """Check every small file in a folder, not below it.

    Raises:
        InputError: one is a git-lfs pointer.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1_024:  # the limit for a pointer
            with open_plain(path):
                pass


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a plain, gzip or zstd file and stream its uncompressed bytes.

    Raises:
        OSError: the file cannot be opened or, while reading, is damaged or cut short.
        InputError: see `open_plain`.
    """
    with open_measured(path) as (stream, _):
        yield stream


@contextmanager
def open_measured(path: Path) -> Iterator[tuple["io.BufferedReader[Any]", Callable[[], int]]]:
    """Open like `open_binary`; the function returns how many bytes of the file itself were read.

    The content decides on the compression before the suffix does: servers compress what they send.
    """
    with ExitStack() as opened:
        plain = opened.enter_context(open_plain(path))
        codec = _codec(plain, path)
        if codec is None:
            yield plain, plain.tell
            return
        if codec == "gzip":  # pyarrow's stops at the zeros that tape and block devices pad with
            unpacked: Any = opened.enter_context(gzip.GzipFile(fileobj=plain))
        else:
            import pyarrow

            # Not the zstandard package: its reader ends silently where a frame is cut short.
            raw = opened.enter_context(pyarrow.PythonFile(plain, "r"))
            unpacked = opened.enter_context(pyarrow.CompressedInputStream(raw, codec))
        bounded = _Bounded(unpacked, plain.tell, path)
        yield opened.enter_context(io.BufferedReader(bounded, _BUFFER_BYTES)), plain.tell


@contextmanager
def open_seekable(path: Path) -> Iterator[BinaryIO]:
    """Open a file for random access, by a temporary copy if it can only be streamed.

    Raises:
        OSError, InputError: see `open_binary`.
    """
    if path.suffix.lower() not in COMPRESSIONS and not getattr(path, "only_streams", False):
        with open_plain(path) as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as whole:
        with open_binary(path) as stream:
            shutil.copyfileobj(stream, whole, _BUFFER_BYTES)
        whole.seek(0)
        yield whole


def _codec(plain: "io.BufferedReader[Any]", path: Path) -> str | None:
    start = plain.peek(4)
    for magic, codec in _MAGIC.items():
        if start.startswith(magic):
            return codec
    if not start:  # an empty file is not compressed
        return None
    return COMPRESSIONS.get(path.suffix.lower())


class _Bounded(io.RawIOBase):
    """A decompressed stream that raises if it is damaged or expands more than text can."""

    def __init__(self, stream: Any, position: Callable[[], int], path: Path) -> None:
        self._stream, self._position, self._path, self._done = stream, position, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (EOFError, zlib.error, OSError) as error:
            if "too much memory" in str(error):  # libzstd's words for a window beyond its limit
                raise InputError(
                    f"{self._path} needs a zstd window of more than 128 MiB",
                    "it was packed with --long: unpack it with `zstd -d --long=31`",
                ) from None
            cut = "Truncated compressed stream" if isinstance(error, EOFError) else str(error)
            raise OSError(cut) from None
        buffer[: len(data)] = data
        self._done += len(data)
        if self._done > _FREE_BYTES + MAX_EXPANSION * self._position():
            raise OSError(f"it expands to more than {MAX_EXPANSION:,} times its size")
        return len(data)
