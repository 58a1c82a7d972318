"""The strategy of a step, chosen once from the config, the keep ratio and the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from tinyohem.config.ohem import OhemConfig, Score
from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import CausalLM, Trunk
from tinyohem.models.trunk_passes import BackwardPlan
from tinyohem.ohem.losses import GradientCache
from tinyohem.ohem.softmax_cache import choose_cache
from tinyohem.ohem.topk import keep_counts

# Above this keep ratio a second pass costs more than it saves. The help of `ohem.backward` calls it
# about two thirds.
_SECOND_PASS_PAYS_UNTIL = 0.65


def choose_backward(config: OhemConfig, keep_ratio: float, trunk: Trunk) -> BackwardPlan:
    """Return the cheapest backward plan that the trunk and the config allow at this keep ratio."""
    if not trunk.shares_attention or keep_ratio > _SECOND_PASS_PAYS_UNTIL:
        return "full"
    if config.backward == "pruned":
        return "pruned"
    return "full" if config.keeps_at_least else "last_layer"


@dataclass(frozen=True)
class StepStrategy:
    """The choices that hold for all micro-batches of a step.

    Attributes:
        reads_first: whether all losses must be known before a token is weighed.
        score: what tokens are ranked by.
        backward_plan: the part of the trunk that the kept tokens run through again.
        cache: what reading keeps for the gradient; None: computing it twice is cheaper.
        counts: kept tokens of each micro-batch; None where only the device knows.
        widths: kept tokens of each of its sequences; None where they differ or are unknown.
    """

    reads_first: bool
    score: Score
    backward_plan: BackwardPlan
    cache: GradientCache | None
    counts: tuple[int | None, ...]
    widths: tuple[int | None, ...]

    @classmethod
    def of(
        cls,
        config: OhemConfig,
        keep_ratio: float,
        lm: CausalLM,
        batches: Sequence[Batch],
        num_ranks: int = 1,
    ) -> Self:
        """Choose the strategy of a step over these micro-batches on one of `num_ranks` ranks."""
        reads_first = config.reads_first(keep_ratio)
        num_parts = len(batches) * num_ranks
        counts = tuple(_known_count(batch, keep_ratio, config, num_parts) for batch in batches)
        even = config.scope == "sequence" and keep_ratio < 1
        return cls(
            reads_first=reads_first,
            score=config.score_at(keep_ratio),
            backward_plan=choose_backward(config, keep_ratio, lm.trunk),
            cache=_cache(config, keep_ratio, lm, batches) if reads_first else None,
            counts=counts,
            widths=tuple(
                count // len(batch.labels) if even and count else None
                for batch, count in zip(batches, counts, strict=True)
            ),
        )


def _cache(
    config: OhemConfig, keep_ratio: float, lm: CausalLM, batches: Sequence[Batch]
) -> GradientCache | None:
    if lm.cache is None:
        return None
    num_tokens = sum(batch.labels.numel() for batch in batches)
    whole = len(batches) == 1 and batches[0].num_valid == num_tokens
    return choose_cache(lm.cache, config, lm.head_VD, num_tokens, keep_ratio, whole=whole)


def _known_count(batch: Batch, keep_ratio: float, config: OhemConfig, num_parts: int) -> int | None:
    """Return the number of kept tokens of `batch`, None where the host cannot know it.

    Args:
        num_parts: micro-batches of the step, of all ranks.
    """
    if keep_ratio == 1.0:
        return batch.num_valid
    if not config.method.exact_count or config.dedup != "none":
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
            return None  # each part of the step keeps another number
    return scopes * int(keep_counts(torch.tensor(size), keep_ratio, config.min_kept))
