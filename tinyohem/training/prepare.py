"""Prepare a run up to its first step, or restore it from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinyohem.config.model import model_shape
from tinyohem.config.run import RunConfig
from tinyohem.data.corpus import absolute_name
from tinyohem.data.prepare import Prepared
from tinyohem.data.tokenizer import start_id, story_start
from tinyohem.errors import InputError
from tinyohem.models.causal_lm import weights_hash
from tinyohem.models.llama import build_model
from tinyohem.ohem.loss_pool import Pool
from tinyohem.ohem.miner import build_miner
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.checkpoints import RunState
from tinyohem.runs.record import Arithmetic, RunRecord, StoreOfRun
from tinyohem.system.environment import environment
from tinyohem.training.checkpoint import load_checkpoint
from tinyohem.training.optim import build_optimizers
from tinyohem.training.plan import Plan, budget_steps, make_plan, plan_hash
from tinyohem.training.pool_refresh import open_run_pool, reopen_pool
from tinyohem.training.ranks import DistContext
from tinyohem.training.reference import EMA, build_reference
from tinyohem.training.run import Budget, Run


@dataclass(frozen=True)
class Inputs:
    """What a run reads before anything else."""

    pretrained: Any | None  # the model of `model.init_from`; training changes it
    data: Prepared
    pool: Path | None = None  # losses under a reference, mined for this run; None: not asked for


@dataclass(frozen=True)
class PreparedRun:
    """Everything of a run that is fixed before step 0."""

    config: RunConfig
    inputs: Inputs
    num_steps: int
    pool: Pool | None
    plan: Plan


def prepare_run(
    config: RunConfig, inputs: Inputs, num_steps: int | None = None, progress: Progress = SILENT
) -> PreparedRun:
    """Fix the budget of a run and the order of its windows; a curriculum may score the corpus.

    Args:
        num_steps: default: what the budget in tokens or steps buys.

    Raises:
        InputError: the config or the data forbids the run.
    """
    data = inputs.data
    num_steps = num_steps or budget_steps(config, data)
    pool = open_run_pool(config, data.train, num_steps, inputs.pool)
    plan = make_plan(config, data, num_steps, pool, progress)
    return PreparedRun(config, inputs, num_steps, pool, plan)


def begin_run(
    prepared: PreparedRun,
    run_dir: Path,
    device: torch.device,
    ranks: DistContext,
    arithmetic: Arithmetic,
) -> Run:
    """Return a run before its first step, with the pretrained model or a new one."""
    config, data = prepared.config, prepared.inputs.data
    model, vocab_size = prepared.inputs.pretrained, len(data.tokenizer)
    if model is None:
        shape, start = model_shape(config.model), start_id(data.tokenizer)
        training = config.training
        model = build_model(shape, vocab_size, training.seq_len, start, training.seed)
    model = model.to(device)
    return Run(
        config=config,
        run_dir=run_dir,
        device=device,
        data=data,
        plan=prepared.plan,
        model=model,
        optimizers=build_optimizers(model, config.optim),
        miner=build_miner(config.ohem, data.train, vocab_size, device),
        pool=prepared.pool,
        reference=build_reference(
            config.ohem,
            model,
            prepared.pool,
            device,
            prepared.num_steps,
            story_start(data.tokenizer, config.training.attention),
        ),
        budget=Budget(prepared.num_steps, config.training.seconds),
        state=RunState.at_start(),
        ranks=ranks,
        arithmetic=arithmetic,
    )


def go_on_from(checkpoint: Path, run: Run) -> None:
    """Restore the state of a checkpoint and the pool that was in use.

    Raises:
        InputError: the checkpoint or the pool does not fit this run, or the pool is damaged.
    """
    run.state, remembered = load_checkpoint(checkpoint, run.model, run.optimizers)
    mining = {name: t for name, t in remembered.items() if not name.startswith(EMA)}
    try:
        if run.reference is not None:
            run.reference.load(remembered)
        run.miner.restore(mining, run.config.training.tokens_per_step, run.device)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{checkpoint} does not fit this run: {error}", "choose another --out"
        ) from None
    reopen_pool(run)


def describe(run: Run) -> RunRecord:
    """Return what is needed to repeat the run from any working directory."""
    data, target = run.config.data, run.config.target
    names = data.dataset, data.valid, target.stories
    dataset, valid, stories = (name and absolute_name(name) for name in names)
    config = run.config.model_dump()
    config["data"] |= {"dataset": dataset, "valid": valid}
    config["target"] |= {"stories": stories}
    return RunRecord(
        config=config,
        num_parameters=run.model.num_parameters(),
        num_steps=run.budget.known_steps,
        arithmetic=run.arithmetic,
        train=StoreOfRun(**run.data.train.manifest.to_json()),
        valid=StoreOfRun(**run.data.valid.manifest.to_json()),
        plan=plan_hash(run.plan, run.budget.steps * run.config.training.batch_size),
        pool=run.pool.hash if run.pool else None,
        choice=run.data.choice.identity if run.data.choice else None,
        init_sha256=weights_hash(run.model) if run.config.model.init_from else None,
        environment=environment(run.device) | {"ranks": run.ranks.size},
    )
