"""One optimizer step's gradients: losses of all tokens, selection, backward through the kept."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinyohem.config import OhemConfig
from tinyohem.data.batches import IGNORE_INDEX, Batch
from tinyohem.ohem.losses import kept_loss
from tinyohem.ohem.mining import Mining
from tinyohem.ohem.ranking import keep_counts
from tinyohem.ohem.scores import read_tokens

_EXACT_COUNTS = ("topk", "random", "stratified", "mixed")


_UNTIMED = nullcontext()
LOSS_BUCKETS = (1.0, 3.0, 5.0)  # nats: where the shares of kept tokens are counted


@dataclass(frozen=True)
class StepStats:
    """What a step saw, as scalars on the device: reading them early would stall it."""

    loss: Tensor  # nats, mean over all valid tokens, unweighted
    loss_selected: Tensor  # nats, mean over the kept
    loss_threshold: Tensor  # nats, the smallest loss that was kept
    kept_loss_share: Tensor  # of the sum of all valid tokens' losses
    kept_by_bucket: Tensor  # (4,) shares of the kept tokens, between `LOSS_BUCKETS`
    effective_sample_size: Tensor  # (Σw)² / Σw², as a share of the valid tokens
    num_kept: int  # tokens


def training_step(
    trunk: Callable[..., Any],
    head_VD: Tensor,
    micro_batches: Sequence[Batch],
    keep_ratio: float,
    mining: Mining,
    *,
    shares: Mapping[str, float] | None = None,
    references: Sequence[Tensor] | None = None,
    generator: torch.Generator,
    precision: AbstractContextManager[Any],
    selection_timer: AbstractContextManager[Any] = _UNTIMED,
) -> StepStats:
    """Add the gradient of Σ w·ℓ / Z over all micro-batches to the parameters'.

    Selection spans the whole step. A single micro-batch runs the trunk once, for selection and
    gradient alike; several are first read without a graph, then run again one by one.

    Args:
        trunk: maps `input_ids` (B, T) to an output with `last_hidden_state` (B, T, D).
        head_VD: (V, D) output embedding.
        keep_ratio: share of tokens to keep; at 1.0 the step is plain cross entropy.
        shares: of each source of `mixed`.
        references: another model's losses (B, T) of each micro-batch, where mining asks for them.
        generator: source of random selection, on the device of the batches.
        precision: the autocast context of every forward pass; entered more than once.
        selection_timer: entered around what a plain step does not do: the read-only pass and
            the selection.
    """
    config = mining.config
    hidden = _HiddenStates(trunk, micro_batches, precision)
    labels_BT = torch.cat([batch.labels for batch in micro_batches])
    valid_BT = labels_BT != IGNORE_INDEX

    if mining.reads_first(keep_ratio):
        theirs: Sequence[Tensor | None] = references or [None] * len(micro_batches)
        with selection_timer:
            read = [
                _read(hidden[i], head_VD, batch, config, reference, precision)
                for i, (batch, reference) in enumerate(zip(micro_batches, theirs, strict=True))
            ]
            loss_BT, score_BT = (torch.cat(parts) for parts in zip(*read, strict=True))
            weight_BT = mining.weigh(
                loss_BT,
                score_BT,
                torch.cat([batch.input_ids for batch in micro_batches]),
                labels_BT,
                keep_ratio,
                shares=shares,
                pool_BT=torch.cat(list(references)) if references else None,
                generator=generator,
            )
    else:
        loss_BT = None
        weight_BT = valid_BT * mining.class_weight(labels_BT)

    denominator = (weight_BT if config.denominator == "kept" else valid_BT).sum()
    scaled = (weight_BT / torch.where(denominator > 0, denominator, 1)).float()
    kept = []
    for i, batch in enumerate(micro_batches):
        count = _known_count(batch, keep_ratio, config, len(micro_batches))
        weight = scaled[i * len(batch.labels) : (i + 1) * len(batch.labels)]
        gamma = config.gamma if config.weight == "focal" else 0.0
        with precision:
            loss, loss_K = kept_loss(hidden[i], head_VD, batch.labels, weight, count, gamma)
        loss.backward()
        kept.append(loss_K)
    loss_K = torch.cat(kept)
    return _stats(loss_K if loss_BT is None else loss_BT, loss_K, weight_BT, valid_BT)


def _read(
    hidden_BTD: Tensor,
    head_VD: Tensor,
    batch: Batch,
    config: OhemConfig,
    reference_BT: Tensor | None,
    precision: AbstractContextManager[Any],
) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), precision:
        return read_tokens(
            config.score,
            hidden_BTD,
            head_VD,
            batch.labels,
            reference_BT=reference_BT,
            gamma=config.gamma,
        )


def _stats(losses: Tensor, loss_K: Tensor, weight_BT: Tensor, valid_BT: Tensor) -> StepStats:
    """Summarise a step from the losses of all tokens (0 where ignored) and of the kept."""
    num_valid, num_kept = valid_BT.sum().clamp(min=1), max(1, len(loss_K))
    edges = loss_K.new_tensor(LOSS_BUCKETS)
    buckets = torch.arange(len(LOSS_BUCKETS) + 1, device=loss_K.device)
    in_bucket = torch.bucketize(loss_K, edges, right=True)[:, None] == buckets
    total, selected = losses.sum(), loss_K.sum()
    squares = weight_BT.square().sum()
    return StepStats(
        loss=total / num_valid,
        loss_selected=selected / num_kept,
        loss_threshold=loss_K.min() if len(loss_K) else selected,
        kept_loss_share=selected / torch.where(total > 0, total, 1),
        kept_by_bucket=in_bucket.sum(dim=0) / num_kept,
        effective_sample_size=weight_BT.sum() ** 2
        / (torch.where(squares > 0, squares, 1) * num_valid),
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
    if config.select not in _EXACT_COUNTS or config.nms_key != "none":
        return None
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
