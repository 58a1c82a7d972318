"""What a report is about: run folders with their logs, and the comparisons they belong to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyohem.config.aliases import current_name
from tinyohem.errors import InputError
from tinyohem.experiments.table import Row, summarise
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import read_jsonl
from tinyohem.io.manifest import check_record
from tinyohem.report.arms import (
    RESULT_FILE,
    arm_folders,
    is_run,
    name_runs,
    what_is_missing,
)
from tinyohem.report.comparisons import (
    damaged_table,
    read_plan,
    read_table,
    results_of_records,
)
from tinyohem.report.records import (
    EvaluationRecord,
    MetricsRow,
    ResultRecord,
    RunFolderRecord,
    read_or_refuse,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RunLog:
    """A run folder as it was read; nothing in it needs the run to have ended."""

    folder: Path
    label: str
    record: dict[str, Any]  # config.json; without it what result.json knows of that
    rows: list[dict[str, Any]]  # metrics.jsonl; none where it is gone
    evaluation: dict[str, Any] | None  # eval.json, or result.json; None: not evaluated yet

    @property
    def settings(self) -> dict[str, Any]:
        """Return the config as `section.key` to value."""
        return {
            f"{section}.{current_name(section, key, quiet=True)}": value
            for section, values in self.record["config"].items()
            for key, value in values.items()
        }

    @property
    def step(self) -> int:
        """Return the last step that the log knows."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def model_folder(self) -> Path | None:
        """Return the finished model, if the run has ended and its stories are known."""
        folder = self.folder / "model"
        return folder if folder.is_dir() and "valid" in self.record else None

    def last(self, name: str) -> float | None:
        """Return the newest value of a figure."""
        return next((row[name] for row in reversed(self.rows) if row.get(name) is not None), None)

    def total(self, name: str) -> float | None:
        """Return what training came to: `tokens_seen`, `tokens_selected` or `seconds`."""
        logged = self.last(f"train/{name}")
        recorded = "train_seconds" if name == "seconds" else name
        return logged if logged is not None else (self.evaluation or {}).get(recorded)

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
    bits_compare: bool = True  # bits per byte of the finished runs do, whatever else does not

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
        if is_run(folder):
            groups.append(RunGroup(label, (_read_run(folder, label),)))
            continue
        prefix = f"{label}/" if len(folders) > 1 else ""
        own, table, told = _read_comparison(folder, label, prefix, len(groups))
        groups += own
        comparisons += [table] if table else []
        warnings += told
    silent = [run.label for group in groups for run in group.runs if not run.rows]
    if silent:
        warnings.append(f"Without a log, so in no chart over training: {name_runs(silent)}.")
    runs = [run for group in groups for run in group.runs]
    warnings += [lost for run in runs if (lost := _lost_text(run))]
    incomparable, bits_compare = _incomparable(runs)
    return Material(groups, comparisons, warnings, incomparable, bits_compare)


def _lost_text(run: RunLog) -> str | None:
    """Say that the ids of a run's validation stories do not give them back, where that is so."""
    loss = (run.record.get("valid") or {}).get("text_loss")
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


def _read_comparison(
    folder: Path, label: str, prefix: str, taken: int
) -> tuple[list[RunGroup], ComparisonResult | None, list[str]]:
    """Read the folder of a comparison, finished or not.

    Args:
        prefix: of the names of its arms and runs.
        taken: how many groups stand before its own.
    """
    planned, results = read_plan(folder), read_table(folder)
    order = [*(planned[0] if planned else ()), *(r["arm"] for r in results)]
    arms = arm_folders(folder, list(dict.fromkeys(order)))
    if not results and not any(arms.values()):
        raise InputError(
            f"{folder} is neither a run folder nor the folder of a comparison",
            "name a folder that `train` or `compare` wrote with --out",
        )
    runs = {
        (arm, seed): _read_run(path, prefix + path.name)
        for arm, seeds in arms.items()
        for seed, path in seeds.items()
        if _has_figures(path)
    }
    warnings = [] if runs else [f"The folders of the runs of {label} are gone: there is no chart."]
    baseline = None
    if not results:
        logs = {run: log.rows for run, log in runs.items()}
        results, baseline, told = results_of_records(label, planned, arms, logs)
        warnings += told
    if missing := what_is_missing(label, planned, arms, results):
        warnings.append(missing)
    names = list(dict.fromkeys([*filter(None, [baseline]), *arms]))
    groups = [
        RunGroup(prefix + name, tuple(run for (arm, _), run in runs.items() if arm == name))
        for name in names
    ]
    groups = [group for group in groups if group.runs]
    places = {group.name: place for place, group in enumerate(groups, taken)}
    try:
        rows = summarise(results) if results else []
    except KeyError as figure:
        rows = []
        warnings.append(
            f"The table of {label} is left out: another version made it, without {figure}. "
            "The same compare command makes it anew, where it can."
        )
    except (TypeError, ZeroDivisionError):  # no figure, or no seed that two arms share
        raise damaged_table(folder, "runs without figures") from None
    # An arm whose runs were deleted has a colour that is free.
    colours = [places.get(prefix + row.arm, taken + len(groups)) for row in rows]
    table = ComparisonResult(label, rows, colours) if rows else None
    return groups, table, warnings


def _has_figures(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("metrics.jsonl", "eval.json", RESULT_FILE))


def _read_run(folder: Path, label: str) -> RunLog:
    """Read a run by its own files, or what `compare` recorded of it in their place."""
    if (folder / "config.json").exists():
        record = read_or_refuse(folder / "config.json")
        evaluation = None
        try:
            check_record(record, RunFolderRecord)
        except ValueError as error:
            raise InputError(
                f"{folder / 'config.json'} is no run's, or another version's: {error}",
                "name a folder that `train` or `compare` wrote with --out",
            ) from None
    else:
        evaluation = read_or_refuse(folder / RESULT_FILE, ResultRecord)
        record = {key: evaluation.get(key) for key in ("config", "environment", "tokens_sha256")}
        record["num_steps"] = evaluation.get("steps")
    if (path := folder / "eval.json").exists():
        evaluation = {**(evaluation or {}), **read_or_refuse(path, EvaluationRecord)}
    rows = _read_log(folder / "metrics.jsonl")
    if not rows and evaluation is None:
        raise InputError(f"{folder} has no metrics yet", "wait for the run's first line of them")
    return RunLog(folder, label, record, rows, evaluation)


def _read_log(path: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        try:
            check_record(row, MetricsRow)
        except ValueError as error:
            raise InputError(
                f"{path}: line {number} is not a row of figures: {error}",
                "delete that line, or mend it",
            ) from None
    return rows


def _incomparable(runs: Sequence[RunLog]) -> tuple[str | None, bool]:
    """Say what keeps figures of these runs from being compared, and whether bits per byte do."""
    valid = [run.record.get("valid") for run in runs]
    known = [v for v in valid if v is not None]
    stories = {json.dumps([v["corpus"], v.get("part"), v.get("clean")]) for v in known}
    if len(stories) > 1:
        return (
            "These runs were validated on different stories: their losses and perplexities do not "
            "compare; bits per byte come nearest, and still depend on the text."
        ), False
    if len({v["tokenizer"] for v in known}) > 1:
        return (
            "These runs have different tokenizers: losses and perplexities per token do not "
            "compare; bits per byte do."
        ), True
    if len(known) < len(valid) and len({_tokens(run) for run in runs}) > 1:
        return (
            "The records of these runs do not say that they have stories and tokenizer in common: "
            "their losses and perplexities may not compare."
        ), False
    heads = [run.record["config"]["training"].get("eval_tokens") for run in runs]
    if any(head != heads[0] for head in heads):
        return (
            "During training these runs were validated on heads of different length: their "
            "validation curves do not compare; the figures of the finished models do."
        ), True
    return None, True


def _tokens(run: RunLog) -> str:
    """Return the hash of a run's training and validation tokens, as `compare` records it."""
    if "valid" in run.record:
        return hash_json([run.record[split]["ids_sha256"] for split in ("train", "valid")])
    return str(run.record["tokens_sha256"])
