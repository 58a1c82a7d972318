"""The settings of runs as `section.key`, and which of them tell runs apart."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinyohem.config.aliases import current_name
from tinyohem.config.recipes import parse_literal
from tinyohem.config.run import CHANGES_NO_FIGURE, validate_config
from tinyohem.config.sections import ConfigTree
from tinyohem.errors import InputError

Settings = Mapping[str, Any]  # `section.key` and its value

# The model has a column of its own in a list of runs.
_SHOWN_APART = frozenset({"model.preset", "model.init_from"})


def flat_settings(config: ConfigTree) -> dict[str, Any]:
    """Return the settings of a config of any version, by their names of today."""
    return {
        f"{section}.{current_name(section, key, quiet=True)}": value
        for section, values in config.items()
        for key, value in values.items()
    }


def default_settings(config: ConfigTree) -> dict[str, Any]:
    """Return the default settings, with the learning rate that is the default of this model."""
    tree = validate_config({}).model_dump()
    with suppress(InputError):  # another version's model may have settings that this one lacks
        model = config.get("model", {})
        tree["optim"]["lr"] = validate_config({"model": model}).optim.lr
    return flat_settings(tree)


def own_settings(config: ConfigTree) -> dict[str, Any]:
    """Return the settings of a complete config that are not its defaults."""
    usual = default_settings(config)
    return {key: value for key, value in flat_settings(config).items() if value != usual[key]}


def telling(runs: Iterable[Settings]) -> list[str]:
    """Return the settings that are not the same in all runs, in order."""
    each = list(runs)
    keys = dict.fromkeys(key for settings in each for key in settings)
    return [key for key in keys if len({_told(settings, key) for settings in each}) > 1]


def _told(settings: Settings, key: str) -> str | None:
    return value_text(settings[key]) if key in settings else None


def value_text(value: Any) -> str:
    """Return a value as `--set` takes it; only strings that would read as another are quoted."""
    if isinstance(value, str) and parse_literal(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def labels(runs: Iterable[Settings]) -> list[str]:
    """Say of each run what sets it apart from the others: `ohem.ratio=0.5 ohem.select=random`.

    A label is empty for a run that is as the defaults are; it names no setting that changes no
    figure. Paths below the working folder are relative to it.

    Args:
        runs: their `own_settings`.
    """
    each = list(runs)
    keys = [key for key in telling(each) if key not in CHANGES_NO_FIGURE | _SHOWN_APART]
    here = f"{Path.cwd()}{os.sep}"
    return [
        " ".join(f"{key}={value_text(run[key]).removeprefix(here)}" for key in keys if key in run)
        for run in each
    ]
