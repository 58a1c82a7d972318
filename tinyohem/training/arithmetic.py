"""The arithmetic of a run: its precision, and whether its trunk is compiled.

Which is faster depends on the machine and on the size of the model, so a long run tries it.
"""

from pathlib import Path

import torch

from tinyohem.config.run import RunConfig
from tinyohem.progress import Progress
from tinyohem.runs.record import Arithmetic, run_record
from tinyohem.system.device import compiler_fault, multiplies_bfloat16
from tinyohem.training.plan import budget_steps
from tinyohem.training.prepare import Inputs
from tinyohem.training.ranks import DistContext
from tinyohem.training.step_time import seconds_per_step

# Seconds of a run from which a trial pays. Compiling the passes of a mined step takes a minute or
# two and saves a tenth (LOG.md, 2026-11-28).
_BFLOAT16_PAYS_FROM = 120.0
_COMPILING_PAYS_FROM = 900.0
_FEWEST_STEPS = 1_000  # of a run that is timed at all: the dozen steps are a hundredth of it
_GAIN = 0.97  # a rival must take at most this share of the time: less may be noise


def choose_arithmetic(
    config: RunConfig,
    inputs: Inputs,
    run_dir: Path,
    device: torch.device,
    ranks: DistContext,
    progress: Progress,
    *,
    tries: bool = True,
) -> Arithmetic:
    """Return the arithmetic of a run: what its config asks for, or what a trial finds faster.

    A run that goes on keeps its own. Several ranks compile on request only.

    Args:
        tries: whether there may be a trial.

    Raises:
        InputError: whatever forbids the run.
    """
    training = config.training
    begun = run_record(str(run_dir)) if run_dir.exists() else None
    chosen = begun.arithmetic if begun and begun.arithmetic else plain_arithmetic(config, device)
    if training.compile is not None:
        chosen = chosen.model_copy(update={"compiled": training.compile})
    if chosen.compiled and (fault := compiler_fault(device)):
        progress.warn(f"not compiled: {fault}")
        chosen = chosen.model_copy(update={"compiled": False})
    if begun or not tries:
        return chosen
    return _try_rivals(chosen, config, inputs, device, ranks, progress)


def plain_arithmetic(config: RunConfig, device: torch.device) -> Arithmetic:
    """Return what the config asks for; where it leaves the choice, what needs no trial."""
    precision = config.training.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return Arithmetic(precision=precision, compiled=bool(config.training.compile))


def _try_rivals(
    chosen: Arithmetic,
    config: RunConfig,
    inputs: Inputs,
    device: torch.device,
    ranks: DistContext,
    progress: Progress,
) -> Arithmetic:
    """Return the fastest arithmetic that the config allows, where the run is long enough to try."""
    training = config.training
    bfloat16 = training.precision == "auto" and device.type == "cpu" and multiplies_bfloat16(device)
    compiling = training.compile is None and ranks.size == 1
    length = training.seconds or 60 * (training.minutes or 0)  # seconds
    if not (bfloat16 or compiling) or 0 < length < _BFLOAT16_PAYS_FROM:
        return chosen
    num_steps = budget_steps(config, inputs.data)
    if not length and num_steps < _FEWEST_STEPS:
        return chosen
    seconds = {chosen: seconds_per_step(config, inputs, device, chosen, ranks, progress)}
    length = length or num_steps * seconds[chosen]
    if bfloat16 and length >= _BFLOAT16_PAYS_FROM:
        rival = chosen.model_copy(update={"precision": "bfloat16"})
        seconds[rival] = seconds_per_step(config, inputs, device, rival, ranks, progress)
        chosen = _faster(chosen, rival, seconds)
    if compiling and length >= _COMPILING_PAYS_FROM:
        if fault := compiler_fault(device):
            progress.note(f"not compiled: {fault}")
        else:
            progress.note("compiling, to see whether that is faster (--no-compile leaves it)")
            rival = chosen.model_copy(update={"compiled": True})
            seconds[rival] = seconds_per_step(config, inputs, device, rival, ranks, progress)
            chosen = _faster(chosen, rival, seconds)
    if len(seconds) > 1:
        tried = ", ".join(f"{_name(a)} {s:.3g} s" for a, s in seconds.items())
        progress.note(f"a step takes in {tried}: the run takes {_name(chosen)}")
    return chosen


def _faster(chosen: Arithmetic, rival: Arithmetic, seconds: dict[Arithmetic, float]) -> Arithmetic:
    return rival if seconds[rival] <= _GAIN * seconds[chosen] else chosen


def _name(arithmetic: Arithmetic) -> str:
    return arithmetic.precision + (" compiled" if arithmetic.compiled else "")
