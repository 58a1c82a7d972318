"""Run a comparison: train every arm on every seed, and measure the models.

Every arm of a seed sees the same windows, tokenizer, initial weights and evaluation; only what the
arm itself sets differs. A finished run leaves `result.json` and is never repeated; an unfinished
one goes on from its last checkpoint.
"""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from tinyohem.errors import InputError, RunError
from tinyohem.evaluation.loss_summary import break_down, scored_labels
from tinyohem.experiments.folder import PLAN_FILE, RESULT_FILE, FinishedRun, run_folder
from tinyohem.experiments.jobs import (
    RESULT_FORMAT,
    Job,
    finished_result,
    jobs_of,
    seconds_for_others,
)
from tinyohem.experiments.milestones import ValidationRow, time_to_milestones
from tinyohem.experiments.shared import Shared, prepare_comparison
from tinyohem.experiments.spec import Comparison
from tinyohem.experiments.table import write_tables
from tinyohem.experiments.workers import in_parallel, on_own_device, side_by_side
from tinyohem.io.atomic import drop_leftovers
from tinyohem.io.json import read_jsonl, write_json
from tinyohem.io.locks import sole_writer
from tinyohem.io.manifest import check_record
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.layout import METRICS_FILE
from tinyohem.system.environment import environment

_SECONDS_TO_END = 20.0


def run_comparison(
    comparison: Comparison, out: Path, workers: int | None = None, progress: Progress = SILENT
) -> list[FinishedRun]:
    """Run what is not finished yet; return one result a run, arm by arm, and write the tables.

    Args:
        workers: most runs at a time; default: one for each GPU, else one for each core.

    Raises:
        InputError: `out` is a file, or another process is writing there; a result there is damaged
            or of another config; or runs failed, each for its input.
        RunError: a run failed; the others are finished and kept.
    """
    workers = side_by_side(comparison, workers)
    if comparison.timed and workers > 1:
        progress.warn("runs side by side compete for the machine; for fair seconds: --workers 1")
    with sole_writer(out, progress=progress):
        drop_leftovers(out)
        shared = prepare_comparison(comparison, progress)
        _write_plan(comparison, out, shared)
        progress.start("compare", len(comparison.arms) * len(comparison.seeds), "runs")
        if comparison.timed:
            results = _run_timed(comparison, out, shared, workers, progress)
        else:
            jobs = jobs_of(comparison, comparison.arms, comparison.seeds, out, shared)
            results = _run_all(jobs, workers, progress)
        progress.finish()
        results = _with_milestones(results, comparison.arms[0].name, out)
        write_tables(out, results, comparison.margin)
        return results


def _write_plan(comparison: Comparison, out: Path, shared: Shared) -> None:
    """Write the plan, unless `out` holds another comparison's runs."""
    # Under a budget in seconds the configs of the other arms are not known yet.
    arms = comparison.arms[:1] if comparison.timed else comparison.arms
    for job in jobs_of(comparison, arms, comparison.seeds, out, shared):
        finished_result(job)
    names = [arm.name for arm in comparison.arms]
    plan = {"arms": names, "seeds": list(comparison.seeds)}
    judged = {} if comparison.margin is None else {"margin": comparison.margin}
    write_json(out / PLAN_FILE, plan | judged)


def _run_timed(
    comparison: Comparison, out: Path, shared: Shared, workers: int, progress: Progress
) -> list[FinishedRun]:
    """Run the baseline, then the others for its seconds: some seeds at a time.

    A machine's speed drifts over hours, so the runs of a seed stay close together.
    """
    baseline, others = comparison.arms[:1], comparison.arms[1:]
    free = comparison.budget == "equal-seconds-free-selection"
    results: list[FinishedRun] = []
    for first in range(0, len(comparison.seeds), workers):
        seeds = comparison.seeds[first : first + workers]
        jobs = jobs_of(comparison, baseline, seeds, out, shared)
        own = _run_all(jobs, workers, progress, done=len(results))
        results += own
        seconds = {r.seed: seconds_for_others(r, free) for r in own}
        jobs = jobs_of(comparison, others, seeds, out, shared, seconds)
        results += _run_all(jobs, workers, progress, done=len(results))
    names = [arm.name for arm in comparison.arms]
    return sorted(results, key=lambda result: names.index(result.arm))  # seeds stay in order


def _run_all(jobs: list[Job], workers: int, progress: Progress, done: int = 0) -> list[FinishedRun]:
    """Run jobs side by side; finished ones are read, not repeated."""
    results: dict[Job, FinishedRun | None] = {job: finished_result(job) for job in jobs}
    todo = [job for job, result in results.items() if result is None]
    done += len(jobs) - len(todo)
    progress.advance(done)
    ended = in_parallel(todo, _run_job, workers, lambda job: job.run_dir.name, progress)
    with closing(ended):  # or an interrupted comparison left its runs going on
        for job, result in ended:
            results[job] = result
            done += 1
            progress.advance(done)
            progress.note(f"{job.run_dir.name}: {result.bits_per_byte:.4f} bits per byte")
    return [result for result in results.values() if result is not None]


def _run_job(job: Job) -> FinishedRun:
    """Train and measure one run in a worker process; leave `result.json` behind."""
    # A worker of a comparison that was just killed may hold the lock for a moment.
    with sole_writer(job.run_dir, patience=_SECONDS_TO_END):
        return _train_and_measure(job)


def _train_and_measure(job: Job) -> FinishedRun:
    from tinyohem.training.loop import train

    config = on_own_device(job.config)
    # Trials could end differently for two arms.
    run, perplexity = train(
        config, job.run_dir, resume="auto", pauses=job.shared.pauses[job.arm], tries=False
    )
    if perplexity is None or run.final is None:
        raise RunError(f"{job.run_dir} was interrupted", "repeat the command to go on")
    valid, losses = run.data.valid, run.final.losses
    scored = scored_labels(valid)
    result = {
        "format": RESULT_FORMAT,
        "tokens_sha256": job.shared.tokens_sha256[job.arm],
        "config": job.config.model_dump(),
        "arm": job.arm,
        "seed": job.seed,
        **perplexity.to_json(),
        **asdict(break_down(losses[scored], valid.ids[scored])),
        "steps": run.state.step,
        "tokens_seen": run.state.tokens_seen,
        "tokens_selected": run.state.tokens_selected,
        "train_seconds": run.state.train_seconds,
        "select_seconds": run.state.select_seconds,
        "choose_seconds": job.shared.seconds_before(job.arm),
        "environment": environment(run.device),
    }
    write_json(job.run_dir / RESULT_FILE, result)
    return check_record(result, FinishedRun)


def _with_milestones(results: list[FinishedRun], baseline: str, out: Path) -> list[FinishedRun]:
    """Add how soon each run reached its baseline's losses."""
    tokens = {run.arm: run.tokens_sha256 for run in results}
    curves = {(run.arm, run.seed): _curve(out, run) for run in results}
    return [
        run.model_copy(
            update=time_to_milestones(
                curves[run.arm, run.seed],
                curves[baseline, run.seed],
                per_byte=run.tokens_sha256 != tokens[baseline],  # perhaps another vocabulary
            )
        )
        for run in results
    ]


def _curve(out: Path, run: FinishedRun) -> list[ValidationRow]:
    """Return the validations of a finished run; the last one is at its last step."""
    path = run_folder(out, run.arm, run.seed) / METRICS_FILE
    hint = "bring that file back, or delete its folder: the run is then repeated"
    try:
        rows = [check_record(row, ValidationRow) for row in read_jsonl(path) if "val/loss" in row]
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}", hint) from None
    if not rows or rows[-1].step != run.steps:
        raise InputError(f"{path} lacks the validation at the run's end", hint)
    return rows
