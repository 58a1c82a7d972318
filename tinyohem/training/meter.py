"""Figures of the steps between two log lines, summed on the device so that no step waits."""

import torch
from torch import Tensor

from tinyohem.training.step import StepStats

_MEANS = (
    "train/loss",
    "train/loss_selected",
    "train/loss_threshold",
    "train/grad_norm",
    "train/kept_loss_share",
    "train/effective_sample_size",
    "train/kept_below_1",  # shares of the kept tokens by their loss in nats
    "train/kept_1_to_3",
    "train/kept_3_to_5",
    "train/kept_above_5",
)


class Meter:
    """Running means of a stretch of steps, and the first step that was not finite."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device = device
        self._first_bad = torch.tensor(-1, device=device)
        self._reset(seconds)

    def _reset(self, seconds: float) -> None:
        self._flushed_at = seconds
        self._sums = torch.zeros(len(_MEANS), device=self._device)
        self._steps = 0
        self._kept = 0

    def add(self, step: int, stats: StepStats, grad_norm: Tensor) -> None:
        """Take in one step's figures, without reading them."""
        figures = torch.stack(
            [
                stats.loss,
                stats.loss_selected,
                stats.loss_threshold,
                grad_norm,
                stats.kept_loss_share,
                stats.effective_sample_size,
                *stats.kept_by_bucket,
            ]
        )
        good = figures.isfinite().all() & stats.finite
        self._first_bad = torch.where(good | (self._first_bad >= 0), self._first_bad, step)
        self._sums += figures
        self._steps += 1
        self._kept += stats.num_kept

    def first_bad_step(self) -> int | None:
        """Return the first step whose loss or gradient was not finite; waits for the device."""
        step = int(self._first_bad)
        return None if step < 0 else step

    def flush(self, tokens_per_step: int, seconds: float) -> dict[str, float]:
        """Return the means since the last flush and begin a new stretch; waits for the device.

        Args:
            seconds: spent training so far.
        """
        means = (self._sums / self._steps).tolist()
        tokens = self._steps * tokens_per_step
        kept, speed = self._kept / tokens, tokens / (seconds - self._flushed_at)
        self._reset(seconds)
        return {
            **dict(zip(_MEANS, means, strict=True)),
            "train/keep_ratio": kept,
            "train/tokens_per_second": speed,
        }
