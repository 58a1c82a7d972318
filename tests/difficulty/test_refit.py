"""The second pass of a target: against a slow transcription, and what it may not depend on."""

import random
import string
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.story_hash import near_hash
from tinyohem.data.target import TargetStories
from tinyohem.difficulty import refit as module
from tinyohem.difficulty import score_corpus as scoring
from tinyohem.difficulty import shards
from tinyohem.difficulty.ngram import NgramModel
from tinyohem.difficulty.refit import refit
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_corpus import UNFINISHED, score_corpus
from tinyohem.difficulty.score_table import ScoreTable
from tinyohem.difficulty.target_record import TargetRecord, read_target
from tinyohem.difficulty.target_rule import TargetRule, folds_of, keys_of, line_at
from tinyohem.difficulty.text import pack, split_words, words

TEXTS = st.lists(st.text("abc. '", max_size=20), max_size=12)


def target_of(fit: Sequence[str], calibrate: Sequence[str]) -> TargetStories:
    return TargetStories("good", "9" * 64, tuple(fit), tuple(calibrate), (), frozenset())


@pytest.fixture(scope="module")
def target(made_up: list[str]) -> TargetStories:
    return target_of(made_up[:60], made_up[60:100])


@pytest.fixture(scope="module")
def pool(fake_corpus, made_up: list[str]):
    """Stories like the target's, its own, copies, one without a word, others."""
    rng = random.Random(0)
    junk = ["".join(rng.choices(string.ascii_letters + " ", k=200)) for _ in range(60)]
    return fake_corpus((*made_up[50:300], "", *junk, *made_up[200:220], "..."))


def score(pool, target: TargetStories, folder: Path, workers: int = 1) -> ScoreTable:
    rules = ScoringRules(target=TargetRule.fit(target))
    return score_corpus(pool, folder, rules=rules, workers=workers)


def known(table: ScoreTable) -> TargetRecord:
    record = read_target(table)
    assert record is not None
    return record


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def slow_second_pass(
    texts: Sequence[str], target: TargetStories, max_words: int = 10**9
) -> tuple[list[float], list[float]]:
    """Return the scores of a pool, and those that calibrate, a story at a time."""

    def score(model: NgramModel, text: str) -> float:
        return float(model.nats_per_word(split_words(pack([text])))[0])

    model = NgramModel.fit(target.fit)
    calibrate = [text for text in target.calibrate if words(text)]
    line = line_at(np.array([score(model, text) for text in calibrate]), 0.05)
    own = {near_hash(text) for text in (*target.fit, *target.calibrate, *target.validate)}
    scores = [score(model, text) for text in texts]
    median = line_at(np.array([score(model, text) for text in calibrate]), 0.5)
    if sum(s <= line for s in scores) * 0.5 > sum(s <= median for s in scores) * 0.95 * 2:
        return scores, [score(model, text) for text in calibrate]
    passed: dict[int, str] = {}
    for text in texts:
        if score(model, text) <= line and near_hash(text) not in own:
            passed.setdefault(near_hash(text), text)
    seen: tuple[list[str], list[str]] = ([], [])
    counts = [0, 0]
    for found in sorted(passed):  # the lowest hashes first
        if counts[found % 2] < max_words:
            seen[found % 2].append(passed[found])
            counts[found % 2] += len(words(passed[found]))
    models = [NgramModel.fit([*target.fit, *seen[1 - fold]]) for fold in (0, 1)]
    scores = [score(models[near_hash(text) % 2], text) for text in texts]
    return scores, [(score(models[0], t) + score(models[1], t)) / 2 for t in calibrate]


def assert_as_by_hand(table: ScoreTable, texts: Sequence[str], target: TargetStories) -> None:
    scores, calibration = slow_second_pass(texts, target)
    np.testing.assert_allclose(table.column("target_ngram"), scores, rtol=0, atol=1e-9)
    np.testing.assert_allclose(known(table).calibration, calibration, rtol=0, atol=1e-9)


def test_scores_are_those_of_a_model_of_the_target_and_the_other_fold(
    pool, target: TargetStories, tmp_path: Path
) -> None:
    table = score(pool, target, tmp_path)
    assert_as_by_hand(table, pool.texts, target)
    first, second = known(table).lines
    assert 200 < first.passed < 300
    assert second.passed > 200


@pytest.mark.parametrize("share", [1.0, 0.7, 0.3, 0.1])
def test_the_share_like_the_target_is_found_where_others_score_near_the_line(share: float) -> None:
    rng = np.random.default_rng(0)
    line, median = line_at(calibration := rng.normal(6, 0.3, 4000), 0.05), np.median(calibration)
    wanted = rng.normal(6, 0.3, 20_000)
    wanted = wanted[wanted <= line]
    others = line - np.abs(rng.normal(0, 0.2, round(len(wanted) * (1 / share - 1))))
    scores = np.concatenate([wanted, others])
    found = module.share_like_target(int((scores <= median).sum()), len(scores))
    assert found == pytest.approx(share, abs=0.06)


def test_where_most_that_pass_are_others_there_is_no_second_pass(
    target: TargetStories, made_up: list[str], fake_corpus, tmp_path: Path
) -> None:
    """Those of the stories with some words replaced that score near the line."""
    rng = random.Random(0)
    vocabulary = sorted({word for text in made_up for word in text.split()})
    spoiled = [
        " ".join(rng.choice(vocabulary) if rng.random() < 0.06 else w for w in text.split())
        for text in made_up[100:] * 3
    ]
    rule = TargetRule.fit(target)
    line, median = line_at(rule.calibration, 0.05), line_at(rule.calibration, 0.5)
    spoilt = rule.scores(spoiled, split_words(pack(spoiled)))
    near = np.flatnonzero((spoilt > median) & (spoilt <= line))[:60].tolist()
    mixed = fake_corpus((*made_up[100:110], *(spoiled[at] for at in near)))
    scores = rule.scores(mixed.texts, split_words(pack(mixed.texts)))
    assert len(near) > 30
    (only,) = known(table := score(mixed, target, tmp_path)).lines
    assert only.passed == np.count_nonzero(scores <= line)
    np.testing.assert_allclose(table.column("target_ngram"), scores, rtol=0, atol=1e-9)
    assert known(table).calibration == rule.calibration.tolist()


@settings(max_examples=20, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_so_they_are_for_any_texts(
    fake_corpus,
    tmp_path_factory: pytest.TempPathFactory,
    fit: list[str],
    calibrate: list[str],
    texts: list[str],
) -> None:
    target, texts = target_of(["a b", *fit], ["b a", *calibrate]), [*texts, *fit[:2], "c", "c"]
    table = score(fake_corpus(tuple(texts)), target, tmp_path_factory.mktemp("scores"))
    assert_as_by_hand(table, [text.strip() for text in texts], target)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), st.randoms())
def test_the_fold_is_a_function_of_the_text_alone(texts: list[str], rng: random.Random) -> None:
    alone = {text: int(folds_of(keys_of([text]))[0]) for text in texts}
    rng.shuffle(texts)
    assert folds_of(keys_of(texts)).tolist() == [alone[text] for text in texts]
    assert set(alone.values()) <= {0, 1}
    cased = [f"One {text} a" for text in texts]
    spaced = [f" oNe, 7 {text}\nA" for text in texts]
    np.testing.assert_array_equal(folds_of(keys_of(cased)), folds_of(keys_of(spaced)))


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[TargetRule]:
    """The rules of all second passes."""
    found: list[TargetRule] = []

    def remember(*arguments) -> TargetRule:
        found.append(refit(*arguments))
        return found[-1]

    monkeypatch.setattr(scoring, "refit", remember)
    return found


def test_no_model_has_seen_a_story_that_it_scores(
    fake_corpus, made_up: list[str], tmp_path: Path, second: list[TargetRule]
) -> None:
    """Each story holds a word of its own."""
    names = ["".join(string.ascii_lowercase[int(d)] for d in f"{n:05d}") for n in range(260)]
    alike = [f"{text} {name}" for text, name in zip(made_up[:60], names[200:], strict=True)]
    texts = [f"{text} {name}" for text, name in zip(made_up[100:300], names, strict=False)]
    target = target_of(texts[:10], alike)
    score(fake_corpus(tuple(texts)), target, tmp_path)
    (rule,) = second
    in_other = 0
    for text, name in list(zip(texts, names, strict=False))[10:]:
        fold = near_hash(text) % 2
        assert name not in rule.models[fold].vocabulary
        in_other += name in rule.models[1 - fold].vocabulary
    assert in_other > 100


def test_the_words_to_fit_on_are_bounded_however_the_pool_is_cut(
    pool, target: TargetStories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WORDS", 1500)
    wanted = slow_second_pass(pool.texts, target, 1500)[0]
    for rows in (10, 50, 4096):
        monkeypatch.setattr(shards, "SHARD_ROWS", rows)
        scores = score(pool, target, tmp_path / str(rows)).column("target_ngram")
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("stops_in", ["refit", "write_scores"])
def test_a_kill_between_the_passes_or_after_them_leaves_the_same_files(
    pool,
    target: TargetStories,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops_in: str,
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 50)
    score(pool, target, tmp_path / "whole")
    scored = count_scored(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, stops_in, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(pool, target, tmp_path / "stopped")
    assert len(list((tmp_path / "stopped" / UNFINISHED / "first").glob("shard_*"))) == 7
    score(pool, target, tmp_path / "stopped")
    assert scored() == 14  # each shard once in each pass
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def count_scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    calls: list[int] = []

    def counting(shard, folder, rules, score=shards.score_shard) -> None:
        calls.append(shard.index)
        score(shard, folder, rules)

    monkeypatch.setattr(shards, "score_shard", counting)
    return lambda: len(calls)


def test_where_nothing_passes_the_first_pass_is_the_only_one(
    fake_corpus, target: TargetStories, tmp_path: Path
) -> None:
    texts = tuple(f"Qz{n} xkcd{n} vvv{n}." for n in range(30))
    table = score(fake_corpus(texts), target, tmp_path)
    model = NgramModel.fit(target.fit)
    wanted = model.nats_per_word(split_words(pack(texts)))
    assert table.column("target_ngram").tobytes() == wanted.tobytes()
    assert [found.passed for found in known(table).lines] == [0]


def test_the_second_pass_tells_replaced_words_better(fake_corpus, tmp_path: Path) -> None:
    """In half of the pool one word in twelve comes from another story."""
    stories, rng = list(islice(sample_stories("train"), 900)), random.Random(0)
    others = [word for story in stories for word in story.split()]
    pool = stories[100:500]
    for story in stories[500:]:
        changed = story.split()
        for place in rng.sample(range(len(changed)), len(changed) // 12):
            changed[place] = rng.choice(others)
        pool.append(" ".join(changed))
    table = score(fake_corpus(tuple(pool)), target_of(stories[:60], stories[60:100]), tmp_path)
    record, scores = known(table), table.column("target_ngram")
    passed = scores <= record.line
    model = NgramModel.fit(stories[:60])
    first = model.nats_per_word(split_words(pack(pool))) <= record.lines[0].line
    assert passed[:400].sum() >= first[:400].sum() - 15
    assert passed[400:].sum() < 0.5 * first[400:].sum()
