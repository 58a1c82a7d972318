"""Muon by stacks of matrices, against torch's own and a slow transcription."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tinyohem.system import device
from tinyohem.training import muon
from tinyohem.training.muon import StackedMuon

SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


def matrices(shapes: list[tuple[int, int]], seed: int) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]


def gradients(shapes: list[tuple[int, int]], steps: int, seed: int) -> list[list[Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=random) for shape in shapes] for _ in range(steps)]


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], grads: list) -> None:
    for of_step in grads:
        for parameter, grad in zip(parameters, of_step, strict=True):
            parameter.grad = grad.clone()
        optimizer.step()


def transcription(start: Tensor, grads: list[Tensor], lr: float, decay: float) -> Tensor:
    """One matrix, one step after the other, in float64."""
    weight, mean = start.double(), torch.zeros_like(start, dtype=torch.float64)
    for grad in grads:
        mean = 0.95 * mean + 0.05 * grad.double()
        x = 0.05 * grad.double() + 0.95 * mean
        x = x / max(x.norm().item(), 1e-7)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        weight = weight * (1 - lr * decay) - lr * 0.2 * math.sqrt(max(x.shape)) * x
    return weight


@given(SHAPES, st.integers(0, 99))
def test_an_update_is_that_of_the_formula(shapes: list[tuple[int, int]], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(muon, "multiplies_bfloat16", lambda _: False)
        ours, grads = matrices(shapes, seed), gradients(shapes, 3, seed + 100)
        before = [p.detach().clone() for p in ours]
        train(StackedMuon(ours, lr=0.1, weight_decay=0.3), ours, grads)
    for place, (start, end) in enumerate(zip(before, ours, strict=True)):
        expected = transcription(start, [of_step[place] for of_step in grads], 0.1, 0.3)
        torch.testing.assert_close(end.detach().double(), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (30, 60), (8, 90)])
@pytest.mark.parametrize("digits", [0, 4, 8])
def test_wide_gradients_near_a_low_rank_lose_little_precision(
    shape: tuple[int, int], digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Singular values of 1 to 10^-digits: small ones drown in the Gram matrix, and grow most."""
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda _: False)
    random = torch.Generator().manual_seed(digits)
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=random).double())
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=random).double())
    gradient = left * torch.logspace(0, -digits, min(shape), dtype=torch.float64) @ right.T
    (weight,) = matrices([shape], 0)
    before = weight.detach().clone()
    weight.grad = gradient.float()
    StackedMuon([weight], lr=0.1, weight_decay=0.0).step()
    expected = transcription(before, [gradient], 0.1, 0.0)
    moved = (expected - before.double()).norm()
    assert (weight.detach().double() - expected).norm() < 1e-3 * moved


@pytest.mark.parametrize("native", [True, False])
def test_an_update_is_that_of_torchs_muon_to_the_rounding_of_bfloat16(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda _: native)
    shapes = [(16, 16), (16, 40), (40, 16), (16, 16), (8, 16), (16, 40)]
    ours, theirs, grads = matrices(shapes, 0), matrices(shapes, 0), gradients(shapes, 4, 1)
    before = [p.detach().clone() for p in ours]
    settings = {"lr": 0.1, "weight_decay": 0.3}
    reference = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    train(StackedMuon(ours, **settings), ours, grads)
    train(reference, theirs, grads)
    for start, end, other in zip(before, ours, theirs, strict=True):
        moved, difference = (other - start).norm(), (end - other).norm()
        assert difference < 0.02 * moved


def test_the_state_is_that_of_torchs_muon() -> None:
    """Checkpoints of either go on with the other."""
    shapes = [(4, 6), (6, 4)]
    ours, theirs, grads = matrices(shapes, 0), matrices(shapes, 0), gradients(shapes, 2, 1)
    mine = StackedMuon(ours, lr=0.1, weight_decay=0.0)
    reference = torch.optim.Muon(theirs, lr=0.1, adjust_lr_fn="match_rms_adamw")
    train(mine, ours, grads)
    train(reference, theirs, grads)
    one, other = mine.state_dict()["state"], reference.state_dict()["state"]
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].keys() == other[key].keys() == {"momentum_buffer"}
        torch.testing.assert_close(one[key]["momentum_buffer"], other[key]["momentum_buffer"])


def test_a_matrix_without_gradient_stays() -> None:
    kept, moved = matrices([(3, 3), (3, 3)], 0)
    before = kept.detach().clone()
    moved.grad = torch.ones(3, 3)
    StackedMuon([kept, moved], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(kept, before)


def test_a_processor_without_products_of_bfloat16_gets_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for capabilities, native in [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_f": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda facts=capabilities: facts)
        assert device.multiplies_bfloat16(cpu) is native
