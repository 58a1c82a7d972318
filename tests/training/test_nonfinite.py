"""Steps whose loss or gradient is not finite: the run stops at them, or leaves them out whole."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tinyohem.errors import RunError
from tinyohem.training import take_step
from tinyohem.training.between_steps import MOST_SKIPPED
from tinyohem.training.loop import train

Poison = Callable[[Iterable[int]], None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Break one gradient in each of some steps."""
    training_step, step_generator = take_step.training_step, take_step.step_generator
    current, bad = [0], set[int]()

    def generator(seed: int, step: int, device: torch.device) -> torch.Generator:
        current[0] = step
        return step_generator(seed, step, device)

    def broken(lm: Any, *args: Any, **kwargs: Any) -> Any:
        stats = training_step(lm, *args, **kwargs)
        if current[0] in bad:
            next(lm.trunk.module.parameters()).grad[0] = math.nan
        return stats

    def break_at(steps: Iterable[int]) -> None:
        bad.clear()
        bad.update(steps)

    monkeypatch.setattr(take_step, "step_generator", generator)
    monkeypatch.setattr(take_step, "training_step", broken)
    return break_at


class TestSkip:
    @pytest.mark.parametrize(
        "way",
        [
            {"optim__optimizer": "muon"},
            {"ohem__ratio": 0.5, "ohem__select": "threshold", "ohem__queue_steps": 3},
            {"ohem__ratio": 0.5, "ohem__score": "excess_loss", "ohem__ema_horizon": 0.3},
            {"ohem__weight": "ghm"},
        ],
        ids=["muon", "queue", "self-reference", "ghm"],
    )
    def test_a_skipped_step_changes_only_the_counters(
        self, corpus: Path, tmp_path: Path, poison: Poison, way: dict[str, Any]
    ) -> None:
        """Weights, moments and what mining remembers: the files are the same to the last bit."""
        poison([8])
        listener = tiny.Listener()
        often = {"training__save_every": 1, "training__keep_last": 99, "training__steps": 11}
        config = tiny.config(corpus, **often, **way, training__on_nonfinite="skip")
        run, perplexity = train(config, tmp_path / "run", progress=listener)
        hashes = [tiny.saved_hashes(tmp_path / "run", step) for step in range(7, 12)]
        assert hashes[1] == hashes[2]  # ahead of step 8, counted from 0, and after it
        assert len({tuple(pair) for pair in hashes}) == 4
        assert perplexity is not None
        assert (run.state.skipped_steps, run.state.skipped_in_a_row) == (1, 0)
        assert run.state.tokens_seen == 11 * 128
        assert listener.warnings == ["step 9 is skipped: its loss or gradient is not finite"]

    def test_the_count_is_logged_and_the_means_are_of_the_others(
        self, corpus: Path, tmp_path: Path, poison: Poison
    ) -> None:
        poison([4, 5, 9])
        run, _ = train(tiny.config(corpus, training__on_nonfinite="skip"), tmp_path / "run")
        rows = [row for row in tiny.read_metrics(tmp_path / "run") if "train/lr" in row]
        assert [row["train/skipped_steps"] for row in rows] == [0, 0, 2, 2, 3, 3, 3, 3, 3, 3]
        assert "train/loss" not in rows[2]  # steps 4 and 5 were all there was
        others = rows[:2] + rows[3:]
        assert [row["train/keep_ratio"] for row in others] == [1] * 9
        assert run.state.tokens_selected == 17 * 128

    def test_a_skipped_step_leaves_the_run_as_without_it(
        self, corpus: Path, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same as a run whose optimizer is not called at that step."""
        poison([8])
        train(tiny.config(corpus, training__on_nonfinite="skip"), tmp_path / "skipped")
        poison([])
        update, calls = take_step.update, []

        def all_but_the_ninth(optimizers: Any, lr: float) -> None:
            calls.append(lr)
            if len(calls) != 9:
                update(optimizers, lr)
            for optimizer in optimizers:
                optimizer.zero_grad()

        monkeypatch.setattr(take_step, "update", all_but_the_ninth)
        train(tiny.config(corpus), tmp_path / "left out")
        assert tiny.saved_hashes(tmp_path / "skipped") == tiny.saved_hashes(tmp_path / "left out")

    def test_too_many_in_a_row_end_the_run(
        self, corpus: Path, tmp_path: Path, poison: Poison
    ) -> None:
        config = tiny.config(corpus, training__on_nonfinite="skip")
        poison(range(3, 3 + MOST_SKIPPED - 1))
        run, _ = train(config, tmp_path / "one less")
        assert run.state.skipped_steps == MOST_SKIPPED - 1
        poison(range(3, 3 + MOST_SKIPPED))
        for _ in range(2):  # a resumption from step 10 in their middle comes to the same
            with pytest.raises(RunError, match=r"10 steps in a row were skipped: .* at step 13;"):
                train(config, tmp_path / "too many", resume="auto")
            assert tiny.steps_kept(tmp_path / "too many") == [5, 10]

    def test_a_run_that_stopped_goes_on_with_it(
        self, corpus: Path, tmp_path: Path, poison: Poison
    ) -> None:
        poison([8])
        run_dir = tmp_path / "stopped"
        with pytest.raises(RunError, match="not finite at step 9;") as caught:
            train(tiny.config(corpus), run_dir)
        assert str(caught.value.hint).endswith("--on-nonfinite skip leaves such steps out")
        skipping = tiny.config(corpus, training__on_nonfinite="skip")
        train(skipping, run_dir, resume="must")
        train(skipping, tmp_path / "whole")
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(tmp_path / "whole")

    def test_a_loss_that_is_not_finite_is_skipped_too(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        """One reckless update leaves weights that no later step can use."""
        arguments = tiny.flags(corpus, optim__lr=1e30, ohem__ratio=0.5)
        result = tinyohem("train", *arguments, "--on-nonfinite=skip", "--out", tmp_path / "run")
        assert result.code == 1
        error, hint = result.err.splitlines()[-2:]
        assert error.startswith("error: 10 steps in a row were skipped: the loss or its gradient")
        assert hint == "hint: lower optim.lr, or look at those stories"

    def test_skip_changes_nothing_where_all_steps_are_finite(
        self, corpus: Path, finished_run: Path, tmp_path: Path
    ) -> None:
        train(tiny.config(corpus, training__on_nonfinite="skip"), tmp_path / "run")
        assert tiny.saved_hashes(tmp_path / "run") == tiny.saved_hashes(finished_run)

    def test_an_unknown_value_is_refused(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        arguments = [*tiny.flags(corpus), "--on-nonfinite", "hope", "--out", tmp_path / "run"]
        result = tinyohem("train", *arguments)
        assert result.code == 2
        assert "error: training.on_nonfinite = 'hope'" in result.err
