"""A run: prepare, train, evaluate, export. The loop reads top to bottom like the algorithm."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyohem.artifacts import atomic_folder, write_json
from tinyohem.config import RunConfig
from tinyohem.data.batches import batch_windows, make_batch
from tinyohem.data.prepare import Prepared, prepare_data
from tinyohem.data.tokenizer import start_id
from tinyohem.difficulty.curriculum import CurriculumPlan
from tinyohem.evaluation.perplexity import Perplexity, evaluate_perplexity
from tinyohem.ohem.losses import SoftmaxStore
from tinyohem.ohem.mining import build_mining
from tinyohem.progress import SILENT, Progress
from tinyohem.runtime import (
    DeviceTimer,
    StopRequest,
    Stopwatch,
    autocast,
    environment,
    graceful_stop,
    pick_device,
    step_generator,
)
from tinyohem.shapes import model_shape
from tinyohem.training.checkpoint import RunState, export_model, load_checkpoint
from tinyohem.training.events import due, log, require_finite, save, validate
from tinyohem.training.meter import Meter
from tinyohem.training.model import build_model, head_weight, trunk, weights_hash
from tinyohem.training.optim import build_optimizers, learning_rate, update
from tinyohem.training.passes import Trunk
from tinyohem.training.plan import budget_steps, keep_plan, make_plan
from tinyohem.training.pretrained import load_pretrained
from tinyohem.training.reference import build_reference
from tinyohem.training.run import Budget, Run
from tinyohem.training.run_folder import Resume, check_same_start, find_checkpoint
from tinyohem.training.run_pool import open_run_pool, pool_is_due, refresh_pool, reopen_pool
from tinyohem.training.step import training_step
from tinyohem.training.tracking import Tracker


def train(
    config: RunConfig, run_dir: Path, *, resume: Resume = "never", progress: Progress = SILENT
) -> tuple[Run, Perplexity | None]:
    """Train a model and return the run with its held-out perplexity (None: stopped early).

    Raises:
        InputError: the config, the data or the run folder forbid the run; nothing was changed.
        RunError: the loss stopped being finite.
    """
    device = pick_device(config.training.device)
    checkpoint = find_checkpoint(run_dir, config, resume, progress)
    pretrained = load_pretrained(config, progress) if config.model.init_from else None
    data = prepare_data(config.data, config.tokenizer, progress)
    run = _set_up(config, run_dir, device, data, pretrained, progress)
    record = _record(run)
    if checkpoint is not None:
        check_same_start(run_dir, record)
        _go_on_from(checkpoint, run)
        progress.note(f"resuming from {checkpoint}")
    write_json(run_dir / "config.json", record)
    run.plan = keep_plan(run.plan, run_dir)
    with graceful_stop() as stop:
        _train_steps(run, stop, progress)
    if not run.finished:
        return run, None
    perplexity = evaluate_perplexity(
        run.model, data.valid, seq_len=config.training.seq_len, progress=progress
    )
    write_json(run_dir / "eval.json", perplexity.to_json())
    with atomic_folder(run_dir / "model") as partial:
        export_model(partial, run.model, data.tokenizer)
    return run, perplexity


def _set_up(
    config: RunConfig,
    run_dir: Path,
    device: torch.device,
    data: Prepared,
    model: Any,
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
        mining=build_mining(config.ohem, data.train, vocab_size, device),
        pool=pool,
        reference=build_reference(config.ohem, model, pool, device),
        budget=Budget(num_steps, training.seconds),
        state=RunState(),
    )


def _go_on_from(checkpoint: Path, run: Run) -> None:
    """Put back all that a checkpoint holds, and the pool that was in use."""
    run.state, remembered = load_checkpoint(checkpoint, run.model, run.optimizers)
    if run.reference is not None:
        run.reference.load(remembered)
    run.mining.state = {
        name: tensor.to(run.device)
        for name, tensor in remembered.items()
        if not name.startswith("ema")
    }
    reopen_pool(run)


def _record(run: Run) -> dict[str, Any]:
    """Return what a reader needs to repeat the run."""
    return {
        "config": run.config.model_dump(),
        "num_parameters": run.model.num_parameters(),
        "num_steps": run.budget.known_steps,
        "train": run.data.train.manifest,
        "valid": run.data.valid.manifest,
        "plan": run.plan.hash if isinstance(run.plan, CurriculumPlan) else None,
        "pool": run.pool.hash if run.pool else None,
        "init_sha256": weights_hash(run.model) if run.config.model.init_from else None,
        "environment": environment(run.device),
    }


def _train_steps(run: Run, stop: StopRequest, progress: Progress) -> None:
    """Take optimizer steps until the budget is spent or someone asks to stop."""
    config, state = run.config.training, run.state
    mix_schedule = run.config.ohem.mix_schedule()
    precision = autocast(run.device, config.precision)
    num_passes = config.batch_size // config.sequences_a_pass
    parts, store = Trunk.of(trunk(run.model), compiled=config.compile), SoftmaxStore()
    tracker = Tracker(run.run_dir, run.config, state.step)
    meter = Meter(run.device, state.train_seconds)
    clock = Stopwatch(run.device, state.train_seconds)
    selecting = DeviceTimer(run.device, state.select_seconds)
    progress.start("train", run.budget.known_steps, "steps")

    ending = run.finished or run.paused
    while not ending:
        before, at, keep_ratio = run.progress, run.midway, run.keep_ratio
        if pool_is_due(run):
            with selecting:
                refresh_pool(run, stop, progress)
            if stop.requested:
                break  # a checkpoint was written ahead of the pass
        lr = learning_rate(at, run.config.optim)
        windows = np.split(batch_windows(run.plan, state.step, config.batch_size), num_passes)
        batches = [make_batch(run.data.train, w, config.seq_len).to(run.device) for w in windows]
        references = None
        if run.reference is not None and keep_ratio < 1:
            with selecting:
                references = run.reference.losses(windows, batches, precision)
        stats = training_step(
            parts,
            head_weight(run.model),
            batches,
            keep_ratio,
            run.mining,
            shares=mix_schedule.shares(at),
            references=references,
            generator=step_generator(config.seed, state.step, run.device),
            precision=precision,
            store=store,
            timers={"read": selecting, "select": selecting},
        )
        grad_norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.max_grad_norm)
        update(run.optimizers, lr)
        if run.reference is not None:
            run.reference.update(run.model)
        meter.add(state.step, stats, grad_norm)
        state.step += 1
        state.tokens_seen += config.tokens_per_step
        state.tokens_selected += stats.num_kept
        progress.advance(state.step)

        if run.budget.seconds is not None:
            state.train_seconds, state.select_seconds = clock.seconds(), selecting.seconds()
        # Asked once a step: a signal that comes later than this ends, and saves, the next one.
        ending = run.finished or run.paused or stop.requested
        logs = ending or state.step % config.log_every == 0
        evaluates = run.finished or due(run, config.eval_every, before)
        saves = ending or due(run, config.save_every, before) or pool_is_due(run)
        if not (logs or evaluates or saves):
            continue
        with clock.paused() as state.train_seconds:
            state.select_seconds = selecting.seconds()
            require_finite(run, meter)
            if logs:
                log(run, meter, tracker, progress)
            improved = evaluates and validate(run, tracker, progress)
            if saves or improved:
                save(run, is_best=improved)
    tracker.close()
    progress.finish()
