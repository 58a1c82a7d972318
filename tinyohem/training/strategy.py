"""How a step goes about its work: decided once, from the recipe, the keep ratio and the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from tinyohem.config.ohem import OhemConfig, Score
from tinyohem.data.windows import Batch
from tinyohem.models.trunk_passes import BackwardPlan, CausalLM, Trunk
from tinyohem.ohem.losses import GradientCache
from tinyohem.ohem.softmax_cache import choose_cache
from tinyohem.ohem.topk import keep_counts

# Above these keep ratios a second pass costs more than it saves.
_LAST_LAYER_PAYS_UNTIL = 0.65
_PRUNED_PAYS_UNTIL = 0.65


def choose_backward(config: OhemConfig, keep_ratio: float, trunk: Trunk) -> BackwardPlan:
    """Return the cheapest way back that trunk and recipe allow at this keep ratio."""
    if not trunk.shares_attention or not config.reads_first(keep_ratio):
        return "full"
    if config.backward == "pruned" and keep_ratio <= _PRUNED_PAYS_UNTIL:
        return "pruned"
    pays = keep_ratio <= _LAST_LAYER_PAYS_UNTIL and not config.keeps_at_least
    return "last_layer" if pays else "full"


@dataclass(frozen=True)
class StepStrategy:
    """What follows from recipe, keep ratio and model for all micro-batches of a step.

    Attributes:
        reads_first: whether all losses have to be known before a token is weighed.
        score: what tokens are ranked by.
        backward: which part of the trunk the kept tokens run through again.
        cache: what reading leaves for the gradient; None: it is cheaper to compute it twice.
        counts: how many tokens each micro-batch keeps, None where only the device knows.
        widths: how many each of its sequences keeps, None where they differ or nobody knows.
    """

    reads_first: bool
    score: Score
    backward: BackwardPlan
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
        """Decide how to take a step over these micro-batches, one of so many ranks."""
        reads_first = config.reads_first(keep_ratio)
        num_parts = len(batches) * num_ranks
        counts = tuple(_known_count(batch, keep_ratio, config, num_parts) for batch in batches)
        even = config.scope == "sequence" and keep_ratio < 1
        return cls(
            reads_first=reads_first,
            score=config.score_at(keep_ratio),
            backward=choose_backward(config, keep_ratio, lm.trunk),
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
    """Return how many tokens of `batch` are kept, where the host can know without asking."""
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
            return None  # the threshold falls somewhere else in every part of the step
    return scopes * int(keep_counts(torch.tensor(size), keep_ratio, config.min_kept))
