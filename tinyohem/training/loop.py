"""A run: prepare, train, evaluate, export. The loop reads top to bottom like the algorithm."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyohem.artifacts import atomic_folder, drop_leftovers, write_json
from tinyohem.config import RunConfig
from tinyohem.data.batches import WindowSource, batch_windows
from tinyohem.data.prepare import Prepared, prepare_data
from tinyohem.data.tokenizer import start_id
from tinyohem.difficulty.curriculum import CurriculumPlan
from tinyohem.errors import InputError
from tinyohem.evaluation.perplexity import Perplexity, evaluate_perplexity
from tinyohem.locks import sole_writer
from tinyohem.ohem.mining import build_mining
from tinyohem.ohem.stores import SoftmaxStore
from tinyohem.progress import SILENT, Progress
from tinyohem.runtime import (
    DeviceTimer,
    StopRequest,
    Stopwatch,
    autocast,
    environment,
    graceful_stop,
    product_precision,
    step_generator,
)
from tinyohem.shapes import model_shape
from tinyohem.training.checkpoint import RunState, export_model, load_checkpoint
from tinyohem.training.events import due, log, require_finite, save, skip, validate
from tinyohem.training.meter import Meter, is_sound
from tinyohem.training.model import build_model, head_weight, trunk, weights_hash
from tinyohem.training.optim import build_optimizers, learning_rate, update
from tinyohem.training.passes import Trunk
from tinyohem.training.plan import budget_steps, keep_plan, make_plan
from tinyohem.training.pretrained import load_pretrained
from tinyohem.training.ranks import ALONE, Ranks
from tinyohem.training.reference import build_reference
from tinyohem.training.run import Budget, Run
from tinyohem.training.run_folder import Resume, check_same_start, find_checkpoint
from tinyohem.training.run_pool import open_run_pool, pool_is_due, refresh_pool, reopen_pool
from tinyohem.training.step import training_step
from tinyohem.training.tracking import Tracker


def train(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: Resume = "never",
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
) -> tuple[Run, Perplexity | None]:
    """Train a model and return the run with its held-out perplexity (None: stopped early).

    In company every rank has to call this alike; the leading one alone writes, evaluates, exports
    and returns a perplexity.

    Raises:
        InputError: the config, the data or the run folder forbid the run; nothing was changed.
        RunError: the loss stopped being finite, or another rank was lost.
    """
    with sole_writer(run_dir, progress=progress) if ranks.leads else nullcontext():
        return _train(config, run_dir, resume, progress, ranks)


def _train(
    config: RunConfig, run_dir: Path, resume: Resume, progress: Progress, ranks: Ranks
) -> tuple[Run, Perplexity | None]:
    device = ranks.pick_device(config.training.device)
    num_passes = ranks.num_passes(config.training)
    checkpoint = find_checkpoint(run_dir, config, resume, progress)
    pretrained = load_pretrained(config, progress) if config.model.init_from else None
    with ranks.lead_first():
        if ranks.leads:
            drop_leftovers(run_dir, run_dir / "checkpoints")
        data = prepare_data(config.data, config.tokenizer, progress)
        run = _set_up(config, run_dir, device, data, pretrained, ranks, progress)
    record = _record(run)
    if checkpoint is not None:
        check_same_start(run_dir, record)
        _go_on_from(checkpoint, run)
        progress.note(f"resuming from {checkpoint}")
    ranks.require_same({**record, "environment": None, "step": run.state.step}, run.model)
    with ranks.lead_first():
        if ranks.leads:
            write_json(run_dir / "config.json", record)
        run.plan = keep_plan(run.plan, run_dir)
    with graceful_stop() as stop:
        _train_steps(run, num_passes, stop, progress)
    ranks.leave()
    if stop.requested or not (run.finished and ranks.leads):
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
    ranks: Ranks,
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
        ranks=ranks,
    )


def _go_on_from(checkpoint: Path, run: Run) -> None:
    """Put back all that a checkpoint holds, and the pool that was in use."""
    run.state, remembered = load_checkpoint(checkpoint, run.model, run.optimizers)
    mining = {name: t for name, t in remembered.items() if not name.startswith("ema")}
    try:
        if run.reference is not None:
            run.reference.load(remembered)
        run.mining.restore(mining, run.config.training.tokens_per_step, run.device)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{checkpoint} does not fit this run: {error}", _OTHER_OUT) from None
    reopen_pool(run)


_OTHER_OUT = "choose another --out"


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
        "environment": environment(run.device) | {"ranks": run.ranks.size},
    }


def _train_steps(run: Run, num_passes: int, stop: StopRequest, progress: Progress) -> None:
    """Take optimizer steps until the budget is spent or someone asks to stop."""
    config, state, ranks = run.config.training, run.state, run.ranks
    mix_schedule = run.config.ohem.mix_schedule()
    precision = autocast(run.device, config.precision)
    source = WindowSource(run.data.train, config.seq_len, run.device)
    parts, memory = Trunk.of(trunk(run.model), compiled=config.compile), SoftmaxStore()
    tracker = Tracker(run.run_dir, run.config, state.step) if ranks.leads else None
    if tracker is not None and state.validation_due:
        save(run, is_best=validate(run, stop, tracker, progress))
    meter = Meter(run.device, state.train_seconds)
    clock = Stopwatch(run.device, state.train_seconds, state.pause_seconds)
    selecting = DeviceTimer(run.device, state.select_seconds)
    progress.start("train", run.budget.known_steps, "steps")

    ending = ranks.any(run.finished or run.paused or stop.requested)
    while not ending:
        before, at, keep_ratio = run.progress, run.midway, run.keep_ratio
        if pool_is_due(run):
            with selecting:
                refresh_pool(run, stop, progress)
            if ranks.any(stop.requested):
                break  # a checkpoint was written ahead of the pass
        lr = learning_rate(at, run.config.optim)
        own_windows = ranks.own(batch_windows(run.plan, state.step, config.batch_size))
        windows = np.split(own_windows, num_passes)
        batches = [source.batch(w) for w in windows]
        references = None
        if run.reference is not None and keep_ratio < 1:
            with selecting:
                references = run.reference.losses(windows, batches, precision)
        remembered = dict(run.mining.state)
        with product_precision(config.precision):
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
                memory=memory,
                timers={"read": selecting, "select": selecting},
                ranks=ranks,
            )
        ranks.sum_gradients(run.model.parameters())
        grad_norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.max_grad_norm)
        # To skip is to ask, so it waits for the device at every step; to stop is not.
        if config.on_nonfinite == "stop" or is_sound(stats, grad_norm):
            update(run.optimizers, lr)
            if run.reference is not None:
                run.reference.update(run.model)
            meter.add(state.step, stats, grad_norm)
            state.tokens_selected += stats.num_kept
            state.skipped_in_a_row = 0
        else:
            skip(run, remembered, meter, progress)
        state.step += 1
        state.tokens_seen += config.tokens_per_step
        progress.advance(state.step)

        if run.budget.seconds is not None:
            state.train_seconds, state.select_seconds = ranks.of_lead(
                clock.pace(), selecting.pace()
            )
        # Asked once a step: a signal that comes later than this ends, and saves, the next one.
        ending = ranks.any(run.finished or run.paused or stop.requested)
        logs = ending or state.step % run.log_every == 0
        evaluates = run.finished or due(run, config.eval_every, before)
        saves = ending or due(run, config.save_every, before) or pool_is_due(run)
        if not (logs or evaluates or saves):
            continue
        with clock.paused() as seconds:
            state.train_seconds, state.select_seconds = ranks.of_lead(seconds, selecting.seconds())
            require_finite(run, meter)
            if tracker is not None:  # one rank writes, the others wait
                if logs:
                    log(run, meter, tracker, progress)
                improved = evaluates and validate(run, stop, tracker, progress)
                ending = ending or state.validation_due
                if saves or improved or ending:
                    save(run, is_best=improved)
            ending = ranks.any(ending)
        state.pause_seconds = clock.pause_seconds
    if tracker is not None:
        tracker.close()
    progress.finish()
