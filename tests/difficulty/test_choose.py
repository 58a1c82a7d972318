"""Choosing stories: against a slow transcription, by a line, a share or a range of percentiles."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.config.curriculum import CurriculumConfig
from tinyohem.config.recipes import load_config
from tinyohem.config.run import RunConfig
from tinyohem.data.choice import Choice
from tinyohem.data.corpus import Corpus, open_corpus
from tinyohem.data.parts import Part
from tinyohem.data.sources import Sources
from tinyohem.data.story_hash import near_hash, story_hash
from tinyohem.data.target import TargetStories
from tinyohem.difficulty import choose as module
from tinyohem.difficulty.choose import choose_stories
from tinyohem.difficulty.passing import pass_by_difficulty, pass_by_target
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.target_scores import TargetScores, line_at
from tinyohem.errors import InputError

TARGET = tuple(f"The fox met friend number {n}." for n in range(60))
CALIBRATION = np.linspace(1, 2, 40)


@dataclass
class Table:
    """The columns of a score table that choosing reads."""

    values: np.ndarray

    def column(self, name: str) -> np.ndarray:
        return np.arange(len(self.values)) if name == "row" else self.values


def corpus_of(texts: list[str], name: str = "pool") -> Corpus:
    return Corpus(name, "train", str(hash((name, *texts))), lambda: iter(texts))


def sources_of(texts: list[str], valid: tuple[str, ...] = TARGET[:12]) -> Sources:
    hashes = frozenset(map(story_hash, TARGET))
    target = TargetStories("good", "f", TARGET[22:], TARGET[12:22], TARGET[:12], hashes)
    return Sources(
        Part(corpus_of(texts), clean=False), Part(corpus_of([*valid], "v"), clean=False), target
    )


def config(**how: Any) -> RunConfig:
    return load_config(overrides={f"target.{k}": v for k, v in {"stories": "good", **how}.items()})


@pytest.fixture
def chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Choice]:
    """Choose from texts by given scores."""

    def choose(
        texts: list[str], scores: list[float], listener: tiny.Listener | None = None, **how: Any
    ) -> Choice:
        monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path_factory.mktemp("data")))
        table: Any = Table(np.array(scores))
        found = TargetScores(table, CALIBRATION)
        monkeypatch.setattr(module, "target_scores", lambda *_, **__: found)
        monkeypatch.setattr(module, "_scoring_seconds", lambda *_: 1.5)
        valid = how.pop("valid", TARGET[:12])
        progress = listener or tiny.Listener()
        choice = choose_stories(config(**how), sources_of(texts, valid), progress=progress)
        assert choice is not None
        return choice

    return choose


def letters(text: str) -> str:
    """The slow way to what near copies have in common."""
    kept = "".join(c for c in unicodedata.normalize("NFC", text).casefold() if c.isalpha())
    return kept or f"!{story_hash(text)}"


def slowly(texts: list[str], scores: list[float], line: float, own: tuple[str, ...]) -> list[int]:
    kept, seen = [], set()
    barred = {re.sub(r"\s", "", text.lower()) for text in own}
    for row, (text, score) in enumerate(zip(texts, scores, strict=True)):
        if not text.strip() or re.sub(r"\s", "", text.lower()) in barred or not score <= line:
            continue
        if letters(text) not in seen:
            seen.add(letters(text))
            kept.append(row)
    return kept


word = st.sampled_from(
    ["the cat", "The Cat!", "the  cat 7", "a dog", "A dog.", "12", "1 2", "é", "bird"]
)
story = st.lists(word, min_size=1, max_size=2).map(" ".join) | st.sampled_from(
    [TARGET[0].upper(), " ", TARGET[30]]
)
pools = st.lists(st.tuples(story, st.floats(0, 3) | st.just(float("nan"))), min_size=1, max_size=30)


@settings(max_examples=150)
@given(pool=pools, quantile=st.sampled_from([0.0, 0.05, 0.3]))
def test_the_kept_rows_are_those_of_a_slow_transcription(
    pool: list[tuple[str, float]], quantile: float
) -> None:
    texts, scores = map(list, zip(*pool, strict=True))
    table: Any = Table(np.array(scores))
    passing = pass_by_target(TargetScores(table, CALIBRATION), config(quantile=quantile).target)
    expected = slowly(texts, scores, line_at(CALIBRATION, quantile), TARGET)
    if not any(text.strip() for text in texts):
        return
    if not expected:
        with pytest.raises(InputError):
            module._sort_out(sources_of(texts), passing)
        return
    found = module._sort_out(sources_of(texts), passing)
    assert list(found.kept) == expected
    stories = sum(bool(text.strip()) for text in texts)
    assert found.stories == stories == len(found.kept) + sum(found.dropped.values())


@settings(max_examples=50)
@given(pool=pools, shuffle=st.randoms())
def test_the_order_of_the_pool_decides_nothing_but_which_copy_stays(
    pool: list[tuple[str, float]], shuffle: Any
) -> None:
    score_of = dict(pool)

    def kept(rows: list[str]) -> set[str]:
        texts = [*rows, "always"]
        scores = [*(score_of[text] for text in rows), 0.5]
        table: Any = Table(np.array(scores))
        passing = pass_by_target(TargetScores(table, CALIBRATION), config().target)
        found = module._sort_out(sources_of(texts), passing)
        return {letters(texts[row]) for row in found.kept}

    texts = [text for text, _ in pool]
    other = texts.copy()
    shuffle.shuffle(other)
    assert kept(texts) == kept(other)


def test_a_share_keeps_the_best_and_of_equals_the_first(chosen: Callable[..., Choice]) -> None:
    texts = [f"Story of {animal}." for animal in ("cat", "dog", "cow", "hen", "owl", "fox")]
    choice = chosen(texts, [9, 4, float("nan"), 4, 1, 4], keep=0.6)
    assert choice.rows.tolist() == [1, 3, 4]  # three of the five that have a score
    assert choice.record.dropped == {"beyond the line": 2, "without a score": 1}
    assert choice.record.lines == [4]


def test_all_are_kept_unscored_where_the_share_is_one(chosen: Callable[..., Choice]) -> None:
    choice = chosen(["One.", TARGET[0], "one!", TARGET[40], "Two."], [], keep=1)
    assert choice.rows.tolist() == [0, 2, 4]  # a near copy stays: nothing is compared
    assert choice.barred.tolist() == [1, 3]
    assert choice.record.dropped == {"a validation story": 1, "the target's own": 1}
    assert choice.record.score is None


def test_what_validates_is_barred_whatever_it_scores(chosen: Callable[..., Choice]) -> None:
    texts = ["A cat.", "Held out.", "HELD  OUT.", "A dog."]
    choice = chosen(texts, [1, 1, 9, 9], valid=("Held out.",))
    assert (choice.rows.tolist(), choice.barred.tolist()) == ([0], [1, 2])
    corpus = corpus_of(texts)
    assert [s.row for s in choice.stories(corpus, "kept")] == [0]
    assert [s.row for s in choice.stories(corpus, "dropped")] == [3]
    both = Part(corpus, clean=False, choice=choice, and_dropped=True)
    assert [s.text for s in both.stories(tiny.Listener())] == ["A cat.", "A dog."]


def test_the_record_shows_the_stories_nearest_to_the_line(chosen: Callable[..., Choice]) -> None:
    line = line_at(CALIBRATION, 0.05)
    texts = [f"{'x' * n} story" for n in range(1, 41)]
    scores = [line + (n - 20) / 10 for n in range(40)]
    record = chosen(texts, scores).record
    assert [e.row for e in record.kept_examples] == list(range(20, 10, -1))
    assert [e.row for e in record.dropped_examples] == list(range(21, 31))
    assert record.kept_examples[0].opening == texts[20]
    assert sum(record.counts) == 40
    assert "21 of 40 stories of pool kept (52.5%): target_ngram at most" in record.describe()
    assert "dropped: 19 beyond the line" in record.describe()


def test_a_choice_is_kept_and_its_identity_follows_the_rows(chosen: Callable[..., Choice]) -> None:
    texts = [f"{'x' * n} story" for n in range(1, 11)]
    first = chosen(texts, [1.0] * 5 + [9.0] * 5)
    assert chosen(texts, [1.1] * 5 + [9.0] * 5).identity == first.identity
    assert chosen(texts, [1.0] * 4 + [9.0] * 6).identity != first.identity


def test_a_clean_pool_passes_whole_with_a_note(chosen: Callable[..., Choice]) -> None:
    listener = tiny.Listener()
    chosen(["A cat.", "A dog."], [1, 1.5], listener)
    assert any("every story of pool passes: " in note and "█" in note for note in listener.notes)


class TestNothingToKeep:
    def refused(self, chosen: Callable[..., Choice], *pool: Any, **how: Any) -> str:
        with pytest.raises(InputError) as error:
            chosen(*pool, **how)
        assert "\n" not in error.value.message
        return error.value.message

    def test_no_story_passes(self, chosen: Callable[..., Choice]) -> None:
        error = self.refused(chosen, ["A cat.", "A dog."], [5, 9])
        assert error.startswith("no story of pool passes: 5.0")
        assert "█" in error

    def test_only_the_targets_own_pass(self, chosen: Callable[..., Choice]) -> None:
        error = self.refused(chosen, [TARGET[0], TARGET[30], "A dog."], [1, 1, 9])
        assert error == "every story of pool that passes is one of the target's own"
        assert self.refused(chosen, [TARGET[0]], [], keep=1) == error


@given(st.text(max_size=30), st.sampled_from(["7", " ", "!", "\n", "—", "“"]))
def test_digits_marks_and_space_make_no_difference(text: str, more: str) -> None:
    assert near_hash(f"a{text}b") == near_hash(f"A{text}{more}b")


def test_letters_make_a_difference() -> None:
    texts = ["The cat sat.", "The cats sat.", "the hat sat", "12", "13", "Die Äpfel.", "Die Apfel."]
    assert len(set(map(near_hash, texts))) == len(texts)


@pytest.mark.parametrize(
    ("metric", "kept"), [("flesch", "0-80"), ("mtld", "20-100"), ("length", "5-95")]
)
def test_a_filter_keeps_the_range_of_the_tables_percentiles(
    corpus: Path, tmp_path: Path, metric: str, kept: str
) -> None:
    table = score_corpus(open_corpus(str(corpus)), tmp_path / "scores", workers=1)
    how = {"enabled": True, "pacing": "filter", "metric": metric, "keep": kept}
    curriculum = load_config(overrides={f"curriculum.{k}": v for k, v in how.items()}).curriculum
    low, high = map(float, kept.split("-"))
    percentile = table.percentile(metric)
    passing = pass_by_difficulty(table, curriculum)
    assert passing.values == pytest.approx(percentile, nan_ok=True)
    assert passing.passes.tolist() == [low <= p < high for p in percentile.tolist()]
    assert passing.passes.mean() == pytest.approx((high - low) / 100, abs=0.02)


def test_neighbouring_ranges_share_no_story() -> None:
    class Three(Table):
        stories = 3

        def percentile(self, metric: str) -> np.ndarray:
            return np.array([20.0, 50.0, 80.0])

    table: Any = Three(np.zeros(3))
    kept = [
        pass_by_difficulty(table, CurriculumConfig(enabled=True, pacing="filter", keep=keep)).passes
        for keep in ("0-50", "50-100")
    ]
    assert [passes.tolist() for passes in kept] == [[True, False, False], [False, True, True]]
