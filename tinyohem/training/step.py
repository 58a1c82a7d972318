"""The gradients of one optimizer step: read every token, select, learn from the kept ones.

Under plain top-k on a CPU, reading already forms the head's gradient of the tokens that will
probably be kept; learning corrects it (`SpeculativeGradients`).

Shape suffixes: B sequences, T tokens of one, N tokens of a micro-batch, K kept tokens, D hidden
size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import CausalLM
from tinyohem.models.trunk_passes import TrunkPasses
from tinyohem.ohem.losses import LOSS_BUCKETS, kept_loss, kept_places
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.scores import read_tokens
from tinyohem.ohem.step_tokens import Draw, StepTokens
from tinyohem.system.timing import phase
from tinyohem.training.ranks import SINGLE_PROCESS, DistContext
from tinyohem.training.strategy import StepStrategy

# trunk: the first pass through the trunk, which a plain step needs too; read: losses and scores,
# and the read-only passes of several micro-batches; select; gradient: all that it takes.
PHASES = ("trunk", "read", "select", "gradient")


@dataclass(frozen=True)
class StepStats:
    """The statistics of a step, on the device, so that no step waits for them."""

    loss: Tensor  # nats, mean over all valid tokens, unweighted
    loss_selected: Tensor  # nats, mean over the kept
    smallest_kept_loss: Tensor  # nats
    kept_loss_share: Tensor  # of the sum of all valid tokens' losses
    kept_by_bucket: Tensor  # (4,) shares of the kept tokens, between `LOSS_BUCKETS`
    effective_sample_size: Tensor  # (Σw)² / Σw², as a share of the valid tokens
    finite: Tensor  # bool, whether the score of every valid token is finite
    num_kept: int  # tokens


def training_step(
    lm: CausalLM,
    batches: Sequence[Batch],
    draw: Draw,
    miner: TokenMiner,
    references: Sequence[Tensor] | None = None,
    ranks: DistContext = SINGLE_PROCESS,
) -> StepStats:
    """Accumulate the gradient of Σ w·ℓ / Z into each parameter's `.grad`; update no weights.

    Selection spans the whole step: all micro-batches are read before the first gradient. With
    several ranks, the weights, Z and the statistics are those of all ranks together; the gradient
    is this rank's part of the sum.

    Args:
        batches: the micro-batches of this rank.
        draw: how many tokens to keep; at a ratio of 1.0 the step is plain cross entropy.
        references: another model's losses (B, T) of each micro-batch, where the config asks for it.
    """
    strategy = StepStrategy.of(miner.config, draw.keep_ratio, lm, batches, ranks.size)
    passes = TrunkPasses(strategy.backward_plan, lm, batches)
    with phase("trunk"):
        passes.run_first()

    tokens = StepTokens(torch.cat([batch.labels for batch in batches]))
    if strategy.reads_first:
        tokens = _read(tokens, passes, strategy, references, miner.config.gamma)
    tokens = ranks.gather_tokens(tokens)

    weight_BT = miner.token_weights(tokens, draw)
    normalised_BT = miner.normalise(weight_BT, tokens.valid_BT)

    with phase("gradient"):
        own_BT = ranks.local_rows(normalised_BT)
        loss_K = _learn(passes, own_BT, strategy, miner.config.loss_gamma)
        loss_K = ranks.gather_uneven(loss_K)
    return _stats(tokens, weight_BT, loss_K)


def _read(
    tokens: StepTokens,
    passes: TrunkPasses,
    strategy: StepStrategy,
    references: Sequence[Tensor] | None,
    gamma: float,
) -> StepTokens:
    """Return the tokens with their losses and scores, without a graph."""
    lm, batches = passes.lm, passes.batches
    read = []
    with phase("read"):
        for i, batch in enumerate(batches):
            hidden_BTD = passes.read(i)
            with lm.autocast:
                read.append(
                    read_tokens(
                        strategy.score,
                        hidden_BTD,
                        lm.head_VD,
                        batch.labels,
                        reference_BT=references[i] if references else None,
                        gamma=gamma,
                        cache=strategy.cache,
                    )
                )
        loss_BT, score_BT = (torch.cat(parts) for parts in zip(*read, strict=True))
    return replace(
        tokens,
        loss_BT=loss_BT,
        score_BT=score_BT,
        input_ids_BT=torch.cat([batch.input_ids for batch in batches]),
        reference_BT=torch.cat(list(references)) if references else None,
    )


def _learn(passes: TrunkPasses, weight_BT: Tensor, strategy: StepStrategy, gamma: float) -> Tensor:
    """Accumulate the gradient of Σ w·ℓ over the micro-batches into each parameter's `.grad`.

    Returns:
        The losses (K,) of the kept tokens, nats.
    """
    lm, batches = passes.lm, passes.batches
    weights = weight_BT.flatten().split([batch.labels.numel() for batch in batches])
    counts: Sequence[int | None] = strategy.counts
    if None in counts:  # wait for the device once, not in every micro-batch
        counts = torch.stack([weight_N.count_nonzero() for weight_N in weights]).tolist()
    losses = []
    for i, (batch, weight_N, count) in enumerate(zip(batches, weights, counts, strict=True)):
        labels_N, size = batch.labels.flatten(), batch.labels.numel()
        places_K, labels_K, weight_K, cached = None, labels_N, weight_N, None  # all are kept
        if count != size:
            places_K = kept_places(weight_N, count)
            labels_K, weight_K = labels_N[places_K], weight_N[places_K]
            cached = (strategy.cache, places_K + i * size) if strategy.cache else None
        hidden_KD = passes.kept(i, places_K, strategy.widths[i])
        with lm.autocast:
            loss, loss_K = kept_loss(hidden_KD, lm.head_VD, labels_K, weight_K, gamma, cached)
        loss.backward()
        losses.append(loss_K)
    return torch.cat(losses)


def _stats(tokens: StepTokens, weight_BT: Tensor, loss_K: Tensor) -> StepStats:
    """Summarise a step from the losses of all tokens and of the kept."""
    losses = loss_K if tokens.loss_BT is None else tokens.loss_BT
    num_valid, num_kept = tokens.valid_BT.sum().clamp(min=1), max(1, len(loss_K))
    # Compared with Python numbers: a tensor of them would have to be copied to the device.
    above = torch.stack([(loss_K >= edge).sum() for edge in LOSS_BUCKETS])
    in_bucket = F.pad(above, (1, 0), value=len(loss_K)) - F.pad(above, (0, 1))
    total, selected = losses.sum(), loss_K.sum()
    squares = weight_BT.square().sum()
    return StepStats(
        loss=total / num_valid,
        loss_selected=selected / num_kept,
        smallest_kept_loss=loss_K.min() if len(loss_K) else selected,
        kept_loss_share=selected / torch.where(total > 0, total, 1),
        kept_by_bucket=in_bucket / num_kept,
        effective_sample_size=weight_BT.sum() ** 2
        / (torch.where(squares > 0, squares, 1) * num_valid),
        finite=tokens.finite,
        num_kept=len(loss_K),
    )
