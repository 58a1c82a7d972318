"""What a run is made of before its first step: laid out anew, or put back from a checkpoint."""

from pathlib import Path
from typing import Any

import torch

from tinyohem.config.model import model_shape
from tinyohem.config.run import RunConfig
from tinyohem.data.corpus import absolute_name
from tinyohem.data.prepare import Prepared
from tinyohem.data.tokenizer import start_id
from tinyohem.difficulty.curriculum import CurriculumPlan
from tinyohem.errors import InputError
from tinyohem.models.causal_lm import weights_hash
from tinyohem.models.llama import build_model
from tinyohem.ohem.miner import build_miner
from tinyohem.progress import Progress
from tinyohem.runs.checkpoints import RunState
from tinyohem.system.environment import environment
from tinyohem.training.checkpoint import load_checkpoint
from tinyohem.training.optim import build_optimizers
from tinyohem.training.plan import budget_steps, make_plan
from tinyohem.training.pool_refresh import open_run_pool, reopen_pool
from tinyohem.training.ranks import DistContext
from tinyohem.training.reference import build_reference
from tinyohem.training.run import Budget, Run


def set_up(
    config: RunConfig,
    run_dir: Path,
    device: torch.device,
    data: Prepared,
    model: Any,
    ranks: DistContext,
    progress: Progress,
) -> Run:
    """Lay out a run of a pretrained model, or of a new one where there is none."""
    training, vocab_size = config.training, len(data.tokenizer)
    num_steps = budget_steps(config, data)
    pool = open_run_pool(config, data.train, num_steps)
    if model is None:
        shape, start = model_shape(config.model), start_id(data.tokenizer)
        model = build_model(shape, vocab_size, training.seq_len, start, training.seed)
    model = model.to(device)
    return Run(
        config=config,
        run_dir=run_dir,
        device=device,
        data=data,
        plan=make_plan(config, data, num_steps, pool, progress),
        model=model,
        optimizers=build_optimizers(model, config.optim),
        miner=build_miner(config.ohem, data.train, vocab_size, device),
        pool=pool,
        reference=build_reference(config.ohem, model, pool, device),
        budget=Budget(num_steps, training.seconds),
        state=RunState(),
        ranks=ranks,
    )


def go_on_from(checkpoint: Path, run: Run) -> None:
    """Put back all that a checkpoint holds, and the pool that was in use."""
    run.state, remembered = load_checkpoint(checkpoint, run.model, run.optimizers)
    mining = {name: t for name, t in remembered.items() if not name.startswith("ema")}
    try:
        if run.reference is not None:
            run.reference.load(remembered)
        run.miner.restore(mining, run.config.training.tokens_per_step, run.device)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{checkpoint} does not fit this run: {error}", "choose another --out"
        ) from None
    reopen_pool(run)


def describe(run: Run) -> dict[str, Any]:
    """Return what a reader needs to repeat the run, from whatever working directory."""
    names = run.config.data.dataset, run.config.data.valid
    dataset, valid = (name and absolute_name(name) for name in names)
    config = run.config.model_dump()
    config["data"] |= {"dataset": dataset, "valid": valid}
    return {
        "config": config,
        "num_parameters": run.model.num_parameters(),
        "num_steps": run.budget.known_steps,
        "train": run.data.train.manifest,
        "valid": run.data.valid.manifest,
        "plan": run.plan.hash if isinstance(run.plan, CurriculumPlan) else None,
        "pool": run.pool.hash if run.pool else None,
        "init_sha256": weights_hash(run.model) if run.config.model.init_from else None,
        "environment": environment(run.device) | {"ranks": run.ranks.size},
    }
