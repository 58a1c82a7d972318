"""One optimizer step's gradients: losses of all tokens, selection, backward through the kept."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinyohem.config import OhemConfig
from tinyohem.data.batches import IGNORE_INDEX, Batch
from tinyohem.ohem.losses import kept_loss, token_losses
from tinyohem.ohem.selection import keep_counts, select


@dataclass(frozen=True)
class StepStats:
    """What a step saw, as scalars on the device: reading them early would stall it."""

    loss: Tensor  # nats, mean over all valid tokens, unweighted
    loss_selected: Tensor  # nats, mean over the kept
    loss_threshold: Tensor  # nats, the smallest loss that was kept
    num_kept: int  # tokens


def training_step(
    trunk: Callable[..., Any],
    head_VD: Tensor,
    micro_batches: Sequence[Batch],
    keep_ratio: float,
    config: OhemConfig,
    *,
    generator: torch.Generator,
    precision: AbstractContextManager[Any],
) -> StepStats:
    """Add the gradient of Σ w·ℓ / Z over all micro-batches to the parameters'.

    Selection spans the whole step. A single micro-batch runs the trunk once, for selection and
    gradient alike; several are first read without a graph, then run again one by one.

    Args:
        trunk: maps `input_ids` (B, T) to an output with `last_hidden_state` (B, T, D).
        head_VD: (V, D) output embedding.
        keep_ratio: share of tokens to keep; at 1.0 the step is plain cross entropy.
        generator: source of `random` selection, on the device of the batches.
        precision: the autocast context of every forward pass; entered more than once.
    """
    hidden = _HiddenStates(trunk, micro_batches, precision)
    labels_BT = torch.cat([batch.labels for batch in micro_batches])
    valid_BT = labels_BT != IGNORE_INDEX

    loss_BT = None
    weight_BT = valid_BT.float()
    if keep_ratio < 1.0:
        with torch.no_grad(), precision:
            read = [token_losses(hidden[i], head_VD, b.labels) for i, b in enumerate(micro_batches)]
        loss_BT = torch.cat(read)
        weight_BT = select(
            config.select,
            loss_BT,
            labels_BT,
            keep_ratio,
            scope=config.scope,
            min_kept=config.min_kept,
            generator=generator,
        )

    denominator = (weight_BT if config.denominator == "kept" else valid_BT).sum().clamp(min=1)
    weights = (weight_BT / denominator).split(len(micro_batches[0].labels))
    kept = []
    for i, batch in enumerate(micro_batches):
        count = _known_count(batch, keep_ratio, config, len(micro_batches))
        with precision:
            loss, loss_K = kept_loss(hidden[i], head_VD, batch.labels, weights[i], count)
        loss.backward()
        kept.append(loss_K)

    loss_K = torch.cat(kept)
    if loss_BT is None:
        loss_BT = loss_K
    return StepStats(
        loss=loss_BT.sum() / valid_BT.sum().clamp(min=1),
        loss_selected=loss_K.sum() / max(1, len(loss_K)),
        loss_threshold=loss_K.min() if len(loss_K) else loss_K.sum(),
        num_kept=len(loss_K),
    )


class _HiddenStates:
    """The trunk's output for each micro-batch: kept when there is one, else run when asked for."""

    def __init__(
        self,
        trunk: Callable[..., Any],
        micro_batches: Sequence[Batch],
        precision: AbstractContextManager[Any],
    ) -> None:
        self._trunk, self._batches = trunk, micro_batches
        self._only: Tensor | None = None
        if len(micro_batches) == 1:
            with precision:
                self._only = self._run(0)

    def __getitem__(self, index: int) -> Tensor:
        return self._run(index) if self._only is None else self._only

    def _run(self, index: int) -> Tensor:
        output = self._trunk(input_ids=self._batches[index].input_ids, use_cache=False)
        return output.last_hidden_state


def _known_count(
    batch: Batch, keep_ratio: float, config: OhemConfig, num_micro_batches: int
) -> int | None:
    """Return how many tokens of `batch` are kept, where the host can know without asking."""
    if keep_ratio == 1.0:
        return batch.num_valid
    if batch.num_valid < batch.labels.numel():
        return None
    num_rows, seq_len = batch.labels.shape
    match config.scope, num_micro_batches:
        case "sequence", _:
            scopes, size = num_rows, seq_len
        case "batch", 1:
            scopes, size = 1, num_rows * seq_len
        case _:
            return None  # the threshold falls somewhere else in every micro-batch
    return scopes * int(keep_counts(torch.tensor(size), keep_ratio, config.min_kept))
