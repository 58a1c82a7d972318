"""Hidden states, a head and labels as tiny as they come, and what autograd makes of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem import losses
from tinyohem.ohem.losses import kept_places

VOCAB = 11
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def example(
    seed: int = 0, shape: tuple[int, int] = (3, 7), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, head, labels with some ignored, weights with some zero."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*shape, 5, generator=rng, dtype=torch.float64).to(dtype)
    head = torch.randn(VOCAB, 5, generator=rng, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, VOCAB, shape, generator=rng)
    labels[torch.rand(shape, generator=rng) < 0.3] = IGNORE_INDEX
    weight = torch.rand(shape, generator=rng).to(dtype)
    weight[(torch.rand(shape, generator=rng) < 0.4) | (labels == IGNORE_INDEX)] = 0
    return hidden.requires_grad_(), head.requires_grad_(), labels, weight


def coarse(*tensors: Tensor) -> list[Tensor]:
    """Round to quarters: their products add up exactly, in whatever order a kernel does so."""
    return [(tensor.detach() * 4).round().div(4).requires_grad_() for tensor in tensors]


def kept_loss(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    weight: Tensor,
    count: int | None = None,
    gamma: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Gather the kept rows and take their loss."""
    rows = kept_places(weight.flatten(), count)
    hidden, labels, weight = (
        x.flatten(0, 1).index_select(0, rows) for x in (hidden, labels, weight)
    )
    return losses.kept_loss(hidden, head, labels, weight, gamma)


def reference_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    logits = (hidden @ head.T).flatten(0, 1)
    return F.cross_entropy(
        logits, labels.flatten(), reduction="none", ignore_index=IGNORE_INDEX
    ).view(labels.shape)


def gradients(loss: Tensor, hidden: Tensor, head: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, (hidden, head))


def set_chunk_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(losses, "_CPU_CHUNK_ELEMENTS", rows * VOCAB)
    monkeypatch.setattr(losses, "_MIN_CHUNK_TOKENS", 1)
