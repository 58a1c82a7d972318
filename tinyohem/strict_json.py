"""JSON whose every number can be computed with and whose every text can be written."""

import json
import math
from collections.abc import Iterable
from typing import Any

_MAX_DEPTH = 32


def parse_json(text: str) -> Any:
    """Return a JSON value in which every number can be computed with and every text be written.

    Raises:
        ValueError: it is not JSON, is nested deeper than 32 levels, or holds a number that is not
            finite or needs more than 64 bits, or half of a surrogate pair, but for those that spell
            the bytes of a file's name (see `names`).
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
