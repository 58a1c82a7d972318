"""The tokens of a step, and the settings by which some of them are selected.

Shape suffixes: B sequences, T tokens of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX


@dataclass(frozen=True)
class Draw:
    """What schedule and seed set for the selection of one step."""

    keep_ratio: float  # share of the tokens, in (0, 1]; at 1.0 the step is plain cross entropy
    generator: torch.Generator | None = None  # for random selection; on the tokens' device
    shares: Mapping[str, float] | None = None  # of the kept tokens, by source of `mixed`


@dataclass(frozen=True)
class StepTokens:
    """All tokens of an optimizer step, (B, T) each."""

    labels_BT: Tensor  # int64; `IGNORE_INDEX` marks tokens that do not count
    input_ids_BT: Tensor | None = None  # int64
    loss_BT: Tensor | None = None  # nats, 0 where the label is ignored; None: not read first
    score_BT: Tensor | None = None  # arbitrary where the label is ignored
    reference_BT: Tensor | None = None  # another model's losses, nats

    @property
    def valid_BT(self) -> Tensor:
        """Which tokens count; bool (B, T)."""
        return self.labels_BT != IGNORE_INDEX

    @property
    def finite(self) -> Tensor:
        """Whether the score of every valid token is finite; bool scalar.

        Selection itself reports no NaN: it ranks highest, or is never drawn.
        """
        if self.score_BT is None:
            return torch.ones((), dtype=torch.bool, device=self.labels_BT.device)
        return (self.score_BT.isfinite() | ~self.valid_BT).all()
