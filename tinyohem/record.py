"""What a JSON file must hold before anything reads it: manifests, run records, results, states.

A reader derives its own `Record`, so that the rest of it may take keys and types for granted.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyohem.artifacts import read_sealed

Count = Annotated[int, Field(ge=0)]
Figure = int | float


class Record(BaseModel):
    """Keys that a reader relies on, of exactly these types; others may stand beside them."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


def read_record(path: Path, record: type[Record]) -> dict[str, Any]:
    """Read a JSON object that has the keys and types of `record`.

    Raises:
        ValueError: it is no such object.
        OSError: it cannot be read.
    """
    return check_record(read_sealed(path), record)


def check_record(value: Any, record: type[Record]) -> dict[str, Any]:
    """Return `value` as it stands, if it has the keys and types of `record`.

    Raises:
        ValueError: it has not.
    """
    try:
        record.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else "it is no object") from None
    found: dict[str, Any] = value
    return found
