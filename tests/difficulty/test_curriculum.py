from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.config.curriculum import CurriculumConfig, Pacing
from tinyohem.difficulty.curriculum import (
    CurriculumPlan,
    build_plan,
    load_plan,
    save_plan,
    window_difficulty,
)
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import ScoreTable
from tinyohem.errors import InputError


@pytest.fixture(scope="module")
def table(made_up: list[str], fake_corpus, tmp_path_factory) -> ScoreTable:
    return score_corpus(fake_corpus(tuple(made_up)), tmp_path_factory.mktemp("s"), workers=1)


def plan_of(
    table: ScoreTable, rows: np.ndarray, pacing: Pacing = "warmup", metric: str = "mtld"
) -> CurriculumPlan:
    offsets = np.arange(len(rows) + 1) * 10
    return build_plan(
        table,
        rows=rows,
        offsets=offsets,
        seq_len=10,
        drawn=np.random.default_rng(0).permutation(len(rows)),
        curriculum=CurriculumConfig(pacing=pacing, metric=metric),
        seed=0,
    )


def test_a_window_is_as_difficult_as_its_tokens() -> None:
    # Stories of 3, 5, 1 and 6 tokens; windows of 4.
    offsets = np.array([0, 3, 8, 9, 15])
    difficulty = np.array([1.0, 2.0, np.nan, 4.0])
    found = window_difficulty(offsets, difficulty, seq_len=4, num_windows=3)
    np.testing.assert_allclose(found, [(3 * 1 + 2) / 4, 2, 4])


def test_a_window_without_any_score_is_nan() -> None:
    found = window_difficulty(np.array([0, 4, 8]), np.array([np.nan, 1.0]), 4, 2)
    np.testing.assert_array_equal(found, [np.nan, 1.0])


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 12))
def test_window_difficulty_is_the_mean_over_tokens(lengths: list[int], seq_len: int) -> None:
    offsets = np.cumsum([0, *lengths])
    difficulty = np.arange(len(lengths)) ** 2.0
    windows = offsets[-1] // seq_len
    if windows:
        of_token = np.repeat(difficulty, lengths)[: windows * seq_len]
        np.testing.assert_allclose(
            window_difficulty(offsets, difficulty, seq_len, windows),
            of_token.reshape(windows, seq_len).mean(axis=1),
        )


def test_the_plan_starts_with_the_easiest_stories(table: ScoreTable) -> None:
    rows = np.arange(400)
    plan = plan_of(table, rows)
    easiest = set(np.argsort(table.difficulty("mtld"), kind="stable")[:80])
    assert set(plan.order[:80]) == easiest
    percentile = table.percentile("mtld")[plan.order]
    tenths = [np.nanmean(part) for part in np.array_split(percentile, 10)]
    assert max(tenths[:2]) < min(tenths[2:])


def test_by_length_ignores_the_metric(table: ScoreTable) -> None:
    plan = plan_of(table, np.arange(400), "by_length")
    assert np.all(np.diff(table.column("bytes")[plan.order]) >= 0)


def test_stories_are_matched_by_row(table: ScoreTable) -> None:
    rows = np.arange(1, 400, 7)
    order = plan_of(table, rows, "sorted").order
    assert np.all(np.diff(table.difficulty("mtld")[rows[order]]) >= 0)


def test_a_story_without_scores_or_a_missing_metric_is_an_input_error(table: ScoreTable) -> None:
    with pytest.raises(InputError, match="lacks scores of 2 stories, the first at row 400"):
        plan_of(table, np.array([3, 400, 401]))
    with pytest.raises(InputError, match="no metric 'loss'"):
        plan_of(table, np.arange(400), metric="loss")


def test_stories_without_a_difficulty_come_last_and_are_counted(
    fake_corpus, tmp_path: Path
) -> None:
    texts = ("The big cat sat. " * 9, "Кот сидит. " * 9, "It was an extraordinary elephant. " * 9)
    table = score_corpus(fake_corpus(texts), tmp_path, workers=1)
    plan = plan_of(table, np.arange(3), "sorted", "flesch")
    assert plan.order.tolist() == [0, 2, 1]
    told = plan.describe(CurriculumConfig(pacing="sorted"), 3)
    assert told.endswith("; windows without a difficulty (1) count as the hardest")


def test_a_corpus_without_any_difficulty_is_an_input_error(fake_corpus, tmp_path: Path) -> None:
    table = score_corpus(fake_corpus(("Кот сидит. " * 9, "我喜欢猫。" * 9)), tmp_path, workers=1)
    with pytest.raises(InputError, match="no story of fake has a difficulty by flesch") as caught:
        plan_of(table, np.arange(2), metric="flesch")
    assert "--curriculum-metric" in str(caught.value.hint)
    assert sorted(plan_of(table, np.arange(2)).order) == [0, 1]


def test_a_saved_plan_is_the_same_plan(table: ScoreTable, tmp_path: Path) -> None:
    plan = plan_of(table, np.arange(400))
    save_plan(plan, tmp_path / "plan")
    again = load_plan(tmp_path / "plan")
    np.testing.assert_array_equal(again.order, plan.order)
    assert again.hash == plan.hash != plan_of(table, np.arange(400), "sorted").hash
    np.testing.assert_array_equal(again.windows(390, 10), plan.order[390:])
    with pytest.raises(InputError, match="400 windows"):
        again.windows(391, 10)


def test_the_hash_covers_what_the_order_was_made_from(table: ScoreTable) -> None:
    one, other = (plan_of(table, np.arange(400), metric=m) for m in ("mtld", "mtld=2"))
    np.testing.assert_array_equal(one.order, other.order)
    assert one.hash != other.hash


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "json"])
def test_a_damaged_plan_is_an_input_error(table: ScoreTable, tmp_path: Path, damage: str) -> None:
    save_plan(plan_of(table, np.arange(400)), tmp_path / "plan")
    order = tmp_path / "plan" / "order.safetensors"
    content = bytearray(order.read_bytes())
    match damage:
        case "cut":
            order.write_bytes(content[:-5])
        case "flip":
            content[-8] ^= 1
            order.write_bytes(content)
        case "missing":
            order.unlink()
        case "json":
            (tmp_path / "plan" / "plan.json").write_text("[]")
    with pytest.raises(InputError):
        load_plan(tmp_path / "plan")
