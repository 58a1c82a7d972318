"""What a model's losses are compared with: a running mean of the model, or a pool of losses."""

from collections.abc import Sequence
from typing import Any

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

EMA = "ema"  # begins the names of a reference's tensors in a checkpoint, and no others there


class Reference:
    """Another model's losses, for `excess_loss` and the source `pool`. It keeps no state."""

    def losses(
        self, windows: Sequence[NDArray[np.int64]], batches: Sequence[Batch]
    ) -> list[Tensor]:
        """Return the losses of each micro-batch, (B, T) nats.

        Args:
            windows: those of each micro-batch.
        """
        raise NotImplementedError

    def update(self, model: Any) -> None:
        """Follow the weights after a step."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint; every name begins with `EMA`."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state from a checkpoint."""


def build_reference(
    config: OhemConfig, model: Any, pool: Pool | None, device: torch.device
) -> Reference | None:
    """Build the reference that the config asks for, if any."""
    if not config.needs_reference:
        return None
    return EmaReference(model, config.ema_decay) if pool is None else PoolReference(pool, device)


@torch.no_grad()
def model_losses(model: Any, batch: Batch) -> Tensor:
    """Return a causal LM's loss of every token, (B, T) nats, without a graph."""
    output = trunk(model)(input_ids=batch.input_ids, use_cache=False)
    return token_losses(output.last_hidden_state, head_weight(model), batch.labels)


class PoolReference(Reference):
    """Stored losses, which cost a step no forward pass."""

    def __init__(self, pool: Pool, device: torch.device) -> None:
        self._pool, self._device = pool, device

    def losses(
        self, windows: Sequence[NDArray[np.int64]], batches: Sequence[Batch]
    ) -> list[Tensor]:
        """Return the stored losses of the windows."""
        return [torch.from_numpy(self._pool.of_windows(w)).to(self._device) for w in windows]


class EmaReference(Reference):
    """An exponential moving average of the weights, updated after every optimizer step.

    Args:
        model: the causal LM to follow; its weights after the first step begin the average.
        decay: share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def losses(
        self, windows: Sequence[NDArray[np.int64]], batches: Sequence[Batch]
    ) -> list[Tensor]:
        """Return the losses of the batches under the averaged weights."""
        return [model_losses(self._average.module, batch) for batch in batches]

    def update(self, model: Any) -> None:
        """Add the weights after a step to the average."""
        self._average.update_parameters(model)

    def tensors(self) -> dict[str, Tensor]:
        """Return the average, each shared tensor once, and the number of updates."""
        named = dict(self._average.module.named_parameters())
        return {f"{EMA}.{name}": tensor.detach() for name, tensor in named.items()} | {
            f"{EMA}_steps": self._average.n_averaged
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the average from a checkpoint."""
        with torch.no_grad():
            for name, parameter in self._average.module.named_parameters():
                parameter.copy_(tensors[f"{EMA}.{name}"])
            self._average.n_averaged.copy_(tensors[f"{EMA}_steps"])
