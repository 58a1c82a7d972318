"""Write what the manual takes from the code and from the records of runs.

    python scripts/make_docs.py      # `make docs` does the same

docs/settings.md comes from the fields of the config, which `--help` and `recipes show` read too.
In docs/results.md a table follows each line `<!-- records: GLOB GLOB -->`, which names folders of
runs in results/; the arm of the first is the baseline.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from tinyohem.config.aliases import RENAMED
from tinyohem.config.model import PRESETS
from tinyohem.config.run import RunConfig, known_keys
from tinyohem.config.sections import flag_of, words
from tinyohem.experiments.folder import RESULT_FILE, RunResult
from tinyohem.experiments.table import Row, cells, summarise
from tinyohem.io.manifest import read_record

ROOT = Path(__file__).parents[1]
SETTINGS, RESULTS = ROOT / "docs" / "settings.md", ROOT / "docs" / "results.md"
DEFAULT_VOCABULARY = 4_096

_HEAD = """\
# Settings

Every key of a recipe, by section: its option on the command line, its default, the values that it
takes, what it decides. This page is made from the code by `make docs`; a test says when it is old.

```bash
tinyohem recipes show baseline                 # the same keys with the values of a recipe
tinyohem train --dataset sample --set ohem.floor=0.2 --set ohem.select=importance --ohem-ratio 0.5
```

Later ones win: the defaults, a recipe (`--recipe`), options, `--set section.key=value`.
`--set section.key=null` takes a value back to "none". In TOML a section is a table:

```toml
extends = "ohem"

[ohem]
ratio = 0.25
```
"""


def settings_page() -> str:
    """Return docs/settings.md as it has to be."""
    renamed = ", ".join(f"`{old}` is now `{new}`" for old, new in RENAMED.items())
    parts = [_HEAD, textwrap.fill(f"Old names work for one version more: {renamed}.", 100) + "\n"]
    for section, fields in known_keys().items():
        does = (RunConfig.model_fields[section].annotation.__doc__ or "").splitlines()[0]
        parts.append(f"## `[{section}]`\n\n{does}\n\n" + "\n".join(_table(fields)) + "\n")
    parts.append("## Sizes of `--model`\n\n" + "\n".join(_sizes()) + "\n")
    return "\n".join(parts)


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| key | option | default | values | what it decides |"
    yield "| --- | --- | --- | --- | --- |"
    for key, field in fields.items():
        option = f"`{flag_of(field)}`" if flag_of(field) else ""
        default, meaning = words(field)["default"], field.description or ""
        yield f"| `{key}` | {option} | {default} | {_values(field)} | {meaning} |"


def _values(field: FieldInfo) -> str:
    """Return the kind of value that a key takes, with its limits; the meaning names the words."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    kind = kinds[0] if kinds else field.annotation
    if get_origin(field.annotation) is Literal or get_origin(kind) is Literal:
        return "a word"
    counts = kind is int or get_args(kind)  # a count with a unit is an annotated int
    name = "yes or no" if kind is bool else "whole number" if counts else "text"
    limits = [limit for metadata in field.metadata for limit in _limits(metadata)]
    return ", ".join(["number" if kind is float else name, *limits])


def _limits(metadata: object) -> Iterator[str]:
    for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        limit = getattr(metadata, name, None)
        if limit is not None and limit < 2**20:  # larger ones only keep a number within 64 bits
            yield f"{sign} {limit:,}"


def _sizes() -> Iterator[str]:
    yield f"| size | parameters at {DEFAULT_VOCABULARY:,} tokens | width | layers | heads | MLP |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, shape in PRESETS.items():
        yield (
            f"| `{name}` | {shape.num_parameters(DEFAULT_VOCABULARY):,} | {shape.hidden_size} "
            f"| {shape.num_layers} | {shape.num_heads} | {shape.intermediate_size} |"
        )


_COLUMNS = ("bits per byte", "difference", "95 % interval", "p", "verdict", "perplexity")
_COLUMNS += ("hardest tenth", "easiest half")


def results_page(text: str) -> str:
    """Return docs/results.md with its tables as the records of the runs have them."""
    return re.sub(
        r"(<!-- records: (.+) -->\n\n)(?:\|.*\n)*\n*",
        lambda found: found[1] + "".join(f"{line}\n" for line in _records(found[2].split())) + "\n",
        text,
    )


def _records(globs: list[str]) -> Iterator[str]:
    folders = dict.fromkeys(run for glob in globs for run in sorted((ROOT / "results").glob(glob)))
    results = [read_record(run / RESULT_FILE, RunResult) for run in folders]
    baseline, *others = summarise(results)
    names = ("arm", "seeds", "kept", *_COLUMNS)
    yield f"| {' | '.join(names)} |"
    yield f"| {' | '.join(['---'] * len(names))} |"
    for row in (baseline, *sorted(others, key=_difference)):
        shown = {**cells(row), "seeds": str(row.seeds)}
        yield f"| {' | '.join(shown[name] for name in names)} |"


def _difference(row: Row) -> float:
    assert row.difference is not None  # only the baseline has none
    return row.difference.mean


if __name__ == "__main__":
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    RESULTS.write_text(results_page(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
