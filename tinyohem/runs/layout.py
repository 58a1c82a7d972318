"""The files of a run folder, and the model or checkpoint that a name means."""

import re
from collections.abc import Sequence
from pathlib import Path

from tinyohem.errors import InputError
from tinyohem.io.names import utf8_path
from tinyohem.io.streams import refuse_pointers

RECORD_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"  # a story a validation, under training.samples
EVALUATION_FILE = "eval.json"
CHOICE_FILE = "chosen.json"  # what was kept of the pool and dropped, where stories were chosen
CHECKPOINTS = "checkpoints"
MODEL = "model"  # of a finished run, and in each checkpoint
LATEST, BEST = "latest", "best"  # files among the checkpoints that each name one
POOLS = "pools"
STEP_NAME = re.compile(r"step_[0-9]{6,12}")  # of a checkpoint's folder


def model_folder(name: str) -> str:
    """Return the folder that transformers loads for a name, or the name itself if it is a Hub id.

    Args:
        name: a run folder, a checkpoint or its pointer `latest` or `best`, a transformers folder,
            or a Hub id.

    Raises:
        InputError: `name` is an unfinished run, a folder of runs, or holds git-lfs pointers.
    """
    path = Path(name)
    if (path / CHECKPOINTS).is_dir() and not (path / MODEL).is_dir():
        raise InputError(
            f"the run {name} has not finished",
            f"resume it, or name a checkpoint: {path / CHECKPOINTS / LATEST}",
        )
    if path.is_dir() and not (path / RECORD_FILE).exists():
        runs = sorted(log.parent for log in path.glob(f"*/{METRICS_FILE}"))
        if runs:
            raise InputError(
                f"{name} is a folder of {len(runs)} run(s)",
                f"name one run inside, such as {runs[0]}",
            )
    if not path.exists():
        return name
    folder = resolve_model_folder(path)
    if folder.is_dir():
        refuse_pointers(folder)
    return str(utf8_path(folder))


def resolve_model_folder(path: Path) -> Path:
    """Return the model folder of a run or a checkpoint, else the path itself."""
    path = follow(path)
    return path / MODEL if (path / MODEL / "config.json").exists() else path


def run_of(path: Path) -> Path:
    """Return the run folder of a checkpoint or its pointer, else the path itself."""
    path = follow(path).absolute()
    of_a_run = path.parent.name == CHECKPOINTS and STEP_NAME.fullmatch(path.name)
    return path.parents[1] if of_a_run else path


def pointed_at(pointer: Path) -> Path | None:
    """Return the checkpoint that `latest` or `best` names, None if the pointer is damaged.

    The checkpoint is a folder beside the pointer: a name cannot lead elsewhere.
    """
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    folder = pointer.parent / name
    own = STEP_NAME.fullmatch(name) and folder.is_dir() and not folder.is_symlink()
    return folder if own else None


def follow(path: Path) -> Path:
    """Return the checkpoint that `latest` or `best` names; any other path comes back unchanged.

    Raises:
        InputError: the pointer names no checkpoint.
    """
    if path.name not in (LATEST, BEST) or not path.is_file():
        return path
    folder = pointed_at(path)
    if folder is None:
        raise InputError(f"{path} names no checkpoint", "give one of the folders beside it")
    return folder


def folder_labels(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as it takes to tell them apart.

    Replace what cannot be printed: no picture or page may hold it.

    Raises:
        InputError: one folder is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise InputError(f"{twice[0]} is named twice", "name each run once")
    longest = max(len(path.parts) for path in paths)
    for depth in range(1, longest + 1):
        labels = [_printable("/".join(path.parts[-depth:])) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
