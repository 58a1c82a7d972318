"""How long a training step takes: ours at several keep ratios, and what it is measured against.

All variants share one model, one optimizer and the same random tokens; rounds are interleaved, so
that a machine that slows down slows every variant alike.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from tinyohem.config import RunConfig
from tinyohem.data.batches import Batch
from tinyohem.evaluation.bench_steps import PHASES, Step, bench_steps
from tinyohem.progress import SILENT, Progress
from tinyohem.runtime import DeviceTimer, pick_device, step_generator, synchronize

WARMUP_ROUNDS = 2
FULL = "full"


@dataclass(frozen=True)
class Sample:
    """One step's times in milliseconds."""

    total: float
    phases: dict[str, float]
    peak_memory_bytes: int | None  # of the device; None on a CPU


@dataclass(frozen=True)
class Timing:
    """One variant's steps over all rounds."""

    name: str
    samples: tuple[Sample, ...]
    tokens_per_step: int

    @property
    def median(self) -> float:
        """Median step time in milliseconds."""
        return statistics.median(s.total for s in self.samples)

    @property
    def phases(self) -> dict[str, float]:
        """Median milliseconds of each phase that the variant has."""
        names = [name for name in PHASES if any(s.phases[name] for s in self.samples)]
        return {name: statistics.median(s.phases[name] for s in self.samples) for name in names}

    def to_json(self, full: "Timing") -> dict[str, Any]:
        """Return the figures that scripts rely on; ratios above 1 are faster than `full`."""
        totals = [s.total for s in self.samples]
        return {
            "name": self.name,
            "tokens_per_second": self.tokens_per_step / self.median * 1000,
            "ms_per_step": self.median,
            "ms_min": min(totals),
            "ms_max": max(totals),
            "ms_by_phase": self.phases,
            "peak_memory_bytes": self.samples[-1].peak_memory_bytes,
            "ratio_to_full": full.median / self.median,
        }


def run_bench(config: RunConfig, rounds: int, progress: Progress = SILENT) -> list[Timing]:
    """Time a whole optimizer step of every variant, `rounds` times each, interleaved.

    The variants are those of `bench_steps`.
    """
    device, training = pick_device(config.training.device), config.training
    steps = bench_steps(config, device)
    generator = step_generator(training.seed, 0, device)
    size = (training.batch_size, training.seq_len + 1)
    samples: dict[str, list[Sample]] = {name: [] for name in steps}
    progress.start("bench", WARMUP_ROUNDS + rounds, "rounds")
    for done in range(WARMUP_ROUNDS + rounds):
        for name, step in steps.items():
            tokens = torch.randint(
                config.tokenizer.vocab_size, size, generator=generator, device=device
            )
            labels = tokens[:, 1:].contiguous()
            batch = Batch(tokens[:, :-1].contiguous(), labels, labels.numel())
            sample = _timed(step, batch, device)
            if done >= WARMUP_ROUNDS:
                samples[name].append(sample)
        progress.advance(done + 1)
    progress.finish()
    return [Timing(name, tuple(found), training.tokens_per_step) for name, found in samples.items()]


def _timed(step: Step, batch: Batch, device: torch.device) -> Sample:
    on_gpu = device.type == "cuda"
    timers = {name: DeviceTimer(device) for name in PHASES}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    synchronize(device)
    started = time.perf_counter()
    step(batch, timers)
    synchronize(device)
    return Sample(
        total=1000 * (time.perf_counter() - started),
        phases={name: 1000 * timer.seconds() for name, timer in timers.items()},
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else None,
    )
