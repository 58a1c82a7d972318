"""Scores of how hard each token is, from the same read-only pass as the losses.

Shape suffixes: B sequences, T tokens of one, C tokens of a chunk, D hidden size, V vocabulary.
"""

import torch
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.losses import GradientCache, SoftmaxChunk, focal, softmax_chunks


@torch.no_grad()
def read_tokens(
    score: str,
    hidden_BTD: Tensor,
    head_VD: Tensor | None,
    labels_BT: Tensor,
    *,
    reference_BT: Tensor | None = None,
    gamma: float = 1.0,
    cache: GradientCache | None = None,
) -> tuple[Tensor, Tensor]:
    """Return every token's loss and score, without a graph.

    ℓ is the loss in nats, p the softmax, y the label, h the hidden state.

    - `loss`: ℓ (Shrivastava et al., CVPR 2016).
    - `gradnorm`: ‖p − e_y‖ · ‖h‖, the norm of the loss's gradient in the head (Katharopoulos and
      Fleuret, ICML 2018, bound the whole gradient's by it). Without a head ‖p − e_y‖, its norm in
      the logits, which is their own bound.
    - `loss_x_gradnorm`: their product.
    - `excess_loss`: ℓ − reference loss (Rho-1, arXiv 2404.07965).
    - `lag`: reference loss − ℓ, over a running mean what the model has learned of late.
    - `entropy`: −Σ p log p, which does not depend on the label (ESLM, arXiv 2505.19893).
    - `focal`: (1 − p_y)^γ · ℓ (Lin et al., ICCV 2017).

    Args:
        hidden_BTD: (B, T, D) states that the head turns into logits.
        head_VD: (V, D) output embedding; None: the states are the logits, D = V.
        labels_BT: int64 (B, T); `IGNORE_INDEX` marks tokens that do not count.
        reference_BT: (B, T) losses in nats, for `excess_loss` and `lag`.
        gamma: γ of `focal`.
        cache: gets each chunk for the gradient pass.

    Returns:
        Losses and scores, float32 (B, T) (float64 from float64 input); losses are 0, scores
        arbitrary, where the label is ignored.
    """
    read = {"entropy": _entropy, "gradnorm": _gradient_norm, "loss_x_gradnorm": _gradient_norm}
    losses, scores = [], []
    for chunk in softmax_chunks(hidden_BTD, head_VD, labels_BT, cache):
        losses.append(chunk.loss_C)
        if score in read:
            scores.append(read[score](chunk))
    loss_BT = torch.cat(losses).view(labels_BT.shape).masked_fill(labels_BT == IGNORE_INDEX, 0)
    score_BT = torch.cat(scores).view(labels_BT.shape) if scores else loss_BT
    match score:
        case "loss" | "gradnorm" | "entropy":
            return loss_BT, score_BT
        case "loss_x_gradnorm":
            return loss_BT, loss_BT * score_BT
        case "excess_loss" | "lag":
            if reference_BT is None:
                raise ValueError(f"{score} needs reference losses")
            excess_BT = loss_BT - reference_BT
            return loss_BT, excess_BT if score == "excess_loss" else -excess_BT
        case "focal":
            return loss_BT, focal(loss_BT, gamma)
        case _:
            raise ValueError(f"unknown score {score!r}")


def _gradient_norm(chunk: SoftmaxChunk) -> Tensor:
    """Return ‖p − e_y‖ · ‖h‖ by ‖p − e_y‖² = Σp² − 2p_y + 1, without ‖h‖ for logits; (C,)."""
    # Summed as Σ_{v≠y} p² + (1 − p_y)²: the closed form as written cancels when p_y is near 1.
    labels_C1 = chunk.labels_C[:, None]
    label_exp_C1 = chunk.exp_CV.gather(1, labels_C1)
    chunk.exp_CV.scatter_(1, labels_C1, 0)
    others_C = torch.linalg.vector_norm(chunk.exp_CV, dim=1) / chunk.sum_C1[:, 0]
    chunk.exp_CV.scatter_(1, labels_C1, label_exp_C1)  # as it was: the gradient may need it
    residual_C = torch.hypot(others_C, -torch.expm1(-chunk.loss_C))
    if chunk.hidden_CD is None:
        return residual_C
    return residual_C * torch.linalg.vector_norm(chunk.hidden_CD.to(residual_C.dtype), dim=1)


def _entropy(chunk: SoftmaxChunk) -> Tensor:
    """Return log Σe − Σ e·log e / Σe over the softmax's numerators e; (C,) in nats."""
    inside_C1 = torch.special.entr(chunk.exp_CV).sum(dim=1, keepdim=True)
    return (chunk.sum_C1.log() + inside_C1 / chunk.sum_C1)[:, 0]
