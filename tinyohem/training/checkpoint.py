"""Checkpoints: the whole state of a run, written atomically and verified when read.

checkpoints/step_000500/
    model/                  config, weights and tokenizer: loads with transformers
    optimizer.safetensors   the optimizers' moments, the tensors that mining carries,
                            the random-number state
    state.json              step, counters, SHA-256 of every other file
checkpoints/latest          name of the newest folder
checkpoints/best            name of the folder with the lowest validation loss
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_file, atomic_folder
from tinyohem.io.manifest import seal_folder
from tinyohem.io.names import utf8_path
from tinyohem.models.causal_lm import load_causal_lm
from tinyohem.runs.checkpoints import STATE_FILE, RunState, read_state, step_folders, step_of
from tinyohem.runs.layout import BEST, CHECKPOINTS, LATEST, MODEL, pointed_at

_MINING = "mining:"  # prefix of the names of the tensors that mining carries


def save_checkpoint(
    run_dir: Path,
    model: nn.Module,
    tokenizer: Any,
    optimizers: Sequence[Optimizer],
    state: RunState,
    *,
    remembered: Mapping[str, Tensor],
    keep_last: int,
    is_best: bool,
) -> Path:
    """Write a checkpoint, point `latest` (and `best`) at it, and delete those no longer wanted.

    Args:
        remembered: tensors that mining carries from step to step.
        keep_last: checkpoints to keep beside the best one.
        is_best: whether the validation loss is the lowest so far.
    """
    from safetensors.torch import save_file

    folder = run_dir / CHECKPOINTS
    path = folder / f"step_{state.step:06d}"
    with atomic_folder(path) as partial:
        export_model(partial / MODEL, model, tokenizer)
        tensors = _optimizer_tensors(model, optimizers)
        tensors |= {f"{_MINING}{name}": tensor.cpu() for name, tensor in remembered.items()}
        save_file(tensors, partial / "optimizer.safetensors")
        seal_folder(partial, state.model_dump(), STATE_FILE)
    for pointer in (LATEST, BEST) if is_best else (LATEST,):
        with atomic_file(folder / pointer) as stream:
            stream.write(f"{path.name}\n".encode())
    # Checkpoints of later steps are damaged: the run resumed from an earlier one.
    whole = [p for p in step_folders(run_dir) if step_of(p) <= state.step]
    keep = {pointed_at(folder / BEST), *whole[-keep_last:]}
    for old in step_folders(run_dir):
        if old not in keep:
            shutil.rmtree(old)
    return path


def export_model(folder: Path, model: nn.Module, tokenizer: Any) -> None:
    """Write weights, config and tokenizer so that transformers' Auto classes load them."""
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def load_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[RunState, dict[str, Tensor]]:
    """Load a checkpoint's tensors into `model` and `optimizers`.

    Returns:
        The run's state, and the tensors that mining carries.

    Raises:
        InputError: the checkpoint belongs to another model or other optimizers.
    """
    from safetensors import SafetensorError

    try:
        return _load(path, model, optimizers)
    except (
        InputError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} does not fit this run: {reason}", "choose another --out"
        ) from None


def _load(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[RunState, dict[str, Tensor]]:
    from safetensors.torch import load_file

    # Through transformers, which saves some architectures under other names than it trains them.
    weights = load_causal_lm(str(utf8_path(path / MODEL)), torch.float32).state_dict()
    loaded = model.load_state_dict(weights, strict=False)
    if loaded.unexpected_keys or loaded.missing_keys:
        raise ValueError("it holds another model's weights")
    tensors = load_file(utf8_path(path / "optimizer.safetensors"))
    torch.set_rng_state(tensors.pop("rng.cpu"))
    for optimizer in optimizers:
        moments = {
            index: _moments(tensors, name, parameter.shape)
            for index, (name, parameter) in enumerate(_numbered(model, optimizer))
        }
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    remembered = {
        name.removeprefix(_MINING): tensor
        for name, tensor in tensors.items()
        if name.startswith(_MINING)
    }
    return read_state(path), remembered


def saved_states(run_dir: Path) -> list[RunState]:
    """Return the state of every checkpoint that can be read."""
    states = []
    for path in step_folders(run_dir):
        with suppress(OSError, ValueError):
            states.append(read_state(path))
    return states


def _numbered(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Return the optimizer's parameters with their names, in its own order."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(name_of[id(p)], p) for group in optimizer.param_groups for p in group["params"]]


def _optimizer_tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    tensors = {"rng.cpu": torch.get_rng_state()}
    for optimizer in optimizers:
        names = _numbered(model, optimizer)
        tensors |= {
            f"{moment}:{names[index][0]}": tensor.detach().cpu().contiguous()
            for index, moments in optimizer.state_dict()["state"].items()
            for moment, tensor in moments.items()
        }
    return tensors


def _moments(tensors: Mapping[str, Tensor], name: str, shape: torch.Size) -> dict[str, Tensor]:
    """Return the moments of the parameter `name`, such as `exp_avg`."""
    moments = {
        key.removesuffix(f":{name}"): tensor
        for key, tensor in tensors.items()
        if key.partition(":")[2] == name
    }
    for moment, tensor in moments.items():
        if tensor.shape not in (shape, torch.Size()):  # AdamW counts its steps in a scalar
            raise ValueError(f"{moment} of {name} has the shape {tuple(tensor.shape)}")
    return moments
