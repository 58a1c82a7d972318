"""Read what a report shows: run folders with their logs, and the comparisons they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyohem.config.sections import ConfigTree
from tinyohem.data.choice import ChoiceRecord
from tinyohem.errors import InputError
from tinyohem.experiments.folder import (
    RESULT_FILE,
    damaged_runs,
    is_run,
    read_plan,
    read_runs,
    run_folders,
)
from tinyohem.experiments.table import Row, summarise
from tinyohem.io.json import read_jsonl
from tinyohem.io.manifest import Record, check_record
from tinyohem.report.comparisons import is_finished, name_runs, recorded_results
from tinyohem.report.records import (
    EvaluationRecord,
    MetricsRow,
    RunFacts,
    RunFolderRecord,
    read_or_refuse,
)
from tinyohem.runs.layout import (
    CHOICE_FILE,
    EVALUATION_FILE,
    METRICS_FILE,
    MODEL,
    RECORD_FILE,
    folder_labels,
)
from tinyohem.runs.scored import in_part, scoring_command
from tinyohem.runs.settings import flat_settings

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class RunLog:
    """A run folder as it was read; the run may not have ended."""

    folder: Path
    label: str
    record: RunFacts  # config.json; without it what result.json knows of that
    rows: list[MetricsRow]  # metrics.jsonl; none where it is gone
    evaluation: EvaluationRecord | None  # eval.json, or result.json; None: not evaluated yet
    choice: ChoiceRecord | None = None  # chosen.json, of a run that chose its stories

    @property
    def settings(self) -> ConfigTree:
        """Return the config as `section.key` to value."""
        return flat_settings(self.record.config)

    @property
    def step(self) -> int:
        """Return the last step that the log knows."""
        return self.rows[-1].step if self.rows else 0

    @property
    def model_folder(self) -> Path | None:
        """Return the finished model, if the run has ended and its stories are known."""
        folder = self.folder / MODEL
        return folder if folder.is_dir() and self.record.valid else None

    @property
    def scored(self) -> tuple[int | None, int | None]:
        """Return how many validation stories its figures cover, and how many there are."""
        scored, valid = self.evaluation, self.record.valid
        return scored.stories if scored else None, valid.stories if valid else None

    @property
    def scored_in_part(self) -> bool:
        """Whether its figures cover a part of its validation stories only."""
        return in_part(*self.scored)

    def last(self, name: str) -> float | None:
        """Return the newest value of a figure."""
        values = (row.get(name) for row in reversed(self.rows))
        return next((value for value in values if value is not None), None)

    def total(self, name: str) -> float | None:
        """Return a total of the training: `tokens_seen`, `tokens_selected` or `seconds`."""
        logged = self.last(f"train/{name}")
        if logged is not None or self.evaluation is None:
            return logged
        key = "train_seconds" if name == "seconds" else name
        total: float | None = getattr(self.evaluation, key)
        return total

    def series(self, name: str, by: str = "tokens") -> tuple[FloatArray, FloatArray]:
        """Return where in training a figure was logged, and its values: (N,), (N,).

        Args:
            by: `tokens` seen, or `seconds` of training (evaluation and checkpoints excluded).
        """
        points = [
            (x, y)
            for row in self.rows
            if (y := row.get(name)) is not None and (x := self._place(row, by)) is not None
        ]
        array = np.array(points, dtype=np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def _place(self, row: MetricsRow, by: str) -> float | None:
        return row.step * self.record.step_tokens if by == "tokens" else row.get("train/seconds")


@dataclass(frozen=True)
class RunGroup:
    """Runs that share a colour: the seeds of an arm, or one run alone."""

    name: str
    runs: tuple[RunLog, ...]


@dataclass(frozen=True)
class ComparisonResult:
    """The table of a finished comparison."""

    label: str
    rows: list[Row]
    groups: list[int]  # the place of each arm's runs among all groups, which decides its colour


@dataclass(frozen=True)
class ReportInput:
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


def read_input(folders: Sequence[Path]) -> ReportInput:
    """Read run folders and the folders that `compare` wrote, in the order given.

    Raises:
        InputError: a folder holds no run, a run without a line of metrics, or a damaged file.
    """
    groups: list[RunGroup] = []
    comparisons, warnings = [], []
    for folder, label in zip(folders, folder_labels(folders), strict=True):
        if is_run(folder):
            groups.append(RunGroup(label, (_read_run(folder, label),)))
            continue
        prefix = f"{label}/" if len(folders) > 1 else ""
        arms, table, notes = _read_comparison(folder, label, prefix, len(groups))
        groups += arms
        comparisons += [table] if table else []
        warnings += notes
    runs = [run for group in groups for run in group.runs]
    if without_log := [run.label for run in runs if not run.rows]:
        warnings.append(f"Without a log, so in no chart over training: {name_runs(without_log)}.")
    for run in runs:
        loss = run.record.valid and run.record.valid.text_loss
        if loss and loss.lost_stories:
            warnings.append(
                f"The tokenizer of {run.label} loses text, of {loss.lost_stories:,} of its "
                f"{loss.stories:,} validation stories: its bits per byte are left out."
            )
    incomparable, bits_compare = _incomparable(runs)
    return ReportInput(groups, comparisons, warnings, incomparable, bits_compare)


def _read_comparison(
    folder: Path, label: str, prefix: str, taken: int
) -> tuple[list[RunGroup], ComparisonResult | None, list[str]]:
    """Read the folder of a comparison, finished or not.

    Args:
        prefix: of the names of its arms and runs.
        taken: how many groups stand before its own.
    """
    plan, results = read_plan(folder), read_runs(folder)
    arms = [*(plan.arms if plan else ()), *(result.arm for result in results)]
    folders = run_folders(folder, arms)
    if not results and not folders:
        raise InputError(
            f"{folder} is neither a run folder nor the folder of a comparison",
            "name a folder that `train` or `compare` wrote with --out",
        )
    runs = {
        run: _read_run(path, prefix + path.name)
        for run, path in folders.items()
        if (path / METRICS_FILE).exists() or is_finished(path)
    }
    warnings = [] if runs else [f"The folders of the runs of {label} are gone: there is no chart."]
    logs = {run: log.rows for run, log in runs.items()}
    recorded = recorded_results(label, plan, results, folders, logs)
    warnings += recorded.notes
    names = dict.fromkeys([*filter(None, [recorded.baseline]), *(arm for arm, _ in runs)])
    groups = [
        RunGroup(prefix + name, tuple(log for (arm, _), log in runs.items() if arm == name))
        for name in names
    ]
    groups = [group for group in groups if group.runs]
    if unknown := next((name for run in recorded.results for name in run.missing), None):
        warnings.append(
            f"The table of {label} is left out: another version made it, without {unknown!r}. "
            "The same compare command makes it anew, where it can."
        )
        return groups, None, warnings
    try:
        margin = plan.margin if plan else None
        rows = summarise(recorded.results, margin) if recorded.results else []
    except ZeroDivisionError:  # no seed that two arms share
        raise damaged_runs(folder, "runs without figures") from None
    places = {group.name: place for place, group in enumerate(groups, taken)}
    # An arm whose runs were deleted has a colour that is free.
    colours = [places.get(prefix + row.arm, taken + len(groups)) for row in rows]
    return groups, ComparisonResult(label, rows, colours) if rows else None, warnings


def _read_run(folder: Path, label: str) -> RunLog:
    """Read a run by its own files, or what `compare` recorded of it in their place."""
    path, evaluation = folder / RECORD_FILE, None
    if path.exists():
        known = read_or_refuse(path, Record)
        try:
            record: RunFacts = check_record(known.to_json(), RunFolderRecord)
        except ValueError as error:
            raise InputError(
                f"{path} is no run's, or another version's: {error}",
                "name a folder that `train` or `compare` wrote with --out",
            ) from None
    else:
        record = read_or_refuse(folder / RESULT_FILE, RunFacts)
        evaluation = read_or_refuse(folder / RESULT_FILE, EvaluationRecord)
    if (path := folder / EVALUATION_FILE).exists():
        figures = read_or_refuse(path, EvaluationRecord).to_json()
        evaluation = (evaluation or EvaluationRecord()).model_copy(update=figures)
    rows = _read_log(folder / METRICS_FILE)
    if not rows and evaluation is None:
        raise InputError(f"{folder} has no metrics yet", "wait for the run's first line of them")
    path = folder / CHOICE_FILE
    choice = read_or_refuse(path, ChoiceRecord) if path.exists() else None
    return RunLog(folder, label, record, rows, evaluation, choice)


def _read_log(path: Path) -> list[MetricsRow]:
    rows = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            rows.append(check_record(row, MetricsRow))
        except ValueError as error:
            raise InputError(
                f"{path}: line {number} is not a row of figures: {error}",
                "delete that line, or mend it",
            ) from None
    return rows


def _incomparable(runs: Sequence[RunLog]) -> tuple[str | None, bool]:
    """Say what keeps figures of these runs from being compared, and whether bits per byte do."""
    known = [run.record.valid for run in runs if run.record.valid]
    if len({valid.which_stories for valid in known}) > 1:
        return (
            "These runs were validated on different stories: their losses and perplexities do not "
            "compare; bits per byte come nearest, and still depend on the text."
        ), False
    if len({valid.tokenizer for valid in known}) > 1:
        return (
            "These runs have different tokenizers: losses and perplexities per token do not "
            "compare; bits per byte do."
        ), True
    if len(known) < len(runs) and len({run.record.split_tokens_sha256 for run in runs}) > 1:
        return (
            "The records of these runs do not say that they have stories and tokenizer in common: "
            "their losses and perplexities may not compare."
        ), False
    scored = {run.evaluation.stories for run in runs if run.evaluation is not None} - {None}
    if len(scored) > 1:
        command = scoring_command(run.folder for run in runs if run.scored_in_part)
        return (
            "The finished models were scored on different numbers of stories, so their figures do "
            "not compare." + (f" To score all stories: {command}" if command else "")
        ), False
    heads = [run.last("val/tokens") or run.settings.get("training.eval_tokens") for run in runs]
    if any(head != heads[0] for head in heads):
        return (
            "During training these runs were validated on heads of different length: their "
            "validation curves do not compare; the figures of the finished models do."
        ), True
    return None, True
