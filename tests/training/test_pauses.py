"""Validations take a small part of a run, however long it is."""

import json
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.config.training import TrainingConfig
from tinyohem.data.sample.stories import sample_stories
from tinyohem.evaluation.open import open_evaluation
from tinyohem.evaluation.perplexity import _story_windows, evaluate_perplexity, overlap_of
from tinyohem.training import loop
from tinyohem.training.loop import train
from tinyohem.training.pauses import Pauses, pauses_of_a_comparison, plan_pauses

COST = 0.5  # of scoring a token, against training on it


def scored(pauses: Pauses) -> int:
    return (pauses.count - 1) * pauses.tokens + pauses.tokens_at_the_end


@given(st.integers(100_000, 10**11), st.integers(1, 10**8))
def test_by_default_scoring_takes_at_most_a_twentieth(budget: int, valid_tokens: int) -> None:
    pauses = plan_pauses(TrainingConfig(), budget, valid_tokens)
    assert COST * scored(pauses) <= 0.05 * budget
    assert 1 <= pauses.count <= 10
    assert pauses.tokens <= pauses.tokens_at_the_end <= valid_tokens


@given(st.integers(1, 10**9), st.integers(20_000, 10**8))
def test_no_validation_is_smaller_than_is_worth_reading(budget: int, valid_tokens: int) -> None:
    pauses = plan_pauses(TrainingConfig(), budget, valid_tokens)
    assert 10_000 <= pauses.tokens <= 100_000


@given(st.integers(2_000_000, 10**11), st.integers(1, 10**8))
def test_a_longer_run_scores_no_less(budget: int, valid_tokens: int) -> None:
    shorter = plan_pauses(TrainingConfig(), budget, valid_tokens)
    longer = plan_pauses(TrainingConfig(), 2 * budget, valid_tokens)
    assert longer.count >= shorter.count
    assert longer.tokens_at_the_end >= shorter.tokens_at_the_end


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (100_000, Pauses(1, 10_000, 10_000)),
        # 40,000 tokens can be scored: three quarters at the end, the others before
        (500_000, Pauses(2, 10_000, 30_000)),
        (12_000_000, Pauses(10, 82_222, 220_000)),
    ],
)
def test_the_validations_of_some_budgets(budget: int, expected: Pauses) -> None:
    assert plan_pauses(TrainingConfig(), budget, 220_000) == expected


def test_explicit_settings_win() -> None:
    training = TrainingConfig(eval_every=10, eval_tokens=50_000)
    pauses = plan_pauses(training, 50 * training.tokens_per_step, 220_000)
    assert pauses == Pauses(5, 50_000, 50_000)
    alone = TrainingConfig(eval_tokens=50_000)
    assert plan_pauses(alone, 12_000_000, 220_000) == Pauses(10, 50_000, 220_000)


def test_a_comparison_validates_ten_times_and_scores_all_at_the_end() -> None:
    """Whatever its budget."""
    short = pauses_of_a_comparison(TrainingConfig(), 300_000, 220_000)
    assert short == Pauses(10, 10_000, 220_000)
    often = TrainingConfig(eval_every=10)
    assert pauses_of_a_comparison(often, 4_000_000, 220_000).count == 196


def test_the_last_of_validations_at_every_so_many_steps_counts() -> None:
    """1,000 steps: at 400, at 800, and at the end."""
    training = TrainingConfig(eval_every=400)
    assert plan_pauses(training, 1_000 * training.tokens_per_step, 220_000).count == 3


@pytest.mark.parametrize(
    ("lengths", "read"),
    # by stride 4: 8 read in one window; 5 more scored by two windows of 8; 40 by 8 more windows
    [([8], 8), ([3, 8], 11), ([13], 24), ([40, 2], 8 + 8 * 8 + 2)],
)
def test_long_stories_cost_more_to_score(lengths: list[int], read: int) -> None:
    offsets = np.concatenate([[0], np.cumsum([length + 1 for length in lengths])])
    store = SimpleNamespace(offsets=offsets)
    assert overlap_of(store, 8) == pytest.approx(read / sum(lengths))  # type: ignore[arg-type]
    windows = [w for a, b in pairwise(offsets.tolist()) for w in _story_windows(a, b, 8, 4)]
    assert read == sum(window.end - window.start for window in windows)
    assert plan_pauses(TrainingConfig(), 10**6, 10**6, 2.0).tokens_at_the_end == pytest.approx(
        plan_pauses(TrainingConfig(), 10**6, 10**6).tokens_at_the_end / 2, rel=1e-3
    )


@pytest.fixture(scope="module")
def long_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose validation split is longer than a short run can afford to score."""
    folder = tmp_path_factory.mktemp("long")
    tiny.write_stories(folder / "train.jsonl", islice(sample_stories("train"), 120))
    tiny.write_stories(folder / "valid.jsonl", islice(sample_stories("validation"), 120))
    return folder


def test_the_end_scores_the_first_stories_once(long_split: Path, tmp_path: Path) -> None:
    """The last validation is read off the evaluation at the end."""
    run, perplexity = train(tiny.config(long_split), tmp_path / "run")
    assert perplexity is not None
    store = open_evaluation(str(tmp_path / "run"), device="cpu").store
    first = store.head(10_000)
    assert (perplexity.tokens, perplexity.stories) == (
        first.num_tokens - first.num_stories,
        first.num_stories,
    )
    assert first.num_stories < store.num_stories
    expected = evaluate_perplexity(run.model, first, seq_len=32)
    assert perplexity.nats == pytest.approx(expected.nats, rel=1e-6)
    assert json.loads((tmp_path / "run" / "eval.json").read_text()) == perplexity.to_json()
    last = [row for row in tiny.read_metrics(tmp_path / "run") if "val/loss" in row][-1]
    head = evaluate_perplexity(run.model, store.head(2_000), seq_len=32)
    assert last["val/loss"] == pytest.approx(head.loss, rel=1e-6)


def test_all_of_the_split_is_scored_where_that_is_asked_for(
    long_split: Path, tmp_path: Path
) -> None:
    run, perplexity = train(
        tiny.config(long_split), tmp_path / "run", pauses=Pauses(1, 2_000, 10**9)
    )
    assert perplexity is not None
    assert perplexity.stories == run.data.valid.num_stories == 120


def test_a_kill_during_the_last_scoring_costs_no_step(
    long_split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinyohem.training import between_steps

    def killed(*_: object) -> None:
        raise MemoryError

    config = tiny.config(long_split, training__save_every=None, training__eval_tokens=None)
    with monkeypatch.context() as patch:
        patch.setattr(between_steps, "score_at_the_end", killed)
        with pytest.raises(MemoryError):
            train(config, tmp_path / "run")
    taken = []
    monkeypatch.setattr(loop, "take_step", lambda *_: taken.append(1))
    run, perplexity = train(config, tmp_path / "run", resume="must")
    assert (run.state.step, taken) == (20, [])
    assert perplexity is not None
    rows = [row for row in tiny.read_metrics(tmp_path / "run") if "val/loss" in row]
    assert [row["step"] for row in rows] == [10, 20]
    assert rows[0]["val/tokens"] == rows[1]["val/tokens"]


def test_checkpoints_that_nobody_asked_for_are_left_out_where_they_take_too_long(
    long_split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinyohem.training import between_steps

    saved = []

    def slow(run: object, *, is_best: bool) -> None:
        saved.append(run.state.step)  # type: ignore[attr-defined]
        run.save_seconds, run.saved_at = 1e6, 0.0  # type: ignore[attr-defined]

    monkeypatch.setattr(loop, "save", slow)
    monkeypatch.setattr(between_steps, "save", slow)
    config = tiny.config(long_split, training__save_every=None, training__eval_every=None)
    train(config, tmp_path / "run")
    assert saved == [2, 20, 20]  # the first tells what one costs; the end is always saved
    assert between_steps.NUM_CHECKPOINTS == 10
