"""Muon with one Newton–Schulz iteration for all matrices of a shape."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from tinyohem.system.device import multiplies_bfloat16


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon`, its update scaled to the size of AdamW's, a stack of matrices at a time.

    Matrices of one shape, or of its transpose, are orthogonalised together: a trunk takes a few
    batched products instead of 15 small ones a matrix. They run in bfloat16, as torch's do, where
    the device multiplies it, and in float32 elsewhere, where emulated bfloat16 is many times as
    slow. States are those of torch's class.
    """

    def __init__(self, params: Any, *, lr: float, weight_decay: float) -> None:
        # 0.2 · √max(rows, columns), Moonshot, arXiv 2502.16982
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every matrix that has a gradient; return what `closure` does, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            stacks: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    stacks[tuple(sorted(matrix.shape))].append(matrix)
            for matrices in stacks.values():
                self._update(matrices, group)
        return loss

    def _update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one shape or its transpose."""
        lr, momentum = group["lr"], group["momentum"]
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        means = [self._mean(matrix) for matrix in matrices]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, means, momentum)  # Nesterov's
        updates = _orthogonalise(torch.stack([_wide(d) for d in directions]), group)
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        step = -lr * 0.2 * math.sqrt(max(matrices[0].shape))
        for matrix, update in zip(matrices, updates, strict=True):
            _wide(matrix).add_(update, alpha=step)

    def _mean(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return state["momentum_buffer"]


def _wide(matrix: Tensor) -> Tensor:
    """Return the matrix, or its transpose where it has more rows than columns."""
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _orthogonalise(x_NRC: Tensor, group: dict[str, Any]) -> Tensor:
    """Return nearly orthogonal matrices by Newton–Schulz iterations (Jordan et al. 2024).

    Args:
        x_NRC: N matrices of R ≤ C.
        group: holds the polynomial's coefficients, the number of steps, and the least norm.
    """
    x_NRC = x_NRC.to(torch.bfloat16 if multiplies_bfloat16(x_NRC.device) else torch.float32)
    x_NRC = x_NRC / torch.linalg.matrix_norm(x_NRC, keepdim=True).clamp(min=group["eps"])
    rows, columns = x_NRC.shape[1:]
    # Square matrices gain nothing; bfloat16 has too few digits to update a Gram matrix.
    if x_NRC.dtype == torch.float32 and columns >= 2 * rows:
        return _by_gram(x_NRC, group)
    a, b, c = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        gram_NRR = x_NRC @ x_NRC.mT
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=a)
    return x_NRC


def _by_gram(x_NRC: Tensor, group: dict[str, Any]) -> Tensor:
    """Return what the iterations of `_orthogonalise` do; all but two products are of (R, R).

    With G = X·Xᵀ and P = a·I + b·G + c·G² a step takes X to P·X, and so G to P·G·P. All of these
    are polynomials in the first G and commute.
    """
    a, b, c = group["ns_coefficients"]
    gram_NRR = x_NRC @ x_NRC.mT
    product_NRR = torch.eye(x_NRC.shape[1], device=x_NRC.device).expand_as(gram_NRR)
    for left in reversed(range(group["ns_steps"])):
        part_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)  # P − a·I
        product_NRR = torch.baddbmm(product_NRR, part_NRR, product_NRR, beta=a)
        if left:
            half_NRR = torch.baddbmm(gram_NRR, part_NRR, gram_NRR, beta=a)
            gram_NRR = torch.baddbmm(half_NRR, part_NRR, half_NRR, beta=a)
    return product_NRR @ x_NRC
