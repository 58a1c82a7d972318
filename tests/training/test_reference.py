"""The running mean of the model, against one written out by hand."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_step
import torch
from safetensors.torch import load_file
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.training.loop import train
from tinyohem.training.reference import EmaReference


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def train_a_little(model: Any, step: int) -> None:
    """Move every weight, as an optimizer would, in place."""
    rng = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)


def after(steps: int, decay: float) -> tuple[Any, EmaReference, dict[str, Tensor]]:
    """Return a model after so many steps, its reference, and the mean by hand."""
    model = tiny_step.model()
    reference, expected = EmaReference(model, decay), weights_of(model)
    for step in range(steps):
        train_a_little(model, step)
        reference.update(model)
        new = weights_of(model)
        share = decay if step else 0.0  # the mean begins as the first updated weights
        expected = {n: share * expected[n] + (1 - share) * new[n] for n in expected}
    return model, reference, expected


def mean_of(reference: EmaReference) -> dict[str, Tensor]:
    return {
        name.removeprefix("ema."): tensor
        for name, tensor in reference.tensors().items()
        if name != "ema_steps"
    }


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_equals_one_computed_by_hand(steps: int, decay: float) -> None:
    model, reference, expected = after(steps, decay)
    found = mean_of(reference)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
    if steps > 1:
        assert not torch.allclose(
            found["model.norm.weight"], weights_of(model)["model.norm.weight"]
        )
    assert reference.tensors()["ema_steps"] == steps


@pytest.mark.parametrize("number", [1, 2, 4])
def test_its_losses_are_a_forward_of_the_mean_weights(number: int) -> None:
    model, reference, expected = after(5, 0.8)
    input_ids, labels = tiny_step.tokens()
    batches = tiny_step.micro_batches(input_ids, labels, number)
    own = tiny_step.losses(model, input_ids, labels)
    found = reference.losses([], batches)
    assert len(found) == number
    averaged = tiny_step.model()
    with torch.no_grad():
        for name, parameter in averaged.named_parameters():
            parameter.copy_(expected[name])
    losses = torch.cat(found)
    torch.testing.assert_close(losses, tiny_step.losses(averaged, input_ids, labels).detach())
    assert not losses.requires_grad
    assert (losses[labels == IGNORE_INDEX] == 0).all()
    assert (losses - own).abs().max() > 0.01
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_itself_is_not_touched() -> None:
    model, reference, _ = after(3, 0.8)
    before = weights_of(model)
    reference.update(model)
    reference.load({name: torch.zeros_like(t) for name, t in reference.tensors().items()})
    for name, tensor in weights_of(model).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("steps", [0, 4])
def test_a_loaded_mean_goes_on_as_the_saved_one_would(steps: int) -> None:
    model, reference, _ = after(steps, 0.8)
    resumed = EmaReference(tiny_step.model(), 0.8)
    resumed.load({name: tensor.clone() for name, tensor in reference.tensors().items()})
    for step in range(10, 13):
        train_a_little(model, step)
        reference.update(model)
        resumed.update(model)
    for mine, theirs in zip(resumed.tensors().values(), reference.tensors().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_tied_head_is_stored_once() -> None:
    _, reference, _ = after(1, 0.5)
    names = set(reference.tensors())
    assert "ema.model.embed_tokens.weight" in names
    assert "ema.lm_head.weight" not in names


def test_the_loop_updates_it_after_every_step(corpus: Path, tmp_path: Path) -> None:
    """Each checkpoint's mean is 0.7 of the one before and 0.3 of its own weights."""
    mining = {"ohem__ratio": 0.5, "ohem__score": "excess_loss", "ohem__ema_decay": 0.7}
    every = {"training__save_every": 1, "training__keep_last": 9, "training__steps": 4}
    train(tiny.config(corpus, **mining, **every), tmp_path / "run")
    before: dict[str, Tensor] = {}
    for step in range(1, 5):
        folder = tmp_path / "run" / "checkpoints" / f"step_{step:06d}"
        weights = load_file(folder / "model" / "model.safetensors")
        saved = load_file(folder / "optimizer.safetensors")
        assert saved["mining:ema_steps"] == step
        mean = {name: saved[f"mining:ema.{name}"] for name in weights}
        for name, weight in weights.items():
            expected = 0.7 * before[name] + 0.3 * weight if before else weight
            torch.testing.assert_close(mean[name], expected)
        before = mean
