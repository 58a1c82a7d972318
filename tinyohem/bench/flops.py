"""The operations of a training step, and bare matrix products to compare its speed with."""

from collections.abc import Callable

import torch

from tinyohem.config.model import Shape
from tinyohem.config.training import Precision
from tinyohem.system.device import autocast


def step_flops(shape: Shape, vocab_size: int, seq_len: int, num_tokens: int) -> int:
    """Return the floating-point operations of a plain training step's matrix products.

    A multiply-add is two operations; backward costs twice the forward pass. A token attends to
    itself and those before it, (T + 1)/2 on average. Element-wise work and the optimizer do not
    count. Chowdhery et al. (arXiv 2204.02311, appendix B) count the same, but attention to all T.
    """
    # Norms multiply no matrix; the tied embedding does so once, as the head.
    gains = shape.hidden_size * (2 * shape.num_layers + 1)
    matrices = shape.num_parameters(vocab_size) - gains
    attention = shape.num_layers * shape.hidden_size * (seq_len + 1)  # twice D·(T + 1)/2
    return 3 * 2 * num_tokens * (matrices + attention)


def trunk_products(
    shape: Shape, num_tokens: int, device: torch.device, precision: Precision
) -> tuple[Callable[[], None], int]:
    """Return a function that computes one layer's matrix products, forward and backward.

    On a GPU it repeats them, so that launching and waiting hardly count. The operands are random,
    in the type that `precision` multiplies in.

    Returns:
        The function, and its floating-point operations.
    """
    mixed = isinstance(autocast(device, precision), torch.autocast)
    dtype = torch.bfloat16 if mixed else torch.float32
    width, inner = shape.hidden_size, shape.intermediate_size
    # Queries, keys, values and the output projection; gate and up; down.
    sizes = [(width, width)] * 4 + [(width, inner)] * 2 + [(inner, width)]

    def new(*size: int) -> torch.Tensor:
        return torch.randn(size, device=device, dtype=dtype)

    operands = [(new(num_tokens, n), new(m, n), new(num_tokens, m)) for n, m in sizes]
    repeats = 1 if device.type == "cpu" else 50

    def multiply() -> None:
        for x, weight, grad in operands * repeats:
            x @ weight.T
            grad @ weight
            grad.T @ x

    return multiply, 3 * 2 * num_tokens * sum(n * m for n, m in sizes) * repeats
