"""Exact counts, stable ranks and random numbers for every selection.

Shape suffixes: S scopes, M tokens of a scope.
"""

import torch
from torch import Tensor


def keep_counts(num_valid: Tensor, keep_ratio: float, min_kept: int) -> Tensor:
    """Return k = min(N, max(min_kept, ceil(r·N))) for int64 counts N of valid tokens."""
    # The tolerance keeps ceil(0.1 · 30 = 3.0000000000000004) at 3.
    wanted = (keep_ratio * num_valid.double() - 1e-9).ceil().long().clamp(min=min_kept)
    return torch.minimum(wanted, num_valid)


def rank_by_score(scores_SM: Tensor, candidates_SM: Tensor) -> Tensor:
    """Return every token's rank by falling score, int64 (S, M); candidates come first.

    Ties are broken by position, so runs are repeatable. NaN ranks highest.
    """
    lowest = torch.finfo(scores_SM.dtype).min
    keys_SM = scores_SM.clamp(min=lowest).masked_fill(~candidates_SM, -torch.inf)
    # A stable sort, not torch.topk, which breaks ties arbitrarily.
    order_SM = keys_SM.argsort(dim=1, descending=True, stable=True)
    places_M = torch.arange(scores_SM.shape[1], device=scores_SM.device)
    return torch.empty_like(order_SM).scatter_(1, order_SM, places_M.expand_as(order_SM))


def top_k(scores_SM: Tensor, candidates_SM: Tensor, counts_S: Tensor) -> Tensor:
    """Mark the k best candidates of each scope, fewer where there are fewer; bool (S, M)."""
    return candidates_SM & (rank_by_score(scores_SM, candidates_SM) < counts_S[:, None])


def uniform(like_SM: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return uniform float64 numbers in [0, 1) of the same shape on the same device."""
    # Not float32: its 2²⁴ steps tie in large batches and round small probabilities up.
    return torch.rand(
        like_SM.shape, generator=generator, device=like_SM.device, dtype=torch.float64
    )
