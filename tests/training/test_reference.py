"""The running mean of the model, against its closed form."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_llama
import tiny_step
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.errors import InputError
from tinyohem.io.json import read_json, write_json
from tinyohem.runs.record import run_config
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


def closed_form(seen: list[dict[str, Tensor]], horizon: int) -> dict[str, Tensor]:
    """Return Σ dᵗ⁻ⁱ·wᵢ / Σ dᵗ⁻ⁱ over the weights after each step, d = 1 − 1/horizon."""
    decay = 1 - 1 / horizon
    shares = [decay**age for age in reversed(range(len(seen)))]
    return {
        name: sum((share * w[name] for share, w in zip(shares, seen, strict=True)), 0 * first)
        / sum(shares)
        for name, first in seen[0].items()
    }


def after(steps: int, horizon: int) -> tuple[Any, EmaReference, dict[str, Tensor]]:
    """Return a model after so many steps, its reference, and the mean by hand."""
    model = tiny_step.model()
    reference, seen = EmaReference(model, horizon), []
    for step in range(steps):
        train_a_little(model, step)
        reference.update(model)
        seen.append(weights_of(model))
    return model, reference, closed_form(seen, horizon) if seen else weights_of(model)


def mean_of(reference: EmaReference) -> dict[str, Tensor]:
    return {
        name.removeprefix("ema."): tensor
        for name, tensor in reference.tensors().items()
        if name != "ema_steps"
    }


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("horizon", [2, 10])
def test_the_average_equals_its_closed_form(steps: int, horizon: int) -> None:
    model, reference, expected = after(steps, horizon)
    found = mean_of(reference)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
    if steps > 1:
        assert not torch.allclose(
            found["model.norm.weight"], weights_of(model)["model.norm.weight"]
        )
    assert reference.tensors()["ema_steps"] == steps


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60),
    horizon=st.integers(2, 10_000),
)
def test_it_is_the_weighted_mean_of_the_weights_after_every_step(
    values: list[float], horizon: int
) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    reference = EmaReference(model, horizon)
    for value in values:
        nn.init.constant_(model.weight, value)
        reference.update(model)
    shares = [(1 - 1 / horizon) ** age for age in reversed(range(len(values)))]
    mean = reference.tensors()["ema.weight"].item()
    assert mean == pytest.approx(np.average(values, weights=shares), rel=1e-9, abs=1e-9)
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9


@given(value=st.floats(-1e3, 1e3), horizon=st.integers(2, 10_000))
def test_the_first_weights_fade_like_any_other(value: float, horizon: int) -> None:
    """Uncorrected, the first step would keep the share dᵗ⁻¹ and here pull the mean off zero."""
    model = nn.Linear(1, 1, bias=False).double()
    reference = EmaReference(model, horizon)
    for step in range(20):
        nn.init.constant_(model.weight, value if step == 0 else 0.0)
        reference.update(model)
    decay = 1 - 1 / horizon
    share = decay**19 * (1 - decay) / (1 - decay**20)
    assert share <= 1 / 20 + 1e-12
    mean = reference.tensors()["ema.weight"].item()
    assert mean == pytest.approx(share * value, rel=1e-9, abs=1e-12)


def test_it_is_ready_after_as_many_steps_as_it_spans() -> None:
    model = tiny_step.model()
    reference, found = EmaReference(model, 3), []
    for _ in range(5):
        found.append(reference.ready)
        reference.update(model)
    assert found == [False, False, False, True, True]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_its_losses_are_a_forward_of_the_mean_weights(number: int) -> None:
    model, reference, expected = after(5, 5)
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
    model, reference, _ = after(3, 5)
    before = weights_of(model)
    reference.update(model)
    reference.load({name: torch.zeros_like(t) for name, t in reference.tensors().items()})
    for name, tensor in weights_of(model).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("steps", [0, 4])
def test_a_loaded_mean_goes_on_as_the_saved_one_would(steps: int) -> None:
    model, reference, _ = after(steps, 5)
    resumed = EmaReference(tiny_step.model(), 5)
    resumed.load({name: tensor.clone() for name, tensor in reference.tensors().items()})
    for step in range(10, 13):
        train_a_little(model, step)
        reference.update(model)
        resumed.update(model)
    for mine, theirs in zip(resumed.tensors().values(), reference.tensors().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert resumed.ready is reference.ready is (steps > 0)


def test_a_tied_head_is_stored_once() -> None:
    _, reference, _ = after(1, 2)
    names = set(reference.tensors())
    assert "ema.model.embed_tokens.weight" in names
    assert "ema.lm_head.weight" not in names


def test_the_loop_updates_it_after_every_step(corpus: Path, tmp_path: Path) -> None:
    """Each checkpoint's mean is the closed form over the weights of all checkpoints so far."""
    mining = {"ohem__ratio": 0.5, "ohem__score": "excess_loss", "ohem__ema_horizon": 0.75}
    every = {"training__save_every": 1, "training__keep_last": 9, "training__steps": 4}
    train(tiny.config(corpus, **mining, **every), tmp_path / "run")
    seen: list[dict[str, Tensor]] = []
    for step in range(1, 5):
        folder = tmp_path / "run" / "checkpoints" / f"step_{step:06d}"
        seen.append(load_file(folder / "model" / "model.safetensors"))
        saved = load_file(folder / "optimizer.safetensors")
        assert saved["mining:ema_steps"] == step
        for name, expected in closed_form(seen, horizon=3).items():
            torch.testing.assert_close(saved[f"mining:ema.{name}"], expected)


@pytest.mark.parametrize(("score", "sign"), [("excess_loss", 1), ("lag", -1)])
def test_a_step_keeps_the_tokens_that_a_slow_transcription_keeps(score: str, sign: int) -> None:
    model, reference, expected = after(6, 3)
    input_ids, labels = tiny_step.tokens()
    batches = tiny_step.micro_batches(input_ids, labels, 2)
    averaged = tiny_step.model()
    with torch.no_grad():
        for name, parameter in averaged.named_parameters():
            parameter.copy_(expected[name])
    own, mean = (tiny_step.losses(m, input_ids, labels) for m in (model, averaged))
    distance = {
        (row, at): sign * (own[row, at] - mean[row, at]).item()
        for row, at in (labels != IGNORE_INDEX).nonzero().tolist()
    }
    kept = sorted(distance, key=lambda place: -distance[place])[: math.ceil(0.4 * len(distance))]
    slow = sum(own[place] for place in kept) / len(kept)
    gradient = torch.autograd.grad(slow, list(model.parameters()))

    references = torch.cat(reference.losses([], batches))
    way = tiny_step.miner(ratio=0.4, score=score)
    stats = tiny_step.step(model, input_ids, labels, 0.4, way, number=2, reference=references)
    assert stats.num_kept == len(kept)
    assert stats.loss_selected.item() == pytest.approx(slow.item(), rel=1e-9)
    torch.testing.assert_close(
        tiny_step.gradient(model), torch.cat([part.flatten() for part in gradient])
    )


class TestOlderVersions:
    def stopped(self, corpus: Path, run_dir: Path, **ohem: Any) -> Path:
        """Train ten steps of twenty; give the run the record of an older version."""
        train(tiny.config(corpus, ohem__ratio=0.5, training__stop_at_step=10, **ohem), run_dir)
        record = read_json(run_dir / "config.json")
        record["config"]["ohem"]["ema_decay"] = 0.999
        del record["config"]["ohem"]["ema_horizon"]
        write_json(run_dir / "config.json", record)
        return run_dir

    def test_a_run_with_their_biased_mean_does_not_go_on(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        run_dir = self.stopped(corpus, tmp_path / "run", ohem__score="excess_loss")
        before = tiny.snapshot(run_dir)
        config = tiny.config(corpus, ohem__ratio=0.5, ohem__score="excess_loss")
        with pytest.raises(InputError, match="leans on its first step") as caught:
            train(config, run_dir, resume="auto")
        assert caught.value.hint == "begin the run anew with another --out"
        assert tiny.snapshot(run_dir) == before
        assert run_config(str(run_dir)) is not None  # and it can still be read

    def test_their_other_runs_go_on(self, corpus: Path, tmp_path: Path) -> None:
        run_dir = self.stopped(corpus, tmp_path / "run")
        resumed, _ = train(tiny.config(corpus, ohem__ratio=0.5), run_dir, resume="must")
        assert resumed.finished


def test_it_keeps_stories_apart_as_the_model_that_is_trained(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, inside = EmaReference.losses, []

    def checked(self: EmaReference, windows: Any, batches: Any) -> list[Tensor]:
        found = original(self, windows, batches)
        for losses, batch in zip(found, batches, strict=True):
            hidden = tiny_llama.apart(self._average, batch.input_ids, story_start=0)
            with torch.no_grad():
                expected = tiny_llama.token_losses(self._average, hidden, batch.labels)
            torch.testing.assert_close(losses.flatten(), expected, rtol=1e-4, atol=1e-5)
            inside.append((batch.input_ids[:, 1:] == 0).any())
        return found

    monkeypatch.setattr(EmaReference, "losses", checked)
    mining = {"ohem__ratio": 0.5, "ohem__score": "excess_loss", "ohem__schedule": "constant"}
    train(tiny.config(corpus, training__steps=4, training__batch_size=8, **mining), tmp_path)
    assert any(inside)
