"""The pool of a run: opened before the first step, re-mined during the run, reopened on resume.

pools/step_000500/    in the run folder: the pool that the run mined itself before its step 500
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

from tinyohem.config.run import RunConfig
from tinyohem.data.token_store import TokenStore
from tinyohem.data.windows import HardWindowPlan
from tinyohem.errors import InputError
from tinyohem.ohem.loss_pool import Pool, open_pool
from tinyohem.progress import Progress
from tinyohem.runs.layout import POOLS
from tinyohem.system.signals import StopRequest
from tinyohem.training.checkpoint import saved_states
from tinyohem.training.mine_pool import mine_pool
from tinyohem.training.reference import build_reference
from tinyohem.training.run import Run


def open_run_pool(
    config: RunConfig, store: TokenStore, num_steps: int, mined: Path | None = None
) -> Pool | None:
    """Open the pool that a run begins with, None where it reads none.

    Args:
        mined: the pool that was mined for the run, where its config names no other.

    Raises:
        InputError: the pool belongs to other tokens or windows, or is too old.
    """
    folder = config.ohem.pool or mined
    if folder is None:
        return None
    training = config.training
    pool = open_pool(folder, store, training.seq_len, training.attention)
    _check_age(pool, config, num_steps)
    return pool


def _check_age(pool: Pool, config: RunConfig, num_steps: int) -> None:
    """Refuse a pool whose age is unknown, or that grows too old and is never re-mined.

    The age is the number of tokens that the run has seen, minus that of the pool's checkpoint.
    """
    ohem, mined_at = config.ohem, pool.manifest.tokens_seen
    if ohem.pool_max_age is None:
        return
    if mined_at is None:
        raise InputError(
            f"the pool in {ohem.pool} does not say on how many tokens its model was trained, so "
            "ohem.pool_max_age cannot be kept",
            "mine a run's checkpoint, or leave --pool-max-age out",
        )
    age = num_steps * config.training.tokens_per_step - mined_at
    if ohem.pool_refresh_every is None and age > ohem.pool_max_age:
        raise InputError(
            f"the pool in {ohem.pool} was mined after {mined_at:,} training tokens; at the "
            f"end of this run it would be {age:,} tokens old, beyond ohem.pool_max_age = "
            f"{ohem.pool_max_age:,}",
            "mine a later checkpoint, or re-mine on the way with --pool-refresh-every",
        )


def pool_is_due(run: Run) -> bool:
    """Whether the pool must be re-mined before the next step, which reads it."""
    ohem, state = run.config.ohem, run.state
    if run.pool is None or ohem.pool_refresh_every is None:
        return False
    reads = ohem.hard_window_share or (run.reference is not None and run.keep_ratio < 1)
    due = state.step - state.pool_step >= ohem.pool_refresh_every
    mined_at, max_age = run.pool.manifest.tokens_seen, ohem.pool_max_age
    if mined_at is not None and max_age is not None:
        due = due or state.tokens_seen - mined_at > max_age
    return bool(reads) and due


def refresh_pool(run: Run, stop: StopRequest, progress: Progress) -> None:
    """Mine every training token under the current weights and use those losses from now on.

    The main rank mines. If it is asked to stop meanwhile, the run keeps the old pool. A resumption
    from the checkpoint of this step reuses the finished shards.
    """
    if run.ranks.any(run.ranks.is_main and not _mine(run, stop, progress)):
        return
    run.state.pool_step = run.state.step
    _use_own_pool(run)
    if run.ranks.is_main:
        _prune(run)
    progress.start("train", run.budget.known_steps, "steps", done=run.state.step)


def _mine(run: Run, stop: StopRequest, progress: Progress) -> bool:
    """Mine the pool of the current step; return whether it was finished."""
    try:
        mine_pool(
            run.model,
            run.data.train,
            _folder(run, run.state.step),
            seq_len=run.config.training.seq_len,
            story_start=run.story_start,
            tokens_seen=run.state.tokens_seen,
            stop=stop,
            progress=progress,
        )
    except KeyboardInterrupt:
        return False
    return True


def reopen_pool(run: Run) -> None:
    """Reopen the pool that was in use when the run's checkpoint was written.

    Raises:
        InputError: the run mined that pool, and it is missing or damaged.
    """
    for step, folder in _own_pools(run).items():
        # Mined after the checkpoint, under weights that the resumed run may not reach again.
        if step > run.state.step and run.ranks.is_main:
            shutil.rmtree(folder)
    if run.state.pool_step:
        _use_own_pool(run)


def _prune(run: Run) -> None:
    """Delete the pools that the run mined and that no checkpoint refers to."""
    wanted = {state.pool_step for state in saved_states(run.run_dir)} | {run.state.pool_step}
    for step, folder in _own_pools(run).items():
        if step not in wanted:
            shutil.rmtree(folder)


def _use_own_pool(run: Run) -> None:
    folder = _folder(run, run.state.pool_step)
    try:
        training = run.config.training
        run.pool = open_pool(folder, run.data.train, training.seq_len, training.attention)
    except InputError as error:
        raise InputError(error.message, "begin a new run with another --out") from None
    ohem, steps = run.config.ohem, run.budget.steps
    run.reference = build_reference(ohem, run.model, run.pool, run.device, steps, run.story_start)
    if isinstance(run.plan, HardWindowPlan):
        run.plan = replace(run.plan, hardest=run.pool.hardest_windows())


def _folder(run: Run, step: int) -> Path:
    return run.run_dir / POOLS / f"step_{step:06d}"


def _own_pools(run: Run) -> dict[int, Path]:
    folders = (run.run_dir / POOLS).glob("step_*")
    found = [(folder.name.removeprefix("step_"), folder) for folder in folders]
    return {
        int(step): folder
        for step, folder in found
        if re.fullmatch(r"\d{6,18}", step) and not folder.is_symlink()
    }
