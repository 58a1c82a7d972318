"""Manifests and records: sealed JSON objects, and what one must hold before anything reads it.

A reader derives its own `Record`, so that the rest of it may take keys and types for granted.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyohem.io.hashing import hash_json
from tinyohem.io.json import JsonObject, read_json, write_json

_SEAL = "seal"


def write_sealed(path: Path, value: JsonObject) -> None:
    """Write a JSON object together with its own hash, atomically, so that any change is found."""
    write_json(path, {**value, _SEAL: hash_json(value)})


def read_sealed(path: Path, *, required: bool = False) -> JsonObject:
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


Count = Annotated[int, Field(ge=0)]


Figure = int | float


class Record(BaseModel):
    """Keys that a reader relies on, of exactly these types; others may stand beside them."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)

    def to_json(self) -> JsonObject:
        """Return the object that was read: its own keys, known or not, and no defaults."""
        return self.model_dump(exclude_unset=True, by_alias=True)


R = TypeVar("R", bound=Record)


def read_record(path: Path, record: type[R], *, sealed: bool = False) -> R:
    """Read a JSON object that has the keys and types of `record`.

    Args:
        sealed: whether it must hold its own hash.

    Raises:
        ValueError: it is no such object.
        OSError: it cannot be read.
    """
    return check_record(read_sealed(path, required=sealed), record)


def check_record(value: Any, record: type[R]) -> R:
    """Return `value` as a `record`.

    Raises:
        ValueError: it lacks its keys or types.
    """
    try:
        return record.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {what}" if where else "it is no object") from None
