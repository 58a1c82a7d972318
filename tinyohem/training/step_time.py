"""How long the steps of a run take: a few real ones, timed before it begins."""

import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch

from tinyohem.config.run import RunConfig
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.record import Arithmetic, run_record
from tinyohem.system.device import synchronize
from tinyohem.training.prepare import Inputs, begin_run, prepare_run
from tinyohem.training.ranks import SINGLE_PROCESS, DistContext
from tinyohem.training.take_step import StepContext, take_step

_WARM_UP = 2  # steps, which fill caches and compile
_TIMED = 10
_ENOUGH_SECONDS = 20.0  # of timed steps
_COMPILES_FROM = 3.0  # times the median: a step that takes longer compiled a pass first


def planned_steps(
    config: RunConfig,
    inputs: Inputs,
    run_dir: Path,
    device: torch.device,
    arithmetic: Arithmetic,
    ranks: DistContext,
    progress: Progress,
) -> int | None:
    """Return the steps that `training.minutes` buys, None without it.

    A run that goes on keeps the number that it began with.
    """
    minutes = config.training.minutes
    if minutes is None:
        return None
    record = run_record(str(run_dir)) if run_dir.exists() else None
    if record is not None and record.num_steps is not None:
        return record.num_steps
    seconds = seconds_per_step(config, inputs, device, arithmetic, ranks, progress)
    steps = steps_in(60 * minutes, seconds)
    progress.note(f"a step takes {seconds:.3g} s: {steps:,} steps in {minutes:g} minutes")
    return steps


def steps_in(budget: float, seconds: float) -> int:
    """Return the steps of so many seconds that fit into a budget of seconds, at least one."""
    return max(1, round(budget / seconds))


def seconds_per_step(
    config: RunConfig,
    inputs: Inputs,
    device: torch.device,
    arithmetic: Arithmetic,
    ranks: DistContext = SINGLE_PROCESS,
    progress: Progress = SILENT,
) -> float:
    """Return the mean seconds of a step, measured on a model that is thrown away.

    The few steps run through the whole schedule of the keep ratio, so that their mean is the run's.
    Steps that compile a pass are not counted.

    Raises:
        InputError: whatever forbids the run.
    """
    num_steps = _WARM_UP + _TIMED
    training = config.training.model_copy(
        update={"steps": num_steps, "minutes": None, "seconds": None}
    )
    trial = config.model_copy(update={"training": training})
    if config.curriculum.orders:
        curriculum = config.curriculum.model_copy(update={"enabled": False})
        trial = trial.model_copy(update={"curriculum": curriculum})
    own = replace(inputs, pretrained=deepcopy(inputs.pretrained))
    run = begin_run(prepare_run(trial, own), Path(), device, ranks, arithmetic)
    num_micro_batches = ranks.num_micro_batches(training)
    context = StepContext.of(run)
    seconds: list[float] = []
    progress.start("time", num_steps, "steps", transient=True)
    while not run.finished and sum(seconds[_WARM_UP:]) < _ENOUGH_SECONDS:
        began = time.perf_counter()
        take_step(run, context, num_micro_batches, SILENT)
        synchronize(device)
        # The main rank's clock, since all ranks must end after the same step.
        seconds += ranks.broadcast(time.perf_counter() - began)
        progress.advance(len(seconds))
    progress.finish()
    timed = seconds[_WARM_UP:]
    return mean(s for s in timed if s <= _COMPILES_FROM * median(timed))
