"""Which tokens teach: scores in, weights out. Kept means weight > 0.

Shape suffixes: B sequences, T tokens of one, S scopes (1 for `batch`, B for `sequence`),
M tokens of a scope (B·T or T).
"""

import torch
from torch import Tensor

from tinyohem.data.batches import IGNORE_INDEX


def keep_counts(num_valid: Tensor, keep_ratio: float, min_kept: int) -> Tensor:
    """Return k = min(N, max(min_kept, ceil(r·N))) for int64 counts N of valid tokens."""
    # The small allowance keeps ceil(0.1 · 30 = 3.0000000000000004) at 3.
    wanted = (keep_ratio * num_valid.double() - 1e-9).ceil().long().clamp(min=min_kept)
    return torch.minimum(wanted, num_valid)


def select(
    method: str,
    scores_BT: Tensor,
    labels_BT: Tensor,
    keep_ratio: float,
    *,
    scope: str = "batch",
    min_kept: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Weigh every token of an optimizer step.

    Args:
        method: `topk` keeps the highest scores (Shrivastava et al., CVPR 2016), ties broken by
            position; `random` keeps as many at random, the control.
        scores_BT: float (B, T), finite, no gradient; values at ignored labels do not matter.
        labels_BT: int64 (B, T); `IGNORE_INDEX` is excluded before anything is counted.
        keep_ratio: share of the valid tokens of each scope to keep, in (0, 1].
        scope: `batch` ranks all tokens together, `sequence` each row by itself.
        generator: source of `random`, on the device of the scores.

    Returns:
        float32 (B, T) weights, 0 where a token is dropped or ignored.
    """
    match method:
        case "topk":
            pass
        case "random":
            scores_BT = torch.rand(
                scores_BT.shape, generator=generator, device=scores_BT.device, dtype=torch.float32
            )
        case _:
            raise ValueError(f"unknown selection {method!r}")
    by_scope = (1, -1) if scope == "batch" else scores_BT.shape
    kept_SM = _top_k(
        scores_BT.reshape(by_scope),
        (labels_BT != IGNORE_INDEX).reshape(by_scope),
        keep_ratio,
        min_kept,
    )
    return kept_SM.view(labels_BT.shape).float()


def _top_k(scores_SM: Tensor, valid_SM: Tensor, keep_ratio: float, min_kept: int) -> Tensor:
    """Mark the k best valid tokens of each row, k from the row's own valid count."""
    # A stable sort, not torch.topk: it breaks ties by position, so runs are repeatable.
    ranked = scores_SM.masked_fill(~valid_SM, -torch.inf).argsort(
        dim=1, descending=True, stable=True
    )
    kept_S = keep_counts(valid_SM.sum(dim=1), keep_ratio, min_kept)
    taken = torch.arange(scores_SM.shape[1], device=scores_SM.device) < kept_S[:, None]
    return torch.zeros_like(valid_SM).scatter_(1, ranked, taken)
