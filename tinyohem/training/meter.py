"""Average the figures of steps between two log rows, on the device so that no step waits."""

import torch
from torch import Tensor

from tinyohem.training.step import StepStats

_BUCKETS = ("kept_below_1", "kept_1_to_3", "kept_3_to_5", "kept_above_5")  # by loss in nats


class Meter:
    """The means of the steps since the last flush, and the first step that was not finite."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device = device
        self._first_bad = torch.tensor(-1, device=device)
        self._reset(seconds)

    def _reset(self, seconds: float) -> None:
        self._flushed_at = seconds
        self._sums = torch.zeros((), device=self._device)  # of `_figures`, once there are some
        self._steps = self._skipped = self._kept = 0

    def add(self, step: int, stats: StepStats, grad_norm: Tensor) -> None:
        """Add the figures of a step without waiting for the device."""
        bad = ~is_sound(stats, grad_norm) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        figures = _figures(stats, grad_norm)
        self._names = list(figures)
        self._sums = self._sums + torch.stack(list(figures.values()))
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
            figures |= dict(zip(self._names, (self._sums / self._steps).tolist(), strict=True))
            figures["train/keep_ratio"] = self._kept / (self._steps * tokens_per_step)
        self._reset(seconds)
        return figures


def is_sound(stats: StepStats, grad_norm: Tensor) -> Tensor:
    """Whether all figures and scores of a step are finite; bool scalar on the device."""
    figures = torch.stack(list(_figures(stats, grad_norm).values()))
    return figures.isfinite().all() & stats.finite


def _figures(stats: StepStats, grad_norm: Tensor) -> dict[str, Tensor]:
    """Return the figures of a step by their names in the log."""
    shares = zip(_BUCKETS, stats.kept_by_bucket, strict=True)
    return {
        "train/loss": stats.loss,
        "train/loss_selected": stats.loss_selected,
        "train/loss_threshold": stats.smallest_kept_loss,
        "train/grad_norm": grad_norm,
        "train/kept_loss_share": stats.kept_loss_share,
        "train/effective_sample_size": stats.effective_sample_size,
        **{f"train/{name}": share for name, share in shares},
    }
