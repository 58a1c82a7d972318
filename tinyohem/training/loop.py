"""Prepare, train, evaluate and export a run."""

from contextlib import nullcontext
from pathlib import Path

from tinyohem.config.run import RunConfig
from tinyohem.evaluation.perplexity import Perplexity
from tinyohem.io.atomic import atomic_folder, drop_leftovers
from tinyohem.io.json import write_json
from tinyohem.io.locks import sole_writer
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.layout import CHECKPOINTS, CHOICE_FILE, EVALUATION_FILE, MODEL, RECORD_FILE
from tinyohem.runs.resume import Resume, check_same_start, find_checkpoint
from tinyohem.system.device import multiplies_bfloat16
from tinyohem.system.signals import StopRequest, graceful_stop
from tinyohem.system.timing import phase
from tinyohem.training.arithmetic import choose_arithmetic
from tinyohem.training.between_steps import (
    NUM_CHECKPOINTS,
    can_afford_to_save,
    due,
    log,
    require_finite,
    save,
    score_at_the_end,
    validate,
)
from tinyohem.training.checkpoint import export_model
from tinyohem.training.inputs import open_inputs
from tinyohem.training.model_card import write_card
from tinyohem.training.pauses import Pauses
from tinyohem.training.plan import save_or_check_plan
from tinyohem.training.pool_refresh import pool_is_due, refresh_pool
from tinyohem.training.prepare import begin_run, describe, go_on_from, prepare_run
from tinyohem.training.ranks import SINGLE_PROCESS, DistContext
from tinyohem.training.run import Run
from tinyohem.training.step_time import planned_steps
from tinyohem.training.take_step import SELECTING, StepContext, take_step
from tinyohem.training.tracking import Tracker, require_login, sync_command, tracking_id


def train(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: Resume = "never",
    progress: Progress = SILENT,
    ranks: DistContext = SINGLE_PROCESS,
    pauses: Pauses | None = None,
    tries: bool = True,
) -> tuple[Run, Perplexity | None]:
    """Train a model and return the run with its held-out perplexity (None: stopped early).

    Every rank of a distributed run makes the same call; only the main rank writes, evaluates,
    exports and returns a perplexity.

    Args:
        pauses: the validations of the run; default: what 5 % of its time pays for.
        tries: whether a long run may try which arithmetic is faster.

    Raises:
        InputError: the config, the data or the run folder forbids the run; nothing was changed.
        RunError: the loss stopped being finite, or another rank was lost.
    """
    if ranks.is_main:
        require_login(config)
    with sole_writer(run_dir, progress=progress) if ranks.is_main else nullcontext():
        return _train(config, run_dir, resume, progress, ranks, pauses, tries)


def _train(
    config: RunConfig,
    run_dir: Path,
    resume: Resume,
    progress: Progress,
    ranks: DistContext,
    pauses: Pauses | None,
    tries: bool,
) -> tuple[Run, Perplexity | None]:
    device = ranks.pick_device(config.training.device)
    num_micro_batches = ranks.num_micro_batches(config.training)
    checkpoint = find_checkpoint(run_dir, config, resume, progress)
    with ranks.main_process_first():
        if ranks.is_main:
            drop_leftovers(run_dir, run_dir / CHECKPOINTS)
    with ranks.main_process_first():
        inputs = open_inputs(config, progress)
    arithmetic = choose_arithmetic(config, inputs, run_dir, device, ranks, progress, tries=tries)
    num_steps = planned_steps(config, inputs, run_dir, device, arithmetic, ranks, progress)
    with ranks.main_process_first():
        prepared = prepare_run(config, inputs, num_steps, progress)
        run = begin_run(prepared, run_dir, device, ranks, arithmetic)
        run.planned_pauses = pauses
    record = describe(run)
    if checkpoint is not None:
        check_same_start(run_dir, record)
        go_on_from(checkpoint, run)
        progress.note(f"resuming from {checkpoint}")
    facts = record.to_json() | {"environment": None, "step": run.state.step}
    if config.optim.optimizer == "muon":  # which chooses its arithmetic by that
        facts["products of bfloat16"] = multiplies_bfloat16(device)
    ranks.require_same(facts, run.model)
    with ranks.main_process_first():
        if ranks.is_main:
            wandb_id = tracking_id(run_dir, resumed=checkpoint is not None)
            record = record.model_copy(update={"wandb_id": wandb_id})
            write_json(run_dir / RECORD_FILE, record.to_json())
            if run.data.choice is not None and not (run_dir / CHOICE_FILE).exists():
                write_json(run_dir / CHOICE_FILE, run.data.choice.record.to_json())
        save_or_check_plan(run.plan, record.plan, run_dir)
    with graceful_stop() as stop:
        _train_steps(run, num_micro_batches, stop, progress)
    ranks.destroy()
    if stop.requested or not (run.finished and ranks.is_main):
        return run, None
    perplexity = score_at_the_end(run, None, progress).perplexity
    write_json(run_dir / EVALUATION_FILE, perplexity.to_json())
    with atomic_folder(run_dir / MODEL) as partial:
        export_model(partial, run.model, run.data.tokenizer)
        write_card(partial, run, perplexity)
    return run, perplexity


def _train_steps(run: Run, num_micro_batches: int, stop: StopRequest, progress: Progress) -> None:
    """Take optimizer steps until the budget is spent or a stop is requested."""
    config, state, ranks = run.config.training, run.state, run.ranks
    tracker = Tracker(run.run_dir, run.config, state.step) if ranks.is_main else None
    progress.start("train", run.budget.known_steps, "steps", done=state.step)
    if tracker is not None and state.validation_due:
        save(run, is_best=validate(run, stop, tracker, progress))
    context = StepContext.of(run)

    ending = ranks.any(run.finished or run.paused or stop.requested)
    while not ending:
        before = run.fraction_done
        if pool_is_due(run):
            with context.phases.listening(), phase("pool"):
                refresh_pool(run, stop, progress)
            if ranks.any(stop.requested):
                break  # the step before this one wrote a checkpoint: see `saves`
        take_step(run, context, num_micro_batches, progress)
        progress.advance(state.step)

        if run.budget.seconds is not None:
            state.train_seconds, state.select_seconds = ranks.broadcast(
                context.clock.pace(), context.phases.pace(*SELECTING)
            )
        # Read once a step: after a later signal one more step is taken, then saved.
        ending = ranks.any(run.finished or run.paused or stop.requested)
        logs = ending or state.step % run.log_every == 0
        evaluates = run.finished or due(run, config.eval_every, run.pauses.count, before)
        saves = ending or due(run, config.save_every, NUM_CHECKPOINTS, before) or pool_is_due(run)
        if not (logs or evaluates or saves):
            continue
        with context.clock.paused() as seconds:
            state.train_seconds, state.select_seconds = ranks.broadcast(
                seconds, context.phases.seconds(*SELECTING)
            )
            require_finite(run, context.meter)
            if tracker is not None:  # the main rank writes, the others wait
                if logs:
                    log(run, context.meter, tracker, progress)
                improved = evaluates and validate(run, stop, tracker, progress)
                ending = ending or state.validation_due
                must_save = improved or ending or pool_is_due(run)
                if must_save or (saves and can_afford_to_save(run)):
                    save(run, is_best=improved)
            ending = ranks.any(ending)
        state.pause_seconds = context.clock.pause_seconds
    if tracker is not None:
        tracker.close()
    progress.finish()
    if tracker is not None and (command := sync_command(run.run_dir, run.config)):
        progress.note(f"wandb has this run in parts; all at once: {command}")
