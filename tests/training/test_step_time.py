"""A few timed steps turn a budget in time into steps; what is fixed once stays."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from tinyohem.config.run import validate_config
from tinyohem.errors import InputError
from tinyohem.runs.record import Arithmetic
from tinyohem.training import loop, step_time
from tinyohem.training.inputs import open_inputs
from tinyohem.training.loop import train
from tinyohem.training.ranks import DistContext
from tinyohem.training.step_time import seconds_per_step, steps_in

CPU = torch.device("cpu")
PLAIN = Arithmetic(precision="float32", compiled=False)
MINUTES = {"training__steps": None, "training__minutes": 0.1}


@pytest.fixture
def a_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every step takes 0.1 s: 60 of them are 0.1 minutes."""
    asked = []

    def timed(*_: object, **__: object) -> float:
        asked.append(1)
        return 0.1

    monkeypatch.setattr(step_time, "seconds_per_step", timed)
    return asked


def test_steps_fill_the_budget() -> None:
    assert [steps_in(6, 0.1), steps_in(1, 0.3), steps_in(0.001, 5)] == [60, 3, 1]


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_step_is_timed_over_the_whole_schedule(
    ratio: float, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios, clock = [], iter(range(1000))

    def take(run: object, *_: object) -> None:
        ratios.append(run.keep_ratio)  # type: ignore[attr-defined]
        run.state.step += 1  # type: ignore[attr-defined]

    monkeypatch.setattr(step_time, "take_step", take)
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: next(clock) * 0.5)
    config = tiny.config(corpus, ohem__ratio=ratio, training__steps=3)
    assert seconds_per_step(config, open_inputs(config), CPU, PLAIN) == pytest.approx(0.5)
    assert len(ratios) == 12
    assert min(ratios) == ratio
    assert ratios[0] == ratios[-1] == 1  # `recover` keeps all at both ends


def test_steps_that_are_slow_are_timed_for_a_limited_time(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, taken = iter(range(1000)), []
    monkeypatch.setattr(step_time, "take_step", lambda run, *_: taken.append(run))
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: next(clock) * 30)
    config = tiny.config(corpus)
    assert seconds_per_step(config, open_inputs(config), CPU, PLAIN) == 30
    assert len(taken) == 3  # two warm up


def test_steps_that_compile_are_not_counted(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first warms up; the fifth meets a new shape."""
    now, lasts = [0.0], iter([50.0, 1.0, 1.0, 1.0, 40.0, *[2.0] * 7])

    def take(run: object, *_: object) -> None:
        now[0] += next(lasts)
        run.state.step += 1  # type: ignore[attr-defined]

    monkeypatch.setattr(step_time, "take_step", take)
    monkeypatch.setattr(step_time, "_ENOUGH_SECONDS", 100.0)
    monkeypatch.setattr(step_time.time, "perf_counter", lambda: now[0])
    expected = (2 * 1.0 + 7 * 2.0) / 9
    config = tiny.config(corpus)
    assert seconds_per_step(config, open_inputs(config), CPU, PLAIN) == pytest.approx(expected)


def test_timing_leaves_no_trace_in_the_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of 20 steps is the same, whether they were given or bought."""
    train(tiny.config(corpus), tmp_path / "given")
    monkeypatch.setattr(step_time, "steps_in", lambda *_: 20)
    config = tiny.config(corpus, **MINUTES)
    run, _ = train(config, tmp_path / "bought")
    assert run.state.step == 20
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("given", "bought")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.usefixtures("a_tenth_of_a_second")
def test_a_curriculum_takes_minutes(corpus: Path, tmp_path: Path) -> None:
    config = tiny.config(corpus, curriculum__enabled=True, **MINUTES)
    run, _ = train(config, tmp_path / "run")
    assert run.state.step == 60
    assert len(run.plan.order) == 60 * config.training.batch_size  # type: ignore[union-attr]


def test_a_resumed_run_keeps_its_number_of_steps(
    corpus: Path, tmp_path: Path, a_tenth_of_a_second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(corpus, **MINUTES)
    stopping = tiny.config(corpus, training__stop_at_step=10, **MINUTES)
    train(config, tmp_path / "whole")
    train(stopping, tmp_path / "run")
    monkeypatch.setattr(step_time, "seconds_per_step", lambda *_: pytest.fail("timed again"))
    run, _ = train(config, tmp_path / "run", resume="must")
    assert run.state.step == 60
    assert len(a_tenth_of_a_second) == 2
    whole, resumed = ((tmp_path / n / "model" / "model.safetensors") for n in ("whole", "run"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_a_run_that_died_before_its_first_checkpoint_keeps_its_number_of_steps(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its curriculum is saved by then, and fits no other number."""

    def killed(*_: object) -> None:
        raise MemoryError

    config = tiny.config(corpus, curriculum__enabled=True, **MINUTES)
    with monkeypatch.context() as patch:
        patch.setattr(step_time, "seconds_per_step", lambda *_: 0.1)
        patch.setattr(loop, "take_step", killed)
        with pytest.raises(MemoryError):
            train(config, tmp_path / "run")
    monkeypatch.setattr(step_time, "seconds_per_step", lambda *_: 0.2)
    run, _ = train(config, tmp_path / "run", resume="auto")
    assert run.state.step == 60


def test_the_main_ranks_clock_decides_how_many_steps_are_timed(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that stopped by their own clocks would wait for each other for ever."""
    taken = []
    monkeypatch.setattr(step_time, "take_step", lambda run, *_: taken.append(run))
    monkeypatch.setattr(DistContext, "broadcast", lambda *_: (9.0,))
    config = tiny.config(corpus)
    assert seconds_per_step(config, open_inputs(config), CPU, PLAIN) == 9.0
    assert len(taken) == 5  # two warm up, then 27 s by that clock; next to nothing by this one


@pytest.mark.parametrize("other", ["steps", "seconds"])
def test_two_budgets_are_refused(other: str) -> None:
    with pytest.raises(InputError, match="give one of them"):
        validate_config({"training": {"minutes": 1, other: 5}})


def test_the_command_takes_minutes_and_no_tokens_beside_them(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    flags = [flag for flag in tiny.flags(corpus) if "training.steps" not in flag]
    refused = tinyohem("train", *flags, "--minutes", 1, "--tokens", "1M", "--out", tmp_path / "no")
    assert refused.code == 2
    assert "--tokens and training.minutes are two budgets" in refused.err
    done = tinyohem("train", *flags, "--minutes", 0.01, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    steps = json.loads(done.out)["steps"]
    assert f": {steps:,} steps in 0.01 minutes" in done.err
    shutil.rmtree(tmp_path / "run")
    outline = tinyohem("train", *flags, "--minutes", 0.01, "--dry-run", "--json")
    figures = json.loads(outline.out)
    assert figures["seconds"] == pytest.approx(0.6, rel=0.5)
    assert figures["num_steps"] >= 1
