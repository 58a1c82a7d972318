"""What finished models make of their own validation stories: scored once, kept with the run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from tinyohem.artifacts import hash_file, hash_json, read_json, write_json
from tinyohem.errors import InputError, RunError
from tinyohem.evaluation.diagnose import By, diagnose
from tinyohem.evaluation.diagnostics import Group
from tinyohem.evaluation.report_runs import RunLog
from tinyohem.evaluation.source import open_evaluation
from tinyohem.progress import Progress

CACHE_FILE = "breakdown.json"
_FORMAT = 1
_WAYS = get_args(By)


@dataclass
class Scores:
    """Groups of tokens and stories with their losses, of every run that could be scored."""

    by: dict[str, dict[str, list[Group]]]  # way (see `diagnose.By`), run label, groups
    missing: list[str] = field(default_factory=list)  # why a run has none


def score_runs(runs: Iterable[RunLog], progress: Progress) -> Scores:
    """Score each finished model on its validation stories, or read what an earlier report found.

    A run that cannot be scored, for want of a model or of its stories, costs only its own lines.
    """
    scores = Scores({way: {} for way in _WAYS})
    for run in runs:
        if run.model_folder is None:
            scores.missing.append(f"{run.label} has not finished: it has no model yet.")
            continue
        try:
            groups = _groups(run, run.model_folder, progress)
        except (InputError, RunError) as error:
            scores.missing.append(f"{run.label} could not be scored: {error.message}.")
            progress.warn(scores.missing[-1])
            continue
        for way in _WAYS:
            scores.by[way][run.label] = groups[way]
    return scores


def _groups(run: RunLog, model: Path, progress: Progress) -> dict[str, list[Group]]:
    cache, identity = run.folder / CACHE_FILE, _identity(run, model)
    kept = _read(cache)
    if kept.get("identity") != identity:
        progress.note(f"scoring {run.label} on its validation stories")
        evaluation = open_evaluation(str(run.folder), progress=progress)
        if evaluation.store.manifest["ids_sha256"] != run.record["valid"]["ids_sha256"]:
            raise InputError("its validation stories have changed since", "bring them back")
        found = diagnose(evaluation, by=_WAYS, progress=progress)
        kept = {"identity": identity, **found.to_json()}
        try:
            write_json(cache, kept)
        except OSError as error:  # a folder that may only be read: the next report scores again
            progress.note(f"{cache} could not be written: {error.strerror}")
    return {way: [_group(part) for part in kept["by"][way]] for way in _WAYS}


def _identity(run: RunLog, model: Path) -> str:
    """Hash what the groups depend on: the weights, the stories, and those that were learnt from."""
    weights = [hash_file(path) for path in sorted(model.glob("*.safetensors"))]
    tokens = [run.record[split].get("ids_sha256") for split in ("train", "valid")]
    return hash_json([_FORMAT, weights, tokens])


def _read(cache: Path) -> dict[str, Any]:
    try:
        kept = read_json(cache)
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _group(part: dict[str, Any]) -> Group:
    return Group(part["name"], part["tokens"], part["loss"], part["share_of_loss"])
