"""Run jobs in worker processes, which end on a signal and never outlive their parent."""

import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from signal import Signals
from typing import Any, Generic, Self, TypeVar

from tinyohem.errors import RunError, TinyohemError
from tinyohem.system.allocator import keep_freed_memory
from tinyohem.system.signals import (
    ignore_signals,
    interrupt_once,
    let_signals_in,
    signals_held_back,
)

Job = TypeVar("Job")
Result = TypeVar("Result")

_SECONDS_TO_SAVE = 600.0
_SECONDS_BETWEEN_LOOKS = 1.0


def usable_cores() -> int:
    """Return how many cores this process may use; taskset or a container can limit them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerDied(RunError):
    """A worker process ended in the middle of its job."""


@dataclass(eq=False)
class _Worker(Generic[Job]):
    process: SpawnProcess
    connection: "Connection[Any, Any]"
    place: int
    job: Job | None = None
    ready: bool = False  # it has begun and can take a job

    def send(self) -> None:
        with suppress(OSError):  # it has died; `Workers.next_ended` will notice
            self.connection.send(self.job)


class Workers(Generic[Job, Result]):
    """Processes that work on jobs side by side. Leaving the `with` block ends them.

    Not a ProcessPoolExecutor: a signal that ends one of its idle workers breaks the pool, and a
    busy worker then waits for ever. Here only the parent ends a worker. SIGINT and SIGTERM
    interrupt the current job and nothing else; the job may turn them into a `graceful_stop`.

    Args:
        count: most processes at a time. One starts when a job needs it.
        work: a function at the top of a module, since it is sent to the worker by name.
        begin: called in every worker before its first job, with its number among the running ones.
    """

    def __init__(
        self, count: int, work: Callable[[Job], Result], begin: Callable[[int], None] | None = None
    ) -> None:
        self._count, self._work, self._begin = count, work, begin
        self._workers: list[_Worker[Job]] = []

    @property
    def busy(self) -> int:
        """Number of jobs that were submitted and have not ended."""
        return sum(worker.job is not None for worker in self._workers)

    @property
    def full(self) -> bool:
        """Whether every worker has a job."""
        return self.busy == self._count

    def submit(self, job: Job) -> None:
        """Give a job (not None) to an idle worker; not while `full`."""
        assert not self.full
        self._workers = [w for w in self._workers if w.job is not None or w.process.is_alive()]
        free = [worker for worker in self._workers if worker.job is None]
        worker = free[0] if free else self._start()
        worker.job = job
        if worker.ready:
            worker.send()

    def next_ended(self) -> tuple[Job, Result | Exception]:
        """Wait until a job has ended; return it with its result or its error.

        The error is WorkerDied if the worker ended in the middle of the job.
        """
        assert self.busy
        while True:
            busy = [worker for worker in self._workers if worker.job is not None]
            # A child of a dead worker can hold its connection open: check the process, too.
            wait([worker.connection for worker in busy], _SECONDS_BETWEEN_LOOKS)
            for worker in busy:
                died = not worker.process.is_alive()  # checked first: after that no message comes
                try:
                    if worker.connection.poll():
                        message = worker.connection.recv()
                    elif died:
                        raise EOFError
                    else:
                        continue
                except (EOFError, OSError):
                    message, worker.ready = self._bury(worker), True
                if worker.ready:
                    job, worker.job = worker.job, None
                    assert job is not None
                    return job, message
                worker.ready = True
                worker.send()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers; one in the middle of a job has ten minutes to save."""
        for worker in self._workers:
            worker.connection.close()  # ends an idle worker; `_outcome` checks it in a busy one
            if not worker.ready:
                worker.process.kill()
            elif worker.job is not None:
                worker.process.terminate()
        deadline = time.monotonic() + _SECONDS_TO_SAVE
        for worker in self._workers:
            _end(worker.process, deadline - time.monotonic())

    def _start(self) -> _Worker[Job]:
        place = min(set(range(self._count)) - {worker.place for worker in self._workers})
        # Spawned, not forked: a forked copy of torch's thread pool hangs.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._work, self._begin, place))
        worker: _Worker[Job] = _Worker(process, ours, place)
        resource_tracker.ensure_running()  # started by spawning, it would let signals through
        with signals_held_back():
            process.start()
            self._workers.append(worker)
        theirs.close()
        return worker

    def _bury(self, worker: _Worker[Job]) -> WorkerDied:
        _end(worker.process, _SECONDS_BETWEEN_LOOKS)
        self._workers.remove(worker)
        worker.connection.close()
        code = worker.process.exitcode or 0
        if code < 0:
            how = f"was killed by {Signals(-code).name}"
            return WorkerDied(f"its process {how}", "perhaps for want of memory: try --workers 1")
        return WorkerDied(f"its process ended with exit code {code}", "its own message says why")


def _end(process: SpawnProcess, seconds: float) -> None:
    """Wait for a process to end, and kill it once the time is up."""
    process.join(max(0.0, seconds))
    if process.is_alive():
        process.kill()
        process.join()


def _serve(
    connection: "Connection[Any, Any]",
    work: Callable[[Any], Any],
    begin: Callable[[int], None] | None,
    place: int,
) -> None:
    """Run a worker: begin, then do jobs until the parent closes the connection."""
    ignore_signals()
    let_signals_in()
    _end_with_parent()
    keep_freed_memory()
    if begin is not None:
        begin(place)
    with suppress(EOFError, OSError):  # the parent ends this worker, or was killed
        connection.send("ready")
        while True:
            connection.send(_outcome(work, connection.recv(), connection))


def _outcome(work: Callable[[Any], Any], job: Any, connection: "Connection[Any, Any]") -> Any:
    """Do a job; return its result, or what it failed with."""
    try:
        try:
            interrupt_once()
            if connection.poll():  # closed: the signal may have come before the job did
                raise KeyboardInterrupt
            return work(job)
        except Exception as error:
            return _portable(error)
        finally:
            ignore_signals()
    except KeyboardInterrupt:  # raised once at most, perhaps in the lines above
        ignore_signals()
        return RunError("interrupted", "repeat the command to go on")


def _portable(error: Exception) -> Exception:
    """Return an error that the parent can unpickle, with its traceback if it is a bug."""
    if not isinstance(error, TinyohemError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """End this worker when its parent is killed."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
