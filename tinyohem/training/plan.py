"""The number of steps of a run, and the windows that each step trains on."""

import hashlib
from dataclasses import asdict
from pathlib import Path

from tinyohem.config.run import RunConfig
from tinyohem.config.sections import parse_tokens
from tinyohem.data.prepare import Prepared
from tinyohem.data.windows import (
    HardWindowPlan,
    TwoPhasePlan,
    WindowPlan,
    plan_two_phases,
    plan_windows,
)
from tinyohem.difficulty.curriculum import CurriculumPlan, build_plan, load_plan, save_plan
from tinyohem.difficulty.score_corpus import scores_for_curriculum
from tinyohem.errors import InputError, plainly
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Record, read_record, write_sealed
from tinyohem.models.llama import parameter_count
from tinyohem.ohem.loss_pool import Pool
from tinyohem.progress import Progress
from tinyohem.training.optim import decay_starts

PLAN_FOLDER = "plan"
_PHASES_FILE = "phases.json"

Plan = WindowPlan | HardWindowPlan | TwoPhasePlan | CurriculumPlan
_DRAWS_A_PIECE = 1 << 20


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
    if config.target.when != "always":
        return _phases(config, data, num_steps, progress)
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


def _phases(config: RunConfig, data: Prepared, num_steps: int, progress: Progress) -> TwoPhasePlan:
    """Return the order of a run that changes between the whole pool and its kept stories."""
    training, kept_first = config.training, config.target.when == "start"
    steps_of_decay = num_steps - decay_starts(num_steps, config.optim)
    switch = steps_of_decay if kept_first else num_steps - steps_of_decay
    plan = plan_two_phases(
        data.train,
        data.num_kept_tokens,
        training.seq_len,
        training.seed,
        switch=switch * training.batch_size,
        kept_first=kept_first,
    )
    progress.note(f"target: {describe_phases(plan, training.batch_size)}")
    return plan


def describe_phases(plan: TwoPhasePlan, batch_size: int) -> str:
    """Say in a line what each phase trains on, and from which step."""
    step, kept = plan.switch // batch_size, f"{plan.kept.num_windows:,} windows of kept stories"
    whole = f"all {plan.whole.num_windows:,} windows"
    first, then = (kept, whole) if plan.kept_first else (whole, kept)
    return f"{first} until step {step:,}, then {then}"


def plan_hash(plan: Plan, num_draws: int) -> str | None:
    """Return the hash that a run records of its plan, None for one that its seed says all about.

    Args:
        num_draws: windows of the run.
    """
    match plan:
        case CurriculumPlan():
            return plan.hash
        case TwoPhasePlan():
            digest = hashlib.sha256(hash_json(asdict(plan)).encode())
            for first in range(0, num_draws, _DRAWS_A_PIECE):
                count = min(_DRAWS_A_PIECE, num_draws - first)
                digest.update(plan.windows(first, count).astype("<i8").tobytes())
            return digest.hexdigest()
        case _:
            return None


class PhasesRecord(Record):
    """A saved `TwoPhasePlan`: its hash, and all that it is a function of."""

    hash: str
    plan: JsonObject


def save_or_check_plan(plan: Plan, found: str | None, run_dir: Path) -> None:
    """Save a plan of a curriculum or of two phases; check it against the folder's, if it has one.

    Args:
        found: its hash, see `plan_hash`.

    Raises:
        InputError: the saved plan was changed, or is not the one that this config gives.
    """
    if found is None:
        return
    folder = run_dir / PLAN_FOLDER
    if not folder.exists():
        if isinstance(plan, CurriculumPlan):
            save_plan(plan, folder)
        else:
            write_sealed(folder / _PHASES_FILE, {"hash": found, "plan": asdict(plan)})
        return
    saved = load_plan(folder).hash if isinstance(plan, CurriculumPlan) else _saved_phases(folder)
    if saved != found:
        what = "the score table" if isinstance(plan, CurriculumPlan) else "the data"
        raise InputError(
            f"{folder} holds the plan {saved[:16]}, this config gives {found[:16]}",
            f"{what} was replaced: begin a new run with another --out",
        )


def _saved_phases(folder: Path) -> str:
    try:
        return read_record(folder / _PHASES_FILE, PhasesRecord, sealed=True).hash
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no plan that can be read: {plainly(error)}", "start a new run"
        ) from None
