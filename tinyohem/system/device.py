"""Devices, their precision, and reproducible random numbers for each step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from tinyohem.config.training import Precision
from tinyohem.errors import InputError, plainly


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is CUDA if there is one, else the CPU.

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
    """Return the precision context of a forward pass; `auto` is bfloat16 on CUDA only."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


# What torch calls the instructions by which processors multiply bfloat16.
_BFLOAT16_PRODUCTS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16; elsewhere they are emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _BFLOAT16_PRODUCTS)


def compiler_fault(device: torch.device) -> str | None:
    """Return why torch.compile does not work here, in a line; None where it does.

    Compiles a sum, which takes seconds where that is not cached.
    """
    try:
        torch.compile(lambda a: a + a)(torch.ones(2, device=device))
    except Exception as error:  # whatever tools are missing, each fails in its own way
        first_line, *_ = f"{plainly(error)}\n".splitlines()
        return f"torch.compile does not work here: {first_line}"
    return None


@contextmanager
def product_precision(precision: Precision) -> Iterator[None]:
    """Set how float32 matrix products are computed inside the block, backward passes included.

    `medium` is torch's setting of that name: sums stay float32, factors are rounded to TF32 on
    CUDA and to bfloat16 on a CPU with instructions for it. All others are exact. The setting
    belongs to the process, so the end of the block restores it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "medium" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the random numbers of an optimizer step, a function of (seed, step) alone."""
    # Mixed, because the CPU's generator uses only the low 32 bits of its seed.
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(mixed[0]))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
