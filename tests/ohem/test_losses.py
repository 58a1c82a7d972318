"""Per-token losses and their hand-written gradients, against F.cross_entropy and autograd."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_head import (
    TOLERANCE,
    VOCAB,
    coarse,
    example,
    gradients,
    kept_loss,
    reference_losses,
    set_chunk_rows,
)
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.losses import kept_places, token_losses


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_token_losses_equal_cross_entropy(dtype: torch.dtype) -> None:
    hidden, head, labels, _ = example(dtype=dtype)
    found = token_losses(hidden, head, labels)
    expected = reference_losses(hidden, head, labels)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=TOLERANCE[dtype])
    assert found.dtype == dtype
    assert not found.requires_grad
    assert (found[labels == IGNORE_INDEX] == 0).all()


def test_a_zero_head_loses_log_vocabulary() -> None:
    labels = torch.tensor([[0, 3, IGNORE_INDEX, VOCAB - 1]])
    found = token_losses(torch.zeros(1, 4, 5), torch.randn(VOCAB, 5), labels)
    expected = torch.tensor([[1.0, 1.0, 0.0, 1.0]]) * math.log(VOCAB)
    torch.testing.assert_close(found, expected)


def test_huge_logits_neither_overflow_nor_lose_the_gradient() -> None:
    hidden, head, labels, weight = example(dtype=torch.float32)
    big = (hidden.detach() * 1e4).requires_grad_()
    total, _ = kept_loss(big, head, labels, weight)
    expected = (reference_losses(big, head, labels) * weight).sum()
    torch.testing.assert_close(total, expected)
    for mine, theirs in zip(
        gradients(total, big, head), gradients(expected, big, head), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("rows", [1, 2, 4, 7, 21, 1000])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_kept_loss_and_gradients_equal_autograd(
    monkeypatch: pytest.MonkeyPatch, rows: int, dtype: torch.dtype
) -> None:
    set_chunk_rows(monkeypatch, rows)
    hidden, head, labels, weight = example(dtype=dtype)
    total, kept = kept_loss(hidden, head, labels, weight)
    every = reference_losses(hidden, head, labels)
    tolerance = {"rtol": 1e-5, "atol": TOLERANCE[dtype] * 10}
    torch.testing.assert_close(total, (every * weight).sum(), **tolerance)
    torch.testing.assert_close(kept, every[weight > 0].detach(), **tolerance)
    assert not kept.requires_grad
    expected = gradients((every * weight).sum(), hidden, head)
    for mine, theirs in zip(gradients(total, hidden, head), expected, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


@pytest.mark.parametrize("rows", [1, 3, 6, 7, 100])
def test_token_losses_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    hidden, head, labels, _ = example(shape=(2, 3))  # 6 rows: one short of, at, past a chunk's end
    whole = token_losses(hidden, head, labels)
    set_chunk_rows(monkeypatch, rows)
    torch.testing.assert_close(token_losses(hidden, head, labels), whole, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    scale=st.floats(-3, 3),
)
def test_kept_loss_equals_autograd_for_any_shape_weights_and_outer_gradient(
    seed: int, shape: tuple[int, int], scale: float
) -> None:
    hidden, head, labels, weight = example(seed, shape)
    mine = scale * kept_loss(hidden, head, labels, weight)[0]
    theirs = scale * (reference_losses(hidden, head, labels) * weight).sum()
    for a, b in zip(gradients(mine, hidden, head), gradients(theirs, hidden, head), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_gradcheck() -> None:
    hidden, head, labels, weight = example(shape=(2, 4))
    assert torch.autograd.gradcheck(
        lambda h, w: kept_loss(h, w, labels, weight)[0], (hidden, head), atol=1e-7
    )


def test_dropped_and_ignored_rows_get_no_gradient_at_all() -> None:
    hidden, head, labels, weight = example()
    grad_hidden, _ = gradients(kept_loss(hidden, head, labels, weight)[0], hidden, head)
    assert (grad_hidden[weight == 0] == 0).all()
    assert (grad_hidden[weight > 0] != 0).any(dim=-1).all()


def test_kept_rows_are_the_places_of_positive_weights() -> None:
    weight = torch.tensor([0.0, 2.0, 0.0, 1e-30, 0.0, 3.0])
    assert kept_places(weight).tolist() == kept_places(weight, 3).tolist() == [1, 3, 5]


@pytest.mark.parametrize("count", [None, 0])
def test_nothing_kept_is_zero_not_nan(count: int | None) -> None:
    hidden, head, labels, weight = example(dtype=torch.float32)
    total, kept = kept_loss(
        hidden, head, torch.full_like(labels, IGNORE_INDEX), torch.zeros_like(weight), count
    )
    assert total.item() == 0.0
    assert kept.shape == (0,)
    for gradient in gradients(total, hidden, head):
        assert gradient.abs().max().item() == 0.0


def test_bfloat16_autocast_stays_close_and_keeps_float32_gradients() -> None:
    hidden, head, labels, weight = example(dtype=torch.float32)
    hidden, head = coarse(hidden, head)
    exact = kept_loss(hidden, head, labels, weight)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = token_losses(hidden, head, labels)
        rounded, kept = kept_loss(hidden, head, labels, weight)
    assert read.dtype == kept.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(read[weight > 0], kept)
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)
    for mine, theirs in zip(
        gradients(rounded, hidden, head), gradients(exact, hidden, head), strict=True
    ):
        assert mine.dtype == torch.float32
        assert F.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.999
        torch.testing.assert_close(mine.norm(), theirs.norm(), rtol=1e-2, atol=0)


class TestFocal:
    """f(ℓ) = (1 − p)^γ · ℓ, whose factor carries a gradient of its own."""

    GAMMAS = (0.5, 1.0, 2.0, 5.0)

    def sure_and_unsure(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens whose labels have probabilities from 1e-12 to 1 − 1e-12."""
        gaps = torch.tensor([[-28.0, -10.0, -2.0, 0.0, 2.0, 10.0, 28.0]], dtype=torch.float64)
        hidden = torch.stack([gaps, torch.full_like(gaps, 0.3)], dim=2)
        head = torch.tensor([[1.0, 0.2], [0.0, 0.1], [-0.1, 0.7]], dtype=torch.float64)
        labels, weight = torch.zeros(1, 7, dtype=torch.long), torch.rand(1, 7).double() + 0.5
        return hidden.requires_grad_(), head.requires_grad_(), labels, weight

    @pytest.mark.parametrize("gamma", GAMMAS)
    def test_gradcheck(self, gamma: float) -> None:
        for hidden, head, labels, weight in (example(shape=(2, 4)), self.sure_and_unsure()):
            assert torch.autograd.gradcheck(
                lambda h, w, y=labels, v=weight: kept_loss(h, w, y, v, gamma=gamma)[0],
                (hidden, head),
                atol=1e-7,
            )

    @pytest.mark.parametrize("gamma", GAMMAS)
    @pytest.mark.parametrize("rows", [1, 4, 1000])
    def test_value_and_gradient_equal_autograd_of_the_formula(
        self, monkeypatch: pytest.MonkeyPatch, gamma: float, rows: int
    ) -> None:
        set_chunk_rows(monkeypatch, rows)
        hidden, head, labels, weight = example()
        total, kept = kept_loss(hidden, head, labels, weight, gamma=gamma)
        p = (hidden @ head.T).softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        expected = ((1 - p) ** gamma * -p.log() * weight).sum()
        torch.testing.assert_close(total, expected, rtol=1e-10, atol=0)
        for mine, theirs in zip(
            gradients(total, hidden, head), gradients(expected, hidden, head), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        # What is reported is the plain loss.
        torch.testing.assert_close(kept, reference_losses(hidden, head, labels)[weight > 0])

    @pytest.mark.parametrize("gamma", GAMMAS)
    @pytest.mark.parametrize("gap", [-40.0, -10.0, -1.0, 0.0, 1.0, 10.0, 30.0])
    def test_focal_is_accurate_for_tiny_and_huge_losses(self, gamma: float, gap: float) -> None:
        """One token, two types: p = 1/(1 + e^−gap), differentiated in 60 digits."""
        hidden = torch.ones(1, 1, 1, dtype=torch.float64)
        head = torch.tensor([[gap], [0.0]], dtype=torch.float64, requires_grad=True)
        labels, weight = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)
        total, _ = kept_loss(hidden, head, labels, weight, gamma=gamma)
        (gradient,) = torch.autograd.grad(total, head)

        def formula(a: mpmath.mpf) -> mpmath.mpf:
            p = 1 / (1 + mpmath.exp(-a))
            return (1 - p) ** gamma * -mpmath.log(p)

        with mpmath.workdps(60):
            value, slope = float(formula(mpmath.mpf(gap))), float(mpmath.diff(formula, gap))
        # Near p = 1 the sum of the softmax, 1 + e^−gap, rounds: its last digit is a share of ℓ.
        lost = 3e-16 * math.exp(max(gap, 0)) * (1 + gamma)
        assert total.item() == pytest.approx(value, rel=1e-12 + lost)
        assert gradient[0].item() == pytest.approx(slope, rel=1e-12 + lost)
        assert gradient[1].item() == pytest.approx(-slope, rel=1e-12 + lost)

    @pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
    def test_a_certain_token_has_no_loss_and_no_gradient(self, gamma: float) -> None:
        """p is 1 to the last bit, where the formula's own derivative is ∞ · 0."""
        hidden = torch.ones(1, 1, 1, requires_grad=True)
        head = torch.tensor([[200.0], [0.0]], requires_grad=True)
        labels, weight = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)
        total, _ = kept_loss(hidden, head, labels, weight, gamma=gamma)
        assert total.item() == 0
        for gradient in gradients(total, hidden, head):
            assert gradient.abs().max().item() == 0
