"""The folder of a comparison: the names of its files, and the records that they hold."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tinyohem.config.sections import ConfigTree
from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_file
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, Figure, Record, check_record, read_record
from tinyohem.io.names import shown, utf8_path
from tinyohem.runs.layout import RECORD_FILE
from tinyohem.runs.record import complete_config

PLAN_FILE = "comparison.json"  # arms and seeds of the last command
RESULT_FILE = "result.json"  # in the folder of a finished run
RUNS_FILE = "runs.parquet"  # one row a run
TABLE_FILE = "table.json"  # one row an arm
MARKDOWN_FILE = "table.md"

_RUN_FOLDER = re.compile(r"(?P<arm>.+)-seed(?P<seed>\d+)")
_MAX_RUNS = 10_000
_BYTES_PER_RUN = 4_096

RunId = tuple[str, int]  # arm and seed


class PlannedRuns(Record):
    """The runs that `compare` plans, and how it judges them."""

    arms: list[Annotated[str, Field(max_length=200)]] = Field(min_length=1, max_length=1_000)
    seeds: list[Count] = Field(min_length=1, max_length=1_000)
    margin: Figure | None = Field(None, gt=0)  # of equivalence, bits per byte


class RunResult(Record):
    """The figures of a run, as its row of `runs.parquet` has them.

    Another version may lack some: see `missing`.
    """

    arm: str = Field("", max_length=200)
    seed: Count = 0
    perplexity: Figure | None = None  # None: too large for a float
    bits_per_byte: Figure = math.nan
    hardest_tenth: Figure = math.nan  # nats
    easiest_half: Figure = math.nan  # nats
    gini: Figure = math.nan
    tokens_seen: int = Field(0, ge=1)
    tokens_selected: Count = 0
    train_seconds: Figure = math.nan
    select_seconds: Figure = math.nan
    choose_seconds: Figure | None = 0.0  # of choosing stories, once for all seeds; None: unknown
    # How soon it reached its baseline's losses; None: never.
    steps_to_baseline: Figure | None = None
    seconds_to_baseline: Figure | None = None
    steps_to_halfway: Figure | None = None
    seconds_to_halfway: Figure | None = None

    @property
    def missing(self) -> list[str]:
        """Return the names of the figures that every run has and this one lacks."""
        later = {"choose_seconds"}  # not in every version
        own = [name for name in RunResult.model_fields if "_to_" not in name and name not in later]
        return [name for name in own if name not in self.model_fields_set]


class FinishedRun(RunResult):
    """The `result.json` of a run."""

    format: int = 0
    tokens_sha256: str = ""  # of the tokens that it was trained and scored on
    config: Annotated[dict[str, ConfigTree], AfterValidator(complete_config)]
    steps: Count = 0
    environment: JsonObject | None = None


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Return where a run of a comparison stands."""
    return out / f"{arm}-seed{seed}"


def is_run(folder: Path) -> bool:
    """Whether a folder holds the record of a run."""
    return any((folder / name).exists() for name in (RECORD_FILE, RESULT_FILE))


def run_folders(folder: Path, arms: Iterable[str] = ()) -> dict[RunId, Path]:
    """Find the runs that have begun: in the order of `arms`, then the other arms; seeds rise."""
    runs: dict[RunId, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _RUN_FOLDER.fullmatch(path.name)
        if match and is_run(path):
            runs[match["arm"], int(match["seed"])] = path
    order = list(dict.fromkeys([*arms, *(arm for arm, _ in runs)]))
    return {run: runs[run] for run in sorted(runs, key=lambda run: (order.index(run[0]), run[1]))}


def read_plan(folder: Path) -> PlannedRuns | None:
    """Return the plan of `compare`; None where an earlier version left none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    try:
        plan = read_record(path, PlannedRuns)
        if len(plan.arms) * len(plan.seeds) > _MAX_RUNS:
            raise ValueError(f"more than {_MAX_RUNS:,} runs")
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}", "delete that file") from None
    return plan


def write_runs(folder: Path, results: Sequence[RunResult]) -> None:
    """Write one row a run; text that is not UTF-8 is written as it is shown."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {k: _shown(v) for k, v in run.to_json().items() if k != "environment"} for run in results
    ]
    with atomic_file(folder / RUNS_FILE) as stream:
        parquet.write_table(pyarrow.Table.from_pylist(rows), stream)


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    return shown(value) if isinstance(value, str) else value


def read_runs(folder: Path) -> list[RunResult]:
    """Return the results of a comparison's runs; none before its end.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / RUNS_FILE
    if not path.exists():
        return []
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(utf8_path(path))
        if not 1 <= metadata.num_rows <= _MAX_RUNS:
            raise ValueError(f"it has {metadata.num_rows:,} rows")
        if missing := {"arm", "seed"} - {column.path for column in metadata.schema}:
            raise ValueError(f"it names no {min(missing)}s")
        # Dictionary-encoded: a repeated name takes memory once.
        file = parquet.ParquetFile(utf8_path(path), metadata=metadata, read_dictionary=["arm"])
        known = [name for name in file.schema_arrow.names if name in RunResult.model_fields]
        table = file.read(columns=known)
        if table.nbytes > _BYTES_PER_RUN * metadata.num_rows:
            raise ValueError("it holds more than figures")
        return [check_record(row, RunResult) for row in table.to_pylist()]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise damaged_runs(folder, error) from None


def damaged_runs(folder: Path, why: object) -> InputError:
    """Return the error of a `runs.parquet` that cannot be used."""
    return InputError(
        f"{folder / RUNS_FILE} is damaged: {why}",
        "repeat the `compare` command: it keeps finished runs",
    )
