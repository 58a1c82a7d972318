"""Soft weights, against slow transcriptions of their equations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinyohem.ohem.token_weights import class_weights, ghm_weights


class Ghm:
    """GHM-C as its equations stand, token by token, in double precision."""

    def __init__(self, momentum: float, bins: int) -> None:
        self.momentum, self.bins = momentum, bins
        self.smoothed: list[float] | None = None

    def weights(self, losses: list[float | None]) -> list[float]:
        """Return β of every token; None stands for one that is not valid."""
        gradients = [None if loss is None else 1 - math.exp(-loss) for loss in losses]
        regions = [g if g is None else min(int(g * self.bins), self.bins - 1) for g in gradients]
        counts = [float(sum(r == j for r in regions)) for j in range(self.bins)]
        if self.smoothed is not None:
            counts = [
                self.momentum * before + (1 - self.momentum) * now
                for before, now in zip(self.smoothed, counts, strict=True)
            ]
        self.smoothed = counts
        number = sum(r is not None for r in regions)
        return [0.0 if r is None else number / (counts[r] * self.bins) for r in regions]


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.floats(0, 12)), min_size=12, max_size=12),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0.0, 0.5, 0.75, 0.99]),
    st.sampled_from([1, 3, 10, 30]),
)
def test_ghm_equals_its_equations_over_several_steps(
    steps: list[list[float | None]], momentum: float, bins: int
) -> None:
    slow, smoothed = Ghm(momentum, bins), None
    for losses in steps:
        loss_BT = torch.tensor([loss or 0.0 for loss in losses], dtype=torch.float64).view(3, 4)
        valid_BT = torch.tensor([loss is not None for loss in losses]).view(3, 4)
        beta_BT, smoothed = ghm_weights(loss_BT, valid_BT, smoothed, momentum, bins)
        expected = torch.tensor(slow.weights(losses)).view(3, 4)
        torch.testing.assert_close(beta_BT, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(smoothed, torch.tensor(slow.smoothed), rtol=1e-5, atol=1e-6)
        assert beta_BT.dtype == smoothed.dtype == torch.float32


def test_ghm_by_hand() -> None:
    """Ten tokens, eight easy and two hard, in two regions: each region weighs as much."""
    loss = torch.tensor([[0.1] * 8 + [5.0] * 2])
    valid = torch.ones(1, 10, dtype=torch.bool)
    beta, counts = ghm_weights(loss, valid, None, 0.75, 2)
    assert counts.tolist() == [8.0, 2.0]
    assert beta[0].tolist() == pytest.approx([10 / 16] * 8 + [10 / 4] * 2)
    # Then all are hard: S = 0.75 · (8, 2) + 0.25 · (0, 10).
    beta, counts = ghm_weights(torch.full((1, 10), 5.0), valid, counts, 0.75, 2)
    assert counts.tolist() == [6.0, 4.0]
    assert beta[0].tolist() == pytest.approx([10 / 8] * 10)


def test_ghm_weights_are_finite_for_any_loss() -> None:
    """0 and ∞ are the ends of the range; NaN must not write outside the regions."""
    loss = torch.tensor([[0.0, math.inf, 1e30, math.nan]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    beta, counts = ghm_weights(loss, valid, None, 0.75, 4)
    assert counts.sum() == 4
    assert counts[3] >= 2
    assert beta.isfinite().all()


counts_of_types = st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any)


@given(counts_of_types, st.floats(0, 1))
def test_class_weights_have_mean_one_over_the_corpus(counts: list[int], power: float) -> None:
    counts_V = torch.tensor(counts)
    weight_V = class_weights(counts_V, power).double()
    assert (weight_V * counts_V).sum().item() / sum(counts) == pytest.approx(1, rel=1e-5)
    assert (weight_V > 0).all()


def ratio(weight_V: Tensor, a: int, b: int) -> float:
    return (weight_V[a] / weight_V[b]).item()


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5, 1.0])
def test_class_weights_follow_the_power_of_the_frequency(power: float) -> None:
    weight_V = class_weights(torch.tensor([1, 16, 10_000, 0]), power)
    assert ratio(weight_V, 0, 1) == pytest.approx(16**power, rel=1e-6)
    assert ratio(weight_V, 1, 2) == pytest.approx(625**power, rel=1e-6)
    assert ratio(weight_V, 3, 0) == 1  # unseen counts as seen once
    assert weight_V.dtype == torch.float32
