"""One optimizer step's gradients: losses of all tokens, selection, backward through the kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import IGNORE_INDEX, Batch
from tinyohem.models.trunk_passes import Passes, Trunk, choose_way
from tinyohem.ohem.losses import LOSS_BUCKETS, Store, kept_loss, kept_rows
from tinyohem.ohem.miner import Mining
from tinyohem.ohem.scores import read_tokens
from tinyohem.ohem.softmax_cache import SoftmaxStore, open_store
from tinyohem.ohem.topk import keep_counts
from tinyohem.training.ranks import ALONE, Ranks

_EXACT_COUNTS = ("topk", "random", "stratified", "mixed")


# The parts of a step that can be timed: the first pass over all tokens as far as a plain step needs
# one too, what is read beyond that, the selection, and all that the kept tokens' gradient takes.
PHASES = ("trunk", "read", "select", "gradient")


Timers = Mapping[str, AbstractContextManager[Any]]


_UNTIMED = nullcontext()


@dataclass(frozen=True)
class StepStats:
    """What a step saw, as scalars on the device: reading them early would stall it."""

    loss: Tensor  # nats, mean over all valid tokens, unweighted
    loss_selected: Tensor  # nats, mean over the kept
    loss_threshold: Tensor  # nats, the smallest loss that was kept
    kept_loss_share: Tensor  # of the sum of all valid tokens' losses
    kept_by_bucket: Tensor  # (4,) shares of the kept tokens, between `LOSS_BUCKETS`
    effective_sample_size: Tensor  # (Σw)² / Σw², as a share of the valid tokens
    finite: Tensor  # bool, whether the score of every valid token is
    num_kept: int  # tokens


def training_step(
    trunk: Trunk,
    head_VD: Tensor,
    micro_batches: Sequence[Batch],
    keep_ratio: float,
    mining: Mining,
    *,
    shares: Mapping[str, float] | None = None,
    references: Sequence[Tensor] | None = None,
    generator: torch.Generator,
    precision: AbstractContextManager[Any],
    memory: SoftmaxStore | None = None,
    timers: Timers | None = None,
    ranks: Ranks = ALONE,
) -> StepStats:
    """Add the gradient of Σ w·ℓ / Z over all micro-batches to the parameters'.

    Selection spans the whole step: all micro-batches are read before the first gradient. In the
    company of other ranks weights, Z and what is returned are those of the step of all; the
    gradient is this rank's part of a sum.

    Args:
        head_VD: (V, D) output embedding.
        keep_ratio: share of tokens to keep; at 1.0 the step is plain cross entropy.
        shares: of each source of `mixed`.
        references: another model's losses (B, T) of each micro-batch, where mining asks for them.
        generator: source of random selection, on the device of the batches.
        precision: the autocast context of every forward pass; entered more than once.
        memory: where the softmax may wait for the gradient; to be given to every step of a run.
        timers: entered around the `PHASES` that they are named for.
    """
    config, timers = mining.config, timers or {}
    labels_BT = ranks.gather(torch.cat([batch.labels for batch in micro_batches]))
    valid_BT = labels_BT != IGNORE_INDEX
    reads_first = mining.reads_first(keep_ratio)
    way = choose_way(config, keep_ratio, trunk) if reads_first else "plain"
    with timers.get("trunk", _UNTIMED):
        passes = Passes(way, trunk, micro_batches, precision)

    finite_BT = torch.ones_like(valid_BT)
    loss_BT, store = None, None
    if reads_first:
        num_tokens = sum(batch.labels.numel() for batch in micro_batches)
        whole = len(micro_batches) == 1 and micro_batches[0].num_valid == num_tokens
        reading = timers.get("read", _UNTIMED)
        forming = partial(_in_place_of, reading, timers.get("gradient", _UNTIMED))
        store = memory and open_store(
            memory, config, head_VD, num_tokens, keep_ratio, whole=whole, gradient_timer=forming
        )
        with reading:
            # At ratio 1 nothing is ranked, so any score will do.
            score = config.score if keep_ratio < 1 else "loss"
            loss_BT, score_BT = _read_all(
                score, passes, head_VD, micro_batches, config.gamma, references, precision, store
            )
        loss_BT, score_BT = ranks.gather(loss_BT), ranks.gather(score_BT)
        # A NaN ranks somewhere, or is never drawn: it would teach or vanish without a word.
        finite_BT = score_BT.isfinite() | ~valid_BT
        with timers.get("select", _UNTIMED):
            weight_BT = mining.weigh(
                loss_BT,
                score_BT,
                ranks.gather(torch.cat([batch.input_ids for batch in micro_batches])),
                labels_BT,
                keep_ratio,
                shares=shares,
                pool_BT=ranks.gather(torch.cat(list(references))) if references else None,
                generator=generator,
            )
    else:
        weight_BT = valid_BT * mining.class_weight(labels_BT)

    scaled_BT = mining.scaled(weight_BT, valid_BT)
    with timers.get("gradient", _UNTIMED):
        loss_K = _backward(
            passes, head_VD, micro_batches, scaled_BT, keep_ratio, config, precision, store, ranks
        )
    losses = loss_K if loss_BT is None else loss_BT
    return _stats(losses, loss_K, weight_BT, valid_BT, finite_BT.all())


@contextmanager
def _in_place_of(
    outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]
) -> Iterator[None]:
    """Hand the time from one timer, which is running, to another for as long as this lasts."""
    outer.__exit__(None, None, None)
    try:
        with inner:
            yield
    finally:
        outer.__enter__()


def _read_all(
    score: str,
    passes: Passes,
    head_VD: Tensor,
    micro_batches: Sequence[Batch],
    gamma: float,
    references: Sequence[Tensor] | None,
    precision: AbstractContextManager[Any],
    store: Store | None,
) -> tuple[Tensor, Tensor]:
    """Return the losses and scores of all tokens, (B, T) each of the whole step."""
    read = []
    for i, batch in enumerate(micro_batches):
        hidden_BTD = passes.read(i)
        with precision:
            read.append(
                read_tokens(
                    score,
                    hidden_BTD,
                    head_VD,
                    batch.labels,
                    reference_BT=references[i] if references else None,
                    gamma=gamma,
                    store=store,
                )
            )
    loss_BT, score_BT = (torch.cat(parts) for parts in zip(*read, strict=True))
    return loss_BT, score_BT


def _backward(
    passes: Passes,
    head_VD: Tensor,
    micro_batches: Sequence[Batch],
    weight_BT: Tensor,
    keep_ratio: float,
    config: OhemConfig,
    precision: AbstractContextManager[Any],
    store: Store | None,
    ranks: Ranks,
) -> Tensor:
    """Add the gradient of Σ w·ℓ over this rank's rows to the parameters'.

    Returns:
        The losses (K,) of the tokens that all ranks kept.
    """
    weight_BT = ranks.own(weight_BT)
    even = config.scope == "sequence" and keep_ratio < 1
    num_parts = len(micro_batches) * ranks.size
    known = [_known_count(batch, keep_ratio, config, num_parts) for batch in micro_batches]
    parts = weight_BT.flatten().split([batch.labels.numel() for batch in micro_batches])
    counts = known
    if None in known:  # one wait for the device, not one in every micro-batch
        counts = torch.stack([part.count_nonzero() for part in parts]).tolist()
    losses = []
    for i, (batch, weight_K, count) in enumerate(zip(micro_batches, parts, known, strict=True)):
        labels_K, size = batch.labels.flatten(), batch.labels.numel()
        rows_K, stored = None, None
        if counts[i] != size:
            rows_K = kept_rows(weight_K, counts[i])
            labels_K, weight_K = labels_K[rows_K], weight_K[rows_K]
            stored = (store, rows_K + i * size) if store else None
        # Only a count known beforehand is the same in every sequence.
        width = count // len(batch.labels) if even and count else None
        hidden_KD = passes.kept(i, rows_K, width)
        with precision:
            loss, loss_K = kept_loss(
                hidden_KD, head_VD, labels_K, weight_K, config.loss_gamma, stored
            )
        loss.backward()
        losses.append(loss_K)
    return ranks.gather_uneven(torch.cat(losses))


def _stats(
    losses: Tensor, loss_K: Tensor, weight_BT: Tensor, valid_BT: Tensor, finite: Tensor
) -> StepStats:
    """Summarise a step from the losses of all tokens (0 where ignored) and of the kept."""
    num_valid, num_kept = valid_BT.sum().clamp(min=1), max(1, len(loss_K))
    # Compared with numbers of the host: a tensor of them would have to be copied to the device.
    above = torch.stack([(loss_K >= edge).sum() for edge in LOSS_BUCKETS])
    in_bucket = F.pad(above, (1, 0), value=len(loss_K)) - F.pad(above, (0, 1))
    total, selected = losses.sum(), loss_K.sum()
    squares = weight_BT.square().sum()
    return StepStats(
        loss=total / num_valid,
        loss_selected=selected / num_kept,
        loss_threshold=loss_K.min() if len(loss_K) else selected,
        kept_loss_share=selected / torch.where(total > 0, total, 1),
        kept_by_bucket=in_bucket / num_kept,
        effective_sample_size=weight_BT.sum() ** 2
        / (torch.where(squares > 0, squares, 1) * num_valid),
        finite=finite,
        num_kept=len(loss_K),
    )


def _known_count(batch: Batch, keep_ratio: float, config: OhemConfig, num_parts: int) -> int | None:
    """Return how many tokens of `batch` are kept, where the host can know without asking."""
    if keep_ratio == 1.0:
        return batch.num_valid
    if config.select not in _EXACT_COUNTS or config.nms_key != "none":
        return None
    if batch.num_valid < batch.labels.numel():
        return None
    num_rows, seq_len = batch.labels.shape
    match config.scope, num_parts:
        case "sequence", _:
            scopes, size = num_rows, seq_len
        case "batch", 1:
            scopes, size = 1, num_rows * seq_len
        case _:
            return None  # the threshold falls somewhere else in every part of the step
    return scopes * int(keep_counts(torch.tensor(size), keep_ratio, config.min_kept))
