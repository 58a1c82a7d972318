"""Every key of a recipe as a row of a table: what `recipes show` prints."""

from dataclasses import asdict, dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from tinyohem.config.run import RunConfig, known_keys
from tinyohem.config.sections import choices, flag_of, words

_KINDS = {bool: "yes or no", int: "whole number", float: "number"}


@dataclass(frozen=True)
class SettingRow:
    """A key of a recipe."""

    section: str
    name: str
    takes: str  # kind of value, or the words there are
    unit: str  # of a number; empty for a pure one
    default: str  # in words
    meaning: str
    flag: str  # option of `train` that sets it; empty: only `--set` does
    value: Any  # of the config that was asked about

    def to_json(self) -> dict[str, Any]:
        """Return all of it, with the key as `--set` takes it."""
        return {"key": f"{self.section}.{self.name}", **asdict(self)}


def setting_rows(config: RunConfig) -> list[SettingRow]:
    """Return every key in the order of the sections, with its value in a config."""
    values = config.model_dump()
    return [
        SettingRow(
            section=section,
            name=name,
            takes=_takes(field),
            unit=words(field)["unit"],
            default=words(field)["default"],
            meaning=field.description or "",
            flag=flag_of(field),
            value=values[section][name],
        )
        for section, fields in known_keys().items()
        for name, field in fields.items()
    ]


def _takes(field: FieldInfo) -> str:
    if named := choices(field):
        return ", ".join(named)
    types = {field.annotation, *get_args(field.annotation)}
    return next((kind for of, kind in _KINDS.items() if of in types), "text")
