"""What mining remembers between steps, and what every method promises whatever the scores are."""

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_step import SCOPES, SELECTS, WEIGHTS
from torch import Tensor

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.prepare import prepare_data
from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.miner import TokenMiner, build_miner
from tinyohem.ohem.selection import selection_weights
from tinyohem.ohem.step_tokens import Draw, StepTokens
from tinyohem.ohem.token_weights import class_weights, ghm_weights

SHAPE = (4, 16)


def weigh(mining: TokenMiner, scores: Tensor, ratio: float, labels: Tensor | None = None) -> Tensor:
    labels = torch.ones(scores.shape, dtype=torch.long) if labels is None else labels
    shares = mining.config.mix_schedule().shares(0.0)
    tokens = StepTokens(labels, labels, scores, scores, scores)
    return mining.token_weights(tokens, Draw(ratio, shares=shares))


def drawn(seed: int) -> Tensor:
    """Return scores from one and the same distribution."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=rng).exp()


class TestQueue:
    def queue(self, steps: int, **config: Any) -> TokenMiner:
        return TokenMiner(OhemConfig(select="threshold", queue_steps=steps, **config))

    def test_the_limit_is_the_quantile_of_the_last_steps_valid_scores(self) -> None:
        mining, last = self.queue(3), deque[list[float]](maxlen=3)
        for step in range(8):
            scores, ratio = drawn(step), 0.3 + 0.05 * step
            labels = torch.ones(SHAPE, dtype=torch.long)
            labels[step % 4, step:] = IGNORE_INDEX
            valid = labels != IGNORE_INDEX
            kept = weigh(mining, scores, ratio, labels)
            if last:
                limit = np.quantile([score for scores in last for score in scores], 1 - ratio)
                expected = (scores > limit) & valid
            else:
                expected = (
                    selection_weights(scores, labels, ratio, OhemConfig()) > 0
                )  # nothing known yet
            assert torch.equal(kept > 0, expected)
            last.append(scores[valid].tolist())

    def test_it_converges_to_the_quantile_of_a_stationary_distribution(self) -> None:
        ratio, steps = 0.3, 150
        mining = self.queue(steps)
        for step in range(steps):
            weigh(mining, drawn(step), ratio)
        exact = math.exp(0.5244005127080407)  # the normal's upper 0.3 point is 0.5244
        limit = mining.state["queue"].nanquantile(1 - ratio).item()
        number = steps * math.prod(SHAPE)
        density = math.exp(-(0.5244**2) / 2) / math.sqrt(2 * math.pi) / exact
        error = math.sqrt(ratio * (1 - ratio) / number) / density
        assert abs(limit - exact) < 4 * error < 0.1
        # What is kept is a share of the stream, though not of every batch.
        shares = [
            (weigh(mining, drawn(1000 + step), ratio) > 0).float().mean().item()
            for step in range(100)
        ]
        assert np.mean(shares) == pytest.approx(ratio, abs=0.02)
        assert np.std(shares) > 0.03

    def test_the_queue_holds_queue_steps_steps(self) -> None:
        mining = self.queue(2)
        for step in range(5):
            weigh(mining, drawn(step), 0.5)
        held = torch.stack([drawn(4).flatten(), drawn(3).flatten()])
        assert torch.equal(mining.state["queue"], held)

    @pytest.mark.parametrize("scope", SCOPES)
    def test_a_batch_below_the_limit_still_keeps_min_kept(self, scope: str) -> None:
        mining = self.queue(4, scope=scope, min_kept=3)
        weigh(mining, drawn(0) + 10, 0.5)
        kept = weigh(mining, drawn(1), 0.5) > 0  # all of it below the queue's limit
        assert kept.sum() == (3 if scope == "batch" else 12)
        by_scope = drawn(1).view((1, -1) if scope == "batch" else SHAPE)
        hardest = by_scope.topk(3, dim=1).indices
        assert kept.view(by_scope.shape).gather(1, hardest).all()

    def test_other_methods_have_no_state(self) -> None:
        mining = TokenMiner(OhemConfig(select="importance"))
        weigh(mining, drawn(0), 0.5)
        assert mining.state == {}


class TestSoftWeights:
    def test_ghm_and_class_weights_multiply_the_selections(self) -> None:
        loss, labels = drawn(1), torch.randint(0, 5, SHAPE)
        labels[1, 3:9] = IGNORE_INDEX
        valid = labels != IGNORE_INDEX
        class_weight_V = class_weights(torch.tensor([1, 5, 9, 2, 50]), 0.5)
        kept = selection_weights(loss, labels, 0.4, OhemConfig())
        ghm = TokenMiner(OhemConfig(weight="ghm"))
        smoothed = None
        for _ in range(3):
            beta, smoothed = ghm_weights(loss, valid, smoothed, 0.75, 30)
            found = ghm.token_weights(StepTokens(labels, labels, loss, loss), Draw(0.4))
            torch.testing.assert_close(found, kept * beta)
        assert torch.equal(ghm.state["ghm_counts"], smoothed)  # type: ignore[arg-type]
        by_class = TokenMiner(OhemConfig(weight="class_balanced"), class_weight_V)
        expected = kept * class_weight_V[labels.clamp(min=0)]
        assert torch.equal(
            by_class.token_weights(StepTokens(labels, labels, loss, loss), Draw(0.4)), expected
        )

    def test_class_weights_come_from_the_training_corpus(self, corpus: Path) -> None:
        config = tiny.config(corpus, ohem__weight="class_balanced", ohem__class_power=0.5)
        store = prepare_data(config.data, config.tokenizer).train
        mining = build_miner(config.ohem, store, 320, torch.device("cpu"))
        counts = np.bincount(store.ids[: store.num_tokens], minlength=320)
        weight_V = mining.class_weight_V
        assert weight_V is not None
        assert weight_V.shape == (320,)
        assert (weight_V.numpy() @ counts) / counts.sum() == pytest.approx(1, rel=1e-5)
        a, b = np.argsort(counts)[-2:]
        assert (weight_V[a] / weight_V[b]).item() == pytest.approx(
            math.sqrt(counts[b] / counts[a]), rel=1e-5
        )

    @pytest.mark.parametrize("weight", WEIGHTS)
    def test_only_ghm_has_to_read_before_a_full_step(self, weight: str) -> None:
        config = OhemConfig(weight=weight)
        assert config.reads_first(0.999)
        assert config.reads_first(1.0) is (weight == "ghm")


NMS: dict[str, dict[str, Any]] = {
    "with duplicates": {},
    "by position": {"dedup": "position", "dedup_window": 1},
    "by bigram": {"dedup": "bigram", "dedup_max": 40},
}


class TestPromises:
    def every_config(self) -> list[OhemConfig]:
        return [
            OhemConfig(select=name, scope=scope, weight=weight, min_kept=2, **options, **nms)
            for name, options in SELECTS.items()
            for scope in SCOPES
            for weight in ("none", "ghm")
            for nms in NMS.values()
            if not nms or name in ("topk", "threshold", "band")
        ]

    @pytest.mark.parametrize("value", [0.0, 1.5, -2.0, 1e-30, 1e30])
    def test_equal_scores_keep_the_promised_count(self, value: float) -> None:
        """Every method keeps its count, the first positions first where it ranks."""
        scores = torch.full(SHAPE, value)
        labels = torch.ones(SHAPE, dtype=torch.long)
        labels[0, :4] = labels[3, 8:] = IGNORE_INDEX  # 12 + 16 + 16 + 8 are left
        for config in self.every_config():
            rng, shares = torch.Generator().manual_seed(0), config.mix_schedule().shares(0.0)
            tokens = StepTokens(labels, labels, scores.abs(), scores, scores)
            found = TokenMiner(config).token_weights(tokens, Draw(0.25, rng, shares))
            assert found.isfinite().all(), config
            assert (found >= 0).all(), config
            assert (found[labels == IGNORE_INDEX] == 0).all(), config
            by_row = (found > 0).sum(dim=1).tolist()
            if config.select == "importance":
                assert 0 < sum(by_row) < 52, config
            elif config.select == "threshold" and value > 3.5 and config.dedup == "none":
                assert by_row == [12, 16, 16, 8], config
            elif config.dedup == "none" and config.scope == "sequence":
                assert by_row == [3, 4, 4, 2], config
            elif config.dedup == "none":
                assert sum(by_row) == 13, config
                assert by_row == [12, 1, 0, 0] or config.select not in ("topk", "threshold"), config

    def test_importance_draws_as_many_when_all_scores_are_equal(self) -> None:
        labels, config = torch.ones(100, 40, dtype=torch.long), OhemConfig(select="importance")
        for value in (0.0, 2.0):
            generator = torch.Generator().manual_seed(1)
            found = selection_weights(
                torch.full((100, 40), value), labels, 0.3, config, generator=generator
            )
            torch.testing.assert_close(found[found > 0].unique(), torch.tensor([1 / 0.3]))
            assert (found > 0).sum().item() == pytest.approx(1200, abs=4 * math.sqrt(840))

    @pytest.mark.parametrize("case", ["nothing valid", "one valid token"])
    def test_one_valid_token_is_kept_and_without_any_none(self, case: str) -> None:
        labels, scores = torch.full(SHAPE, IGNORE_INDEX), drawn(0)
        if case == "one valid token":
            labels[2, 5] = 3
        for config in self.every_config():
            found = weigh(TokenMiner(config), scores, 0.5, labels)
            assert found.isfinite().all(), config
            assert torch.equal(found > 0, labels != IGNORE_INDEX), config

    @pytest.mark.parametrize("scale", [1e-35, 1e-12, 1e12, 1e30])
    def test_the_scale_of_the_scores_does_not_matter(self, scale: float) -> None:
        """Ranks and chances depend on ratios of scores only."""
        labels = torch.ones(SHAPE, dtype=torch.long)
        for config in self.every_config():
            if config.select == "threshold" or config.weight == "ghm":
                continue
            found = [
                TokenMiner(config).token_weights(
                    StepTokens(labels, labels, scores, scores, scores),
                    Draw(
                        0.3,
                        torch.Generator().manual_seed(3),
                        config.mix_schedule().shares(0.0),
                    ),
                )
                for scores in (drawn(0), scale * drawn(0))
            ]
            torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
