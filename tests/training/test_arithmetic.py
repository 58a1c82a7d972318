"""A long run tries which arithmetic is faster, says so, and keeps to it."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._inductor import config as inductor
from torch._inductor.utils import fresh_cache

from tinyohem.config.run import RunConfig
from tinyohem.progress import SILENT
from tinyohem.runs.record import Arithmetic
from tinyohem.system.device import compiler_fault
from tinyohem.training import arithmetic
from tinyohem.training.arithmetic import choose_arithmetic, plain_arithmetic
from tinyohem.training.inputs import open_inputs
from tinyohem.training.loop import train
from tinyohem.training.ranks import SINGLE_PROCESS

CPU = torch.device("cpu")
PLAIN = Arithmetic(precision="float32", compiled=False)
BFLOAT16 = Arithmetic(precision="bfloat16", compiled=False)
COMPILED = Arithmetic(precision="float32", compiled=True)
BOTH = Arithmetic(precision="bfloat16", compiled=True)
LONG = {"training__steps": 100_000}


class Notes(type(SILENT)):  # type: ignore[misc]
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[Arithmetic, float]:
    """A machine with products of bfloat16 and a compiler; its seconds a step are to be set."""
    seconds: dict[Arithmetic, float] = {}
    monkeypatch.setattr(arithmetic, "multiplies_bfloat16", lambda _: True)
    monkeypatch.setattr(arithmetic, "compiler_fault", lambda _: None)
    monkeypatch.setattr(arithmetic, "seconds_per_step", lambda _c, _i, _d, how, *_: seconds[how])
    return seconds


def choose(
    config: RunConfig, folder: Path = Path("nowhere"), notes: Notes | None = None
) -> Arithmetic:
    inputs = open_inputs(config)
    return choose_arithmetic(config, inputs, folder, CPU, SINGLE_PROCESS, notes or Notes())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.floats(0.01, 2), min_size=4, max_size=4), st.integers(1_000, 10_000))
def test_the_faster_arithmetic_is_taken_where_the_run_is_long_enough(
    corpus: Path, machine: dict[Arithmetic, float], seconds: list[float], steps: int
) -> None:
    machine.update(zip((PLAIN, BFLOAT16, COMPILED, BOTH), seconds, strict=True))
    expected = PLAIN
    if steps * machine[PLAIN] >= 120 and machine[BFLOAT16] <= 0.97 * machine[PLAIN]:
        expected = BFLOAT16
    rival = BOTH if expected == BFLOAT16 else COMPILED
    if steps * machine[PLAIN] >= 900 and machine[rival] <= 0.97 * machine[expected]:
        expected = rival
    assert choose(tiny.config(corpus, training__steps=steps)) == expected


@pytest.mark.parametrize(
    "short",
    [
        {"training__steps": 999},
        {"training__steps": None, "training__minutes": 1.9},
        {"training__steps": None, "training__seconds": 119.0},
        {"training__precision": "float32", "training__compile": False, **LONG},
        {"training__precision": "medium", "training__compile": True, **LONG},
    ],
)
def test_a_short_run_and_one_that_says_what_it_wants_try_nothing(
    short: dict[str, object], corpus: Path, machine: dict[Arithmetic, float]
) -> None:
    """The machine of this test knows no seconds, so any trial would fail."""
    config = tiny.config(corpus, **short)
    assert machine == {}
    assert choose(config) == plain_arithmetic(config, CPU)


def test_a_budget_in_time_needs_no_number_of_steps(
    corpus: Path, machine: dict[Arithmetic, float]
) -> None:
    machine.update({PLAIN: 9.0, BFLOAT16: 1.0})
    assert choose(tiny.config(corpus, training__steps=None, training__minutes=3)) == BFLOAT16


def test_the_trial_says_what_it_found(corpus: Path, machine: dict[Arithmetic, float]) -> None:
    machine.update({PLAIN: 0.5, BFLOAT16: 0.4, BOTH: 0.3})
    notes = Notes()
    choose(tiny.config(corpus, **LONG), notes=notes)
    assert notes.said[-1] == (
        "a step takes in float32 0.5 s, bfloat16 0.4 s, bfloat16 compiled 0.3 s: "
        "the run takes bfloat16 compiled"
    )


@pytest.mark.parametrize("compiles", [None, True])
def test_a_machine_without_a_compiler_is_told_in_a_line(
    compiles: bool | None,
    corpus: Path,
    machine: dict[Arithmetic, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine.update({PLAIN: 0.5, BFLOAT16: 0.5})
    monkeypatch.setattr(arithmetic, "compiler_fault", lambda _: "no compiler")
    notes = Notes()
    config = tiny.config(corpus, training__compile=compiles, **LONG)
    assert choose(config, notes=notes) == PLAIN
    assert "not compiled: no compiler" in notes.said


def test_a_missing_compiler_is_a_fault_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    with fresh_cache():
        fault = compiler_fault(CPU)
    assert fault is not None
    assert "compiler" in fault
    assert "\n" not in fault


def test_a_run_keeps_what_it_began_with(
    corpus: Path, tmp_path: Path, machine: dict[Arithmetic, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed, it trains to the same weights, and tries nothing again."""
    monkeypatch.setattr(arithmetic, "_FEWEST_STEPS", 1)
    machine.update({PLAIN: 20.0, BFLOAT16: 10.0, BOTH: 20.0})
    train(tiny.config(corpus), tmp_path / "whole")
    train(tiny.config(corpus, training__stop_at_step=5), tmp_path / "run")
    for name in ("whole", "run"):
        record = json.loads((tmp_path / name / "config.json").read_text())
        assert record["arithmetic"] == {"precision": "bfloat16", "compiled": False}
    machine.clear()
    train(tiny.config(corpus), tmp_path / "run", resume="must")
    whole, resumed = ((tmp_path / n / "model" / "model.safetensors") for n in ("whole", "run"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert choose(tiny.config(corpus, training__compile=True), tmp_path / "run") == BOTH


def test_bfloat16_changes_the_weights_that_a_run_ends_with(
    corpus: Path, tmp_path: Path, machine: dict[Arithmetic, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny.config(corpus), tmp_path / "float32")
    monkeypatch.setattr(arithmetic, "_FEWEST_STEPS", 1)
    machine.update({PLAIN: 20.0, BFLOAT16: 10.0, BOTH: 20.0})
    train(tiny.config(corpus), tmp_path / "bfloat16")
    weights = [tmp_path / n / "model" / "model.safetensors" for n in ("float32", "bfloat16")]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_a_record_without_arithmetic_is_of_a_plain_run(corpus: Path, tmp_path: Path) -> None:
    train(tiny.config(corpus, training__stop_at_step=5), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    del record["arithmetic"]
    path.write_text(json.dumps(record))
    assert choose(tiny.config(corpus, **LONG), tmp_path / "run") == PLAIN


def test_what_the_data_say_is_told_once(
    corpus: Path, tmp_path: Path, machine: dict[Arithmetic, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials and the timing of steps look at the data too."""
    monkeypatch.setattr(arithmetic, "_FEWEST_STEPS", 1)
    machine.update({PLAIN: 20.0, BFLOAT16: 10.0, BOTH: 20.0})
    notes = Notes()
    train(tiny.config(corpus / "train.jsonl", training__steps=5), tmp_path / "run", progress=notes)
    assert sum("no validation split" in note for note in notes.said) == 1
