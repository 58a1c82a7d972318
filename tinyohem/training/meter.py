"""Average the figures of steps between two log rows, on the device so that no step waits."""

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
    """The means of the steps since the last flush, and the first step that was not finite."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device = device
        self._first_bad = torch.tensor(-1, device=device)
        self._reset(seconds)

    def _reset(self, seconds: float) -> None:
        self._flushed_at = seconds
        self._sums = torch.zeros(len(_MEANS), device=self._device)
        self._steps = self._skipped = self._kept = 0

    def add(self, step: int, stats: StepStats, grad_norm: Tensor) -> None:
        """Add the figures of a step without waiting for the device."""
        bad = ~is_sound(stats, grad_norm) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        self._sums += _figures(stats, grad_norm)
        self._steps += 1
        self._kept += stats.num_kept

    def skip(self) -> None:
        """Count a skipped step."""
        self._skipped += 1

    def first_bad_step(self) -> int | None:
        """Return the first step whose loss or gradient was not finite; wait for the device."""
        step = int(self._first_bad)
        return None if step < 0 else step

    def flush(self, tokens_per_step: int, seconds: float) -> dict[str, float]:
        """Return the means since the last flush and reset them; wait for the device.

        Skipped steps count for the speed alone; where all were skipped, there are no means.

        Args:
            seconds: spent training so far.
        """
        tokens = (self._steps + self._skipped) * tokens_per_step
        figures = {"train/tokens_per_second": tokens / (seconds - self._flushed_at)}
        if self._steps:
            figures |= dict(zip(_MEANS, (self._sums / self._steps).tolist(), strict=True))
            figures["train/keep_ratio"] = self._kept / (self._steps * tokens_per_step)
        self._reset(seconds)
        return figures


def is_sound(stats: StepStats, grad_norm: Tensor) -> Tensor:
    """Whether all figures and scores of a step are finite; bool scalar on the device."""
    return _figures(stats, grad_norm).isfinite().all() & stats.finite


def _figures(stats: StepStats, grad_norm: Tensor) -> Tensor:
    return torch.stack(
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
