"""Checkpoints on disk: find them, check that they are whole."""

from pathlib import Path
from typing import Self

from tinyohem.errors import InputError
from tinyohem.io.manifest import Count, DamagedFileError, Figure, Record, open_folder, read_record
from tinyohem.progress import Progress
from tinyohem.runs.layout import (
    CHECKPOINTS,
    LATEST,
    MODEL,
    STEP_NAME,
    follow,
    pointed_at,
    resolve_model_folder,
)

STATE_FILE = "state.json"
_TENSORS = (f"{MODEL}/model.safetensors", "optimizer.safetensors")


class RunState(Record, frozen=False, extra="ignore"):
    """State of the loop besides the tensors; a checkpoint's `state.json`."""

    step: Count  # optimizer steps done
    tokens_seen: Count
    tokens_selected: Count
    train_seconds: Figure  # spent in steps: evaluation and checkpoints excluded
    select_seconds: Figure = 0.0  # of train_seconds, for selection
    pause_seconds: Figure = 0.0  # between steps: evaluation, checkpoints, the log
    best_loss: Figure | None  # nats per token on the validation head
    skipped_steps: Count = 0  # left out because their numbers were not finite
    skipped_in_a_row: Count = 0  # of skipped_steps, since the last finite step
    eval_tokens: Count = 0  # of the validation split, scored at each validation; 0: none yet
    validation_due: bool = False  # a stop interrupted it
    pool_step: Count = 0  # before which the pool in use was mined; 0: the pool it began with

    @classmethod
    def at_start(cls, step: int = 0) -> Self:
        """Return a state that has seen no tokens, at the first step or a given one."""
        return cls(step=step, tokens_seen=0, tokens_selected=0, train_seconds=0.0, best_loss=None)


def newest_sound_checkpoint(run_dir: Path, progress: Progress) -> Path | None:
    """Return the newest undamaged checkpoint, None if there are none; warn of damaged newer ones.

    Raises:
        InputError: every checkpoint is damaged.
    """
    folders = step_folders(run_dir)
    for path in reversed(folders):
        fault = _fault(path)
        if fault is None:
            return path
        progress.warn(f"checkpoint {path} is damaged ({fault}); using the one before it")
    if folders:
        raise InputError(
            f"every checkpoint in {run_dir / CHECKPOINTS} is damaged",
            "start again with another --out",
        )
    return None


def read_state(path: Path) -> RunState:
    """Return the state in a checkpoint.

    Raises:
        ValueError: its file is damaged.
    """
    return read_record(path / STATE_FILE, RunState)


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint that `latest` names, or the newest one if that is lost."""
    newest = step_folders(run_dir)[-1:]
    return pointed_at(run_dir / CHECKPOINTS / LATEST) or (newest[0] if newest else None)


def checkpoint_of(path: Path, progress: Progress) -> Path | None:
    """Return the checkpoint that a path means, None if it is a model without one.

    That is a run's newest undamaged one, the one that `latest` or `best` names, or the path itself.

    Raises:
        InputError: the checkpoint is damaged, or the run has none yet.
    """
    path = follow(path)
    if (path / CHECKPOINTS).is_dir():
        newest = newest_sound_checkpoint(path, progress)
        if newest is None:
            raise InputError(f"the run {path} has no checkpoint yet", "wait for the first")
        return newest
    if not (path / STATE_FILE).exists():
        return None
    require_sound(path)
    return path


def require_sound(path: Path) -> None:
    """Check every file of a checkpoint.

    Raises:
        InputError: a file is gone, cut short or changed.
    """
    fault = _fault(path)
    if fault is not None:
        raise InputError(f"checkpoint {path} is damaged ({fault})", "choose another one")


def tokens_seen(path: Path) -> int | None:
    """Return how many tokens a run or checkpoint was trained on; None if `path` is neither.

    Raises:
        InputError: the state is damaged.
    """
    folder = resolve_model_folder(path)
    if folder.name != MODEL:
        return None
    owner = folder.parent
    owner = owner if (owner / STATE_FILE).exists() else latest_checkpoint(owner) or owner
    if not (owner / STATE_FILE).exists():
        return None
    try:
        return read_state(owner).tokens_seen
    except ValueError as error:
        what = f"{owner / STATE_FILE} is damaged: {error}"
        raise InputError(what, "choose another one") from None


def step_folders(run_dir: Path) -> list[Path]:
    """Return a run's checkpoint folders by rising step, including damaged ones."""
    found = (run_dir / CHECKPOINTS).glob("step_*")
    own = (path for path in found if STEP_NAME.fullmatch(path.name) and not path.is_symlink())
    return sorted(own, key=step_of)


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step_"))


def _fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if nothing is."""
    try:
        open_folder(path, RunState, STATE_FILE, names=_TENSORS)
    except DamagedFileError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"{STATE_FILE} is missing or unreadable: {error}"
    return None
