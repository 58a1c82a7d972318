"""The results of a comparison: those in its table, or else the records that its runs left."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyohem.config.run import validate_config
from tinyohem.errors import InputError
from tinyohem.experiments.milestones import time_to_milestones
from tinyohem.experiments.spec import PLAN_FILE
from tinyohem.experiments.table import Result, RunResult
from tinyohem.io.manifest import check_record, read_record
from tinyohem.io.names import utf8_path
from tinyohem.report.arms import RESULT_FILE, ArmFolders, Planned
from tinyohem.report.records import PlanRecord, ResultRecord, read_or_refuse

TABLE_FILE = "runs.parquet"
_MAX_RUNS = 10_000
_BYTES_PER_RUN = 4_096

Run = tuple[str, int]  # arm and seed
Records = dict[Run, Result]
Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl


def read_plan(folder: Path) -> Planned:
    """Return the arms and seeds that `compare` set out with; None from before it said."""
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    try:
        plan = read_record(path, PlanRecord).to_json()
        if len(plan["arms"]) * len(plan["seeds"]) > _MAX_RUNS:
            raise ValueError(f"more than {_MAX_RUNS:,} runs")
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}", "delete that file") from None
    return plan["arms"], plan["seeds"]


def read_table(folder: Path) -> list[Result]:
    """Return what a comparison found of each of its runs; nothing before its end."""
    path = folder / TABLE_FILE
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
        # A name stays one, however often it is repeated.
        file = parquet.ParquetFile(utf8_path(path), metadata=metadata, read_dictionary=["arm"])
        known = [name for name in file.schema_arrow.names if name in RunResult.model_fields]
        table = file.read(columns=known)
        if table.nbytes > _BYTES_PER_RUN * metadata.num_rows:
            raise ValueError("it holds more than figures")
        return [check_record(result, RunResult).to_json() for result in table.to_pylist()]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise damaged_table(folder, error) from None


def damaged_table(folder: Path, why: object) -> InputError:
    """Return what is raised where the table cannot be used."""
    return InputError(
        f"{folder / TABLE_FILE} is damaged: {why}",
        "repeat the `compare` command: it keeps finished runs",
    )


def results_of_records(
    label: str, planned: Planned, arms: ArmFolders, logs: Mapping[Run, Rows]
) -> tuple[list[Result], str | None, list[str]]:
    """Return the results that the runs left, the baseline's name, and what there is to say of them.

    There are none before all planned runs have one, nor without a baseline.

    Args:
        logs: of the runs, for the time to the baseline's losses; a run may lack its own.
    """
    records = _read_records(arms)
    if len({arm for arm, _ in records}) < 2:
        return [], None, []
    if planned and any((arm, seed) not in records for arm in planned[0] for seed in planned[1]):
        return [], None, []  # which `what_is_missing` says
    baseline = planned[0][0] if planned else _only_plain_arm(records)
    if baseline is None:
        why = f"There is no table of {label}: nothing says which of its arms is the baseline."
        return [], None, [why]
    told = []
    if not planned:
        told.append(
            f"In {label} the arm {baseline} counts as the baseline, because it alone trains "
            "plainly on every token; no file says so."
        )
    seeds = {seed for arm, seed in records if arm == baseline}
    comparable = {arm for arm, seed in records if seed in seeds}
    if apart := sorted({arm for arm, _ in records} - comparable):
        told.append(f"Without a seed in common with {baseline}: {', '.join(apart)}.")
    results = [
        {**result, **_milestones(run, (baseline, run[1]), records, logs)}
        for run, result in records.items()
        if run[0] in comparable
    ]
    return sorted(results, key=lambda result: result["arm"] != baseline), baseline, told


def _read_records(arms: ArmFolders) -> Records:
    """Return what the runs recorded of themselves: arm and seed are those of the folder's name."""
    return {
        (arm, seed): {**read_or_refuse(path / RESULT_FILE, ResultRecord), "arm": arm, "seed": seed}
        for arm, seeds in arms.items()
        for seed, path in seeds.items()
        if (path / RESULT_FILE).exists()
    }


def _only_plain_arm(records: Records) -> str | None:
    """Return the arm that trains plainly on every token: the baseline, where no plan names it."""
    plain = {arm for (arm, _), result in records.items() if _is_plain(result)}
    return plain.pop() if len(plain) == 1 else None


def _is_plain(result: Result) -> bool:
    try:
        config = validate_config(result["config"])
    except InputError:  # another version's
        return False
    ohem = config.ohem
    return (
        ohem.keep_schedule().lowest == 1 and ohem.weight == "none" and not config.curriculum.enabled
    )


def _milestones(
    run: Run, baseline: Run, records: Records, logs: Mapping[Run, Rows]
) -> dict[str, float | None]:
    needed = ("val/loss", "train/seconds")
    curves = []
    for key in (run, baseline):
        rows = [r for r in logs.get(key, ()) if all(r.get(name) is not None for name in needed)]
        if not rows or key not in records or rows[-1]["step"] != records[key].get("steps"):
            return {}  # cut short, or of another run
        curves.append(rows)
    return time_to_milestones(*curves)
