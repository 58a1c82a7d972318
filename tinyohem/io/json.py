"""Write JSON files atomically; read them with limits on size, depth and numbers."""

import json
import math
import stat
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_file

JsonObject = dict[str, Any]

MAX_JSON_BYTES = 64 << 20  # of a file, or of a line; a metrics row has some 500


def encode_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> bytes:
    """Return JSON in UTF-8, escaping bytes of file names that are not UTF-8 (see `names`)."""
    text = json.dumps(
        value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    content = encode_json(value, indent=2) + b"\n"
    with atomic_file(path) as stream:
        stream.write(content)


def read_json(path: Path) -> Any:
    """Read one JSON file, which may come from anywhere.

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


def read_jsonl(path: Path) -> list[JsonObject]:
    """Read the objects of a JSON-lines file, without a last line that a kill cut short.

    Raises:
        InputError: a line before the last is damaged.
    """
    if not path.is_file():
        return []
    rows: list[JsonObject] = []
    with path.open("rb") as stream:
        lines = iter(partial(stream.readline, MAX_JSON_BYTES), b"")
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n") and len(line) < MAX_JSON_BYTES:
                break
            if line.rstrip(b"\n"):
                rows.append(_parse_line(path, number, line))
    return rows


def _parse_line(path: Path, number: int, line: bytes) -> JsonObject:
    try:
        value = parse_json(line.decode())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}: line {number} is damaged", "delete that line, or mend it")
    return value


def append_line(stream: BinaryIO, value: JsonObject) -> None:
    """Append one JSON object as a line."""
    stream.write(encode_json(value) + b"\n")


_MAX_DEPTH = 32


def parse_json(text: str) -> Any:
    """Return a JSON value whose numbers fit 64 bits and whose texts can be written.

    Raises:
        ValueError: it is not JSON, is nested deeper than 32 levels, or holds a number that is not
            finite or needs more than 64 bits, or half of a surrogate pair, except for those that
            spell the bytes of a file's name (see `names`).
    """
    try:
        value = json.loads(
            text, parse_constant=_no_number, parse_float=_finite_float, parse_int=_small_int
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        for part in level:
            if isinstance(part, str):
                part.encode("utf-8", "surrogateescape")
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
