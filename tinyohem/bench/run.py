"""Time training steps: ours at several keep ratios, and those of others.

All variants share one model, one optimizer and random tokens. Their rounds are interleaved, so a
machine that slows down slows all of them alike.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from tinyohem.bench.flops import step_flops, trunk_products
from tinyohem.bench.memory import peak_memory
from tinyohem.bench.steps import PHASES, TRAINER, bench_steps, random_batch
from tinyohem.config.model import model_shape
from tinyohem.config.run import RunConfig
from tinyohem.config.training import Precision
from tinyohem.errors import InputError
from tinyohem.progress import SILENT, Progress
from tinyohem.system.device import pick_device, product_precision, step_generator, synchronize
from tinyohem.system.timing import PhaseTimer

WARMUP_ROUNDS = 2
FULL = "full"


@dataclass(frozen=True)
class Sample:
    """One step's times in milliseconds."""

    total: float
    phases: dict[str, float]


@dataclass(frozen=True)
class Timing:
    """One variant's steps over all rounds."""

    name: str
    samples: tuple[Sample, ...]

    @property
    def median(self) -> float:
        """Median step time in milliseconds."""
        return statistics.median(s.total for s in self.samples)

    @property
    def phases(self) -> dict[str, float]:
        """Median milliseconds of each phase that the variant has."""
        names = [name for name in PHASES if any(s.phases[name] for s in self.samples)]
        return {name: statistics.median(s.phases[name] for s in self.samples) for name in names}


@dataclass(frozen=True)
class Bench:
    """The steps of all variants, and the figures to compare them with."""

    timings: tuple[Timing, ...]
    tokens_per_step: int
    step_flops: int  # of a plain training step
    product_flops_per_second: float  # of bare matrix products of the trunk's shapes
    peak_memory: Mapping[str, int | None] = field(default_factory=dict)  # bytes, by variant

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures that scripts rely on.

        A ratio above 1 is faster than `full`. The utilisation is the rate of a plain step's FLOPs
        in this time, as a share of the rate of bare products. A step that leaves work out is
        credited with more than it computes.
        """
        full = next(timing for timing in self.timings if timing.name == FULL)
        return [self._row(timing, full) for timing in self.timings]

    def _row(self, timing: Timing, full: Timing) -> dict[str, Any]:
        totals = [s.total for s in timing.samples]
        rate = self.step_flops / timing.median * 1000
        return {
            "name": timing.name,
            "tokens_per_second": self.tokens_per_step / timing.median * 1000,
            "ms_per_step": timing.median,
            "ms_min": min(totals),
            "ms_max": max(totals),
            "ms_by_phase": timing.phases,
            "peak_memory_bytes": self.peak_memory.get(timing.name),
            "ratio_to_full": full.median / timing.median,
            "model_flops_per_second": rate,
            "model_flop_utilization": rate / self.product_flops_per_second,
        }


def run_bench(
    config: RunConfig, rounds: int, *, memory: bool = False, progress: Progress = SILENT
) -> Bench:
    """Time whole optimizer steps of the variants of `bench_steps` and bare matrix products.

    Args:
        rounds: steps of each variant, interleaved.
        memory: measure each variant's peak memory as well, in its own process.

    Raises:
        InputError: the config starts from a trained model, or asks for micro-batches.
    """
    _require_whole_steps(config)
    device, training = pick_device(config.training.device), config.training
    shape = model_shape(config.model)
    steps = bench_steps(config, device)
    if TRAINER not in steps:
        progress.note(
            "no row for transformers' Trainer, which needs accelerate: pip install accelerate"
        )
    multiply, product_flops = trunk_products(
        shape, training.tokens_per_step, device, training.precision
    )
    generator = step_generator(training.seed, 0, device)
    samples: dict[str, list[Sample]] = {name: [] for name in steps}
    products = []
    all_rounds = WARMUP_ROUNDS + rounds
    progress.start("bench", all_rounds * len(steps), "steps")
    for done in range(all_rounds):
        for place, (name, step) in enumerate(steps.items(), 1):
            timer = PhaseTimer(device)
            work = partial(step, random_batch(config, generator, device))
            with timer.listening():
                total = _milliseconds(work, device, training.precision)
            phases = {name: 1000 * timer.seconds(name) for name in PHASES}
            samples[name].append(Sample(total, phases))
            progress.advance(done * len(steps) + place)
        products.append(_milliseconds(multiply, device, training.precision))
    progress.finish()
    product_ms = statistics.median(products[WARMUP_ROUNDS:])
    return Bench(
        timings=tuple(
            Timing(name, tuple(found[WARMUP_ROUNDS:])) for name, found in samples.items()
        ),
        tokens_per_step=training.tokens_per_step,
        step_flops=step_flops(
            shape, config.tokenizer.vocab_size, training.seq_len, training.tokens_per_step
        ),
        product_flops_per_second=1000 * product_flops / product_ms,
        peak_memory=peak_memory(config, steps, progress) if memory else {},
    )


def _require_whole_steps(config: RunConfig) -> None:
    if config.model.init_from is not None:
        raise InputError(
            "bench times new models: model.init_from has no place here",
            "leave it out and name a size with --model",
        )
    if config.training.micro_batch_sequences != config.training.batch_size:
        raise InputError(
            "bench times steps of one pass: training.micro_batch_size has no place here",
            "leave it out, or set training.batch_size to the size of a micro-batch",
        )


def _milliseconds(work: Callable[[], None], device: torch.device, precision: Precision) -> float:
    synchronize(device)
    started = time.perf_counter()
    with product_precision(precision):
        work()
    synchronize(device)
    return 1000 * (time.perf_counter() - started)
