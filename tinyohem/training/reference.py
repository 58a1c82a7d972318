"""What a model's losses are held against: a running mean of itself, or the losses of a pool."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import head_weight, trunk
from tinyohem.ohem.loss_pool import Pool
from tinyohem.ohem.losses import token_losses


class Reference(Protocol):
    """Another model's losses, for `excess_loss` and for the source `pool`."""

    def losses(
        self,
        windows: Sequence[NDArray[np.int64]],
        batches: Sequence[Batch],
        precision: AbstractContextManager[Any],
    ) -> list[Tensor]:
        """Return the losses of each micro-batch and of its windows, (B, T) nats."""

    def update(self, model: Any) -> None:
        """Take note of the weights after a step."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint has to hold; every name begins with `ema`."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""


def build_reference(
    config: OhemConfig, model: Any, pool: Pool | None, device: torch.device
) -> Reference | None:
    """Return the reference that a way of mining asks for, if any."""
    if not config.refers:
        return None
    return EmaReference(model, config.ema_decay) if pool is None else PoolReference(pool, device)


@torch.no_grad()
def model_losses(model: Any, batch: Batch) -> Tensor:
    """Return a causal LM's loss of every token, (B, T) nats, without a graph."""
    output = trunk(model)(input_ids=batch.input_ids, use_cache=False)
    return token_losses(output.last_hidden_state, head_weight(model), batch.labels)


class PoolReference:
    """Stored losses: they cost a step no forward pass, and stay what they are."""

    def __init__(self, pool: Pool, device: torch.device) -> None:
        self._pool, self._device = pool, device

    def losses(
        self,
        windows: Sequence[NDArray[np.int64]],
        batches: Sequence[Batch],
        precision: AbstractContextManager[Any],
    ) -> list[Tensor]:
        """Return the stored losses of the windows."""
        return [torch.from_numpy(self._pool.of_windows(w)).to(self._device) for w in windows]

    def update(self, model: Any) -> None: ...

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: a checkpoint's step tells which pool was in use."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None: ...


class EmaReference:
    """An exponential moving average of the weights, updated after every optimizer step.

    Args:
        model: the causal LM to follow; the average begins as its first updated weights.
        decay: share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def losses(
        self,
        windows: Sequence[NDArray[np.int64]],
        batches: Sequence[Batch],
        precision: AbstractContextManager[Any],
    ) -> list[Tensor]:
        """Return the average model's losses of the batches."""
        found = []
        for batch in batches:
            with precision:
                found.append(model_losses(self._average.module, batch))
        return found

    def update(self, model: Any) -> None:
        """Take in the weights after a step."""
        self._average.update_parameters(model)

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
