"""Files: where they stand, atomic writes, hashes, JSON lines, compressed bytes.

Everything the project writes goes through here, so that a kill at any moment leaves either the old
file or the new one, never half of one.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.errors import InputError
from tinyohem.names import utf8_path
from tinyohem.strict_json import parse_json

MAX_JSON_BYTES = 64 << 20  # of a file, or of a line; a metrics row has some 500

_BUFFER_BYTES = 1 << 20
_SEAL = "seal"
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.(partial|replaced)")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def data_dir() -> Path:
    """Return the folder of prepared corpora: `$TINYOHEM_DATA`, by default `data/` here."""
    return Path(os.environ.get("TINYOHEM_DATA", "data"))


def is_leftover(path: Path) -> bool:
    """Whether `path` is what a killed process had begun to write, of use to nobody."""
    return path.name.startswith(".") and path.suffix in (".partial", ".replaced", ".lock")


def drop_leftovers(*folders: Path) -> None:
    """Remove what killed processes had begun to write in these folders, not in those below.

    For the one process that writes there: another's would look the same.
    """
    for path in [path for folder in folders if folder.is_dir() for path in folder.iterdir()]:
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears under `path` only once it is whole and synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with _naming(path), partial.open("wb") as stream:
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
        with _naming(path):
            yield utf8_path(partial)
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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file where the disk is full, whichever library was writing.

    Rust's say so in a text alone: safetensors in an error of its own, tokenizers in a bare
    `Exception`.
    """
    try:
        yield
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)$", str(error))
        code = error.errno if isinstance(error, OSError) else told and int(told[1])
        if code in _NO_ROOM or (code and not isinstance(error, OSError)):
            raise OSError(code, os.strerror(code), str(path)) from None
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as stream:
        stream.write(_encoded(text))


def _encoded(text: str) -> bytes:
    """Return JSON as UTF-8; what UTF-8 has not, a byte of a file's name, in JSON's own escape."""
    return text.encode("utf-8", "backslashreplace")


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


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object together with its own hash, atomically, so that any change is found."""
    write_json(path, {**value, _SEAL: hash_json(value)})


def read_sealed(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Read what `write_sealed` wrote; without its hash only where that is not `required`.

    Raises:
        OSError: the file is not there or cannot be read.
        ValueError: it was cut short or changed.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    seal = value.pop(_SEAL, None)
    if seal is None and required:
        raise ValueError(f"{path.name} was changed: its seal is gone")
    if seal is not None and seal != hash_json(value):
        raise ValueError(f"{path.name} was changed")
    return value


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


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder, in hex, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def checksum_file(path: Path) -> int:
    """Return the CRC-32 of a file's bytes: finds damage, not malice, at five times the speed."""
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_BUFFER_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(_encoded(text)).hexdigest()


def append_line(stream: BinaryIO, value: dict[str, Any]) -> None:
    """Append one JSON object as a line."""
    stream.write(_encoded(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"))


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
