"""Checkpoints: the whole state of a run, written atomically, verified when read.

checkpoints/step_000500/
    model/                  config, weights and tokenizer: loads with transformers
    optimizer.safetensors   the optimizers' moments, what mining remembers, the
                            random-number state
    state.json              step, counters, SHA-256 of every other file
checkpoints/latest          name of the newest folder
checkpoints/best            name of the folder with the lowest validation loss
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tinyohem.artifacts import atomic_file, atomic_folder, hash_files, write_sealed
from tinyohem.errors import InputError
from tinyohem.folders import STEP_NAME, follow, pointed_at, resolve_model_folder
from tinyohem.names import utf8_path
from tinyohem.progress import Progress
from tinyohem.record import Count, Figure, Record, read_record
from tinyohem.training.model import load_causal_lm

_MINING = "mining:"  # ahead of the names of what mining remembers
_TENSORS = ("model/model.safetensors", "optimizer.safetensors")


@dataclass
class RunState:
    """What the loop carries from step to step besides the tensors."""

    step: int = 0  # optimizer steps done
    tokens_seen: int = 0
    tokens_selected: int = 0
    train_seconds: float = 0.0  # spent in steps: evaluation and checkpoints excluded
    select_seconds: float = 0.0  # of them, on what plain training does not do
    pause_seconds: float = 0.0  # spent between steps: on evaluation, checkpoints and the log
    best_loss: float | None = None  # nats per token on the validation head
    skipped_steps: int = 0  # left out because their numbers were not finite
    skipped_in_a_row: int = 0  # of them, since the last sound step
    validation_due: bool = False  # a stop came in the middle of it
    pool_step: int = 0  # ahead of which the pool in use was mined; 0: the one it began with


class StateRecord(Record):
    """A `state.json`."""

    step: Count
    tokens_seen: Count
    tokens_selected: Count
    train_seconds: Figure
    select_seconds: Figure = 0.0
    pause_seconds: Figure = 0.0
    best_loss: Figure | None
    skipped_steps: Count = 0
    skipped_in_a_row: Count = 0
    validation_due: bool = False
    pool_step: Count = 0
    sha256: dict[str, str]


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
    """Write a checkpoint, point `latest` (and `best`) at it, drop the ones no longer wanted.

    Args:
        remembered: tensors that mining carries from step to step.
    """
    folder = run_dir / "checkpoints"
    path = folder / f"step_{state.step:06d}"
    with atomic_folder(path) as partial:
        export_model(partial / "model", model, tokenizer)
        tensors = _optimizer_tensors(model, optimizers)
        tensors |= {f"{_MINING}{name}": tensor.cpu() for name, tensor in remembered.items()}
        _save_tensors(partial / "optimizer.safetensors", tensors)
        write_sealed(partial / "state.json", {**asdict(state), "sha256": hash_files(partial)})
    for pointer in ("latest", "best") if is_best else ("latest",):
        _write_pointer(folder / pointer, path.name)
    # Later steps are damaged ones that a resumption passed over.
    whole = [p for p in _step_folders(run_dir) if _step(p) <= state.step]
    keep = {pointed_at(folder / "best"), *whole[-keep_last:]}
    for old in _step_folders(run_dir):
        if old not in keep:
            shutil.rmtree(old)
    return path


def export_model(folder: Path, model: nn.Module, tokenizer: Any) -> None:
    """Write weights, config and tokenizer so that transformers' Auto classes load them."""
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def newest_sound_checkpoint(run_dir: Path, progress: Progress) -> Path | None:
    """Return the newest checkpoint whose files are whole, naming any damaged one passed over.

    Raises:
        InputError: there are checkpoints and every one is damaged.
    """
    folders = _step_folders(run_dir)
    for path in reversed(folders):
        fault = _fault(path)
        if fault is None:
            return path
        progress.warn(f"checkpoint {path} is damaged ({fault}); using the one before it")
    if folders:
        raise InputError(
            f"every checkpoint in {run_dir / 'checkpoints'} is damaged",
            "start again with another --out",
        )
    return None


def load_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[RunState, dict[str, Tensor]]:
    """Put a checkpoint's tensors into `model` and `optimizers`.

    Returns:
        the run's state, and what mining remembered.

    Raises:
        InputError: it is of another model or other optimizers, whole though it may be.
    """
    from safetensors import SafetensorError

    try:
        return _load(path, model, optimizers)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        told = str(error).splitlines()[0]
        raise InputError(f"{path} does not fit this run: {told}", "choose another --out") from None


def _load(
    path: Path, model: nn.Module, optimizers: Sequence[Optimizer]
) -> tuple[RunState, dict[str, Tensor]]:
    from safetensors.torch import load_file

    # Through transformers, which saves some architectures under other names than it trains them.
    try:
        weights = load_causal_lm(str(utf8_path(path / "model")), torch.float32).state_dict()
    except InputError as error:
        raise InputError(f"{path} does not fit this run: {error}", "choose another --out") from None
    loaded = model.load_state_dict(weights, strict=False)
    if loaded.unexpected_keys or loaded.missing_keys:
        raise InputError(f"{path} holds another model's weights", "choose another --out")
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


def read_state(path: Path) -> RunState:
    """Return the state that a checkpoint was written in.

    Raises:
        ValueError: its file is damaged.
    """
    state = read_record(path / "state.json", StateRecord)
    return RunState(**{key: state[key] for key in RunState.__annotations__ if key in state})


def saved_states(run_dir: Path) -> list[RunState]:
    """Return the state of every checkpoint that can be read."""
    states = []
    for path in _step_folders(run_dir):
        try:
            states.append(read_state(path))
        except (OSError, ValueError):
            continue
    return states


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint that `latest` names, or the newest one where that is lost."""
    newest = _step_folders(run_dir)[-1:]
    return pointed_at(run_dir / "checkpoints" / "latest") or (newest[0] if newest else None)


def checkpoint_of(path: Path, progress: Progress) -> Path | None:
    """Return the checkpoint that a path stands for, None where it is a model without one.

    That is a run's newest sound one, the one that `latest` or `best` names, or the folder itself.

    Raises:
        InputError: it is damaged, or a run that has none yet.
    """
    path = follow(path)
    if (path / "checkpoints").is_dir():
        newest = newest_sound_checkpoint(path, progress)
        if newest is None:
            raise InputError(f"the run {path} has no checkpoint yet", "wait for the first")
        return newest
    if not (path / "state.json").exists():
        return None
    require_sound(path)
    return path


def require_sound(path: Path) -> None:
    """Check every file of a checkpoint.

    Raises:
        InputError: one is gone, cut short or changed.
    """
    fault = _fault(path)
    if fault is not None:
        raise InputError(f"checkpoint {path} is damaged ({fault})", "choose another one")


def tokens_seen(path: Path) -> int | None:
    """Return how many tokens the weights of a run or a checkpoint were trained on, if it is one.

    Raises:
        InputError: what says so is damaged.
    """
    folder = resolve_model_folder(path)
    if folder.name != "model":
        return None
    owner = folder.parent
    owner = owner if (owner / "state.json").exists() else latest_checkpoint(owner) or owner
    if not (owner / "state.json").exists():
        return None
    try:
        return read_state(owner).tokens_seen
    except ValueError as error:
        what = f"{owner / 'state.json'} is damaged: {error}"
        raise InputError(what, "choose another one") from None


def _numbered(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters, with their names, in the order in which the optimizer counts them."""
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
    """Return one parameter's moments by their own names."""
    moments = {
        key.removesuffix(f":{name}"): tensor
        for key, tensor in tensors.items()
        if key.partition(":")[2] == name
    }
    for moment, tensor in moments.items():
        if tensor.shape not in (shape, torch.Size()):  # AdamW counts its steps in a scalar
            raise ValueError(f"{moment} of {name} has the shape {tuple(tensor.shape)}")
    return moments


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path)


def _step_folders(run_dir: Path) -> list[Path]:
    found = (run_dir / "checkpoints").glob("step_*")
    own = (path for path in found if STEP_NAME.fullmatch(path.name) and not path.is_symlink())
    return sorted(own, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _fault(path: Path) -> str | None:
    """Say what is wrong with a checkpoint; None where every file is there and whole."""
    try:
        listed = read_record(path / "state.json", StateRecord)["sha256"]
        found = hash_files(path)
        for name in {*_TENSORS, *listed}:
            if name not in found:
                return f"{name} is missing"
            if found[name] != listed.get(name):
                return f"{name} was cut short or changed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"state.json is missing or unreadable: {error}"
    return None


def _write_pointer(path: Path, name: str) -> None:
    with atomic_file(path) as stream:
        stream.write(f"{name}\n".encode())
