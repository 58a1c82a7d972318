"""Clocks that know when a device has finished."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tinyohem.system.device import (
    synchronize,
)


class Stopwatch:
    """Counts the seconds spent training; paused while the loop evaluates or saves."""

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
        """Return the seconds counted so far; to be asked after every step.

        On a GPU it waits for the step before, not for this one: the device always has work, and the
        host is never further ahead of it than a step.
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
        """Stop counting inside the block; gives the seconds counted so far."""
        self._before = self.seconds()
        began = time.perf_counter()
        yield self._before
        synchronize(self._device)
        self._started = time.perf_counter()
        self.pause_seconds += self._started - began


class DeviceTimer:
    """Adds up the time a device spends on what is inside its `with` blocks, without waiting."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._seconds = seconds
        self._started = 0.0
        self._events: list[torch.cuda.Event] = []  # starts and ends in turn

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        self._record()

    def __exit__(self, *_: object) -> None:
        self._record()
        if not self._on_gpu:
            self._seconds += time.perf_counter() - self._started

    def _record(self) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            # Not the current device's, which is another one under --device cuda:1.
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)

    def seconds(self) -> float:
        """Return the seconds added up so far, once the device has finished its work."""
        if self._events:
            self._events[-1].synchronize()
        return self.pace()

    def pace(self) -> float:
        """Return the seconds of the blocks that the device has finished, without waiting."""
        while self._events and self._events[1].query():
            self._seconds += self._events[0].elapsed_time(self._events[1]) / 1000
            del self._events[:2]
        return self._seconds
