"""Per-token losses from hidden states: a read-only pass over all, a gradient pass over the kept.

Shape suffixes: B sequences, T tokens of one, N tokens, C tokens of a chunk, D hidden size,
V vocabulary.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tinyohem.data.windows import IGNORE_INDEX

# Logits are made and consumed in chunks of about this many elements, so that memory does not grow
# with vocabulary × tokens. On a CPU 8 MB still lie in the last cache, and their products have
# enough rows for two threads (LOG.md, 2026-11-28); a GPU wants few, large kernels.
_CPU_CHUNK_ELEMENTS = 1 << 21
_GPU_CHUNK_ELEMENTS = 1 << 28
_MIN_CHUNK_TOKENS = 256  # adding to the whole (V, D) gradient would dominate a smaller chunk

# Losses (C,) in nats, numerators (C, V), denominators (C, 1).
Softmax = tuple[Tensor, Tensor, Tensor]

# Losses (N,), and the gradient of their weighted sum: in the states (N, D), in the head (V, D).
Gradients = tuple[Tensor, Tensor, Tensor | None]


class GradientCache(Protocol):
    """What the gradient pass reuses of the read-only pass, which hands over each chunk once.

    An implementation may keep the softmax, or already the gradient.
    """

    def write(self, hidden_CD: Tensor, head_VD: Tensor | None, labels_C: Tensor) -> Softmax:
        """Return the softmax of the next tokens, which the caller must not change.

        Store what `gradients` needs of it.
        """

    def gradients(
        self,
        places_K: Tensor,
        hidden_KD: Tensor,
        head_VD: Tensor | None,
        labels_K: Tensor,
        weight_K: Tensor,
        gamma: float,
    ) -> Gradients:
        """Return `head_gradients` of the tokens at these places of the step, rising; int64 (K,)."""


@dataclass(frozen=True)
class SoftmaxChunk:
    """The softmax of some tokens, as numerators and denominators."""

    hidden_CD: Tensor | None  # None where the logits were given
    labels_C: Tensor  # token ids; ignored labels stand as 0
    loss_C: Tensor  # nats
    exp_CV: Tensor  # numerators
    sum_C1: Tensor  # denominators


def softmax_chunks(
    hidden_BTD: Tensor,
    head_VD: Tensor | None,
    labels_BT: Tensor,
    cache: GradientCache | None = None,
) -> Iterator[SoftmaxChunk]:
    """Yield the softmax of all tokens in order, a chunk at a time; call it without a graph.

    Without a head the states are the logits. With a `cache` the caller must not overwrite a chunk;
    without one the next chunk reuses its memory.
    """
    hidden_ND, labels_N = hidden_BTD.flatten(0, 1), labels_BT.flatten().clamp(min=0)
    size = _chunk_size(hidden_ND, head_VD)
    softmax_of = cache.write if cache else ChunkMemory().softmax
    for hidden_CD, labels_C in zip(hidden_ND.split(size), labels_N.split(size), strict=True):
        states_CD = None if head_VD is None else hidden_CD
        yield SoftmaxChunk(states_CD, labels_C, *softmax_of(hidden_CD, head_VD, labels_C))


@torch.no_grad()
def token_losses(hidden_BTD: Tensor, head_VD: Tensor | None, labels_BT: Tensor) -> Tensor:
    """Return −log p(label) of every token, without a graph.

    Args:
        hidden_BTD: (B, T, D) states that the head turns into logits.
        head_VD: (V, D) output embedding; None: the states are the logits, D = V.
        labels_BT: int64 (B, T); `IGNORE_INDEX` marks tokens that do not count.

    Returns:
        float32 (B, T) (float64 from float64 input), nats; 0 where the label is ignored.
    """
    loss_N = torch.cat([c.loss_C for c in softmax_chunks(hidden_BTD, head_VD, labels_BT)])
    return loss_N.view(labels_BT.shape).masked_fill(labels_BT == IGNORE_INDEX, 0)


def kept_places(weight_N: Tensor, count: int | None = None) -> Tensor:
    """Return the places of the positive weights, rising; int64 (K,).

    Args:
        count: K, where known: saves a device synchronisation.
    """
    kept_N = weight_N > 0
    if count is None:
        return kept_N.nonzero().squeeze(1)
    return torch.nonzero_static(kept_N, size=count).squeeze(1)


def kept_loss(
    hidden_KD: Tensor,
    head_VD: Tensor | None,
    labels_K: Tensor,
    weight_K: Tensor,
    gamma: float = 0.0,
    cached: tuple[GradientCache, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return Σ w·f(ℓ) over the kept tokens, differentiable, and their losses.

    f(ℓ) = (1 − e^−ℓ)^γ · ℓ, the focal loss (Lin et al., ICCV 2017); with γ = 0, plain ℓ.

    Args:
        hidden_KD: (K, D) states of the kept tokens alone, so that the head's work shrinks with
            them.
        head_VD: (V, D) output embedding; None: the states are the logits, D = V.
        labels_K: int64 (K,) token ids.
        weight_K: (K,) weights; no gradient flows into them.
        gamma: γ ≥ 0.
        cached: the cache of the read-only pass, and the kept tokens' places (K,) in it.

    Returns:
        The weighted sum (scalar) and the losses (K,) in nats, the latter without a graph.
    """
    return _LinearCrossEntropy.apply(hidden_KD, head_VD, labels_K, weight_K, gamma, cached)


class _LinearCrossEntropy(Function):
    """Σ w·f(ℓ) with its gradient formed next to the logits, one chunk at a time.

    Neither the logits nor their gradient w·(softmax − one-hot) is ever stored for the whole batch.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor | None,
        labels_N: Tensor,
        weight_N: Tensor,
        gamma: float,
        cached: tuple[GradientCache, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        given = (hidden_ND, head_VD, labels_N, weight_N, gamma)
        if cached:
            cache, places_N = cached
            loss_N, grad_hidden_ND, grad_head_VD = cache.gradients(places_N, *given)
        else:
            loss_N, grad_hidden_ND, grad_head_VD = head_gradients(*given)
        # The head's is cast by autograd.
        ctx.save_for_backward(grad_hidden_ND.to(hidden_ND.dtype), grad_head_VD)
        ctx.mark_non_differentiable(loss_N)
        return (focal(loss_N, gamma) * weight_N).sum(), loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor, _grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_head_VD = ctx.saved_tensors
        grad_head_VD = None if grad_head_VD is None else grad_head_VD * grad_sum
        return grad_hidden_ND * grad_sum, grad_head_VD, None, None, None, None


def head_gradients(
    hidden_ND: Tensor,
    head_VD: Tensor | None,
    labels_N: Tensor,
    weight_N: Tensor,
    gamma: float,
    softmax_of: Callable[[slice], Softmax] | None = None,
) -> Gradients:
    """Return the losses and the gradient of Σ w·f(ℓ), without a graph; see `kept_loss`.

    Args:
        softmax_of: returns the softmax of a range of the tokens; default: it is computed.
    """
    size, memory = _chunk_size(hidden_ND, head_VD), ChunkMemory()
    grad_head_VD = None if head_VD is None else torch.zeros_like(head_VD, dtype=sum_dtype(head_VD))
    grads_hidden, losses = [], []
    for first in range(0, max(1, len(hidden_ND)), size):  # no tokens: one empty chunk
        at = slice(first, first + size)
        hidden_CD, labels_C = hidden_ND[at], labels_N[at]
        found = softmax_of(at) if softmax_of else memory.softmax(hidden_CD, head_VD, labels_C)
        losses.append(found[0])
        grads_hidden.append(
            add_gradient_(grad_head_VD, found, hidden_CD, head_VD, labels_C, weight_N[at], gamma)
        )
    return torch.cat(losses), torch.cat(grads_hidden), grad_head_VD


def add_gradient_(
    sum_VD: Tensor | None,
    softmax: Softmax,
    hidden_CD: Tensor,
    head_VD: Tensor | None,
    labels_C: Tensor,
    weight_C: Tensor,
    gamma: float = 0.0,
) -> Tensor:
    """Add a chunk's gradient in the head to `sum_VD` and return that in the states, (C, D).

    The numerators of the softmax are overwritten.
    """
    loss_C, exp_CV, sum_C1 = softmax
    # ∂ℓ/∂logits = softmax − one-hot, times the softmax's denominator.
    exp_CV.scatter_add_(1, labels_C[:, None], -sum_C1)
    # Weights and denominators scale (C, D) matrices instead of the far wider (C, V) one.
    # f depends on the logits through ℓ alone, so f'(ℓ) joins them.
    scale_C1 = (weight_C * _focal_slope(loss_C, gamma))[:, None] / sum_C1
    if head_VD is None or sum_VD is None:
        return exp_CV.mul_(scale_C1)
    _add_product_(sum_VD, exp_CV.T, (hidden_CD * scale_C1).to(hidden_CD.dtype))
    return (exp_CV.to(head_VD.dtype) @ head_VD) * scale_C1


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


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype to sum in: float32 for half precision, else the tensor's own."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _add_product_(sum_VD: Tensor, exp_VC: Tensor, hidden_CD: Tensor) -> None:
    autocast = torch.is_autocast_enabled(sum_VD.device.type)  # does not reach in-place products
    if autocast or hidden_CD.dtype != sum_VD.dtype:
        sum_VD += exp_VC.to(hidden_CD.dtype) @ hidden_CD
    else:
        sum_VD.addmm_(exp_VC, hidden_CD)


def softmax(
    hidden_CD: Tensor, head_VD: Tensor | None, labels_C: Tensor, out_CV: Tensor | None = None
) -> Softmax:
    """Return −log softmax at the labels, and the softmax as numerators and denominators.

    Args:
        out_CV: memory for the numerators, float32 (C, V).
    """
    return _softmax_(_logits(hidden_CD, head_VD, out_CV), labels_C)


class ChunkMemory:
    """Memory for the logits of one chunk, reused by every chunk.

    Allocating and freeing blocks of many megabytes fragments the heap, because small tensors lie
    between them: at a vocabulary of 50,257 it grew to the logits of the whole batch.
    """

    def __init__(self) -> None:
        self._logits_CV: Tensor | None = None

    def softmax(self, hidden_CD: Tensor, head_VD: Tensor | None, labels_C: Tensor) -> Softmax:
        """Return `softmax`; the numerators last until the next call."""
        if head_VD is None:  # the logits are the caller's
            return softmax(hidden_CD, head_VD, labels_C)
        if self._logits_CV is None:  # the first chunk is the largest
            size = (len(hidden_CD), len(head_VD))
            self._logits_CV = hidden_CD.new_empty(size, dtype=sum_dtype(hidden_CD))
        return softmax(hidden_CD, head_VD, labels_C, self._logits_CV[: len(hidden_CD)])


def _logits(hidden_CD: Tensor, head_VD: Tensor | None, out_CV: Tensor | None = None) -> Tensor:
    """Return logits (C, V) in at least float32, in the memory of `out_CV` where there is one."""
    if head_VD is None:
        out_CV = (
            torch.empty_like(hidden_CD, dtype=sum_dtype(hidden_CD)) if out_CV is None else out_CV
        )
        return out_CV.copy_(hidden_CD)
    if out_CV is None:
        logits_CV = hidden_CD @ head_VD.T
        return logits_CV.to(sum_dtype(logits_CV))
    # Autocast does not reach `out=`, nor does `out=` change a type.
    if torch.is_autocast_enabled(out_CV.device.type) or hidden_CD.dtype != out_CV.dtype:
        return out_CV.copy_(hidden_CD @ head_VD.T)
    return torch.mm(hidden_CD, head_VD.T, out=out_CV)


def _softmax_(logits_CV: Tensor, labels_C: Tensor) -> Softmax:
    """Return −log softmax at the labels (C,), and the softmax as numerators and denominators.

    The numerators overwrite the logits; the denominators are (C, 1).
    """
    # Not torch.log_softmax: its CPU kernel takes six times as long as the parts done one by one.
    label_logit_C1 = logits_CV.gather(1, labels_C[:, None])
    max_C1 = logits_CV.amax(dim=1, keepdim=True)
    exp_CV = logits_CV.sub_(max_C1).exp_()
    sum_C1 = exp_CV.sum(dim=1, keepdim=True)
    # The logits' difference first: a loss near 0 would drown in the rounding of their size.
    return (sum_C1.log() + (max_C1 - label_logit_C1)).squeeze(1), exp_CV, sum_C1


def _chunk_size(hidden_ND: Tensor, head_VD: Tensor | None) -> int:
    elements = _CPU_CHUNK_ELEMENTS if hidden_ND.device.type == "cpu" else _GPU_CHUNK_ELEMENTS
    vocab_size = hidden_ND.shape[1] if head_VD is None else head_VD.shape[0]
    return max(_MIN_CHUNK_TOKENS, elements // vocab_size)


LOSS_BUCKETS = (1.0, 3.0, 5.0)  # nats: the edges between which kept tokens are counted
