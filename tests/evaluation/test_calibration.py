"""Calibration against scipy, the definition written out, and models that are right by making."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from tinyohem.data.token_store import TokenStore
from tinyohem.errors import RunError
from tinyohem.evaluation import calibration as module
from tinyohem.evaluation.calibration import Calibration, LogitStream, calibrate, calibration
from tinyohem.evaluation.perplexity import evaluate_perplexity


def draw(seed: int, scale: float = 2.0, tokens: int = 400, vocab_size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(tokens, vocab_size, generator=generator)


def labels_of(logits: Tensor, seed: int) -> Tensor:
    """Draw labels from the probabilities that the logits claim."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


def in_batches(logits: Tensor, labels: Tensor, rows: int = 150) -> LogitStream:
    def stream() -> Iterable[tuple[Tensor, Tensor]]:
        return zip(logits.split(rows), labels.split(rows), strict=True)

    return stream


def best_by_scipy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the best temperature and the loss there."""

    def loss(log_temperature: float) -> float:
        scaled = logits.double() / math.exp(log_temperature)
        return F.cross_entropy(scaled, labels).item()

    found = minimize_scalar(loss, bounds=(math.log(0.01), math.log(100)), method="bounded")
    return math.exp(found.x), found.fun


class TestTemperature:
    @pytest.mark.parametrize("stretch", [0.02, 0.1, 0.4, 0.9, 1.0, 1.3, 4.0, 20.0])
    def test_equals_scipy(self, stretch: float) -> None:
        """Predictions far too sure and far too flat, in float32 and several batches."""
        logits = draw(seed=0)
        labels = labels_of(logits, seed=1)
        found = calibration(in_batches(stretch * logits, labels))
        temperature, loss = best_by_scipy(stretch * logits, labels)
        assert found.best_temperature == pytest.approx(temperature, rel=1e-3)
        assert found.loss_at_best == pytest.approx(loss, rel=1e-5)
        assert found.loss == pytest.approx(F.cross_entropy(stretch * logits, labels).item())
        assert found.loss_at_best <= found.loss + 1e-7

    def test_logits_times_c_have_a_temperature_c_times_as_large(self) -> None:
        logits = draw(seed=2)
        labels = labels_of(logits, seed=3)
        one, tenfold = (calibration(in_batches(c * logits, labels)) for c in (1, 7.5))
        ratio = tenfold.best_temperature / one.best_temperature
        assert ratio == pytest.approx(7.5, rel=1e-3)
        assert tenfold.loss_at_best == pytest.approx(one.loss_at_best, rel=1e-5)

    def test_labels_drawn_from_the_predictions_need_no_temperature(self) -> None:
        logits = draw(seed=4, tokens=40_000)
        found = calibration(in_batches(logits, labels_of(logits, seed=5), rows=9_000))
        assert found.best_temperature == pytest.approx(1, abs=0.02)
        assert found.calibration_error < 0.01
        assert found.accuracy == pytest.approx(found.confidence, abs=0.01)

    @pytest.mark.parametrize(("wrong", "expected"), [(False, 0.01), (True, 100)])
    def test_without_a_best_temperature_the_search_ends(self, wrong: bool, expected: float) -> None:
        """Always right: the colder the better. Always wrong: the hotter."""
        logits = draw(seed=6)
        labels = logits.argmin(1) if wrong else logits.argmax(1)
        found = calibration(in_batches(logits, labels))
        assert found.best_temperature == pytest.approx(expected, rel=0.02)
        assert found.accuracy == float(not wrong)

    def test_uniform_predictions_have_the_loss_of_the_vocabulary(self) -> None:
        found = calibration(in_batches(torch.zeros(9, 4), torch.arange(9) % 4))
        assert found.loss == found.loss_at_best == pytest.approx(math.log(4))
        assert math.isfinite(found.best_temperature)

    def test_broken_weights_are_an_error(self) -> None:
        logits = torch.full((3, 4), torch.nan)
        with pytest.raises(RunError, match="not finite"):
            calibration(in_batches(logits, torch.zeros(3, dtype=torch.int64)))


class TestError:
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_the_definition(self, seed: int) -> None:
        """Guo et al. 2017, equations 2 to 5, one token at a time."""
        logits = draw(seed, scale=3.0, vocab_size=5)
        labels = labels_of(logits / 2, seed)
        bins: dict[int, list[tuple[float, bool]]] = {}
        for row, label in zip(logits.double(), labels, strict=True):
            p = torch.exp(row) / torch.exp(row).sum()
            bins.setdefault(math.ceil(p.max().item() * 15), []).append(
                (p.max().item(), p.argmax() == label)
            )
        expected = 0.0
        for members in bins.values():
            confidence = sum(p for p, _ in members) / len(members)
            accuracy = sum(right for _, right in members) / len(members)
            expected += len(members) / len(labels) * abs(accuracy - confidence)
        found = calibration(in_batches(logits, labels))
        assert found.calibration_error == pytest.approx(float(expected), rel=1e-4)
        assert found.calibration_error > 0.05

    def test_certainty_falls_into_the_last_bin(self) -> None:
        logits = torch.tensor([[500.0, 0.0], [500.0, 0.0]])
        found = calibration(in_batches(logits, torch.tensor([0, 1])))
        assert (found.accuracy, found.confidence, found.calibration_error) == (0.5, 1.0, 0.5)


class TestModel:
    @pytest.fixture
    def scored(self, finished_run) -> tuple[torch.nn.Module, TokenStore]:
        from tinyohem.config.data import TokenizerConfig
        from tinyohem.config.run import validate_config
        from tinyohem.data.prepare import prepare_data
        from tinyohem.io.json import read_json
        from tinyohem.models.source import load_source

        config = validate_config(read_json(finished_run / "config.json")["config"])
        tokenizer = TokenizerConfig(name=str(finished_run / "model"))
        data = prepare_data(config.data, tokenizer)
        return load_source(str(finished_run), "cpu").model, data.valid

    def test_every_token_counts_once(
        self, scored: tuple[torch.nn.Module, TokenStore], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stories are longer than the context: windows overlap, and the loss is that of a run."""
        model, store = scored
        assert max(np.diff(store.offsets)) > 64
        expected = evaluate_perplexity(model, store, seq_len=32, stride=8)
        seen = []
        add = module._Bins.add
        monkeypatch.setattr(
            module._Bins, "add", lambda self, p, right: (seen.append(len(p)), add(self, p, right))
        )
        found = calibrate(model, store, seq_len=32, stride=8)
        assert sum(seen) == expected.tokens
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)

    def test_a_hotter_model_has_that_temperature(
        self, scored: tuple[torch.nn.Module, TokenStore]
    ) -> None:
        model, store = scored
        plain = calibrate(model, store, seq_len=32)
        with torch.no_grad():
            model.model.norm.weight *= 2.5  # the logits are linear in it
        sure = calibrate(model, store, seq_len=32)
        ratio = sure.best_temperature / plain.best_temperature
        assert ratio == pytest.approx(2.5, rel=1e-3)
        assert sure.accuracy == plain.accuracy
        assert sure.confidence > plain.confidence


def test_json_has_every_figure() -> None:
    found = Calibration(0.5, 0.4, 0.1, 2.0, 0.9, 1.9).to_json()
    assert found["calibration_error"] == 0.1
    assert len(found) == 6
