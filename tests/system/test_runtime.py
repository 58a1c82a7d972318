"""Devices, precision, random numbers of a step, clocks, the environment."""

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyohem.errors import InputError
from tinyohem.system import timing
from tinyohem.system.device import autocast, pick_device, product_precision, step_generator
from tinyohem.system.environment import environment
from tinyohem.system.timing import PhaseTimer, Stopwatch, phase

CPU = torch.device("cpu")


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


class TestPickDevice:
    def test_auto_is_cuda_where_there_is_one(self, fake_cuda: Any) -> None:
        fake_cuda(0)
        assert pick_device("auto") == pick_device("cpu") == CPU
        fake_cuda(2)
        assert pick_device("auto") == torch.device("cuda")
        assert pick_device("cuda:1") == torch.device("cuda:1")
        assert pick_device("cpu") == CPU

    @pytest.mark.parametrize(
        ("name", "count", "message"),
        [
            ("cuda", 0, "this machine has no CUDA device"),
            ("cuda:0", 0, "this machine has no CUDA device"),
            ("cuda:2", 2, r"has 2 CUDA device\(s\)"),
            ("gpu", 0, "unknown device 'gpu'"),
            ("", 0, "unknown device ''"),
            ("meta", 0, "--device meta is not supported"),
        ],
    )
    def test_a_device_that_cannot_be_used_is_refused(
        self, fake_cuda: Any, name: str, count: int, message: str
    ) -> None:
        fake_cuda(count)
        with pytest.raises(InputError, match=message) as caught:
            pick_device(name)
        assert caught.value.exit_code == 2
        assert caught.value.hint


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "auto", torch.float32),
        ("cpu", "float32", torch.float32),
        ("cpu", "medium", torch.float32),
        ("cpu", "bfloat16", torch.bfloat16),
    ],
)
def test_autocast_sets_the_precision_of_a_product(
    device: str, precision: Any, expected: torch.dtype
) -> None:
    context = autocast(torch.device(device), precision)
    for _ in range(2):  # a step enters it more than once
        with context:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


class TestProductPrecision:
    def test_medium_sets_torchs_precision_and_restores_it(self) -> None:
        assert torch.get_float32_matmul_precision() == "highest"
        with product_precision("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            with product_precision("float32"):
                assert torch.get_float32_matmul_precision() == "highest"
            assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_float32_matmul_precision() == "highest"

    def test_product_precision_is_restored_after_a_failure(self) -> None:
        with pytest.raises(ZeroDivisionError), product_precision("medium"):
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == "highest"

    @pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
    def test_every_precision_but_medium_is_exact(self, precision: Any) -> None:
        with product_precision("medium"), product_precision(precision):
            assert torch.get_float32_matmul_precision() == "highest"


class TestStepGenerator:
    @staticmethod
    def draw(seed: int, step: int) -> list[float]:
        return torch.rand(8, generator=step_generator(seed, step, CPU)).tolist()

    def test_step_numbers_are_a_function_of_seed_and_step(self) -> None:
        torch.manual_seed(0)
        first = self.draw(3, 7)
        torch.rand(100)
        assert self.draw(3, 7) == first

    def test_no_two_seeds_or_steps_share_numbers(self) -> None:
        pairs = [(seed, step) for seed in (0, 1, 2, 2**32 - 1) for step in (0, 1, 2, 10**6)]
        assert len({tuple(self.draw(*pair)) for pair in pairs}) == len(pairs)

    def test_step_numbers_leave_the_global_generator_alone(self) -> None:
        before = torch.get_rng_state()
        self.draw(1, 1)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_stopwatch_counts_all_but_its_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    watch = Stopwatch(CPU, seconds=7.0, pause_seconds=0.5)
    now.seconds += 2
    with watch.paused() as counted:
        assert counted == 9.0
        now.seconds += 50
    now.seconds += 3
    assert watch.seconds() == 12.0
    with watch.paused() as counted:
        assert counted == 12.0
        now.seconds += 4
    assert watch.pause_seconds == 54.5


def test_the_environment_is_json_and_names_the_versions() -> None:
    record = json.loads(json.dumps(environment(CPU)))
    assert record["packages"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert record["device"] == "cpu"
    assert record["threads"] == torch.get_num_threads()
    assert record["processor"]


class TestPhaseTimer:
    @pytest.fixture(autouse=True)
    def _a_clock_that_ticks_when_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = itertools.count()
        clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
        monkeypatch.setattr(timing, "time", clock)

    def test_a_timer_adds_each_phase_to_its_given_seconds(self) -> None:
        timer = PhaseTimer(CPU, {"a": 10.0})
        with timer.listening():
            for name in ("a", "b", "a"):
                with phase(name):
                    pass
        assert (timer.seconds("a"), timer.seconds("b"), timer.seconds("c")) == (12, 1, 0)
        assert timer.pace("a", "b", "c") == 13

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.recursive(st.just([]), lambda children: st.lists(children, max_size=4)))
    def test_a_phase_inside_another_counts_for_itself_alone(self, tree: list[Any]) -> None:
        """Each boundary is a tick, so a phase has one more than it has phases inside."""
        timer, expected = PhaseTimer(CPU), dict[str, int]()

        def run(children: list[Any], depth: int) -> None:
            with phase(f"level {depth}"):
                expected[f"level {depth}"] = expected.get(f"level {depth}", 0) + len(children) + 1
                for child in children:
                    run(child, depth + 1)

        with timer.listening():
            run(tree, 0)
        assert {name: timer.seconds(name) for name in expected} == expected

    def test_an_error_ends_the_phase(self) -> None:
        timer = PhaseTimer(CPU)
        with timer.listening():
            with pytest.raises(KeyError), phase("broken"):
                raise KeyError
            with phase("next"):
                pass
        assert timer.seconds("broken") == timer.seconds("next") == 1

    def test_a_phase_outside_listening_is_not_timed(self) -> None:
        timer = PhaseTimer(CPU)
        with timer.listening():
            pass
        with phase("a"):
            pass
        assert timer.seconds("a") == 0

    def test_torchs_profiler_sees_the_phases(self) -> None:
        cpu = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[cpu]) as profile, phase("select"):
            torch.ones(3).sum()
        assert "select" in {event.key for event in profile.key_averages()}


class FakeGpu:
    """A device that works off events in their order, as far as `done` says."""

    def __init__(self) -> None:
        self.recorded: list[FakeEvent] = []
        self.streams: set[torch.device] = set()  # that events were recorded on
        self.done = 0
        self.waits: list[int] = []


class FakeEvent:
    gpu: FakeGpu

    def __init__(self, enable_timing: bool = False) -> None:
        self.place = -1

    def record(self, stream: torch.device) -> None:
        self.gpu.streams.add(stream)
        self.place = len(self.gpu.recorded)
        self.gpu.recorded.append(self)

    def query(self) -> bool:
        return self.place < self.gpu.done

    def synchronize(self) -> None:
        self.gpu.waits.append(self.place)
        self.gpu.done = max(self.gpu.done, self.place + 1)

    def elapsed_time(self, end: "FakeEvent") -> float:
        assert end.query()
        return 1000.0 * (end.place - self.place)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    FakeEvent.gpu = FakeGpu()
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: device)
    return FakeEvent.gpu


class TestPaceOnAGpu:
    """Between log lines nothing may wait for the step that has just been queued."""

    def test_the_stopwatch_waits_for_the_step_before(self, fake_gpu: FakeGpu) -> None:
        watch = Stopwatch(torch.device("cuda:1"), seconds=5.0)
        for step in range(4):
            assert watch.pace() >= 5.0
            assert fake_gpu.waits == list(range(step))
        assert fake_gpu.streams == {torch.device("cuda:1")}

    def test_a_timer_counts_what_is_done(self, fake_gpu: FakeGpu) -> None:
        timer = PhaseTimer(torch.device("cuda:1"), {"a": 2.0})
        with timer.listening():
            for _ in range(3):
                with phase("a"):
                    pass
        assert timer.pace("a") == 2.0
        fake_gpu.done = 3  # the first phase, and the beginning of the second
        assert timer.pace("a") == timer.pace("a") == 3.0
        assert fake_gpu.waits == []
        assert timer.seconds("a") == 5.0
        assert fake_gpu.waits == [5]
        assert fake_gpu.streams == {torch.device("cuda:1")}
