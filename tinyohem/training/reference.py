"""Self-reference: the losses of a running mean of the model, for `excess_loss`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinyohem.data.batches import Batch
from tinyohem.ohem.losses import token_losses
from tinyohem.training.model import head_weight, trunk


class EmaReference:
    """An exponential moving average of the weights, updated after every optimizer step.

    Args:
        model: the causal LM to follow; the average begins as its first updated weights.
        decay: share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def update(self, model: Any) -> None:
        """Take in the weights after a step."""
        self._average.update_parameters(model)

    @torch.no_grad()
    def losses(
        self, batches: Sequence[Batch], precision: AbstractContextManager[Any]
    ) -> list[Tensor]:
        """Return the average model's losses, (B, T) nats for each micro-batch."""
        model, found = self._average.module, []
        for batch in batches:
            with precision:
                output = trunk(model)(input_ids=batch.input_ids, use_cache=False)
                losses = token_losses(output.last_hidden_state, head_weight(model), batch.labels)
            found.append(losses)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the average for a checkpoint; each shared tensor once."""
        named = dict(self._average.module.named_parameters())
        return {f"ema.{name}": tensor.detach() for name, tensor in named.items()} | {
            "ema_steps": self._average.n_averaged
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's average."""
        with torch.no_grad():
            for name, parameter in self._average.module.named_parameters():
                parameter.copy_(tensors[f"ema.{name}"])
            self._average.n_averaged.copy_(tensors["ema_steps"])
