"""What a run would do, without doing it: budget, keep ratio, first and last windows."""

from dataclasses import dataclass

import numpy as np

from tinyohem.config.run import RunConfig
from tinyohem.data.prepare import Prepared, prepare_data
from tinyohem.difficulty.curriculum import CurriculumPlan
from tinyohem.models.llama import parameter_count
from tinyohem.models.pretrained import load_pretrained
from tinyohem.progress import SILENT, Progress
from tinyohem.training.plan import Plan, budget_steps, make_plan
from tinyohem.training.pool_refresh import open_run_pool

_SHOWN_WINDOWS = 3


@dataclass(frozen=True)
class DryRun:
    """The outline of a run."""

    num_parameters: int
    num_steps: int
    num_tokens: int
    epochs: float
    keep_ratios: list[float]  # at 0, 1/10, ... 1 of training
    keep_at_least: bool  # whether each step decides how many more it keeps
    curriculum: str | None  # what its plan does, in a line
    plan_hash: str | None  # None without a curriculum
    first_windows: list[str]  # text
    last_windows: list[str]


def dry_run(config: RunConfig, progress: Progress = SILENT) -> DryRun:
    """Prepare the data and lay out the run.

    Raises:
        InputError: whatever would stop the run itself before its first step.
    """
    if config.model.init_from is not None:
        load_pretrained(config)
    data = prepare_data(config.data, config.tokenizer, progress)
    training = config.training
    num_steps = budget_steps(config, data)
    pool = open_run_pool(config, data.train, num_steps)
    plan = make_plan(config, data, num_steps, pool, progress)
    schedule = config.ohem.keep_schedule()
    curriculum = plan if isinstance(plan, CurriculumPlan) else None
    num_draws = num_steps * training.batch_size
    shown = min(_SHOWN_WINDOWS, num_draws)
    return DryRun(
        num_parameters=parameter_count(config.model, len(data.tokenizer)),
        num_steps=num_steps,
        num_tokens=num_steps * training.tokens_per_step,
        epochs=num_steps * training.tokens_per_step / data.train.num_tokens,
        keep_ratios=[schedule.keep_ratio(tenth / 10) for tenth in range(11)],
        keep_at_least=config.ohem.keeps_at_least,
        curriculum=curriculum.describe(config.curriculum, num_steps) if curriculum else None,
        plan_hash=curriculum.hash if curriculum else None,
        first_windows=_texts(data, plan, 0, shown, training.seq_len),
        last_windows=_texts(data, plan, num_draws - shown, shown, training.seq_len),
    )


def _texts(data: Prepared, plan: Plan, first: int, count: int, seq_len: int) -> list[str]:
    windows = plan.windows(first, count)[:, None] * seq_len + np.arange(seq_len)
    return [data.tokenizer.decode(ids.tolist()) for ids in data.train.ids[windows]]
