"""Per-token losses from hidden states: a read-only pass over all, a gradient pass over the kept.

Shape suffixes: B sequences, T tokens of one, N rows (tokens), C rows of a chunk, D hidden size,
V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tinyohem.data.batches import IGNORE_INDEX

# Logits are made and consumed in chunks of about this many elements, so that memory does not grow
# with vocabulary × tokens. On a CPU 2 MB stays in cache; a GPU wants few, large kernels.
_CPU_CHUNK_ELEMENTS = 1 << 19
_GPU_CHUNK_ELEMENTS = 1 << 28


@dataclass(frozen=True)
class SoftmaxChunk:
    """The softmax of some tokens, as numerators and denominators."""

    hidden_CD: Tensor
    labels_C: Tensor  # token ids; ignored labels stand as 0
    loss_C: Tensor  # nats
    exp_CV: Tensor  # numerators; free to overwrite
    sum_C1: Tensor  # denominators


def softmax_chunks(
    hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor
) -> Iterator[SoftmaxChunk]:
    """Yield the softmax of all tokens in order, a chunk at a time; call it without a graph."""
    rows = _chunk_rows(head_VD)
    hidden_ND, labels_N = hidden_BTD.flatten(0, 1), labels_BT.flatten().clamp(min=0)
    for hidden_CD, labels_C in zip(hidden_ND.split(rows), labels_N.split(rows), strict=True):
        loss_C, exp_CV, sum_C1 = _softmax_(_logits(hidden_CD, head_VD), labels_C)
        yield SoftmaxChunk(hidden_CD, labels_C, loss_C, exp_CV, sum_C1)


@torch.no_grad()
def token_losses(hidden_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """Return −log p(label) of every token, without a graph.

    Args:
        hidden_BTD: (B, T, D) states that the head turns into logits.
        head_VD: (V, D) output embedding.
        labels_BT: int64 (B, T); `IGNORE_INDEX` marks tokens that do not count.

    Returns:
        float32 (B, T) (float64 from float64 input), nats; 0 where the label is ignored.
    """
    loss_N = torch.cat([c.loss_C for c in softmax_chunks(hidden_BTD, head_VD, labels_BT)])
    return loss_N.view(labels_BT.shape).masked_fill(labels_BT == IGNORE_INDEX, 0)


def kept_loss(
    hidden_BTD: Tensor,
    head_VD: Tensor,
    labels_BT: Tensor,
    weight_BT: Tensor,
    count: int | None = None,
    gamma: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return Σ w·f(ℓ) over the kept tokens (w > 0), differentiable, and their losses.

    f(ℓ) = (1 − e^−ℓ)^γ · ℓ, the focal loss (Lin et al., ICCV 2017); with γ = 0, plain ℓ.

    Kept rows are gathered before the head, so the head's work shrinks with them.

    Args:
        hidden_BTD: (B, T, D) states.
        head_VD: (V, D) output embedding.
        labels_BT: int64 (B, T), a token id wherever the weight is positive.
        weight_BT: (B, T) weights ≥ 0; no gradient flows into them.
        count: number of positive weights, where known: saves a device synchronisation.
        gamma: γ ≥ 0.

    Returns:
        The weighted sum (scalar) and the kept losses (K,) in nats, the latter without a graph.
    """
    hidden_ND, labels_N, weight_N = (
        hidden_BTD.flatten(0, 1),
        labels_BT.flatten(),
        weight_BT.flatten(),
    )
    if count != len(weight_N):
        rows_K = _positions(weight_N > 0, count)
        hidden_ND, labels_N, weight_N = (
            x.index_select(0, rows_K) for x in (hidden_ND, labels_N, weight_N)
        )
    return _LinearCrossEntropy.apply(hidden_ND, head_VD, labels_N, weight_N, gamma)


class _LinearCrossEntropy(Function):
    """Σ w·f(ℓ) with its gradient formed right where the logits are, one chunk at a time.

    Neither the logits nor their gradient w·(softmax − one-hot) is ever stored for the whole batch.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        labels_N: Tensor,
        weight_N: Tensor,
        gamma: float,
    ) -> tuple[Tensor, Tensor]:
        rows = _chunk_rows(head_VD)
        grad_head_VD = torch.zeros_like(head_VD)
        grads_hidden, losses = [], []
        for hidden_CD, labels_C, weight_C in zip(
            hidden_ND.split(rows), labels_N.split(rows), weight_N.split(rows), strict=True
        ):
            loss_C, exp_CV, sum_C1 = _softmax_(_logits(hidden_CD, head_VD), labels_C)
            losses.append(loss_C)
            # ∂ℓ/∂logits = softmax − one-hot, times the softmax's denominator.
            exp_CV.scatter_add_(1, labels_C[:, None], -sum_C1)
            # Weights and denominators scale (C, D) matrices instead of the far wider (C, V) one.
            # f depends on the logits through ℓ alone, so f'(ℓ) joins them.
            scale_C1 = (weight_C * _focal_slope(loss_C, gamma))[:, None] / sum_C1
            grads_hidden.append((exp_CV @ head_VD) * scale_C1)
            grad_head_VD += exp_CV.T @ (hidden_CD * scale_C1)
        loss_N = torch.cat(losses) if losses else weight_N.new_zeros(0)
        grad_hidden_ND = torch.cat(grads_hidden) if grads_hidden else hidden_ND
        ctx.save_for_backward(grad_hidden_ND.to(hidden_ND.dtype), grad_head_VD)
        ctx.mark_non_differentiable(loss_N)
        return (focal(loss_N, gamma) * weight_N).sum(), loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor, _grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_head_VD = ctx.saved_tensors
        return grad_hidden_ND * grad_sum, grad_head_VD * grad_sum, None, None, None


def focal(loss_N: Tensor, gamma: float) -> Tensor:
    """Return (1 − p)^γ · ℓ for losses ℓ in nats, p = e^−ℓ; plain ℓ for γ = 0."""
    return (-torch.expm1(-loss_N)) ** gamma * loss_N if gamma else loss_N


def _focal_slope(loss_N: Tensor, gamma: float) -> Tensor:
    """Return f'(ℓ) = (1 − p)^γ + γ·ℓ·p·(1 − p)^(γ − 1), p = e^−ℓ."""
    if not gamma:
        return torch.ones_like(loss_N)
    miss_N = -torch.expm1(-loss_N)
    # ℓ/(1 − p) tends to 1 as p does, so the second term is written without (1 − p)^(γ − 1).
    ratio_N = torch.where(miss_N > 0, loss_N / miss_N, 1)
    return miss_N**gamma * (1 + gamma * ratio_N * torch.exp(-loss_N))


def _positions(mask_N: Tensor, count: int | None) -> Tensor:
    if count is None:
        return mask_N.nonzero().squeeze(1)
    return torch.nonzero_static(mask_N, size=count).squeeze(1)


def _logits(hidden_CD: Tensor, head_VD: Tensor) -> Tensor:
    """Return logits in at least float32; (C, V)."""
    logits_CV = hidden_CD @ head_VD.T
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))


def _softmax_(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return −log softmax at the labels (C,), and the softmax as numerator and denominator.

    The numerators take the memory of the logits; denominators are (C, 1).
    """
    # Not torch.log_softmax: its CPU kernel takes six times as long as the parts done one by one.
    label_logit_C1 = logits_CV.gather(1, labels_C[:, None])
    max_C1 = logits_CV.amax(dim=1, keepdim=True)
    exp_CV = logits_CV.sub_(max_C1).exp_()
    sum_C1 = exp_CV.sum(dim=1, keepdim=True)
    return (sum_C1.log() + max_C1 - label_logit_C1).squeeze(1), exp_CV, sum_C1


def _chunk_rows(head_VD: Tensor) -> int:
    elements = _CPU_CHUNK_ELEMENTS if head_VD.device.type == "cpu" else _GPU_CHUNK_ELEMENTS
    return max(1, elements // head_VD.shape[0])
