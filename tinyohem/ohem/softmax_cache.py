"""What the read-only pass leaves for the gradient pass, so that the head's work is not done twice.

Shape suffixes: N tokens of a step, C of a chunk, K the kept ones, D hidden size, V vocabulary.
"""

from functools import partial

import torch
from torch import Tensor

from tinyohem.config.ohem import OhemConfig
from tinyohem.ohem.losses import (
    ChunkMemory,
    GradientCache,
    Gradients,
    Softmax,
    add_gradient_,
    head_gradients,
    softmax,
    sum_dtype,
)
from tinyohem.system.timing import phase

# How much a `SoftmaxCache` may hold, and the keep ratio from which it pays on a CPU, where it
# pushes the chunks out of the cache.
_CPU_STORE_BYTES = 1 << 28
_GPU_STORE_BYTES = 1 << 31
_CPU_STORE_PAYS_FROM = 0.5


def choose_cache(
    softmax_cache: "SoftmaxCache",
    config: OhemConfig,
    head_VD: Tensor,
    num_tokens: int,
    keep_ratio: float,
    *,
    whole: bool,
) -> GradientCache | None:
    """Return the cheapest cache for a step, empty; None: to compute the logits twice is cheaper.

    Args:
        softmax_cache: that of earlier steps.
        whole: whether a single pass reads all tokens of the step, and none is ignored.
    """
    on_cpu = head_VD.device.type == "cpu"
    if on_cpu and whole and _is_guessable(config):
        return SpeculativeGradients(keep_ratio)
    size = num_tokens * len(head_VD) * sum_dtype(head_VD).itemsize
    if size > (_CPU_STORE_BYTES if on_cpu else _GPU_STORE_BYTES):
        return None
    if on_cpu and keep_ratio < _CPU_STORE_PAYS_FROM:
        return None
    return softmax_cache.opened(num_tokens, head_VD)


def _is_guessable(config: OhemConfig) -> bool:
    """Whether the losses read so far tell which tokens will be kept, all at one weight."""
    return (config.select, config.score, config.scope, config.weight, config.dedup) == (
        "topk",
        "loss",
        "batch",
        "none",
        "none",
    )


class SoftmaxCache:
    """The softmax of all tokens of a step, so that the kept ones' gradient needs no logits again.

    Its memory serves step after step: on a CPU fresh pages cost more than the logits they hold.
    """

    def __init__(self) -> None:
        self._loss_N, self._exp_NV, self._sum_N1 = (torch.empty(0) for _ in range(3))
        self._used = 0  # rows

    def opened(self, num_tokens: int, head_VD: Tensor) -> "SoftmaxCache":
        """Return the store, emptied."""
        if self._exp_NV.shape != (num_tokens, len(head_VD)):
            new = partial(torch.empty, dtype=sum_dtype(head_VD), device=head_VD.device)
            self._exp_NV = new(num_tokens, len(head_VD))
            self._loss_N, self._sum_N1 = new(num_tokens), new(num_tokens, 1)
        self._used = 0
        return self

    def write(self, hidden_CD: Tensor, head_VD: Tensor | None, labels_C: Tensor) -> Softmax:
        """Compute the softmax of the tokens that come next."""
        at = slice(self._used, self._used + len(labels_C))
        self._used = at.stop
        found = softmax(hidden_CD, head_VD, labels_C, self._exp_NV[at])
        self._loss_N[at], _, self._sum_N1[at] = found
        return found

    def gradients(
        self,
        rows_K: Tensor,
        hidden_KD: Tensor,
        head_VD: Tensor | None,
        labels_K: Tensor,
        weight_K: Tensor,
        gamma: float,
    ) -> Gradients:
        """Form the gradient from copies of the kept tokens' softmax."""

        def softmax_of(at: slice) -> Softmax:
            rows_C = rows_K[at]
            exp_CV = self._exp_NV.index_select(0, rows_C)
            return self._loss_N[rows_C], exp_CV, self._sum_N1[rows_C]

        return head_gradients(hidden_KD, head_VD, labels_K, weight_K, gamma, softmax_of)


class SpeculativeGradients:
    """The gradient of the tokens that top-k will probably keep, formed while their logits exist.

    On a CPU a chunk of logits is cheap as long as it stays in the cache, so this beats a store of
    all. A token is taken where its loss is among the highest of those read so far in the step.
    Once the selection is known, what was missed is added and what was taken wrongly taken back:
    exact to rounding, whatever the guess. All kept tokens have to weigh the same.
    """

    def __init__(self, keep_ratio: float) -> None:
        self._keep_ratio = keep_ratio
        self._memory = ChunkMemory()
        self._losses: list[Tensor] = []
        self._hidden: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._taken: list[Tensor] = []
        self._grads_hidden: list[Tensor] = []
        self._grad_head_VD: Tensor | None = None

    def write(self, hidden_CD: Tensor, head_VD: Tensor | None, labels_C: Tensor) -> Softmax:
        """Compute the softmax of the tokens that come next, and the gradient of some of them."""
        assert head_VD is not None
        if self._grad_head_VD is None:
            self._grad_head_VD = torch.zeros_like(head_VD, dtype=sum_dtype(head_VD))
        loss_C, exp_CV, sum_C1 = self._memory.softmax(hidden_CD, head_VD, labels_C)
        self._losses.append(loss_C)
        taken_C = loss_C >= self._limit()
        with phase("gradient"):
            rows_K = taken_C.nonzero().squeeze(1)
            grad_KD = add_gradient_(
                self._grad_head_VD,
                (loss_C[rows_K], exp_CV.index_select(0, rows_K), sum_C1[rows_K]),
                hidden_CD[rows_K],
                head_VD,
                labels_C[rows_K],
                torch.ones_like(loss_C[rows_K]),
            )
            self._grads_hidden.append(torch.zeros_like(hidden_CD, dtype=grad_KD.dtype))
            self._grads_hidden[-1][rows_K] = grad_KD
        self._hidden.append(hidden_CD)
        self._labels.append(labels_C)
        self._taken.append(taken_C)
        return loss_C, exp_CV, sum_C1

    def _limit(self) -> Tensor:
        """Return the loss from which as many of those read so far lie as will be kept of all."""
        read_N = torch.cat(self._losses)
        num_below = min(int((1 - self._keep_ratio) * len(read_N)), len(read_N) - 1)
        return read_N.kthvalue(num_below + 1).values

    def gradients(
        self,
        rows_K: Tensor,
        hidden_KD: Tensor,
        head_VD: Tensor | None,
        labels_K: Tensor,
        weight_K: Tensor,
        gamma: float,
    ) -> Gradients:
        """Put the guess right and weigh it."""
        assert self._grad_head_VD is not None
        taken_N = torch.cat(self._taken)
        kept_N = torch.zeros_like(taken_N).index_fill_(0, rows_K, True)
        wrong_M = (kept_N ^ taken_N).nonzero().squeeze(1)
        _, grad_MD, correction_VD = head_gradients(
            torch.cat(self._hidden)[wrong_M],
            head_VD,
            torch.cat(self._labels)[wrong_M],
            kept_N[wrong_M] * 2.0 - 1.0,
            gamma,
        )
        grad_hidden_ND = torch.cat(self._grads_hidden).index_add_(0, wrong_M, grad_MD)
        weight = weight_K[:1].sum()  # 0 where nothing is kept
        assert correction_VD is not None
        grad_head_VD = (self._grad_head_VD + correction_VD) * weight
        return torch.cat(self._losses)[rows_K], grad_hidden_ND[rows_K] * weight, grad_head_VD
