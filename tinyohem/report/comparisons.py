"""What a comparison has come to: the results of its runs, and which are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyohem.config.run import validate_config
from tinyohem.errors import InputError
from tinyohem.experiments.folder import (
    RESULT_FILE,
    FinishedRun,
    PlannedRuns,
    RunId,
    RunResult,
    run_folder,
)
from tinyohem.experiments.milestones import ValidationRow, time_to_milestones
from tinyohem.io.manifest import check_record
from tinyohem.report.records import MetricsRow, read_or_refuse
from tinyohem.runs.layout import EVALUATION_FILE

_RUNS_NAMED = 12  # in a sentence

_Logs = Mapping[RunId, Sequence[MetricsRow]]


def name_runs(names: Sequence[str]) -> str:
    """Name some runs in a sentence, the first dozen of many."""
    more = len(names) - _RUNS_NAMED
    return ", ".join(names[:_RUNS_NAMED]) + (f" and {more} more" if more > 0 else "")


def _missing_runs(
    label: str,
    plan: PlannedRuns | None,
    folders: Mapping[RunId, Path],
    results: Sequence[RunResult],
) -> str | None:
    """Say how many runs of a comparison are finished and which are not; None where all are.

    Without a plan, arms that have not begun are unknown, and every arm has the seeds of the others.
    """
    tabled = dict.fromkeys((result.arm, result.seed) for result in results)
    done = {*tabled, *(run for run, folder in folders.items() if is_finished(folder))}
    begun = {*folders, *done}
    if plan:
        arms, seeds = plan.arms, plan.seeds
    else:
        arms = list(dict.fromkeys(arm for arm, _ in (*tabled, *folders)))
        seeds = sorted({seed for _, seed in begun})
    runs = dict.fromkeys([*((arm, seed) for arm in arms for seed in seeds), *sorted(begun)])
    missing = [run_folder(Path(), *run).name for run in runs if run not in done]
    if missing:
        names = name_runs(missing)
        if results and not plan and begun == done:
            return f"The arms of {label} do not all have the same seeds. Without: {names}."
        unknown = "" if plan else "; arms that have not begun are not counted"
        return (
            f"The comparison {label} is not finished: {len(done)} of {len(runs)} runs are. "
            f"Missing: {names}{unknown}."
        )
    if done - tabled.keys():
        return (
            f"All {len(runs)} runs of {label} are finished, but its table does not hold them yet: "
            "the same compare command makes it."
        )
    return None


def is_finished(folder: Path) -> bool:
    """Whether a folder holds the final figures of a run."""
    return any((folder / name).exists() for name in (EVALUATION_FILE, RESULT_FILE))


@dataclass(frozen=True)
class RecordedResults:
    """The results of a comparison's runs; the baseline's come first."""

    results: Sequence[RunResult] = ()
    baseline: str | None = None  # of results without a table
    notes: list[str] = field(default_factory=list)  # what is missing, or was assumed


def recorded_results(
    label: str,
    plan: PlannedRuns | None,
    table: Sequence[RunResult],
    folders: Mapping[RunId, Path],
    logs: _Logs,
) -> RecordedResults:
    """Return the results of a comparison, and say which of its runs are missing.

    Args:
        plan: of the last command; None where an earlier version left none.
        table: the results in `runs.parquet`; where it is empty, those of the runs stand in for it.
        folders: of the runs that have begun.
        logs: of the runs, for the time to the baseline's losses; a run may lack its own.
    """
    recorded = RecordedResults(table) if table else _results_of_runs(label, plan, folders, logs)
    if recorded.results or not recorded.notes:  # else the notes say why there are no results
        missing = _missing_runs(label, plan, folders, recorded.results)
        recorded.notes.extend(filter(None, [missing]))
    return recorded


def _results_of_runs(
    label: str, plan: PlannedRuns | None, folders: Mapping[RunId, Path], logs: _Logs
) -> RecordedResults:
    """Read each run's own result; none before all planned runs have one, nor without a baseline."""
    records = _read_records(folders)
    if len({arm for arm, _ in records}) < 2:
        return RecordedResults()
    if plan and any((arm, seed) not in records for arm in plan.arms for seed in plan.seeds):
        return RecordedResults()  # which `_missing_runs` says
    baseline = plan.arms[0] if plan else _only_plain_arm(records)
    if baseline is None:
        note = f"There is no table of {label}: nothing says which of its arms is the baseline."
        return RecordedResults(notes=[note])
    notes = []
    if not plan:
        notes.append(
            f"In {label} the arm {baseline} counts as the baseline, because it alone trains "
            "plainly on every token; no file says so."
        )
    seeds = {seed for arm, seed in records if arm == baseline}
    comparable = {arm for arm, seed in records if seed in seeds}
    if apart := sorted({arm for arm, _ in records} - comparable):
        notes.append(f"Without a seed in common with {baseline}: {', '.join(apart)}.")
    curves = {run: _whole_curve(logs.get(run, ()), record) for run, record in records.items()}
    theirs = {record.tokens_sha256 for (arm, _), record in records.items() if arm == baseline}
    results = [
        record.model_copy(
            update=_milestones(
                curves[arm, seed],
                curves.get((baseline, seed)),
                per_byte=record.tokens_sha256 not in theirs,  # perhaps another vocabulary
            )
        )
        for (arm, seed), record in records.items()
        if arm in comparable
    ]
    results.sort(key=lambda result: result.arm != baseline)
    return RecordedResults(results, baseline, notes)


def _read_records(folders: Mapping[RunId, Path]) -> dict[RunId, FinishedRun]:
    """Read each run's `result.json`; take arm and seed from the name of its folder."""
    return {
        (arm, seed): read_or_refuse(folder / RESULT_FILE, FinishedRun).model_copy(
            update={"arm": arm, "seed": seed}
        )
        for (arm, seed), folder in folders.items()
        if (folder / RESULT_FILE).exists()
    }


def _only_plain_arm(records: Mapping[RunId, FinishedRun]) -> str | None:
    """Return the one arm that trains plainly on every token, the baseline if no plan names it."""
    plain = {arm for (arm, _), result in records.items() if _is_plain(result)}
    return plain.pop() if len(plain) == 1 else None


def _is_plain(result: FinishedRun) -> bool:
    try:
        config = validate_config(result.config)
    except InputError:  # another version's
        return False
    ohem, target = config.ohem, config.target
    every_story = target.stories is None or target.share == 1
    every_token = ohem.keep_schedule().lowest == 1 and ohem.weight == "none"
    return every_story and every_token and not config.curriculum.enabled


def _whole_curve(log: Sequence[MetricsRow], record: FinishedRun) -> list[ValidationRow] | None:
    """Return a run's validations, if its log has them up to the last step."""
    rows = [row.to_json() for row in log if row.get("val/loss") is not None]
    if not rows or rows[-1]["step"] != record.steps:
        return None
    try:
        return [check_record(row, ValidationRow) for row in rows]
    except ValueError:  # an earlier version's, without seconds
        return None


def _milestones(
    curve: list[ValidationRow] | None, baseline: list[ValidationRow] | None, *, per_byte: bool
) -> dict[str, float | None]:
    if not curve or not baseline:
        return {}
    if per_byte and any(row.bits_per_byte is None for row in [*curve, *baseline]):
        return {}
    return time_to_milestones(curve, baseline, per_byte=per_byte)
