"""Seeded damage to valid files: what a stranger, a bad disk or a bad download may hand over."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Value = Any
_WRONG: list[Value] = [
    *(None, True, -1, 0, 10**30, 1e308, "", "x", "../../etc/passwd", [], {}, [[]]),
    *({"a": 1}, ["a"], "\x1b]0;owned\x07", "<script>alert(1)</script>", "a" * 100_000),
]


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one kind of damage, never the same as before."""
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_flip, _flip, _cut, _cut]
    kinds += [_empty, _insert, _repeat, _zero, _utf16]
    changed = rng.choice(kinds)(content, rng)
    return changed if changed != content else content + b"\xff"


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _empty(content: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b"\n", b"\x00", b"null", b"\xef\xbb\xbf"])


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    what = rng.choice([b"\xff\xfe", b"\x00" * 9, b"[" * 100_000, b"9" * 10_000, b'"', b"NaN"])
    return content[:at] + what + content[at:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + content[at // 2 :]


def _zero(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes(len(content) - at)


def _utf16(content: bytes, rng: random.Random) -> bytes:
    return content.decode(errors="replace").encode("utf-16")


def damage_json(text: str, rng: random.Random) -> str:
    """Return the text of a JSON value in which one part was replaced, dropped or renamed."""
    value = json.loads(text)
    places = list(_places(value))
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        case 2:
            holder[key] = _nested(rng.choice([40, 2_000]))
        case _:
            holder[key] = rng.choice(_WRONG)
    told = _dump(value)
    if rng.random() < 0.1:
        told = told.replace(": 1", f": {rng.choice(['NaN', 'Infinity', '1e999', '-1'])}", 1)
    return told


def _dump(value: Value) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 2_000 + "]" * 2_000


def _nested(depth: int) -> Value:
    value: Value = []
    for _ in range(depth):
        value = [value]
    return value


def _places(value: Value) -> Iterator[tuple[Any, Any]]:
    """Yield every place inside a value that can be assigned to."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def damage_file(path: Path, rng: random.Random) -> None:
    """Damage a file in place: JSON as JSON half of the time, anything as bytes."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.6:
        path.write_text(damage_json(content.decode(), rng))
    elif path.suffix == ".jsonl" and rng.random() < 0.6:
        lines = content.decode().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = damage_json(lines[at], rng)
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_bytes(damage_bytes(content, rng))
