"""Workers: real signals in every state, deaths, errors, numbers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import worker_jobs

from tinyohem.errors import InputError, RunError
from tinyohem.system.processes import WorkerDied, Workers

PATIENCE = 60  # seconds until a hang is called one
TERM, INT = signal.SIGTERM, signal.SIGINT


class Program:
    """A process with two workers, in a process group of its own."""

    def __init__(self, folder: Path, jobs: tuple[str, ...], seconds: float = PATIENCE) -> None:
        command = [sys.executable, worker_jobs.__file__, str(folder), str(seconds), *jobs]
        self.folder = folder
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, *names: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all((self.folder / name).exists() for name in names):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"no {names}: {list(self.folder.iterdir())}"
            time.sleep(0.005)

    def send(self, number: signal.Signals, group: bool) -> None:
        (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Return its exit code and output, once no worker holds the output open."""
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err

    def workers(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Program] = []

    def begin(*jobs: str, seconds: float = PATIENCE) -> Program:
        started.append(Program(tmp_path, jobs, seconds))
        return started[-1]

    yield begin
    for program in started:
        if program.process.poll() is None:
            os.killpg(program.process.pid, signal.SIGKILL)
            program.process.communicate()


@pytest.mark.parametrize(
    ("numbers", "group"),
    [((TERM,), False), ((INT,), True), ((TERM, TERM), True), ((INT, TERM), False)],
    ids=["term-parent", "int-group", "term-twice-group", "int-term-parent"],
)
class TestSignals:
    """Signals to the parent or to all, once or twice: busy workers save, and all end."""

    @pytest.mark.parametrize(
        "jobs", [("train", "quick"), ("evaluate", "train"), ("evaluate", "quick")]
    )
    def test_a_signal_lets_busy_workers_save_and_idle_ones_end(
        self, start: Start, jobs: tuple[str, str], numbers: tuple[signal.Signals, ...], group: bool
    ) -> None:
        at_work = [job for job in jobs if job != "quick"]
        program = start(*jobs)
        program.wait_for(*(f"{job} begun" for job in at_work))
        if "quick" in jobs:
            program.wait_for("quick ended")
        for number in numbers:
            program.send(number, group)
            program.wait_for(*(f"{job} saves" for job in at_work))
        (program.folder / "may save").touch()
        assert program.end() == (130, "")
        assert all((program.folder / f"{job} saved").exists() for job in at_work)

    def test_a_signal_between_jobs_ends_all_workers_at_once(
        self, start: Start, numbers: tuple[signal.Signals, ...], group: bool
    ) -> None:
        program = start("quick-1", "quick-2")
        program.wait_for("all ended")
        for number in numbers:
            program.send(number, group)
        assert program.end() == (130, "")

    def test_a_signal_does_not_wait_for_a_starting_worker(
        self, start: Start, tmp_path: Path, numbers: tuple[signal.Signals, ...], group: bool
    ) -> None:
        (tmp_path / "no start").touch()
        program = start("train", "quick")
        program.wait_for("starting 0", "starting 1")
        for number in numbers:
            program.send(number, group)
        assert program.end() == (130, "")
        assert not (tmp_path / "train begun").exists()

    def test_a_signal_during_the_start_leaves_no_traceback(
        self, start: Start, numbers: tuple[signal.Signals, ...], group: bool
    ) -> None:
        """Whatever the workers import just then."""
        program = start("train", "evaluate")
        while not program.workers():
            assert program.process.poll() is None
        for number in numbers:
            program.send(number, group)
        (program.folder / "may save").touch()
        assert program.end() == (130, "")


def test_a_worker_that_was_told_alone_gives_its_job_back(start: Start) -> None:
    program = start("evaluate", "quick")
    program.wait_for("evaluate begun", "quick ended")
    (program.folder / "may save").touch()
    for worker in program.workers():  # the idle one goes on
        worker.terminate()
    program.wait_for("all ended")
    assert (program.folder / "evaluate ended").read_text() == "interrupted"
    assert len(program.workers()) == 2
    program.send(TERM, group=False)
    assert program.end() == (130, "")


def test_a_job_that_never_ends_is_killed_once_its_time_is_up(start: Start) -> None:
    program = start("stuck", "train", seconds=0.5)
    program.wait_for("stuck begun", "train begun")
    (program.folder / "may save").touch()
    program.send(TERM, group=False)
    assert program.end() == (130, "")
    assert (program.folder / "train saved").exists()


def test_the_fifth_signal_ends_the_process(start: Start) -> None:
    """The fifth signal ends the parent at once, and with it the workers."""
    program = start("stuck", "quick")
    program.wait_for("stuck begun")
    while program.process.poll() is None:
        program.send(INT, group=True)
        time.sleep(0.01)
    assert program.end() == (-INT, "")


@pytest.mark.parametrize("state", ["starting", "at work", "idle"])
def test_a_parent_that_was_killed_leaves_no_worker(
    start: Start, tmp_path: Path, state: str
) -> None:
    if state == "starting":
        (tmp_path / "no start").touch()
    jobs = {"starting": ("train", "evaluate"), "at work": ("train", "stuck"), "idle": ("quick",)}
    begun = {"starting": ["starting 0", "starting 1"], "idle": ["all ended"]}
    program = start(*jobs[state])
    program.wait_for(*begun.get(state, ["train begun", "stuck begun"]))
    program.send(signal.SIGKILL, group=False)
    assert program.end() == (-signal.SIGKILL, "")


def outcomes(folder: Path, *jobs: str, count: int = 2) -> dict[str, object]:
    with Workers(count, partial(worker_jobs.work, folder=folder)) as workers:
        found: dict[str, object] = {}
        for job in jobs:
            if workers.full:
                found.update([workers.next_ended()])
            workers.submit(job)
        while workers.busy:
            found.update([workers.next_ended()])
    return found


class TestDeaths:
    @pytest.mark.parametrize(
        ("job", "told"),
        [
            ("killed", "its process was killed by SIGKILL"),
            ("exits", "its process ended with exit code 3"),
        ],
    )
    def test_a_dead_worker_costs_only_its_own_job(
        self, tmp_path: Path, job: str, told: str
    ) -> None:
        jobs = ["quick-1", f"{job}-1", f"{job}-2", f"{job}-3", "quick-2", "quick-3"]
        found = outcomes(tmp_path, *jobs)
        assert sorted(found) == sorted(jobs)
        for name, outcome in found.items():
            if name.startswith(job):
                assert isinstance(outcome, WorkerDied)
                assert str(outcome) == told
            else:
                assert isinstance(outcome, int)

    def test_a_dead_idle_worker_is_replaced(self, tmp_path: Path) -> None:
        with Workers(1, partial(worker_jobs.work, folder=tmp_path)) as workers:
            workers.submit("quick-1")
            _, pid = workers.next_ended()
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)
            # All its threads have ended; the pool itself still has to notice.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            workers.submit("quick-2")
            job, other = workers.next_ended()
        assert job == "quick-2"
        assert isinstance(other, int)
        assert other != pid

    def test_a_worker_that_dies_while_starting_costs_its_first_job(self, tmp_path: Path) -> None:
        with Workers(1, partial(worker_jobs.work, folder=tmp_path), os._exit) as workers:
            workers.submit("quick")
            job, outcome = workers.next_ended()
        assert (job, type(outcome)) == ("quick", WorkerDied)


class TestJobs:
    def test_an_error_of_a_job_comes_back(self, tmp_path: Path) -> None:
        found = outcomes(tmp_path, "wrong", "bug", "odd")
        wrong, bug, odd = (found[name] for name in ("wrong", "bug", "odd"))
        assert isinstance(wrong, InputError)
        assert (wrong.message, wrong.hint) == ("a wrong word", "take another")
        assert isinstance(bug, ZeroDivisionError)
        assert "worker_jobs.py" in bug.__notes__[0]  # where it happened
        assert isinstance(odd, RuntimeError)
        assert str(odd) == "OddError: odd error"

    def test_jobs_may_end_in_any_order(self, tmp_path: Path) -> None:
        with Workers(2, partial(worker_jobs.work, folder=tmp_path)) as workers:
            workers.submit("wait-1")
            workers.submit("quick")
            assert workers.full
            assert workers.next_ended()[0] == "quick"
            workers.submit("wait-2")
            for job in ("wait-2", "wait-1"):
                (tmp_path / f"{job} may end").touch()
                assert workers.next_ended()[0] == job
            assert workers.busy == 0

    def test_no_more_processes_than_jobs_at_a_time(self, tmp_path: Path) -> None:
        pids = outcomes(tmp_path, *(f"quick-{n}" for n in range(5)), count=1).values()
        assert len(set(pids)) == 1

    def test_an_error_of_the_parent_ends_the_workers(self, tmp_path: Path) -> None:
        (tmp_path / "may save").touch()

        def fail() -> None:
            with Workers(2, partial(worker_jobs.work, folder=tmp_path)) as workers:
                workers.submit("evaluate")
                workers.submit("after-evaluate")
                assert workers.next_ended()[0] == "after-evaluate"
                raise RunError("another one")

        with pytest.raises(RunError, match="another one"):
            fail()
        assert (tmp_path / "evaluate saved").exists()


def test_jobs_and_results_may_be_larger_than_a_pipe() -> None:
    text = bytes(range(256)) * (1 << 12)
    with Workers(2, worker_jobs.doubled) as workers:
        for _ in range(2):
            workers.submit(text)
        found = [workers.next_ended() for _ in range(2)]
    assert found == [(text, text * 2)] * 2
