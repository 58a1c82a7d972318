"""Outline a comparison without training: its arms, what is finished, how long the rest takes."""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import mean

from tinyohem.config.run import RunConfig
from tinyohem.experiments.folder import run_folder
from tinyohem.experiments.jobs import finished_result, jobs_of, seconds_for_others
from tinyohem.experiments.shared import Shared, prepare_comparison
from tinyohem.experiments.spec import Arm, Comparison
from tinyohem.experiments.workers import on_own_device, outcomes, side_by_side
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.listing import list_runs
from tinyohem.runs.settings import labels, own_settings
from tinyohem.training.dry_run import DryRun, dry_run


@dataclass(frozen=True)
class ArmOutline:
    """What the runs of an arm would do."""

    arm: str
    settings: str  # that tell it from the other arms
    steps: int
    tokens: int
    seconds: float  # that one run takes, as a few timed steps say
    finished: list[int]  # seeds
    begun: dict[int, int]  # the seeds that have begun, with the steps that are saved


@dataclass(frozen=True)
class ComparisonOutline:
    """The outline of a comparison."""

    arms: list[ArmOutline]
    seeds: list[int]
    workers: int  # runs side by side
    seconds: float  # that the rest of it takes

    @property
    def num_finished(self) -> int:
        """Return how many runs are finished."""
        return sum(len(arm.finished) for arm in self.arms)

    @property
    def num_runs(self) -> int:
        """Return how many runs there are."""
        return len(self.arms) * len(self.seeds)


def outline_comparison(
    comparison: Comparison, out: Path, workers: int | None = None, progress: Progress = SILENT
) -> ComparisonOutline:
    """Prepare the data, time a few steps of every arm, and look for finished runs; train none.

    Args:
        out: the folder of the comparison; it need not exist.
        workers: runs at a time; default: as `run_comparison`.

    Raises:
        InputError: whatever forbids the comparison.
    """
    workers = side_by_side(comparison, workers)
    shared = prepare_comparison(comparison, progress)
    plans = _plans(comparison, workers, progress)
    finished = _finished(comparison, out, shared)
    saved = {Path(run.folder): run.steps or 0 for run in list_runs(out)} if out.is_dir() else {}
    told = labels(own_settings(comparison.config(arm, 0).model_dump()) for arm in comparison.arms)
    arms = []
    for arm, label, plan in zip(comparison.arms, told, plans, strict=True):
        todo = {s: run_folder(out, arm.name, s) for s in comparison.seeds}
        todo = {s: folder for s, folder in todo.items() if (arm.name, s) not in finished}
        scoring = shared.pauses[arm.name].share_of(plan.num_tokens)
        arms.append(
            ArmOutline(
                arm=arm.name,
                settings=label,
                steps=plan.num_steps,
                tokens=plan.num_tokens,
                seconds=plan.seconds * (1 + scoring),
                finished=[seed for seed in comparison.seeds if seed not in todo],
                begun={seed: saved[folder] for seed, folder in todo.items() if folder in saved},
            )
        )
    left = _seconds_left(arms, len(comparison.seeds), workers)
    return ComparisonOutline(arms, [*comparison.seeds], workers, left)


def _plans(comparison: Comparison, workers: int, progress: Progress) -> list[DryRun]:
    """Outline a run of each arm; where seconds count, the others get the baseline's."""
    if not comparison.timed:
        return _timed(comparison, comparison.arms, workers, progress)
    baseline, *others = comparison.arms
    (plan,) = _timed(comparison, [baseline], workers, progress)
    return [plan, *_timed(comparison, others, workers, progress, plan.seconds)]


def _timed(
    comparison: Comparison,
    arms: Sequence[Arm],
    workers: int,
    progress: Progress,
    seconds: float | None = None,
) -> list[DryRun]:
    """Outline arms in as many processes as will train side by side: alone, each would be faster.

    An arm that is timed more than once, to keep all busy, has its mean.
    """
    together = min(workers, len(arms) * len(comparison.seeds))
    count = math.ceil(len(arms) / together) * together
    jobs = [
        (arm.name, comparison.config(arm, comparison.seeds[0], seconds))
        for arm in islice(cycle(arms), count)
    ]
    plans: dict[str, list[DryRun]] = {}
    progress.start("time", count, "runs", transient=True)
    with closing(outcomes(jobs, _outline, workers)) as ended:
        for done, ((name, _), plan) in enumerate(ended, 1):
            if isinstance(plan, Exception):
                raise plan
            plans.setdefault(name, []).append(plan)
            progress.advance(done)
    progress.finish()
    found = []
    for arm in arms:
        plan, *_ = plans[arm.name]
        per_step = mean(p.seconds / p.num_steps for p in plans[arm.name])
        found.append(replace(plan, seconds=plan.num_steps * per_step))
    return found


def _outline(job: tuple[str, RunConfig]) -> DryRun:
    return dry_run(on_own_device(job[1]))


def _finished(comparison: Comparison, out: Path, shared: Shared) -> set[tuple[str, int]]:
    """Return arm and seed of each finished run.

    Under a budget in seconds an arm can only be finished where its baseline is.

    Raises:
        InputError: a result is damaged, or of another comparison.
    """
    first = comparison.arms[:1] if comparison.timed else comparison.arms
    jobs = jobs_of(comparison, first, comparison.seeds, out, shared)
    found = [result for job in jobs if (result := finished_result(job))]
    if comparison.timed:
        free = comparison.budget == "equal-seconds-free-selection"
        seconds = {result.seed: seconds_for_others(result, free) for result in found}
        jobs = jobs_of(comparison, comparison.arms[1:], [*seconds], out, shared, seconds)
        found += [result for job in jobs if (result := finished_result(job))]
    return {(result.arm, result.seed) for result in found}


def _seconds_left(arms: Sequence[ArmOutline], num_seeds: int, workers: int) -> float:
    """Return the seconds that the unfinished runs take, some of them side by side."""
    left = []
    for arm in arms:
        left += [arm.seconds * max(0, 1 - steps / arm.steps) for steps in arm.begun.values()]
        left += [arm.seconds] * (num_seeds - len(arm.finished) - len(arm.begun))
    return max(sum(left) / workers, max(left, default=0.0))
