"""The number of steps of a run, and the windows that each step trains on."""

from pathlib import Path

from tinyohem.config.run import RunConfig
from tinyohem.config.sections import parse_tokens
from tinyohem.data.prepare import Prepared
from tinyohem.data.windows import HardWindowPlan, WindowPlan, plan_windows
from tinyohem.difficulty.curriculum import CurriculumPlan, build_plan, load_plan, save_plan
from tinyohem.difficulty.score_corpus import scores_for_curriculum
from tinyohem.errors import InputError
from tinyohem.models.llama import parameter_count
from tinyohem.ohem.loss_pool import Pool
from tinyohem.progress import Progress

PLAN_FOLDER = "plan"

Plan = WindowPlan | HardWindowPlan | CurriculumPlan


def budget_steps(config: RunConfig, data: Prepared) -> int:
    """Return the optimizer steps that the token budget buys, at least one."""
    training = config.training
    parameters = parameter_count(config.model, len(data.tokenizer))
    tokens = parse_tokens(training.tokens, parameters, data.train.num_tokens)
    return training.steps or max(1, tokens // training.tokens_per_step)


def make_plan(
    config: RunConfig, data: Prepared, num_steps: int, pool: Pool | None, progress: Progress
) -> Plan:
    """Return the order of a run's windows: shuffled, with hard ones mixed in, or by a curriculum.

    A curriculum scores the corpus first where no table fits it.

    Args:
        pool: the source of the hard windows, for `ohem.hard_window_share`.

    Raises:
        InputError: the corpus is shorter than a window, or the score table does not fit it.
    """
    training = config.training
    shuffled = plan_windows(data.train, training.seq_len, training.seed)
    if config.ohem.hard_window_share:
        assert pool is not None
        hardest = pool.hardest_windows()
        return HardWindowPlan(shuffled, hardest, training.batch_size, config.hard_per_batch)
    if not config.curriculum.orders:
        return shuffled
    table = scores_for_curriculum(config.curriculum, data.corpus, progress)
    plan = build_plan(
        table,
        rows=data.train.rows,
        offsets=data.train.offsets,
        seq_len=training.seq_len,
        drawn=shuffled.windows(0, num_steps * training.batch_size),
        curriculum=config.curriculum,
        seed=training.seed,
    )
    progress.note(
        f"curriculum: {config.curriculum.pacing} by {config.curriculum.metric}, "
        f"plan {plan.hash[:16]}"
    )
    return plan


def save_or_check_plan(plan: Plan, run_dir: Path) -> None:
    """Save the plan of a curriculum; where the folder has one, check that both agree.

    Raises:
        InputError: the saved plan was changed, or is not the one that this config gives.
    """
    if not isinstance(plan, CurriculumPlan):
        return
    folder = run_dir / PLAN_FOLDER
    if not folder.exists():
        save_plan(plan, folder)
        return
    saved = load_plan(folder)
    if saved.hash != plan.hash:
        raise InputError(
            f"{folder} holds the plan {saved.hash[:16]}, this config gives {plan.hash[:16]}",
            "the score table was replaced: begin a new run with another --out",
        )
