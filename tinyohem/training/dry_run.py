"""Outline a run without training: its budget, keep ratios, first and last windows."""

from dataclasses import dataclass

import numpy as np

from tinyohem.config.run import RunConfig
from tinyohem.data.prepare import Prepared
from tinyohem.data.windows import TwoPhasePlan
from tinyohem.difficulty.curriculum import CurriculumPlan
from tinyohem.models.llama import parameter_count
from tinyohem.progress import SILENT, Progress
from tinyohem.system.device import pick_device
from tinyohem.training.arithmetic import plain_arithmetic
from tinyohem.training.inputs import open_inputs
from tinyohem.training.plan import Plan, describe_phases, plan_hash
from tinyohem.training.prepare import prepare_run
from tinyohem.training.step_time import seconds_per_step, steps_in

_SHOWN_WINDOWS = 3


@dataclass(frozen=True)
class DryRun:
    """The outline of a run."""

    num_parameters: int
    num_steps: int
    num_tokens: int
    seconds: float  # of training, as a few timed steps say
    epochs: float
    keep_ratios: list[float]  # at 0, 1/10, ... 1 of training
    keep_at_least: bool  # whether each step may keep more than its ratio
    curriculum: str | None  # its plan in one line
    choice: str | None  # what is kept of the pool, and why, in one line
    phases: str | None  # the plan of `target.when` in one line
    plan_hash: str | None  # None without a curriculum and without phases
    first_windows: list[str]  # text
    last_windows: list[str]


def dry_run(config: RunConfig, progress: Progress = SILENT) -> DryRun:
    """Prepare the data and outline the run.

    Raises:
        InputError: the config, the data or a model forbids the run.
    """
    training = config.training
    device = pick_device(training.device)
    arithmetic = plain_arithmetic(config, device)
    inputs = open_inputs(config, progress)
    seconds = seconds_per_step(config, inputs, device, arithmetic, progress=progress)
    budget = training.seconds or 60 * (training.minutes or 0)
    num_steps = steps_in(budget, seconds) if budget else None
    prepared = prepare_run(config, inputs, num_steps, progress)
    data, num_steps, plan = inputs.data, prepared.num_steps, prepared.plan
    curriculum = plan if isinstance(plan, CurriculumPlan) else None
    num_draws = num_steps * training.batch_size
    shown = min(_SHOWN_WINDOWS, num_draws)
    return DryRun(
        num_parameters=parameter_count(config.model, len(data.tokenizer)),
        num_steps=num_steps,
        num_tokens=num_steps * training.tokens_per_step,
        seconds=num_steps * seconds,
        epochs=num_steps * training.tokens_per_step / data.train.num_tokens,
        keep_ratios=_keep_ratios(config, num_steps),
        keep_at_least=config.ohem.keeps_at_least,
        curriculum=curriculum.describe(config.curriculum, num_steps) if curriculum else None,
        choice=data.choice.record.describe() if data.choice else None,
        phases=describe_phases(plan, training.batch_size)
        if isinstance(plan, TwoPhasePlan)
        else None,
        plan_hash=plan_hash(plan, num_draws),
        first_windows=_texts(data, plan, 0, shown, training.seq_len),
        last_windows=_texts(data, plan, num_draws - shown, shown, training.seq_len),
    )


def _keep_ratios(config: RunConfig, num_steps: int) -> list[float]:
    """Return the keep ratios at 0, 1/10, ... 1 of training; 1 until a running mean is ready."""
    schedule, ohem = config.keep_schedule, config.ohem
    full = ohem.horizon_steps(num_steps) / num_steps if ohem.averages_model else 0.0
    tenths = [tenth / 10 for tenth in range(11)]
    return [1.0 if done < full else schedule.keep_ratio(done) for done in tenths]


def _texts(data: Prepared, plan: Plan, first: int, count: int, seq_len: int) -> list[str]:
    windows = plan.windows(first, count)[:, None] * seq_len + np.arange(seq_len)
    return [data.tokenizer.decode(ids.tolist()) for ids in data.train.ids[windows]]
