"""The machine: device, precision, reproducible random numbers, a record of the environment."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata
from typing import Any

import numpy as np
import torch

from tinyohem.config import Precision
from tinyohem.errors import InputError

_RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "tinyohem")


def pick_device(name: str) -> torch.device:
    """Return the device that `name` asks for; `auto` is CUDA where there is one, else the CPU.

    Raises:
        InputError: an unknown name, or a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}", "use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this machine has no CUDA device", "use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s)",
            "count from cuda:0",
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name} is not supported", "use auto, cpu, cuda or cuda:0")
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the precision context of a forward pass; `auto` is bfloat16 on CUDA alone."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def product_precision(precision: Precision) -> Iterator[None]:
    """Set how float32 matrix products are computed inside the block, backward passes included.

    `medium`: torch's setting of that name. Sums stay float32; a CPU that has instructions for it
    rounds the factors to bfloat16, CUDA to TF32. Anything else: exactly. The setting is the
    process's, so it is put back at the end.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the random numbers of one optimizer step: a function of (seed, step), so resumable."""
    # Mixed, because the CPU's generator looks at the low 32 bits of its seed only.
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(mixed[0]))


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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


def environment(device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to repeat the run: versions, processor, device, threads."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "packages": {name: _version(name) for name in _RECORDED_PACKAGES},
    }


def _processor_name() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
