"""What a model's losses are compared with: a running mean of the model, or a pool of losses."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import CausalLM
from tinyohem.models.trunk_passes import run_all
from tinyohem.ohem.loss_pool import Pool
from tinyohem.ohem.losses import token_losses

EMA = "ema"  # begins the names of a reference's tensors in a checkpoint, and no others there


class Reference:
    """Another model's losses: `excess_loss`, `lag`, the source `pool`. It keeps no state."""

    @property
    def ready(self) -> bool:
        """Whether its losses can rank tokens; until then every step keeps all of them."""
        return True

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
    config: OhemConfig,
    model: Any,
    pool: Pool | None,
    device: torch.device,
    num_steps: int,
    story_start: int | None,
) -> Reference | None:
    """Build the reference that the config asks for in a run of `num_steps`, if any.

    Args:
        story_start: see `Trunk`.
    """
    if not config.needs_reference:
        return None
    if pool is not None:
        return PoolReference(pool, device)
    return EmaReference(model, config.horizon_steps(num_steps), story_start)


@torch.no_grad()
def model_losses(lm: CausalLM, batch: Batch) -> Tensor:
    """Return a causal LM's loss of every token, (B, T) nats, without a graph."""
    hidden_BTD, _ = run_all(lm.trunk, batch.input_ids, "full")
    return token_losses(hidden_BTD, lm.head_VD, batch.labels)


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
    """The exponential moving average of the weights after each optimizer step, without bias.

    After t steps it is Σ dᵗ⁻ⁱ·wᵢ / Σ dᵗ⁻ⁱ over the steps i = 1 … t with decay d = 1 − 1/horizon:
    the bias correction of Adam (Kingma and Ba, ICLR 2015). Without it the first weights would keep
    the share dᵗ⁻¹, nearly half of a short run's average.

    It is ready once it has averaged `horizon` steps; before that its weights, like the model's,
    are mostly those of a start.

    Args:
        model: the causal LM to follow.
        horizon: steps, at least two; those further back share about 1/e of the weight.
        story_start: see `Trunk`.
    """

    def __init__(self, model: Any, horizon: int, story_start: int | None = None) -> None:
        self._average = copy.deepcopy(model)
        self._story_start = story_start
        self._horizon = horizon
        self._num_averaged = 0  # steps

    @property
    def ready(self) -> bool:
        """Whether it has averaged as many steps as it spans."""
        return self._num_averaged >= self._horizon

    def losses(
        self, windows: Sequence[NDArray[np.int64]], batches: Sequence[Batch]
    ) -> list[Tensor]:
        """Return the losses of the batches under the averaged weights."""
        lm = CausalLM.of(self._average, story_start=self._story_start)
        return [model_losses(lm, batch) for batch in batches]

    @torch.no_grad()
    def update(self, model: Any) -> None:
        """Add the weights after a step to the average."""
        self._num_averaged += 1
        decay = 1 - 1 / self._horizon
        share = (1 - decay) / (1 - decay**self._num_averaged)  # 1 at the first step
        pairs = zip(self._average.parameters(), model.parameters(), strict=True)
        for average, parameter in pairs:
            average.lerp_(parameter, share)

    def tensors(self) -> dict[str, Tensor]:
        """Return the average, each shared tensor once, and the number of steps in it."""
        named = self._average.named_parameters()
        return {f"{EMA}.{name}": tensor.detach() for name, tensor in named} | {
            f"{EMA}_steps": torch.tensor(self._num_averaged)
        }

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the average from a checkpoint."""
        for name, parameter in self._average.named_parameters():
            parameter.copy_(tensors[f"{EMA}.{name}"])
        self._num_averaged = int(tensors[f"{EMA}_steps"])
