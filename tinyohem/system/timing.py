"""Measure time on a device: clocks that wait until its queued work is done."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import torch
from torch.profiler import record_function

from tinyohem.system.device import synchronize


class Stopwatch:
    """A clock of training seconds, paused while the loop evaluates or saves."""

    def __init__(
        self, device: torch.device, seconds: float = 0.0, pause_seconds: float = 0.0
    ) -> None:
        self._device = device
        self._before = seconds
        self.pause_seconds = pause_seconds  # of all pauses that have ended
        self._started = time.perf_counter()
        self._last: torch.cuda.Event | None = None

    def seconds(self) -> float:
        """Return the seconds counted so far, once the device has finished its work."""
        synchronize(self._device)
        return self._counted()

    def pace(self) -> float:
        """Return the seconds counted so far, for a call after every step.

        On a GPU it waits for the previous step, not for this one: the device always has work, and
        the host is never more than a step ahead.
        """
        if self._device.type == "cuda":
            before, self._last = self._last, torch.cuda.Event()
            self._last.record(torch.cuda.current_stream(self._device))
            if before is not None:
                before.synchronize()
        return self._counted()

    def _counted(self) -> float:
        return self._before + time.perf_counter() - self._started

    @contextmanager
    def paused(self) -> Iterator[float]:
        """Stop counting inside the block; yield the seconds counted so far."""
        self._before = self.seconds()
        began = time.perf_counter()
        yield self._before
        synchronize(self._device)
        self._started = time.perf_counter()
        self.pause_seconds += self._started - began


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Label what runs inside for torch's profiler and for the listening `PhaseTimer`."""
    timer = _LISTENING.get()
    with record_function(name):
        if timer is None:
            yield
            return
        timer.begin(name)
        try:
            yield
        finally:
            timer.end()


class PhaseTimer:
    """A timer of the seconds that a device spends in each `phase`; it does not wait for it.

    The time of a phase inside another counts for the inner one only.

    Args:
        seconds: by phase, from an earlier part of the run.
    """

    def __init__(self, device: torch.device, seconds: Mapping[str, float] | None = None) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._seconds = dict(seconds or {})
        self._open: list[str] = []  # phases, the outermost first
        self._marks: list[tuple[str | None, Any]] = []  # the phase that ended there, and when

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Time the phases that run inside, in this thread."""
        token = _LISTENING.set(self)
        try:
            yield
        finally:
            _LISTENING.reset(token)

    def begin(self, name: str) -> None:
        """Start a phase and interrupt the one that runs."""
        self._mark()
        self._open.append(name)

    def end(self) -> None:
        """End the phase that started last and continue the one around it."""
        self._mark()
        self._open.pop()

    def seconds(self, *names: str) -> float:
        """Return the seconds of these phases so far, once the device has finished its work."""
        if self._stream is not None and self._marks:
            self._marks[-1][1].synchronize()
        return self.pace(*names)

    def pace(self, *names: str) -> float:
        """Return the seconds of these phases that the device has finished, without waiting."""
        while len(self._marks) > 1 and self._marks[1][1].query():
            (_, begin), (name, end) = self._marks[:2]
            if name is not None:
                self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
            del self._marks[0]
        return sum(self._seconds.get(name, 0.0) for name in names)

    def _mark(self) -> None:
        mark = _Now() if self._stream is None else torch.cuda.Event(enable_timing=True)
        # Not the current stream, which under --device cuda:1 belongs to another device.
        mark.record(self._stream)
        self._marks.append((self._open[-1] if self._open else None, mark))


class _Now:
    """A `torch.cuda.Event` for the CPU, which finishes its work at once."""

    def record(self, _stream: object) -> None:
        self.time = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Self) -> float:
        return 1000 * (end.time - self.time)


_LISTENING: ContextVar[PhaseTimer | None] = ContextVar("listening", default=None)
