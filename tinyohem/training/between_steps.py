"""Work between the steps of a run: logging, validation, checkpoints, non-finite steps."""

import time

import numpy as np
from torch import Tensor

from tinyohem.data.windows import batch_windows, story_rows
from tinyohem.errors import RunError
from tinyohem.evaluation.perplexity import Perplexity, evaluate_perplexity, exp_or_inf
from tinyohem.progress import Progress
from tinyohem.runs.checkpoints import latest_checkpoint
from tinyohem.system.signals import StopRequest
from tinyohem.training.checkpoint import save_checkpoint
from tinyohem.training.meter import Meter
from tinyohem.training.run import FinalScores, Run
from tinyohem.training.sample_story import show_sample
from tinyohem.training.tracking import Tracker

MOST_SKIPPED = 10  # steps in a row
NUM_CHECKPOINTS = 10  # in a run, unless the recipe says otherwise
_SAVING_SHARE = 0.01  # of a run's time, at most


def due(run: Run, every: int | None, count: int, before: float) -> bool:
    """Whether an event is due after a step.

    Args:
        every: steps between two events; None: there are `count` of them in the run.
        before: the fraction of the run that was done before the step.
    """
    if every is not None:
        return run.state.step % every == 0
    return int(count * run.fraction_done) > int(count * before)


def can_afford_to_save(run: Run) -> bool:
    """Whether a checkpoint that nobody asked for would leave saving a small part of the run."""
    if run.config.training.save_every is not None:
        return True
    return run.save_seconds <= _SAVING_SHARE * (run.state.train_seconds - run.saved_at)


def log(run: Run, meter: Meter, tracker: Tracker, progress: Progress) -> None:
    """Log the figures of the steps since the last call."""
    figures = meter.flush(run.config.training.tokens_per_step, run.state.train_seconds)
    figures |= {
        "train/lr": run.optimizers[0].param_groups[0]["lr"],
        "train/tokens_seen": run.state.tokens_seen,
        "train/tokens_selected": run.state.tokens_selected,
        "train/seconds": run.state.train_seconds,
        "train/select_seconds": run.state.select_seconds,
        "train/pause_seconds": run.state.pause_seconds,
    }
    shown = {"tok/s": figures["train/tokens_per_second"]}
    if "train/loss" in figures:  # absent where every step was skipped
        shown = {
            "loss": figures["train/loss"],
            "ppl": exp_or_inf(figures["train/loss"]),
            "keep": figures["train/keep_ratio"],
            **shown,
        }
    if run.config.training.on_nonfinite == "skip":
        figures["train/skipped_steps"] = run.state.skipped_steps
        shown["skipped"] = run.state.skipped_steps
    tracker.log(run.state.step, figures)
    progress.advance(run.state.step, shown)


def validate(run: Run, stop: StopRequest, tracker: Tracker, progress: Progress) -> bool:
    """Evaluate the head of the validation split; return whether its loss is the best so far.

    At the end of the run more is scored, once: see `score_at_the_end`.
    A stop request postpones the rest of the evaluation, which may take longer than a scheduler
    waits.
    """
    run.state.validation_due = True
    head = run.data.valid.head(_eval_tokens(run))
    try:
        if run.finished:
            save(run, is_best=False)  # it may take long, and a kill must not cost any step
            losses = score_at_the_end(run, stop, progress).losses[: head.num_tokens]
            result = Perplexity.of(head, float(losses.sum(dtype=np.float64)))
        else:
            seq_len = run.config.training.seq_len
            result = evaluate_perplexity(run.model, head, seq_len=seq_len, stop=stop)
    except RunError:
        raise _not_finite(run, run.state.step - 1) from None
    except KeyboardInterrupt:
        return False
    run.state.validation_due = False
    figures = {
        "val/loss": result.loss,
        "val/ppl": result.to_json()["perplexity"],
        "val/bpb": result.bits_per_byte,
        "val/tokens": result.tokens,
        "train/seconds": run.state.train_seconds,
    }
    tracker.log(run.state.step, figures)
    improved = run.state.best_loss is None or result.loss < run.state.best_loss
    if improved:
        run.state.best_loss = result.loss
    progress.note(
        f"step {run.state.step:,}: validation loss {result.loss:.4f}, perplexity "
        f"{exp_or_inf(result.loss):.4g}{', the best so far' if improved else ''}"
    )
    if run.config.training.samples:
        show_sample(run, tracker, progress)
    return improved


def _eval_tokens(run: Run) -> int:
    """Return the tokens that a validation scores: the same from the first to the last."""
    state = run.state
    if state.eval_tokens and run.config.training.eval_tokens is None:
        return state.eval_tokens
    chosen = run.pauses.tokens
    if chosen != state.eval_tokens:  # at the first validation, or a resumed run scores other text
        state.eval_tokens, state.best_loss = chosen, None
    return chosen


def score_at_the_end(run: Run, stop: StopRequest | None, progress: Progress) -> FinalScores:
    """Score the validation split, or as much of it as the run can afford, and remember it.

    Raises:
        RunError: a loss is not finite.
        KeyboardInterrupt: `stop` was requested.
    """
    if run.final is None:
        valid = run.data.valid
        most = max(run.pauses.tokens_at_the_end, run.state.eval_tokens)
        scored = valid if most >= valid.num_tokens else valid.head(most)
        losses = np.zeros(scored.num_tokens, np.float32)
        perplexity = evaluate_perplexity(
            run.model,
            scored,
            seq_len=run.config.training.seq_len,
            out=losses,
            stop=stop,
            progress=progress,
        )
        run.final = FinalScores(perplexity, losses)
    return run.final


def save(run: Run, *, is_best: bool) -> None:
    """Write a checkpoint of all that the next step needs."""
    began = time.perf_counter()
    save_checkpoint(
        run.run_dir,
        run.model,
        run.data.tokenizer,
        run.optimizers,
        run.state,
        remembered=run.miner.state | (run.reference.tensors() if run.reference else {}),
        keep_last=run.config.training.keep_last,
        is_best=is_best,
    )
    run.save_seconds, run.saved_at = time.perf_counter() - began, run.state.train_seconds


def skip(run: Run, remembered: dict[str, Tensor], meter: Meter, progress: Progress) -> None:
    """Skip a step with a non-finite loss or gradient; weights, moments and mining stay as before.

    Args:
        remembered: the state of mining before the step.

    Raises:
        RunError: too many steps in a row were skipped, so no single batch is the cause.
    """
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    run.miner.state = remembered
    meter.skip()
    run.state.skipped_steps += 1
    run.state.skipped_in_a_row += 1
    if run.state.skipped_in_a_row == MOST_SKIPPED:
        raise _not_finite(run, run.state.step, f"{MOST_SKIPPED} steps in a row were skipped: ")
    progress.warn(f"step {run.state.step + 1} is skipped: its loss or gradient is not finite")


def require_finite(run: Run, meter: Meter) -> None:
    """Refuse to go on, and to write anything, after a step with non-finite numbers.

    Raises:
        RunError: a loss or a gradient since the last call was not finite.
    """
    step = meter.first_bad_step()
    if step is not None:
        raise _not_finite(run, step)


def _not_finite(run: Run, step: int, cause: str = "") -> RunError:
    """Return the error that names a non-finite step, its stories and the last checkpoint."""
    config = run.config.training
    windows = batch_windows(run.plan, step, config.batch_size)
    rows = story_rows(run.data.train, windows, config.seq_len)
    latest = latest_checkpoint(run.run_dir)
    skipping = config.on_nonfinite == "skip"
    return RunError(
        f"{cause}the loss or its gradient is not finite at step {step + 1}; its batch holds the "
        f"stories of rows {', '.join(map(str, rows))}; the last checkpoint is {latest or 'none'}",
        "lower optim.lr, or look at those stories"
        + ("" if skipping else "; --on-nonfinite skip leaves such steps out"),
    )
