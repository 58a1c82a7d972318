"""The n-gram model against its formula written down with dictionaries, word by word."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.difficulty.hash_table import HashTable
from tinyohem.difficulty.ngram import NgramModel
from tinyohem.difficulty.text import pack, split_words, words
from tinyohem.errors import InputError

MARK = ""  # no word


class Level:
    """One order: discounted counts, with what they leave to the shorter one."""

    def __init__(self, counts: Counter[tuple[Hashable, Hashable]]) -> None:
        of = Counter(counts.values())
        self.counts = counts
        self.discount = of[1] / (of[1] + 2 * of[2]) if of[1] else 0.5
        self.followers: dict[Hashable, list[int]] = defaultdict(list)
        for (context, _), count in counts.items():
            self.followers[context].append(count)

    def probability(self, context: Hashable, item: Hashable, shorter: float) -> float:
        followers = self.followers.get(context)
        if not followers:
            return shorter
        term = max(self.counts[context, item] - self.discount, 0)
        return (term + self.discount * len(followers) * shorter) / sum(followers)


class SlowModel:
    """The docstring of `ngram.py`, with dictionaries."""

    def __init__(self, texts: Sequence[str]) -> None:
        triples: Counter = Counter()
        for text in texts:
            padded = [MARK, MARK, *words(text)]
            triples.update(zip(padded[:-2], padded[1:-1], padded[2:], strict=True))
        pairs = Counter((v, w) for _, v, w in triples)
        singles = Counter(w for _, w in pairs)
        self.third = Level(Counter({((u, v), w): c for (u, v, w), c in triples.items()}))
        self.second = Level(pairs)
        self.first = Level(Counter({((), w): c for w, c in singles.items()}))
        spelled = [self.symbols(word) for word in singles]
        self.after = Counter(pair[1] for word in spelled for pair in word)
        self.bytes = Level(Counter(pair for word in spelled for pair in word))

    @staticmethod
    def symbols(word: str) -> list[tuple[object, object]]:
        data = list(word.encode())
        return list(zip(["end", *data], [*data, "end"], strict=True))

    def spelling(self, word: str) -> float:
        total = sum(self.after.values())
        nats = 0.0
        for a, b in self.symbols(word):
            nats -= math.log(self.bytes.probability(a, b, (self.after[b] + 1) / (total + 257)))
        return math.exp(-min(nats, 300))

    def probability(self, u: str, v: str, w: str) -> float:
        found = self.first.probability((), w, self.spelling(w))
        return self.third.probability((u, v), w, self.second.probability(v, w, found))

    def nats_per_word(self, text: str) -> float:
        found = [MARK, MARK, *words(text)]
        triples = list(zip(found[:-2], found[1:-1], found[2:], strict=True))
        if not triples:
            return math.nan
        return -sum(math.log(self.probability(*t)) for t in triples) / len(triples)


def scores(model: NgramModel, texts: Sequence[str]) -> np.ndarray:
    return model.nats_per_word(split_words(pack(texts)))


def assert_same(texts: Sequence[str], scored: Sequence[str]) -> None:
    slow = SlowModel(texts)
    wanted = [slow.nats_per_word(text) for text in scored]
    np.testing.assert_allclose(scores(NgramModel.fit(texts), scored), wanted, rtol=0, atol=1e-9)


_TEXTS = st.lists(st.text("ab c.é'\n", max_size=40) | st.text(max_size=20), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(_TEXTS.filter(lambda texts: any(map(words, texts))), _TEXTS)
def test_scores_equal_the_slow_formula_for_random_texts(
    texts: list[str], scored: list[str]
) -> None:
    assert_same(texts, [*texts, *scored])


def test_scores_equal_the_slow_formula_for_made_up_stories(made_up: list[str]) -> None:
    rng = random.Random(0)
    mixed = [" ".join(rng.sample(text.split(), len(text.split()))) for text in made_up[300:]]
    assert_same(made_up[:300], [*made_up[200:], *mixed, "Quantum flux.", ""])


def test_scores_equal_the_slow_formula_for_real_stories(real_stories: list[str]) -> None:
    assert_same(real_stories[:800], real_stories[700:1000])


def test_scores_are_finite_whatever_the_text(all_hostile: list[str], made_up: list[str]) -> None:
    found = scores(NgramModel.fit(made_up), all_hostile)
    without_words = [not words(text) for text in all_hostile]
    assert np.isnan(found).tolist() == without_words
    assert np.isfinite(found[~np.array(without_words)]).all()
    assert_same(made_up[:50], [text for text in all_hostile if len(text) < 1000])


def test_a_score_does_not_depend_on_the_batch(made_up: list[str], all_hostile: list[str]) -> None:
    model = NgramModel.fit(made_up[:100])
    texts = [*made_up, *all_hostile, *made_up]
    whole = scores(model, texts)
    for size in (1, 7, 200):
        parts = [scores(model, texts[at : at + size]) for at in range(0, len(texts), size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_the_probabilities_of_all_words_sum_to_one(made_up: list[str]) -> None:
    """Of those that were counted and, through the spelling, of all others."""
    model, slow = NgramModel.fit(made_up[:60]), SlowModel(made_up[:60])
    vocabulary = list(model.vocabulary)
    left = 1 - sum(map(slow.spelling, vocabulary))  # spelled otherwise
    assert np.exp(-model.byte_nats).sum(1) == pytest.approx(1)
    for u, v in ((MARK, MARK), ("the", "cat"), ("tom", "unseen"), ("unseen", "the")):
        others = model.spelling * left
        for level, context in ((slow.second, v), (slow.third, (u, v))):
            followers = level.followers.get(context)
            if followers:
                others *= level.discount * len(followers) / sum(followers)
        assert sum(slow.probability(u, v, w) for w in vocabulary) + others == pytest.approx(1)


def test_a_text_without_words_fits_nothing() -> None:
    with pytest.raises(InputError, match="hold 0 distinct words"):
        NgramModel.fit(["...", ""])


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 2**62)), st.lists(st.integers(0, 2**62)))
def test_a_hash_table_finds_what_it_holds(held: set[int], others: list[int]) -> None:
    keys, asked = list(held), [*held, *others]
    found = HashTable.of(np.array(keys, np.int64)).find(np.array(asked, np.int64))
    assert found.tolist() == [keys.index(key) if key in held else len(keys) for key in asked]


def test_a_hash_table_finds_keys_that_want_the_same_slot() -> None:
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    keys = np.array([low * inverse % 2**64 for low in range(800)], np.uint64).astype(np.int64)
    keys = keys[keys >= 0]
    found = HashTable.of(keys[::2]).find(keys)
    assert found[::2].tolist() == list(range(len(keys[::2])))
    assert set(found[1::2].tolist()) == {len(keys[::2])}
