"""Outline a comparison without training: its arms, what is finished, how long the rest takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from tinyohem.config.run import RunConfig
from tinyohem.experiments.folder import run_folder
from tinyohem.experiments.jobs import finished_result, jobs_of, seconds_for_others
from tinyohem.experiments.shared import Shared, prepare_comparison
from tinyohem.experiments.spec import Arm, Comparison
from tinyohem.experiments.workers import default_workers, in_parallel, on_own_device
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
    workers = workers or default_workers()
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
    """Outline a run of each arm, the others' lengths by the baseline's seconds if those count."""
    baseline, *others = comparison.arms
    seed = comparison.seeds[0]
    side_by_side = min(workers, len(comparison.arms) * len(comparison.seeds))

    def outlined(arms: Sequence[Arm], seconds: float | None = None) -> list[DryRun]:
        configs = [comparison.config(arm, seed, seconds) for arm in arms]
        return _side_by_side(configs, side_by_side, progress)

    if not comparison.timed:
        return outlined(comparison.arms)
    (plan,) = outlined([baseline])
    return [plan, *outlined(others, plan.seconds)]


def _side_by_side(configs: Sequence[RunConfig], workers: int, progress: Progress) -> list[DryRun]:
    """Outline runs in as many processes as will train: alone, each would be faster."""
    count = math.ceil(len(configs) / workers) * workers
    jobs = [(number, configs[number]) for number in islice(cycle(range(len(configs))), count)]
    plans: dict[int, DryRun] = {}
    for (number, _), plan in in_parallel(jobs, _outline, workers, _name, progress):
        if number not in plans or plan.seconds > plans[number].seconds:
            plans[number] = plan
    return [plans[number] for number in range(len(configs))]


def _outline(job: tuple[int, RunConfig]) -> DryRun:
    return dry_run(on_own_device(job[1]))


def _name(job: tuple[int, RunConfig]) -> str:
    return f"arm {job[0] + 1}"


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
