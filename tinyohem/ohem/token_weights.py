"""Soft weights: every token counts, some more than others.

The factor of focal weighting carries a gradient, so it is part of the loss (`losses`).

Shape suffixes: B sequences, T tokens of one, J bins, V vocabulary.
"""

import torch
from torch import Tensor


def class_weights(counts_V: Tensor, power: float) -> Tensor:
    """Return w_v ∝ frequency(v)^−power with mean 1 over the corpus.

    Args:
        counts_V: how often each token occurs in the training corpus; 0 is treated as 1.
        power: 0 (no weighting) to 1 (every type counts as much as any other).

    Returns:
        float32 (V,).
    """
    counts_V = counts_V.double()
    weight_V = counts_V.clamp(min=1) ** -power
    return (weight_V * counts_V.sum() / (weight_V * counts_V).sum()).float()


def ghm_weights(
    loss_BT: Tensor, valid_BT: Tensor, smoothed_J: Tensor | None, momentum: float, bins: int
) -> tuple[Tensor, Tensor]:
    """Weigh tokens by the inverse density of their gradients: GHM-C (Li et al., AAAI 2019).

    With g = 1 − p(label) in J bins and R_j tokens in bin j, S_j ← α·S_j + (1 − α)·R_j and
    β_i = N / (S_{bin(i)} · J).

    Args:
        loss_BT: (B, T) nats.
        smoothed_J: S after the step before; None before the first, where S = R.
        momentum: α.
        bins: J.

    Returns:
        β (B, T), 0 where a token is not valid, and the new S (J,), both float32.
    """
    gradient_BT = -torch.expm1(-loss_BT)
    bin_BT = (gradient_BT * bins).long().clamp(0, bins - 1)  # also where a loss is NaN
    counts_J = torch.zeros(bins, device=loss_BT.device)
    counts_J.scatter_add_(0, bin_BT.flatten(), valid_BT.flatten().float())
    if smoothed_J is not None:
        counts_J = momentum * smoothed_J + (1 - momentum) * counts_J
    # A bin with a valid token has S ≥ (1 − α)·R > 0.
    beta_BT = valid_BT.sum() / (counts_J[bin_BT] * bins)
    return torch.where(valid_BT, beta_BT, 0), counts_J
