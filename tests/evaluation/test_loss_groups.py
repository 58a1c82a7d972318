"""Groups against the definition written out token by token, and closed forms."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinyohem.data.token_store import TokenStore
from tinyohem.evaluation.loss_groups import (
    Group,
    by_difficulty,
    by_frequency,
    by_loss,
    label_counts,
    story_sums,
)

LOSSES = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 20, width=32))


def assert_partition(groups: list[Group], losses: np.ndarray, tokens: int) -> None:
    """The groups hold every token once: their weighted mean is the loss, their shares all of it."""
    total = losses.sum(dtype=np.float64)
    assert sum(group.tokens for group in groups) == tokens
    assert all(group.tokens > 0 for group in groups)
    assert sum(group.loss * group.tokens for group in groups) == pytest.approx(total, rel=1e-12)
    assert sum(group.share_of_loss for group in groups) == pytest.approx(float(total > 0))


class TestByLoss:
    def test_buckets(self) -> None:
        found = by_loss(np.array([0, 0.5, 1, 2.5, 3, 4, 5, 8], dtype=np.float32))
        assert [(g.name, g.tokens, g.loss, g.share_of_loss) for g in found] == [
            ("<1", 2, 0.25, 0.5 / 24),
            ("1-3", 2, 1.75, 3.5 / 24),
            ("3-5", 2, 3.5, 7 / 24),
            (">5", 2, 6.5, 13 / 24),
        ]
        assert found[3].perplexity == pytest.approx(math.exp(6.5))

    def test_a_bucket_without_tokens_is_left_out(self) -> None:
        assert [g.name for g in by_loss(np.array([0.0, 7.0]))] == ["<1", ">5"]

    @given(LOSSES)
    def test_the_groups_partition_the_tokens(self, losses: np.ndarray) -> None:
        assert_partition(by_loss(losses), losses, len(losses))


class TestByFrequency:
    def test_bands_are_ranks_in_training(self) -> None:
        """Type t was seen 2000 − t times, so that its rank is t; the last three were never seen."""
        counts = np.arange(2000, 0, -1)
        counts[-3:] = 0
        labels = np.array([0, 9, 10, 99, 100, 999, 1000, 1996, 1997, 1999])
        losses = np.arange(10, dtype=np.float32)
        assert [(g.name, g.tokens, g.loss) for g in by_frequency(losses, labels, counts)] == [
            ("top 10", 2, 0.5),
            ("11-100", 2, 2.5),
            ("101-1,000", 2, 4.5),
            ("1,001 and rarer", 2, 6.5),
            ("unseen", 2, 8.5),
        ]

    def test_the_order_of_ids_does_not_matter(self) -> None:
        rng = np.random.default_rng(0)
        counts, renamed = np.arange(300, 0, -1), rng.permutation(300)
        labels, losses = rng.integers(0, 300, 500), rng.random(500)
        shuffled = np.empty_like(counts)
        shuffled[renamed] = counts
        found = by_frequency(losses, renamed[labels], shuffled)
        assert found == by_frequency(losses, labels, counts)

    @given(LOSSES, st.integers(1, 40), st.integers(0, 2**32 - 1))
    def test_the_groups_partition_the_tokens(
        self, losses: np.ndarray, vocab_size: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, vocab_size, len(losses))
        counts = rng.integers(0, 3, vocab_size)
        assert_partition(by_frequency(losses, labels, counts), losses, len(losses))


class TestByDifficulty:
    def test_deciles(self) -> None:
        rng = np.random.default_rng(0)
        difficulty = rng.permutation(30) / 7.0
        tokens = rng.integers(1, 9, 30)
        nats = tokens * (1.0 + difficulty)
        found = by_difficulty(nats, tokens, difficulty)
        order = np.argsort(difficulty)
        assert [g.name for g in found][::9] == ["1 (easiest)", "10 (hardest)"]
        for index, group in enumerate(found):
            members = order[3 * index : 3 * index + 3]
            assert group.tokens == tokens[members].sum()
            assert group.loss == pytest.approx(nats[members].sum() / tokens[members].sum())

    def test_ties_stay_together(self) -> None:
        found = by_difficulty(np.ones(4), np.ones(4, dtype=int), np.array([2.0, 1.0, 1.0, 1.0]))
        assert [(g.name, g.tokens) for g in found] == [("4", 3), ("9", 1)]

    def test_stories_without_a_difficulty_are_a_group(self) -> None:
        found = by_difficulty(np.array([2.0, 3.0]), np.array([1, 2]), np.array([np.nan, 0.0]))
        assert [(g.name, g.tokens, g.loss) for g in found] == [("6", 2, 1.5), ("undefined", 1, 2.0)]
        nothing = by_difficulty(np.ones(2), np.array([1, 1]), np.full(2, np.nan))
        assert [(g.name, g.tokens) for g in nothing] == [("undefined", 2)]

    @given(LOSSES, st.integers(0, 2**32 - 1))
    def test_the_groups_partition_the_tokens(self, nats: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        tokens = rng.integers(1, 9, len(nats))
        difficulty = rng.choice([0.0, 1.0, 2.0, 3.0, np.nan], len(nats))
        assert_partition(by_difficulty(nats, tokens, difficulty), nats, int(tokens.sum()))


class TestStore:
    @pytest.fixture
    def store(self) -> TokenStore:
        ids = np.array([0, 3, 3, 0, 1, 0, 2, 1, 3], dtype=np.uint16)
        offsets = np.array([0, 3, 5, 9])
        counts = np.ones(3, dtype=np.uint32)
        return TokenStore(ids, offsets, np.arange(3), counts, counts, {})

    def test_labels_are_counted_without_start_tokens(self, store: TokenStore) -> None:
        assert label_counts(store, 5).tolist() == [0, 2, 1, 3, 0]

    def test_nats_of_each_story(self, store: TokenStore) -> None:
        losses = np.array([0, 1, 2, 0, 4, 0, 8, 16, 32], dtype=np.float32)
        assert story_sums(store, losses).tolist() == [3, 4, 56]


def test_json_has_every_figure_and_no_infinity() -> None:
    group = Group("x", tokens=2, loss=1.5, share_of_loss=0.25)
    assert group.to_json() == {
        "name": "x",
        "tokens": 2,
        "loss": 1.5,
        "share_of_loss": 0.25,
        "perplexity": math.exp(1.5),
    }
    diverged = Group("x", tokens=2, loss=1e4, share_of_loss=1.0).to_json()
    assert diverged["perplexity"] is None
    json.dumps(diverged, allow_nan=False)
