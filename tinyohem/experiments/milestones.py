"""How soon a run gets to its baseline's loss: read from the validations during training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from tinyohem.io.manifest import Count, Figure, Record


class ValidationRow(Record):
    """A row of `metrics.jsonl` with a validation loss."""

    step: Count
    loss: Figure = Field(alias="val/loss")
    seconds: Figure = Field(alias="train/seconds")


Curve = Sequence[Mapping[str, Any]]  # validations of one run, by rising step, by field alias


def time_to_milestones(curve: Curve, baseline: Curve) -> dict[str, float | None]:
    """Return the steps and seconds at which a run first had two losses of its baseline.

    `baseline`: the final one. `halfway`: the one that the baseline has at half of its steps, which
    a schedule that decays at the end does not touch. Both curves count as straight between their
    validations, on the head of the validation split; None where the run never got there.
    """
    steps = [row["step"] for row in baseline]
    losses = [row["val/loss"] for row in baseline]
    targets = {"baseline": losses[-1], "halfway": float(np.interp(steps[-1] / 2, steps, losses))}
    return {
        f"{unit}_to_{name}": _first_crossing(curve, column, target)
        for name, target in targets.items()
        for unit, column in (("steps", "step"), ("seconds", "train/seconds"))
    }


def _first_crossing(curve: Curve, column: str, target: float) -> float | None:
    for i, row in enumerate(curve):
        if row["val/loss"] <= target:
            if i == 0:
                return float(row[column])
            before = curve[i - 1]
            share = (before["val/loss"] - target) / (before["val/loss"] - row["val/loss"])
            return float(before[column] + share * (row[column] - before[column]))
    return None
