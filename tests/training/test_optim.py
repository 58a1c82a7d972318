"""The learning rate at closed-form points, and which parameters decay."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tinyohem.config.model import Shape
from tinyohem.config.training import OptimConfig
from tinyohem.models.llama import build_model
from tinyohem.training.optim import build_optimizers, decay_starts, learning_rate, update

COSINE = OptimConfig(lr=2.0, schedule="cosine", warmup_fraction=0.1, min_lr_ratio=0.1)
WSD = OptimConfig(
    lr=2.0, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.25, min_lr_ratio=0.1
)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0, 0),
        (0.05, 1.0),
        (0.1, 2.0),
        (0.325, 2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)),  # a quarter of the way down
        (0.55, 2 * 0.55),  # half
        (0.7, 2 * (0.1 + 0.9 * 0.25)),  # two thirds: cos(2π/3) = -1/2
        (1.0, 0.2),
    ],
)
def test_cosine(progress: float, expected: float) -> None:
    assert learning_rate(progress, COSINE) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0, 0),
        (0.025, 0.5),
        (0.1, 2.0),
        (0.5, 2.0),
        (0.75, 2.0),
        (0.875, 2 * (0.1 + 0.9 * 0.5)),
        (0.95, 2 * (0.1 + 0.9 * 0.2)),
        (1.0, 0.2),
    ],
)
def test_warmup_stable_decay(progress: float, expected: float) -> None:
    assert learning_rate(progress, WSD) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_without_warmup_the_peak_comes_first(schedule: str) -> None:
    config = OptimConfig.model_validate({"lr": 0.5, "warmup_fraction": 0, "schedule": schedule})
    assert learning_rate(0.0, config) == 0.5
    assert learning_rate(1.0, config) == 0.0


@given(st.integers(1, 400), st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7]))
def test_the_decay_starts_where_the_rate_first_falls(steps: int, decay: float) -> None:
    config = OptimConfig(lr=2.0, schedule="wsd", warmup_fraction=0, decay_fraction=decay)
    rates = [learning_rate((step + 0.5) / steps, config) for step in range(steps)]
    falls = [step for step, rate in enumerate(rates) if rate < 2.0]
    assert decay_starts(steps, config) == (falls[0] if falls else steps)
    cosine = config.model_copy(update={"schedule": "cosine"})
    assert decay_starts(steps, cosine) == decay_starts(steps, config)


@given(st.sampled_from([COSINE, WSD]), st.floats(0.1, 1), st.floats(0.1, 1))
def test_past_the_warmup_it_only_falls_and_stays_in_bounds(
    config: OptimConfig, a: float, b: float
) -> None:
    early, late = (learning_rate(t, config) for t in sorted((a, b)))
    assert 2.0 + 1e-12 >= early >= late - 1e-12
    assert late >= 0.2 - 1e-12


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.full((2, 3), 2.0))
        self.gain = nn.Parameter(torch.full((3,), 2.0))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_every_trained_parameter_is_in_one_group_and_gains_do_not_decay() -> None:
    net = Net()
    config = OptimConfig(optimizer="adamw", lr=0.1, weight_decay=0.3, beta1=0.8, beta2=0.9)
    (adamw,) = build_optimizers(net, config)
    decaying, free = adamw.param_groups
    assert [id(p) for p in decaying["params"]] == [id(net.matrix)]
    assert [id(p) for p in free["params"]] == [id(net.gain)]
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    for group in (decaying, free):
        assert (group["lr"], group["betas"]) == (0.1, (0.8, 0.9))


def test_a_step_is_that_of_adamw() -> None:
    net = Net()
    optimizers = build_optimizers(net, OptimConfig(optimizer="adamw", lr=7.0, weight_decay=0.5))
    (3 * net.matrix.sum() - 5 * net.gain.sum()).backward()
    update(optimizers, 0.1)
    # The first step moves by lr against the gradient's sign, after decay by lr · weight_decay.
    torch.testing.assert_close(net.matrix.data, torch.full((2, 3), 2.0 * (1 - 0.05) - 0.1))
    torch.testing.assert_close(net.gain.data, torch.full((3,), 2.0 + 0.1))
    assert net.matrix.grad is None


def test_muon_takes_the_matrices_of_the_trunk_and_adamw_the_rest() -> None:
    model = build_model(Shape(16, 2, 2, 32), 40, 8, start_id=0, seed=0)
    adamw, muon = build_optimizers(model, OptimConfig(optimizer="muon", lr=16e-3))
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = [names[id(p)] for p in muon.param_groups[0]["params"]]
    by_adamw = [[names[id(p)] for p in group["params"]] for group in adamw.param_groups]
    assert len(by_muon) == 2 * 7
    assert all(name.endswith("_proj.weight") for name in by_muon)
    assert by_adamw[0] == ["model.embed_tokens.weight"]
    assert all("norm" in name for name in by_adamw[1])
    assert len(by_muon) + sum(map(len, by_adamw)) == len(names)


def test_a_step_of_muon_moves_a_matrix_as_far_as_adamw_would() -> None:
    """0.2 · √max(rows, columns) times an orthogonal matrix: every entry's mean square is 0.2²."""
    model = build_model(Shape(64, 1, 2, 64), 40, 8, start_id=0, seed=0)
    optimizers = build_optimizers(model, OptimConfig(optimizer="muon", lr=16e-3, weight_decay=0.0))
    matrix = model.model.layers[0].self_attn.q_proj.weight
    before = matrix.detach().clone()
    model(input_ids=torch.arange(8)[None]).logits.square().mean().backward()
    torch.manual_seed(0)
    matrix.grad = torch.randn(64, 64)
    update(optimizers, 0.5)
    moved = (matrix.detach() - before) / 0.5
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)
    singular = torch.linalg.svdvals(moved) / (0.2 * 8)
    assert 0.5 < singular.quantile(0.05) < singular.max() < 1.3
