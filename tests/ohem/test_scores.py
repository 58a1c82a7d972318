"""Scores of single tokens, against autograd, torch.distributions and the formulas as written."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional as F

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem import losses
from tinyohem.ohem.losses import token_losses
from tinyohem.ohem.scores import read_tokens

VOCAB, SIZE, SHAPE = 11, 5, (3, 7)
SCORES = ("loss", "loss_x_gradnorm", "gradnorm", "excess_loss", "lag", "entropy", "focal")


def example(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return hidden states, head, labels with some ignored, reference losses."""
    rng = torch.Generator().manual_seed(1)
    hidden = scale * torch.randn(*SHAPE, SIZE, generator=rng, dtype=torch.float64)
    head = torch.randn(VOCAB, SIZE, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, VOCAB, SHAPE, generator=rng)
    labels[torch.rand(SHAPE, generator=rng) < 0.3] = IGNORE_INDEX
    reference = torch.rand(SHAPE, generator=rng, dtype=torch.float64)
    return hidden.to(dtype), head.to(dtype), labels, reference.to(dtype)


def read(score: str, *, gamma: float = 1.0, **example_options: object) -> tuple[Tensor, ...]:
    """Return labels, losses and scores of the example."""
    hidden, head, labels, reference = example(**example_options)  # type: ignore[arg-type]
    found = read_tokens(score, hidden, head, labels, reference_BT=reference, gamma=gamma)
    return labels, *found


def label_probabilities(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    softmax = (hidden @ head.T).softmax(-1)
    return softmax.gather(-1, labels.clamp(min=0)[..., None])[..., 0]


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_gradnorm_is_the_norm_of_one_tokens_gradient_in_the_head(scale: float) -> None:
    hidden, head, labels, _ = example(scale)
    _, _, found = read("gradnorm", scale=scale)
    head.requires_grad_()
    for at in (labels != IGNORE_INDEX).nonzero().tolist():
        place = tuple(at)
        loss = F.cross_entropy(head @ hidden[place], labels[place])
        (gradient,) = torch.autograd.grad(loss, head)
        assert found[place].item() == pytest.approx(gradient.norm().item(), rel=1e-10)


def test_gradnorm_is_accurate_for_nearly_certain_tokens() -> None:
    """The logits are large and p is within 1e-3 … 1e-5 of 1: a difference of large numbers."""
    gaps = torch.tensor([6.0, 9.0, 12.0], dtype=torch.float64)
    hidden = torch.stack([torch.ones(3, dtype=torch.float64), gaps], dim=1)[None]
    head = torch.tensor([[30.0, 1.0], [30.0, 0.0], [30.0, -0.1]], dtype=torch.float64)
    labels = torch.zeros(1, 3, dtype=torch.long)
    exact = read_tokens("gradnorm", hidden, head, labels)[1]
    rounded = read_tokens("gradnorm", hidden.float(), head.float(), labels)[1]
    assert (exact > 0).all()
    torch.testing.assert_close(rounded.double(), exact, rtol=0.02, atol=0)


def test_loss_x_gradnorm_is_their_product() -> None:
    _, loss, norm = read("gradnorm")
    torch.testing.assert_close(read("loss_x_gradnorm")[2], loss * norm, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_entropy_equals_that_of_the_distribution(scale: float) -> None:
    hidden, head, *_ = example(scale)
    expected = Categorical(logits=hidden @ head.T).entropy()
    torch.testing.assert_close(read("entropy", scale=scale)[2], expected, rtol=1e-9, atol=1e-12)


def test_entropy_does_not_depend_on_the_label() -> None:
    hidden, head, labels, _ = example()
    others = (labels + 1).clamp(min=0) % VOCAB
    assert torch.equal(
        read_tokens("entropy", hidden, head, labels)[1],
        read_tokens("entropy", hidden, head, others)[1],
    )


def test_a_zero_head_has_the_highest_entropy() -> None:
    labels = torch.zeros(1, 4, dtype=torch.long)
    _, found = read_tokens("entropy", torch.zeros(1, 4, SIZE), torch.randn(VOCAB, SIZE), labels)
    torch.testing.assert_close(found, torch.full((1, 4), math.log(VOCAB)))


@pytest.mark.parametrize(("score", "sign"), [("excess_loss", 1), ("lag", -1)])
def test_excess_loss_and_lag_are_the_two_signs_of_the_distance_to_the_reference(
    score: str, sign: int
) -> None:
    hidden, head, labels, reference = example()
    _, _, found = read(score)
    for at in (labels != IGNORE_INDEX).nonzero().tolist():
        place = tuple(at)
        loss = F.cross_entropy(head @ hidden[place], labels[place])
        expected = sign * (loss - reference[place])
        assert found[place].item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)
    with pytest.raises(ValueError, match=f"{score} needs reference losses"):
        read_tokens(score, hidden, head, labels)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_follows_its_formula(gamma: float) -> None:
    hidden, head, labels, _ = example()
    p = label_probabilities(hidden, head, labels)
    expected = (1 - p) ** gamma * -p.log()
    valid = labels != IGNORE_INDEX
    found = read("focal", gamma=gamma)[2]
    torch.testing.assert_close(found[valid], expected[valid], rtol=1e-10, atol=0)


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown score 'hardness'"):
        read("hardness")


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_do_not_depend_on_the_score(score: str, dtype: torch.dtype) -> None:
    hidden, head, labels, _ = example(dtype=dtype)
    head.requires_grad_()
    reference = torch.zeros(SHAPE, dtype=dtype)
    loss, found = read_tokens(score, hidden, head, labels, reference_BT=reference)
    assert torch.equal(loss, token_losses(hidden, head, labels))
    assert loss.dtype == found.dtype == dtype
    assert loss.shape == found.shape == SHAPE
    assert not loss.requires_grad
    assert not found.requires_grad


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rows", [1, 4, 7, 20, 21])
def test_scores_do_not_depend_on_chunks(
    monkeypatch: pytest.MonkeyPatch, score: str, rows: int
) -> None:
    whole = read(score)
    monkeypatch.setattr(losses, "_CPU_CHUNK_ELEMENTS", rows * VOCAB)
    monkeypatch.setattr(losses, "_MIN_CHUNK_TOKENS", 1)
    for mine, theirs in zip(read(score), whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_bfloat16_gives_float32_scores_close_to_the_exact(score: str) -> None:
    hidden, head, labels, reference = example(dtype=torch.float32)
    exact = read_tokens(score, hidden, head, labels, reference_BT=reference)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read_tokens(score, hidden, head, labels, reference_BT=reference)[1]
    valid = labels != IGNORE_INDEX
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[valid], exact[valid], rtol=0.05, atol=0.05)
