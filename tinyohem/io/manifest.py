"""Manifests and records: JSON objects with a hash of themselves and of the files beside them.

An object's seal is the SHA-256 of its other keys, stored in it. Each reader derives its own
`Record`, which checks keys and types.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyohem.io.hashing import files_below, hash_file, hash_files, hash_json
from tinyohem.io.json import JsonObject, read_json, write_json

MANIFEST_FILE = "manifest.json"
_SEAL = "seal"
_LARGE_FILE = 2 << 30  # bytes


def write_sealed(path: Path, value: JsonObject) -> None:
    """Write a JSON object with its own hash, atomically, so that any change is found."""
    write_json(path, {**value, _SEAL: hash_json(value)})


def read_sealed(path: Path, *, required: bool = False) -> JsonObject:
    """Read what `write_sealed` wrote.

    Args:
        required: whether the hash must be there.

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
    """Keys that a reader relies on, of exactly these types; other keys may be there too."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)

    def to_json(self) -> JsonObject:
        """Return the object as it was read, with unknown keys and without defaults."""
        return self.model_dump(exclude_unset=True, by_alias=True)


R = TypeVar("R", bound=Record)


def read_record(path: Path, record: type[R], *, sealed: bool = False) -> R:
    """Read a JSON object that has the keys and types of `record`.

    Args:
        sealed: whether it must hold its own hash.

    Raises:
        ValueError: the file holds no such object.
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


class DamagedFileError(ValueError):
    """A file of a sealed folder is gone, cut short or changed."""


class _Sealed(Record):
    sha256: dict[str, str]  # by path from the folder


def seal_folder(folder: Path, facts: JsonObject, file: str = MANIFEST_FILE) -> None:
    """Write `facts` and the SHA-256 of every file of a folder into `file` of that folder."""
    write_sealed(folder / file, {**facts, "sha256": hash_files(folder)})


def open_folder(
    folder: Path,
    record: type[R],
    file: str = MANIFEST_FILE,
    *,
    names: Iterable[str] = (),
    sealed: bool = False,
    every_byte: bool = True,
) -> R:
    """Return what `seal_folder` wrote, once every file that it listed proves unchanged.

    Args:
        names: files that must be in the list.
        sealed: whether the facts must hold their own hash.
        every_byte: also read files of more than 2 GiB.

    Raises:
        DamagedFileError: a file is gone, cut short or changed; the message names it.
        ValueError: the facts are damaged, or not of this record.
        OSError: they cannot be read.
    """
    value = read_sealed(folder / file, required=sealed)
    found = check_record(value, record)
    listed = check_record(value, _Sealed).sha256
    for name in names:
        if name not in listed:
            raise DamagedFileError(f"{name} is not in the list of {file}")
    files = files_below(folder)  # so a name cannot lead out of the folder
    for name, expected in listed.items():
        if name not in files:
            raise DamagedFileError(f"{name} is missing")
        skipped = not every_byte and files[name].stat().st_size > _LARGE_FILE
        if not skipped and hash_file(files[name]) != expected:
            raise DamagedFileError(f"{name} was cut short or changed")
    return found
