"""How long a training step takes: ours at several keep ratios, and what it is measured against.

All variants share one model, one optimizer and the same random tokens; rounds are interleaved, so
that a machine that slows down slows every variant alike.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tinyohem.config import RunConfig
from tinyohem.data.batches import Batch
from tinyohem.ohem.mining import Mining
from tinyohem.ohem.ranking import top_k
from tinyohem.progress import SILENT, Progress
from tinyohem.runtime import autocast, pick_device, step_generator, synchronize
from tinyohem.training.model import build_model, head_weight, model_shape, trunk
from tinyohem.training.optim import build_optimizers, update
from tinyohem.training.step import training_step

WARMUP_ROUNDS = 2
KEEP_RATIOS = (1.0, 0.5, 0.25)
FULL = "full"


@dataclass(frozen=True)
class Timing:
    """One variant's step times over all rounds, in milliseconds."""

    name: str
    milliseconds: tuple[float, ...]
    tokens_per_step: int
    peak_memory_bytes: int | None  # of the device; None on a CPU

    @property
    def median(self) -> float:
        """Median step time in milliseconds."""
        return statistics.median(self.milliseconds)

    def to_json(self, full: "Timing") -> dict[str, Any]:
        """Return the figures that scripts rely on; ratios above 1 are faster than `full`."""
        return {
            "name": self.name,
            "tokens_per_second": self.tokens_per_step / self.median * 1000,
            "ms_per_step": self.median,
            "ms_min": min(self.milliseconds),
            "ms_max": max(self.milliseconds),
            "peak_memory_bytes": self.peak_memory_bytes,
            "ratio_to_full": full.median / self.median,
        }


def run_bench(config: RunConfig, rounds: int, progress: Progress = SILENT) -> list[Timing]:
    """Time a whole optimizer step of every variant, `rounds` times each, interleaved.

    Variants: `full` and `topk-<ratio>` are ours; `bare` is `model(...).logits` with
    `F.cross_entropy`; `mask-0.5` is the usual way to mine, a mask on that loss.
    """
    device = pick_device(config.training.device)
    variants, next_batch = _variants(config, device)
    times: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, int] = {}
    progress.start("bench", WARMUP_ROUNDS + rounds, "rounds")
    for done in range(WARMUP_ROUNDS + rounds):
        for name, step in variants.items():
            batch = next_batch()
            seconds, peaks[name] = _timed(step, batch, device)
            if done >= WARMUP_ROUNDS:
                times[name].append(1000 * seconds)
        progress.advance(done + 1)
    progress.finish()
    tokens = config.training.tokens_per_step
    on_gpu = device.type == "cuda"
    return [
        Timing(name, tuple(measured), tokens, peaks[name] if on_gpu else None)
        for name, measured in times.items()
    ]


def _timed(step: Callable[[Batch], None], batch: Batch, device: torch.device) -> tuple[float, int]:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    synchronize(device)
    started = time.perf_counter()
    step(batch)
    synchronize(device)
    seconds = time.perf_counter() - started
    return seconds, torch.cuda.max_memory_allocated(device) if on_gpu else 0


def _variants(
    config: RunConfig, device: torch.device
) -> tuple[dict[str, Callable[[Batch], None]], Callable[[], Batch]]:
    training, vocab_size = config.training, config.tokenizer.vocab_size
    shape = model_shape(config.model)
    model = build_model(shape, vocab_size, training.seq_len, 0, training.seed).to(device)
    optimizers = build_optimizers(model, config.optim)
    precision = autocast(device, training.precision)
    run_trunk = torch.compile(trunk(model)) if training.compile else trunk(model)
    generator = step_generator(training.seed, 0, device)
    mining = Mining(config.ohem)

    def next_batch() -> Batch:
        size = (training.batch_size, training.seq_len + 1)
        tokens = torch.randint(vocab_size, size, generator=generator, device=device)
        labels = tokens[:, 1:].contiguous()
        return Batch(tokens[:, :-1].contiguous(), labels, labels.numel())

    def finish() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
        update(optimizers, config.optim.lr)

    def ours(ratio: float) -> Callable[[Batch], None]:
        def step(batch: Batch) -> None:
            training_step(
                run_trunk,
                head_weight(model),
                [batch],
                ratio,
                mining,
                shares=config.ohem.mix_schedule().shares(0.0),
                generator=generator,
                precision=precision,
            )
            finish()

        return step

    def bare(batch: Batch) -> None:
        with precision:
            logits = model(input_ids=batch.input_ids, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        loss.backward()
        finish()

    def mask(batch: Batch) -> None:
        labels = batch.labels.flatten()
        with precision:
            logits = model(input_ids=batch.input_ids, use_cache=False).logits
            losses = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none")
        count = torch.tensor([labels.numel() // 2], device=device)
        kept = top_k(losses.detach()[None], torch.ones_like(labels[None], dtype=torch.bool), count)
        ((losses * kept[0]).sum() / count).sum().backward()
        finish()

    mined = {f"topk-{ratio:g}": ours(ratio) for ratio in KEEP_RATIOS if ratio < 1}
    return {FULL: ours(1.0), **mined, "bare": bare, "mask-0.5": mask}, next_batch
