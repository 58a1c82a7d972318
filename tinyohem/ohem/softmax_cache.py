"""Caches that the read-only pass fills for the gradient pass, to compute the logits only once.

Shape suffixes: N tokens of a step, C of a chunk, K the kept ones, W those predicted
wrongly, D hidden size, V vocabulary.
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

# Most bytes of a `SoftmaxCache`, and the keep ratio from which it pays on a CPU, where it pushes
# the chunks out of the processor's cache.
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
    """Return the cheapest cache for a step, empty; None: computing the logits twice is cheaper.

    Args:
        softmax_cache: the buffer of earlier steps, to be reused.
        whole: whether a single pass reads all tokens of the step, and none is ignored.
    """
    on_cpu = head_VD.device.type == "cpu"
    # The losses read so far tell which tokens will be kept, all at one weight.
    predictable = (config.select, config.score, config.scope, config.weight, config.dedup) == (
        "topk",
        "loss",
        "batch",
        "none",
        "none",
    )
    if on_cpu and whole and predictable:
        return SpeculativeGradients(keep_ratio)
    size = num_tokens * len(head_VD) * sum_dtype(head_VD).itemsize
    if size > (_CPU_STORE_BYTES if on_cpu else _GPU_STORE_BYTES):
        return None
    if on_cpu and keep_ratio < _CPU_STORE_PAYS_FROM:
        return None
    return softmax_cache.opened(num_tokens, head_VD)


class SoftmaxCache:
    """The softmax of all tokens of a step, from which the kept tokens' gradient is formed.

    Every step reuses the memory: on a CPU fresh pages cost more than the logits that they hold.
    """

    def __init__(self) -> None:
        self._loss_N, self._exp_NV, self._sum_N1 = (torch.empty(0) for _ in range(3))
        self._used = 0  # tokens

    def opened(self, num_tokens: int, head_VD: Tensor) -> "SoftmaxCache":
        """Empty the cache, fit it to a step and return it."""
        if self._exp_NV.shape != (num_tokens, len(head_VD)):
            new = partial(torch.empty, dtype=sum_dtype(head_VD), device=head_VD.device)
            self._exp_NV = new(num_tokens, len(head_VD))
            self._loss_N, self._sum_N1 = new(num_tokens), new(num_tokens, 1)
        self._used = 0
        return self

    def write(self, hidden_CD: Tensor, head_VD: Tensor | None, labels_C: Tensor) -> Softmax:
        """Compute and store the softmax of the next tokens."""
        at = slice(self._used, self._used + len(labels_C))
        self._used = at.stop
        found = softmax(hidden_CD, head_VD, labels_C, self._exp_NV[at])
        self._loss_N[at], _, self._sum_N1[at] = found
        return found

    def gradients(
        self,
        places_K: Tensor,
        hidden_KD: Tensor,
        head_VD: Tensor | None,
        labels_K: Tensor,
        weight_K: Tensor,
        gamma: float,
    ) -> Gradients:
        """Form the gradient from copies of the kept tokens' stored softmax."""

        def softmax_of(at: slice) -> Softmax:
            places_C = places_K[at]
            exp_CV = self._exp_NV.index_select(0, places_C)
            return self._loss_N[places_C], exp_CV, self._sum_N1[places_C]

        return head_gradients(hidden_KD, head_VD, labels_K, weight_K, gamma, softmax_of)


class SpeculativeGradients:
    """The gradient of the tokens that top-k will probably keep, formed while their logits exist.

    On a CPU this beats storing all logits, because a chunk of them still lies in the processor's
    cache. A token is predicted to be kept where its loss is among the highest read so far in the
    step. Once the selection is known, missed tokens are added and wrong ones subtracted: exact to
    rounding, whatever the prediction. All kept tokens must have the same weight.
    """

    def __init__(self, keep_ratio: float) -> None:
        self._keep_ratio = keep_ratio
        self._memory = ChunkMemory()
        self._losses: list[Tensor] = []
        # By chunk: states, labels, whether a token is predicted, gradients in the states.
        self._chunks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._grad_head_VD: Tensor | None = None

    def write(self, hidden_CD: Tensor, head_VD: Tensor | None, labels_C: Tensor) -> Softmax:
        """Compute the softmax of the next tokens, and the gradient of the predicted ones."""
        assert head_VD is not None
        if self._grad_head_VD is None:
            self._grad_head_VD = torch.zeros_like(head_VD, dtype=sum_dtype(head_VD))
        loss_C, exp_CV, sum_C1 = self._memory.softmax(hidden_CD, head_VD, labels_C)
        self._losses.append(loss_C)
        predicted_C = loss_C >= self._limit()
        with phase("gradient"):
            places_K = predicted_C.nonzero().squeeze(1)
            grad_KD = add_gradient_(
                self._grad_head_VD,
                (loss_C[places_K], exp_CV.index_select(0, places_K), sum_C1[places_K]),
                hidden_CD[places_K],
                head_VD,
                labels_C[places_K],
                torch.ones_like(loss_C[places_K]),
            )
            grad_CD = torch.zeros_like(hidden_CD, dtype=grad_KD.dtype)
            grad_CD[places_K] = grad_KD
        self._chunks.append((hidden_CD, labels_C, predicted_C, grad_CD))
        return loss_C, exp_CV, sum_C1

    def _limit(self) -> Tensor:
        """Return the (1 − keep ratio) quantile of the losses read so far."""
        read_N = torch.cat(self._losses)
        num_below = min(int((1 - self._keep_ratio) * len(read_N)), len(read_N) - 1)
        return read_N.kthvalue(num_below + 1).values

    def gradients(
        self,
        places_K: Tensor,
        hidden_KD: Tensor,
        head_VD: Tensor | None,
        labels_K: Tensor,
        weight_K: Tensor,
        gamma: float,
    ) -> Gradients:
        """Correct the prediction and weigh the gradient.

        States and labels are those of `write`; the ones given here only carry the graph.
        """
        assert self._grad_head_VD is not None
        hidden_ND, labels_N, predicted_N, grad_ND = map(torch.cat, zip(*self._chunks, strict=True))
        kept_N = torch.zeros_like(predicted_N).index_fill_(0, places_K, True)
        wrong_W = (kept_N ^ predicted_N).nonzero().squeeze(1)
        sign_W = kept_N[wrong_W] * 2.0 - 1.0
        _, grad_WD, correction_VD = head_gradients(
            hidden_ND[wrong_W], head_VD, labels_N[wrong_W], sign_W, gamma
        )
        grad_ND.index_add_(0, wrong_W, grad_WD)
        weight = weight_K[:1].sum()  # 0 where nothing is kept
        assert correction_VD is not None
        grad_head_VD = (self._grad_head_VD + correction_VD) * weight
        return torch.cat(self._losses)[places_K], grad_ND[places_K] * weight, grad_head_VD
