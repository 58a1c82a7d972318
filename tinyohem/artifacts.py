"""Files: where they stand, atomic writes, hashes, JSON lines, compressed text and bytes.

Everything the project writes goes through here, so that a kill at any moment leaves either the old
file or the new one, never half of one.
"""

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.errors import InputError

_BUFFER_BYTES = 1 << 20


def data_dir() -> Path:
    """Return the folder of prepared corpora: `$TINYOHEM_DATA`, by default `data/` here."""
    return Path(os.environ.get("TINYOHEM_DATA", "data"))


def is_leftover(path: Path) -> bool:
    """Whether `path` is what a killed process had begun to write, of use to nobody."""
    return path.name.startswith(".") and path.suffix in (".partial", ".replaced")


def model_folder(name: str) -> str:
    """Return the folder that transformers loads for a name, or the Hub id that it is.

    Args:
        name: a run folder, a checkpoint (also by the name of its pointer), a transformers folder,
            or a Hub id.

    Raises:
        InputError: it is a run that has not finished.
    """
    path = Path(name)
    if (path / "checkpoints").is_dir() and not (path / "model").is_dir():
        raise InputError(
            f"the run {name} has not finished",
            f"resume it, or name a checkpoint: {path / 'checkpoints' / 'latest'}",
        )
    return str(resolve_model_folder(path)) if path.exists() else name


def resolve_model_folder(path: Path) -> Path:
    """Return the folder that transformers can load: of a run, a checkpoint, or `path` itself."""
    if path.name in ("latest", "best") and path.is_file():
        path = path.parent / read_pointer(path)
    return path / "model" if (path / "model" / "config.json").exists() else path


def read_pointer(path: Path) -> str:
    """Return the name of the checkpoint that `latest` or `best` points at, empty without one."""
    return path.read_text().strip() if path.exists() else ""


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
    """Read one JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; a last line cut short by a kill is left out.

    Raises:
        InputError: a line before the last is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [_parse_line(path, number, line) for number, line in enumerate(lines[:-1], 1) if line]


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
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
def open_measured(path: Path) -> Iterator[tuple[io.BufferedReader, Callable[[], int]]]:
    """Open like `open_binary`; the function tells how many bytes of the file itself were read."""
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if codec is None:
        with path.open("rb") as plain:
            yield plain, plain.tell
        return
    import pyarrow

    # Not the zstandard package: its reader ends without a word where a frame is cut short.
    with (
        pyarrow.OSFile(str(path)) as raw,
        pyarrow.CompressedInputStream(raw, codec) as stream,
        io.BufferedReader(stream, _BUFFER_BYTES) as buffered,
    ):
        yield buffered, raw.tell


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
