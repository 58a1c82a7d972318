"""The peak memory of a benchmark's steps, each measured in its own process.

In one process the steps would share what the allocator and the caches keep.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from tinyohem.bench.steps import bench_steps, random_batch
from tinyohem.config.run import RunConfig
from tinyohem.errors import RunError
from tinyohem.progress import Progress
from tinyohem.system.device import pick_device, product_precision, step_generator
from tinyohem.system.processes import WorkerDied, Workers

_STEPS = 2  # the optimizer's moments come with the first


def peak_memory(
    config: RunConfig, names: Iterable[str], progress: Progress
) -> dict[str, int | None]:
    """Return the most bytes that each step takes beside the weights, by name.

    They hold the gradients, the optimizer's moments and all activations: on a GPU the bytes that
    torch allocates, on a CPU the growth of the resident memory (None where the system does not
    report it).

    Raises:
        RunError: the system ended such a process, most likely for lack of memory.
    """
    found, names = {}, list(names)
    progress.start("memory", len(names), "steps")
    for done, name in enumerate(names, 1):
        with Workers(1, partial(_peak_of, config)) as worker:
            worker.submit(name)
            _, peak = worker.next_ended()
        if isinstance(peak, WorkerDied):
            raise RunError(
                f"the process that measured the memory of {name} was ended",
                "most likely there was too little: lower training.batch_size",
            )
        if isinstance(peak, Exception):
            raise peak
        found[name] = peak
        progress.advance(done)
    progress.finish()
    return found


def _peak_of(config: RunConfig, name: str) -> int | None:
    device = pick_device(config.training.device)
    step = bench_steps(config, device)[name]
    _forget_peak()
    before = _allocated(device, "VmRSS")
    generator = step_generator(config.training.seed, 0, device)
    with product_precision(config.training.precision):
        for _ in range(_STEPS):
            step(random_batch(config, generator, device))
    peak = _allocated(device, "VmHWM")
    return None if before is None or peak is None else peak - before


def _forget_peak() -> None:
    """Reset the peak of the resident memory, which the imports raised; see proc_pid_clear_refs(5).

    Where that is not allowed, the figures of small steps include the imports.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _allocated(device: torch.device, key: Literal["VmRSS", "VmHWM"]) -> int | None:
    """Return the bytes in use now (VmRSS) or at the peak so far (VmHWM)."""
    if device.type == "cuda":
        now, most = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        return now if key == "VmRSS" else most
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
