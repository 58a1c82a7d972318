"""One optimizer step of a run: gradients, clipping, update."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import nn

from tinyohem.data.windows import WindowSource, batch_windows
from tinyohem.models.causal_lm import CausalLM
from tinyohem.ohem.softmax_cache import SoftmaxCache
from tinyohem.ohem.step_tokens import Draw
from tinyohem.progress import Progress
from tinyohem.system.device import autocast, product_precision, step_generator
from tinyohem.system.timing import PhaseTimer, Stopwatch, phase
from tinyohem.training.between_steps import skip
from tinyohem.training.meter import Meter, is_sound
from tinyohem.training.optim import learning_rate, update
from tinyohem.training.run import Run
from tinyohem.training.step import StepStats, training_step

# The phases that a plain step does not have.
SELECTING = ("read", "select", "reference", "pool")


@dataclass(frozen=True)
class StepContext:
    """The objects that the steps of a run share, beside the run itself."""

    source: WindowSource
    lm: CausalLM
    meter: Meter
    clock: Stopwatch
    phases: PhaseTimer

    @classmethod
    def of(cls, run: Run) -> Self:
        """Set up the loop of a run, new or resumed."""
        training, state = run.config.training, run.state
        precision = autocast(run.device, run.arithmetic.precision)
        return cls(
            source=WindowSource(run.data.train, training.seq_len, run.device),
            lm=CausalLM.of(
                run.model,
                precision,
                SoftmaxCache(),
                story_start=run.story_start,
                compiled=run.arithmetic.compiled,
            ),
            meter=Meter(run.device, state.train_seconds),
            clock=Stopwatch(run.device, state.train_seconds, state.pause_seconds),
            phases=PhaseTimer(run.device, {"select": state.select_seconds}),
        )


def take_step(run: Run, context: StepContext, num_micro_batches: int, progress: Progress) -> None:
    """Compute the gradients of the next step and, if they are finite, update the weights."""
    config, state = run.config, run.state
    remembered = dict(run.miner.state)
    stats = _gradients(run, context, num_micro_batches)
    grad_norm = nn.utils.clip_grad_norm_(run.model.parameters(), config.optim.max_grad_norm)
    # Only skipping needs the answer now, and so waits for the device at every step.
    if config.training.on_nonfinite == "stop" or is_sound(stats, grad_norm):
        update(run.optimizers, learning_rate(run.fraction_mid_step, config.optim))
        if run.reference is not None:
            run.reference.update(run.model)
        context.meter.add(state.step, stats, grad_norm)
        state.tokens_selected += stats.num_kept
        state.skipped_in_a_row = 0
    else:
        skip(run, remembered, context.meter, progress)
    state.step += 1
    state.tokens_seen += config.training.tokens_per_step


def _gradients(run: Run, context: StepContext, num_micro_batches: int) -> StepStats:
    """Accumulate the gradient of the next step, summed over all ranks, into each `.grad`."""
    training, state = run.config.training, run.state
    draw = Draw(
        run.keep_ratio,
        step_generator(training.seed, state.step, run.device),
        run.config.ohem.mix_schedule().shares(run.fraction_mid_step),
    )
    own_windows = run.ranks.local_rows(batch_windows(run.plan, state.step, training.batch_size))
    windows = np.split(own_windows, num_micro_batches)
    batches = [context.source.batch(w) for w in windows]
    references = None
    with context.phases.listening():
        if run.reference is not None and draw.keep_ratio < 1:
            with phase("reference"), context.lm.autocast:
                references = run.reference.losses(windows, batches)
        with product_precision(run.arithmetic.precision):
            stats = training_step(context.lm, batches, draw, run.miner, references, run.ranks)
    run.ranks.sum_gradients(run.model.parameters())
    return stats
