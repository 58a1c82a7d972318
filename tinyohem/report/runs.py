"""What a report is about: run folders with their logs, and the comparisons they belong to."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyohem.artifacts import read_jsonl
from tinyohem.errors import InputError
from tinyohem.evaluation.comparison import PLAN_FILE
from tinyohem.evaluation.table import Row, RunResult, summarise
from tinyohem.names import utf8_path
from tinyohem.record import Record, check_record, read_record
from tinyohem.report.arms import ArmFolders, Planned, arm_folders, what_is_missing
from tinyohem.report.records import (
    EvaluationRecord,
    MetricsRow,
    PlanRecord,
    RunFolderRecord,
)

FloatArray = NDArray[np.float64]
_RESULTS = "runs.parquet"
_MAX_RUNS = 10_000
_BYTES_PER_RUN = 4_096


@dataclass(frozen=True)
class RunLog:
    """A run folder as it was read; nothing in it needs the run to have ended."""

    folder: Path
    label: str
    record: dict[str, Any]  # config.json
    rows: list[dict[str, Any]]  # metrics.jsonl
    evaluation: dict[str, Any] | None  # eval.json; None: not evaluated yet

    @property
    def settings(self) -> dict[str, Any]:
        """Return the config as `section.key` to value."""
        return {
            f"{section}.{key}": value
            for section, values in self.record["config"].items()
            for key, value in values.items()
        }

    @property
    def step(self) -> int:
        """Return the last step that the log knows."""
        return int(self.rows[-1]["step"])

    @property
    def model_folder(self) -> Path | None:
        """Return the finished model, if the run has ended."""
        folder = self.folder / "model"
        return folder if folder.is_dir() else None

    def last(self, name: str) -> float | None:
        """Return the newest value of a figure."""
        return next((row[name] for row in reversed(self.rows) if row.get(name) is not None), None)

    def series(self, name: str, by: str = "tokens") -> tuple[FloatArray, FloatArray]:
        """Return where in training a figure was logged, and its values: (N,), (N,).

        Args:
            by: `tokens` seen, or `seconds` of training (evaluation and checkpoints excluded).
        """
        training = self.record["config"]["training"]
        step_tokens = training["batch_size"] * training["seq_len"]
        points = [
            (row["step"] * step_tokens if by == "tokens" else row["train/seconds"], row[name])
            for row in self.rows
            if row.get(name) is not None and (by == "tokens" or "train/seconds" in row)
        ]
        array = np.array(points, dtype=np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]


@dataclass(frozen=True)
class RunGroup:
    """What shares a colour: the seeds of an arm, or one run alone."""

    name: str
    runs: tuple[RunLog, ...]


@dataclass(frozen=True)
class ComparisonResult:
    """The table of a finished comparison."""

    label: str
    rows: list[Row]
    groups: list[int]  # the place of each arm's runs among all groups, which decides its colour


@dataclass(frozen=True)
class Material:
    """Everything that a report shows, before any model is scored."""

    groups: list[RunGroup]
    comparisons: list[ComparisonResult]
    warnings: list[str]  # what is left out
    incomparable: str | None  # what keeps the runs' figures from being compared

    @property
    def runs(self) -> list[RunLog]:
        """Return all runs in order."""
        return [run for group in self.groups for run in group.runs]


def read_material(folders: Sequence[Path]) -> Material:
    """Read run folders and the folders that `compare` wrote, in the order given.

    Raises:
        InputError: a folder holds no run, a run without a line of metrics, or a damaged file.
    """
    groups: list[RunGroup] = []
    comparisons, warnings = [], []
    labels = _labels(folders)
    for folder, label in zip(folders, labels, strict=True):
        if (folder / "config.json").exists():
            groups.append(RunGroup(label, (_read_run(folder, label),)))
            continue
        prefix = f"{label}/" if len(folders) > 1 else ""
        planned, results = _read_plan(folder), _read_results(folder)
        order = [*(planned[0] if planned else ()), *(r["arm"] for r in results)]
        arms = arm_folders(folder, list(dict.fromkeys(order)))
        own = _read_arms(folder, prefix, arms)
        if missing := what_is_missing(label, planned, arms, results):
            warnings.append(missing)
        if results:
            try:
                comparisons.append(_comparison(label, prefix, results, [*groups, *own]))
            except KeyError as figure:
                warnings.append(
                    f"The table of {label} is left out: another version made it, without {figure}. "
                    "The same compare command makes it anew, where it can."
                )
            except (TypeError, ZeroDivisionError):  # no figure, or no seed that two arms share
                raise _damaged_results(folder / _RESULTS, "runs without figures") from None
        groups += own
    runs = [run for group in groups for run in group.runs]
    warnings += [told for run in runs if (told := _lost_text(run))]
    return Material(groups, comparisons, warnings, _incomparable(runs))


def _lost_text(run: RunLog) -> str | None:
    """Say that the ids of a run's validation stories do not give them back, where that is so."""
    loss = run.record["valid"].get("text_loss")
    if not loss or not loss["lost_stories"]:
        return None
    return (
        f"The tokenizer of {run.label} loses text, of {loss['lost_stories']:,} of its "
        f"{loss['stories']:,} validation stories: its bits per byte are left out."
    )


def _labels(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as it takes to tell them apart.

    What cannot be printed in a name, and no picture or page may hold, is replaced.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise InputError(f"{twice} is named twice", "name each run once")
    longest = max(len(path.parts) for path in paths)
    for depth in range(1, longest + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        labels = [
            "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
            for name in names
        ]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def _read_arms(folder: Path, prefix: str, arms: ArmFolders) -> list[RunGroup]:
    """Read the runs of a comparison, finished or not, but those without a line of metrics yet."""
    groups = []
    for arm, seeds in arms.items():
        paths = [path for path in seeds.values() if (path / "metrics.jsonl").exists()]
        if paths:
            runs = tuple(_read_run(path, prefix + path.name) for path in paths)
            groups.append(RunGroup(prefix + arm, runs))
    if not groups:
        raise InputError(
            f"{folder} is neither a run folder nor the folder of a comparison",
            "name a folder that `train` or `compare` wrote with --out",
        )
    return groups


def _read_run(folder: Path, label: str) -> RunLog:
    record = _read(folder / "config.json")
    try:
        check_record(record, RunFolderRecord)
    except ValueError as error:
        raise InputError(
            f"{folder / 'config.json'} is no run's, or another version's: {error}",
            "name a folder that `train` or `compare` wrote with --out",
        ) from None
    rows = read_jsonl(folder / "metrics.jsonl")
    if not rows:
        raise InputError(f"{folder} has no metrics yet", "wait for the run's first line of them")
    for number, row in enumerate(rows, 1):
        try:
            check_record(row, MetricsRow)
        except ValueError as error:
            raise InputError(
                f"{folder / 'metrics.jsonl'}: line {number} is not a row of figures: {error}",
                "delete that line, or mend it",
            ) from None
    path = folder / "eval.json"
    evaluation = _read(path, EvaluationRecord) if path.exists() else None
    return RunLog(folder, label, record, rows, evaluation)


def _read(path: Path, record: type[Record] = Record) -> dict[str, Any]:
    try:
        return read_record(path, record)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}", "bring the run's own file back") from None


def _read_plan(folder: Path) -> Planned:
    """Return the arms and seeds that `compare` set out with; None from before it said."""
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    try:
        plan = read_record(path, PlanRecord)
        if len(plan["arms"]) * len(plan["seeds"]) > _MAX_RUNS:
            raise ValueError(f"more than {_MAX_RUNS:,} runs")
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}", "delete that file") from None
    return plan["arms"], plan["seeds"]


def _read_results(folder: Path) -> list[dict[str, Any]]:
    """Return what a comparison found of each of its runs; nothing before its end."""
    path = folder / _RESULTS
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
        return [check_record(result, RunResult) for result in table.to_pylist()]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _damaged_results(path, error) from None


def _damaged_results(path: Path, why: object) -> InputError:
    return InputError(
        f"{path} is damaged: {why}", "repeat the `compare` command: it keeps finished runs"
    )


def _comparison(
    label: str, prefix: str, results: list[dict[str, Any]], groups: Sequence[RunGroup]
) -> ComparisonResult:
    """Make the table again; an arm whose runs were deleted has a colour that is free."""
    rows = summarise(results)
    places = {group.name: place for place, group in enumerate(groups)}
    return ComparisonResult(
        label, rows, [places.get(prefix + row.arm, len(groups)) for row in rows]
    )


def _incomparable(runs: Iterable[RunLog]) -> str | None:
    """Say what the figures of these runs cannot be compared by."""
    valid = [run.record["valid"] for run in runs]
    stories = {json.dumps([v["corpus"], v.get("part"), v.get("clean")]) for v in valid}
    if len(stories) > 1:
        return (
            "These runs were validated on different stories: their losses and perplexities do not "
            "compare; bits per byte come nearest, and still depend on the text."
        )
    if len({v["tokenizer"] for v in valid}) > 1:
        return (
            "These runs have different tokenizers: losses and perplexities per token do not "
            "compare; bits per byte do."
        )
    if len({run.record["config"]["training"].get("eval_tokens") for run in runs}) > 1:
        return (
            "During training these runs were validated on heads of different length: their "
            "validation curves do not compare; the figures of the finished models do."
        )
    return None
