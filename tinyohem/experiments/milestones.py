"""How soon a run reaches its baseline's losses, read from the validations during training."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from tinyohem.io.manifest import Count, Figure, Record


class ValidationRow(Record):
    """A row of `metrics.jsonl` with a validation loss."""

    step: Count
    loss: Figure = Field(alias="val/loss")  # nats per token
    bits_per_byte: Figure | None = Field(None, alias="val/bpb")
    seconds: Figure = Field(alias="train/seconds")


Curve = Sequence[ValidationRow]  # of one run, by rising step


def time_to_milestones(
    curve: Curve, baseline: Curve, *, per_byte: bool = False
) -> dict[str, float | None]:
    """Return the steps and seconds at which a run first reached two losses of its baseline.

    `baseline`: its final loss. `halfway`: its loss at half of its steps, ahead of any decay of the
    learning rate at the end. The losses are of the head of the validation split, interpolated
    linearly between validations. None where the run never reached one.

    Args:
        per_byte: compare bits per byte, for runs with different vocabularies.
    """
    if per_byte:
        curve, baseline = _per_byte(curve), _per_byte(baseline)
    steps = [row.step for row in baseline]
    losses = [row.loss for row in baseline]
    targets = {"baseline": losses[-1], "halfway": float(np.interp(steps[-1] / 2, steps, losses))}
    milestones: dict[str, float | None] = {}
    for name, target in targets.items():
        at = _first_crossing(curve, target) or (None, None)
        milestones |= {f"steps_to_{name}": at[0], f"seconds_to_{name}": at[1]}
    return milestones


def _per_byte(curve: Curve) -> Curve:
    """Return the curve with bits per byte in place of the loss, which is then no other's unit."""
    return [row.model_copy(update={"loss": row.bits_per_byte}) for row in curve]


def _first_crossing(curve: Curve, target: float) -> tuple[float, float] | None:
    """Return the step and the seconds at which a curve first reached a loss."""
    for i, row in enumerate(curve):
        if row.loss <= target:
            before = curve[max(0, i - 1)]
            drop = before.loss - row.loss
            share = (before.loss - target) / drop if i > 0 else 0.0
            return (
                float(before.step + share * (row.step - before.step)),
                float(before.seconds + share * (row.seconds - before.seconds)),
            )
    return None
