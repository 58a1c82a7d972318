"""Unbiased selection: tokens drawn at random, each weighted by the inverse of its probability.

The expected value of the weighted sum of losses is then the full sum (Horvitz and Thompson, 1952),
so selection adds variance to the gradient but no bias.

Shape suffixes: S scopes, M tokens of a scope.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tinyohem.ohem.topk import top_k, uniform


def importance(
    scores_SM: Tensor,
    valid_SM: Tensor,
    counts_S: Tensor,
    floor: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Draw a Poisson sample: keep each token with its own probability π, at weight 1/π.

    k is the expected number of kept tokens, not the exact one.
    """
    chance_SM = inclusion(scores_SM, valid_SM, counts_S, floor)
    kept_SM = valid_SM & (uniform(scores_SM, generator) < chance_SM)
    return torch.where(kept_SM, 1 / chance_SM, 0).float()


def inclusion(scores_SM: Tensor, valid_SM: Tensor, counts_S: Tensor, floor: float) -> Tensor:
    """Return π = min(1, floor + c·score) with c such that Σπ = k in every scope; float64 (S, M).

    Negative scores count as zero. A floor above k/N is lowered to k/N.
    """
    scores_SM = _positive(scores_SM, valid_SM)
    chance_SM = _chances(scores_SM, _Ranked.of(scores_SM, valid_SM), counts_S, floor)
    return torch.where(valid_SM, chance_SM, 0.0)


@dataclass(frozen=True)
class _Ranked:
    """The scores of every scope in falling order, from which probabilities for any k follow."""

    falling_SM: Tensor  # float64, those of ignored tokens last
    tail_SM: Tensor  # sums from each score on
    number_S1: Tensor  # valid tokens

    @classmethod
    def of(cls, scores_SM: Tensor, valid_SM: Tensor) -> Self:
        falling_SM, _ = scores_SM.sort(dim=1, descending=True)
        tail_SM = falling_SM.flip(1).cumsum(1).flip(1)
        return cls(falling_SM, tail_SM, valid_SM.sum(dim=1, keepdim=True))


def _chances(scores_SM: Tensor, ranked: _Ranked, counts_S: Tensor, floor: float) -> Tensor:
    """Return `inclusion` of scores > 0 in any order; arbitrary at ignored tokens."""
    wanted_S1, number_S1 = counts_S[:, None].double(), ranked.number_S1
    floor_S1 = (wanted_S1 / number_S1.clamp(min=1)).clamp(max=floor)
    # With the j highest at π = 1, the rest share k − j; the right j is the first that leaves
    # every π of the rest at 1 or below.
    certain_M = torch.arange(scores_SM.shape[1], device=scores_SM.device)
    left_SM = wanted_S1 - certain_M - floor_S1 * (number_S1 - certain_M)
    slope_SM = left_SM.clamp(min=0) / ranked.tail_SM.clamp(min=torch.finfo(torch.float64).tiny)
    above_SM = (floor_S1 + slope_SM * ranked.falling_SM > 1) & (certain_M < number_S1)
    num_certain_S1 = above_SM.sum(dim=1, keepdim=True).clamp(max=scores_SM.shape[1] - 1)
    slope_S1 = slope_SM.gather(1, num_certain_S1)
    chance_SM = (floor_S1 + slope_S1 * scores_SM).clamp(max=1)
    return torch.where(wanted_S1 >= number_S1, 1.0, chance_SM)


def adaptive_counts(
    norms_SM: Tensor, valid_SM: Tensor, least_S: Tensor, variance: float, floor: float
) -> Tensor:
    """Return the fewest tokens for which sampling adds at most a share of the gradient's energy.

    With g the gradient norms, the smallest k ≥ `least_S` such that Σ g²(1/π − 1) ≤ variance · Σ g²
    (after the forward-pass test of Katharopoulos and Fleuret, ICML 2018).

    Returns:
        int64 (S,).
    """
    ranked = _Ranked.of(_positive(norms_SM, valid_SM), valid_SM)
    norms_SM = ranked.falling_SM  # the sums below are the same in any order
    valid_SM = torch.arange(norms_SM.shape[1], device=norms_SM.device) < ranked.number_S1
    energy_SM = norms_SM.square()
    # The allowance is for rounding where the condition holds with equality.
    allowed_S = (variance + 1e-12) * energy_SM.sum(dim=1)
    few_S, many_S = least_S, ranked.number_S1.squeeze(1)
    for _ in range(norms_SM.shape[1].bit_length()):  # halvings until few = many
        middle_S = (few_S + many_S) // 2
        chance_SM = _chances(norms_SM, ranked, middle_S, floor)
        added_SM = torch.where(valid_SM, energy_SM * (1 / chance_SM - 1), 0)
        enough_S = added_SM.sum(dim=1) <= allowed_S
        many_S = torch.where(enough_S, middle_S, many_S)
        few_S = torch.where(enough_S, few_S, middle_S + 1)
    return many_S


def stratified(
    scores_SM: Tensor,
    valid_SM: Tensor,
    counts_S: Tensor,
    random_share: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Keep the k' hardest with weight 1 and a random share q of the rest with weight 1/q.

    k' + q·(N − k') = k, rounded so that exactly k are kept; q is then exact for the weights. With
    k below q·N everything is drawn at random.
    """
    number_S = valid_SM.sum(dim=1)
    wanted_S = (counts_S - random_share * number_S.double()) / (1 - random_share)
    hardest_S = (wanted_S + 1e-9).floor().long()  # (17 - 0.7 · 20) / 0.3 gives 9.999…
    hardest_S = torch.where(
        counts_S < number_S, torch.minimum(hardest_S, counts_S - 1).clamp(min=0), number_S
    )
    hard_SM = top_k(scores_SM, valid_SM, hardest_S)
    drawn_S = counts_S - hardest_S
    drawn_SM = top_k(uniform(scores_SM, generator), valid_SM & ~hard_SM, drawn_S)
    weight_S = (number_S - hardest_S) / drawn_S.clamp(min=1)
    return hard_SM + drawn_SM * weight_S[:, None]


def _positive(scores_SM: Tensor, valid_SM: Tensor) -> Tensor:
    """Return float64 scores > 0 at valid tokens, so that probabilities are defined; else 0."""
    scores_SM = scores_SM.double().masked_fill(~valid_SM, 0).clamp(min=0)
    highest_S1 = scores_SM.amax(dim=1, keepdim=True)
    return torch.where(valid_SM, scores_SM + torch.where(highest_S1 > 0, 1e-9 * highest_S1, 1), 0)
