"""Scores by a target: the same for any engine, the line, the stories beside it, what is refused."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.data.corpus import Corpus
from tinyohem.data.target import TargetStories
from tinyohem.difficulty import shards
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import ScoreTable
from tinyohem.difficulty.target_record import TARGET_FILE, TargetRecord, read_target
from tinyohem.difficulty.target_rule import TargetRule, line_at
from tinyohem.difficulty.target_scores import check_openings, target_scores
from tinyohem.difficulty.text import pack, split_words
from tinyohem.errors import InputError
from tinyohem.io.data_dir import data_dir


@pytest.fixture(scope="module")
def target(made_up: list[str]) -> TargetStories:
    return TargetStories(
        "good", "9" * 64, tuple(made_up[:60]), tuple(made_up[60:100]), (), frozenset()
    )


@pytest.fixture(scope="module")
def pool(fake_corpus, made_up: list[str]):
    rng = random.Random(0)
    mixed = [" ".join(rng.sample(text.split(), len(text.split()))) for text in made_up[300:]]
    return fake_corpus((*made_up[200:], "", *mixed, "...", "Quantum flux."))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def test_the_score_ranks_the_stories(pool, target: TargetStories, tmp_path: Path) -> None:
    rule = TargetRule.fit(target)
    table = score_corpus(pool, tmp_path, rules=ScoringRules(target=rule), workers=1)
    scores = table.column("target_ngram")
    np.testing.assert_array_equal(table.difficulty("target_ngram"), scores)
    np.testing.assert_array_equal(
        np.argsort(table.percentile("target_ngram"), kind="stable"),
        np.argsort(scores, kind="stable"),
    )
    assert table.metrics["target_ngram"].undefined == 2
    assert table.manifest.rules.target is not None
    assert table.manifest.rules.target.fingerprint == target.fingerprint


def test_the_other_columns_are_those_without_a_target(
    pool, target: TargetStories, tmp_path: Path
) -> None:
    rules = ScoringRules(target=TargetRule.fit(target))
    plain = score_corpus(pool, tmp_path / "plain", workers=1)
    table = score_corpus(pool, tmp_path / "target", rules=rules, workers=1)
    assert read_target(plain) is None
    for batch, other in zip(plain.batches(), table.batches(), strict=True):
        assert batch.equals(other.select(batch.schema.names))


def test_any_number_of_workers_and_a_pass_that_goes_on_give_the_same_files(
    pool, target: TargetStories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = ScoringRules(target=TargetRule.fit(target))
    one_shard = score_corpus(pool, tmp_path / "one", rules=rules, workers=1)
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    table = score_corpus(pool, tmp_path / "whole", rules=rules, workers=1)
    assert table.column("target_ngram").tobytes() == one_shard.column("target_ngram").tobytes()
    assert files(tmp_path / "whole")[TARGET_FILE] == files(tmp_path / "one")[TARGET_FILE]
    score_corpus(pool, tmp_path / "two", rules=rules, workers=2)
    assert files(tmp_path / "two") == files(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("tinyohem.difficulty.score_corpus.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_corpus(pool, tmp_path / "stopped", rules=rules, workers=1)
    score_corpus(pool, tmp_path / "stopped", rules=rules, workers=1)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_the_record_holds_the_calibration_the_line_and_the_stories_beside_it(
    pool, target: TargetStories, tmp_path: Path
) -> None:
    rule = TargetRule.fit(target)
    table = score_corpus(pool, tmp_path, rules=ScoringRules(target=rule), workers=1)
    record = known(table)
    assert record.line == line_at(np.array(record.calibration), 0.05)
    scores = table.column("target_ngram")
    order = [row for row in np.argsort(scores, kind="stable") if not np.isnan(scores[row])]
    under = [row for row in order if scores[row] <= record.line]
    over = [row for row in order if scores[row] > record.line]
    assert len(under) > 10
    assert len(over) > 10
    first = rule.models[0].nats_per_word(split_words(pack(pool.texts)))
    first_line = line_at(rule.calibration, 0.05)
    assert [found.model_dump() for found in record.lines] == [
        {"line": first_line, "passed": np.count_nonzero(first <= first_line)},
        {"line": record.line, "passed": len(under)},
    ]
    assert [s.row for s in record.passing] == under[::-1][:10]
    assert [s.row for s in record.failing] == over[:10]
    for story in (*record.passing, *record.failing):
        assert story.value == scores[story.row]
        assert pool.texts[story.row].startswith(story.opening.removesuffix(" …"))


def known(table: ScoreTable) -> TargetRecord:
    record = read_target(table)
    assert record is not None
    return record


@given(st.integers(1, 200), st.floats(0, 0.999))
def test_the_line_loses_at_most_the_quantile_of_new_stories(count: int, quantile: float) -> None:
    """Of the n + 1 places that a new score can take among n, those above the line."""
    line = line_at(np.random.default_rng(0).permutation(count).astype(float), quantile)
    lost = count - line
    enough = (count + 1) * quantile >= 1
    assert lost / (count + 1) <= quantile + 1e-9 or (not enough and line == count - 1)
    assert line == count - 1 or (lost + 1) / (count + 1) > quantile - 1e-9


def test_scores_are_kept_in_the_data_folder_and_found_again(pool, target: TargetStories) -> None:
    found = target_scores(pool, target, workers=1)
    assert found.table.folder.is_relative_to(data_dir())
    assert found.line(0.05) == known(found.table).line
    again = target_scores(pool, target, workers=1)
    named = target_scores(pool, target, found.table.folder)
    for other in (again, named):
        assert other.table == found.table
        assert other.calibration.tobytes() == found.calibration.tobytes()


def test_a_folder_of_another_target_or_of_none_is_refused(
    pool, target: TargetStories, fake_corpus, tmp_path: Path
) -> None:
    rules = ScoringRules(target=TargetRule.fit(target))
    score_corpus(pool, tmp_path / "scores", rules=rules, workers=1)
    score_corpus(pool, tmp_path / "plain", workers=1)
    before = files(tmp_path / "scores")
    other = TargetStories("bad", "8" * 64, target.fit, target.calibrate, (), frozenset())
    with pytest.raises(InputError, match="by another target, good"):
        target_scores(pool, other, tmp_path / "scores")
    with pytest.raises(InputError, match="no scores by a target"):
        target_scores(pool, target, tmp_path / "plain")
    with pytest.raises(InputError, match="another corpus"):
        target_scores(fake_corpus(("a",), "0" * 64), target, tmp_path / "scores")
    for wrong in (ScoringRules(target=TargetRule.fit(other)), ScoringRules()):
        with pytest.raises(InputError, match="scores by another target"):
            score_corpus(pool, tmp_path / "scores", rules=wrong, workers=1)
    assert files(tmp_path / "scores") == before


@pytest.mark.parametrize("damage", ["gone", "changed", "of another target"])
def test_a_damaged_record_is_refused(
    pool, target: TargetStories, tmp_path: Path, damage: str
) -> None:
    rules = ScoringRules(target=TargetRule.fit(target))
    score_corpus(pool, tmp_path / "scores", rules=rules, workers=1)
    path = tmp_path / "scores" / TARGET_FILE
    if damage == "gone":
        path.unlink()
    elif damage == "changed":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"line": 0.0}))
    else:
        other = TargetStories("bad", "8" * 64, target.fit, target.calibrate, (), frozenset())
        rules = ScoringRules(target=TargetRule.fit(other))
        score_corpus(pool, tmp_path / "other", rules=rules, workers=1)
        path.write_bytes((tmp_path / "other" / TARGET_FILE).read_bytes())
    with pytest.raises(InputError, match=r"target\.json cannot be read"):
        target_scores(pool, target, tmp_path / "scores")


def test_scores_by_an_earlier_kind_of_model_are_refused_and_made_again(
    pool, target: TargetStories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tinyohem.difficulty.target_rule.MODEL_VERSION", 1)
        rules = ScoringRules(target=TargetRule.fit(target))
        score_corpus(pool, tmp_path, rules=rules, workers=1)
        patch.setattr("tinyohem.difficulty.target_scores.MODEL_VERSION", 1)
        old = target_scores(pool, target, workers=1)
    with pytest.raises(InputError, match="by model version 1, not 2"):
        target_scores(pool, target, tmp_path)
    rules = ScoringRules(target=TargetRule.fit(target))
    with pytest.raises(InputError, match="an earlier kind of model"):
        score_corpus(pool, tmp_path, rules=rules, workers=1)
    assert target_scores(pool, target, workers=1).table.folder != old.table.folder


def test_a_target_in_another_script_is_refused(fake_corpus, target, tmp_path: Path) -> None:
    russian = fake_corpus(tuple(f"Жил был кот номер {n}. Он спал." for n in range(40)))
    rules = ScoringRules(target=TargetRule.fit(target))
    score_corpus(russian, tmp_path / "scores", rules=rules, workers=1)
    with pytest.raises(InputError, match="in LATIN letters, fake in CYRILLIC ones"):
        target_scores(russian, target, tmp_path / "scores")
    both = fake_corpus((*russian.texts, "One day Tom saw a cat."), fingerprint="0" * 64)
    score_corpus(both, tmp_path / "both", rules=rules, workers=1)
    target_scores(both, target, tmp_path / "both")


def test_a_pool_in_another_script_is_refused_by_its_openings(target: TargetStories) -> None:
    def corpus(*texts: str) -> Corpus:
        return Corpus("pool", "train", "f", lambda: iter(texts))

    russian = [f"Жил был кот {n}. Его звали Tom." for n in range(40)]
    with pytest.raises(InputError, match="in LATIN letters, pool in CYRILLIC ones"):
        check_openings(corpus(*russian), target)
    check_openings(corpus(*russian, "One day Tom saw a кот."), target)
    check_openings(corpus("1 2 3"), target)


def test_a_target_without_words_is_refused(target: TargetStories) -> None:
    for fit, calibrate in ((("...",), target.calibrate), (target.fit, ("...",))):
        empty = TargetStories("dots", "8" * 64, fit, calibrate, (), frozenset())
        with pytest.raises(InputError, match="word"):
            TargetRule.fit(empty)
