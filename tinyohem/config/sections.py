"""Shared by all sections of a config: declaring keys, and parsing numbers of tokens."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, TypedDict, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from tinyohem.errors import InputError

ConfigTree = dict[str, Any]  # sections and keys of a recipe, not validated yet

_TOKEN_BUDGET = re.compile(
    r"(?P<number>\d+(\.\d+)?(e\+?\d{1,3})?)(?P<unit>[xkmbg]|epochs?|)", re.IGNORECASE
)
_BRIEF_ENDS = re.compile(r"[:;,] | \(")
MAX_COUNT = 10**15  # tokens or steps; stays within 64 bits when scaled
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


class Section(BaseModel):
    """Keys of one table of a recipe: typed, frozen, none unknown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        defer_build=True,  # `--help` and `recipes` need no validator
        coerce_numbers_to_str=True,  # training.tokens = 250000 is a number in TOML
    )


S = TypeVar("S", bound=Section)


class Words(TypedDict):
    """Texts of a key, besides its description.

    Attributes:
        flag: option of the command line that sets it; empty: only `--set` does.
        default: the default in words.
        unit: of a number; empty for a pure number and for words.
        hint: what to do about a refused value; empty: a general hint.
    """

    flag: str
    default: str
    unit: str
    hint: str


def setting(
    default: Any,
    meaning: str,
    *,
    flag: str = "",
    default_is: str = "",
    unit: str = "",
    hint: str = "",
    **limits: Any,
) -> Any:
    """Declare a key, with the texts that `--help` and `recipes show` print.

    Args:
        meaning: what it decides, with its unit or its possible names. `brief` cuts it off, so it
            begins with a few words that stand alone.
        default_is: the default in words, where its value is not enough; it begins likewise.
        unit: of a number.
        flag: `--name`, for a switch `--name/--no-name`.
        limits: as `pydantic.Field` takes them.
    """
    if not default_is:
        default_is = ("no", "yes")[default] if isinstance(default, bool) else str(default)
    return Field(
        default,
        description=meaning,
        json_schema_extra={"flag": flag, "default": default_is, "unit": unit, "hint": hint},
        **limits,
    )


def words(field: FieldInfo) -> Words:
    """Return the texts of a key."""
    return cast(Words, field.json_schema_extra)


def flag_of(field: FieldInfo) -> str:
    """Return the option that sets a key, empty if none does."""
    return words(field)["flag"].partition("/")[0]


def explain(field: FieldInfo) -> str:
    """Return a key's meaning and default in words."""
    return f"{field.description}; default: {words(field)['default']}"


def brief(field: FieldInfo) -> str:
    """Return the first words of a key's meaning and, in brackets, of its default.

    Both end ahead of a colon, a comma, a semicolon or a bracket.
    """
    meaning, default = field.description or "", words(field)["default"]
    first, usual = (_BRIEF_ENDS.split(text, maxsplit=1)[0] for text in (meaning, default))
    return f"{first} ({usual})"


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words that a key takes, none if it takes any text or a number."""
    options = [field.annotation, *get_args(field.annotation)]
    words_of = (get_args(option) for option in options if get_origin(option) is Literal)
    return next(words_of, ())


# What is wrong with a value, by the type of pydantic's error.
_BROKEN = {
    "finite_number": "is not finite",
    "float_parsing": "is no number",
    "float_type": "is no number",
    "greater_than": "is not above {gt}",
    "greater_than_equal": "is below {ge}",
    "int_from_float": "is no whole number",
    "int_parsing": "is no whole number",
    "int_type": "is no whole number",
    "less_than": "is not below {lt}",
    "less_than_equal": "is above {le}",
    "literal_error": "is none of {expected}",
    "string_type": "is no text",
}


def build(section: type[S], options: Mapping[str, Any]) -> S:
    """Make a section from the keyword arguments of a Python call.

    Raises:
        ValueError: one line: the key, its value and what is wrong with it.
    """
    try:
        return section(**options)
    except InputError as error:
        raise ValueError(f"{error.message}: {error.hint}") from None
    except ValidationError as error:
        first = error.errors()[0]
        told = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # a rule about several keys
            raise ValueError(told) from None
        what = f"{first['loc'][0]} = {repr(first['input'])[:200]}"
        if first["type"] in _BROKEN:
            what = f"{what} {_BROKEN[first['type']].format_map(first.get('ctx', {}))}"
            told = words(section.model_fields[str(first["loc"][0])])["hint"]
        raise ValueError(f"{what}: {told}" if told else what) from None


def parse_tokens(
    text: str, num_parameters: int, num_tokens: int, key: str = "training.tokens"
) -> int:
    """Return the number of tokens in `4M`, `250000`, `1e6`, `20x` (a parameter) or `3epochs`.

    Args:
        num_parameters: of the model.
        num_tokens: of the training corpus.

    Raises:
        InputError: `text` is no positive whole number of tokens up to `MAX_COUNT`.
    """
    parsed = _TOKEN_BUDGET.fullmatch(text.strip().replace("_", ""))
    number = Decimal(parsed["number"]) if parsed else Decimal(0)
    hint = "write a count such as 4M or 250k, a multiple of the parameters such as 20x, or 1epoch"
    if not parsed or number <= 0:
        raise InputError(f"{key} = {text!r} is not a number of tokens", hint)
    unit = parsed["unit"].lower()
    if number * _COUNTS.get(unit, 1) > MAX_COUNT:
        raise InputError(f"{key} = {text[:40]!r} is too large", "write a count such as 4M")
    if unit not in _COUNTS:
        return round(number * (num_parameters if unit == "x" else num_tokens))
    tokens = number * _COUNTS[unit]
    if tokens != int(tokens):
        raise InputError(f"{key} = {text!r} is no whole number of tokens", hint)
    return int(tokens)
