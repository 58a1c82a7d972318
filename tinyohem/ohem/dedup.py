"""De-duplication: keep the hardest of near-identical tokens.

The counterpart of the non-maximum suppression in the OHEM paper (Shrivastava et al., CVPR 2016,
section 4.2), which stops one region's loss from counting many times.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyohem.ohem.topk import rank_by_score


def first_of_neighbours(scores_BT: Tensor, valid_BT: Tensor, window: int) -> Tensor:
    """Keep tokens from the hardest down, except those within ±`window` of one already kept.

    Args:
        scores_BT: float (B, T).
        window: tokens to either side in the same sequence.

    Returns:
        bool (B, T), the kept tokens.
    """
    # A token that outranks everything undecided in its window is kept whatever the rest, so each
    # round decides all of these at once.
    rank_BT = (
        rank_by_score(scores_BT.reshape(1, -1), valid_BT.reshape(1, -1)).view_as(valid_BT).double()
    )
    undecided_BT, kept_BT = valid_BT.clone(), torch.zeros_like(valid_BT)
    while undecided_BT.any():
        waiting_BT = torch.where(undecided_BT, -rank_BT, -torch.inf)
        best_BT = undecided_BT & (_widest(waiting_BT, window) == waiting_BT)
        kept_BT |= best_BT
        undecided_BT &= ~(_widest(best_BT.double(), window) > 0)
    return kept_BT


def first_of_bigram(
    scores_BT: Tensor, valid_BT: Tensor, input_ids_BT: Tensor, labels_BT: Tensor, most: int
) -> Tensor:
    """Mark the `most` hardest occurrences of every pair (previous token, label) of the step.

    Returns:
        bool (B, T).
    """
    rank_N = rank_by_score(scores_BT.reshape(1, -1), valid_BT.reshape(1, -1)).flatten()
    number = rank_N.numel()
    # One sort by the key (pair, rank) puts equal pairs side by side, the hardest first.
    pair_N = torch.where(valid_BT, (input_ids_BT << 32) + labels_BT, -1).flatten()
    _, group_N = pair_N.unique(return_inverse=True)
    order_N = (group_N * number + rank_N).argsort()
    sorted_N = group_N[order_N]
    places_N = torch.arange(number, device=order_N.device)
    starts_N = torch.searchsorted(sorted_N, sorted_N)
    nth_N = torch.empty_like(order_N).scatter_(0, order_N, places_N - starts_N)
    return valid_BT & (nth_N < most).view_as(valid_BT)


def _widest(values_BT: Tensor, window: int) -> Tensor:
    """Return the maximum over ±window positions of each row."""
    return F.max_pool1d(values_BT[:, None], 2 * window + 1, stride=1, padding=window)[:, 0]
