"""Score finished models on their validation stories, once; each run folder keeps its scores."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, field_validator

from tinyohem.config.curriculum import CurriculumConfig
from tinyohem.difficulty.score_table import METRIC_VERSION
from tinyohem.errors import InputError, RunError
from tinyohem.evaluation.diagnose import By, diagnose
from tinyohem.evaluation.inspect_story import (
    InspectedStory,
    inspect_story,
    nth_story,
)
from tinyohem.evaluation.loss_groups import Group
from tinyohem.evaluation.open import Evaluation, open_evaluation
from tinyohem.io.hashing import hash_file, hash_json
from tinyohem.io.json import write_json
from tinyohem.io.manifest import Record, check_record, read_record
from tinyohem.progress import Progress
from tinyohem.report.comparisons import name_runs
from tinyohem.report.run_logs import RunLog

CACHE_FILE = "breakdown.json"
_FORMAT = 1
_WAYS: tuple[By, ...] = ("loss", "frequency", "difficulty")
_METRIC = CurriculumConfig().metric
_STORY_TOKENS = 400  # a longer story is no picture any more


class KeptScores(Record):
    """The scores of one run, as its folder keeps them for the next report."""

    model_config = ConfigDict(strict=False)  # or no object would do for a dataclass

    identity: str
    by: dict[By, list[Group]]
    difficulty_metric: str
    story: InspectedStory

    @field_validator("story")
    @classmethod
    def _has_tokens(cls, story: InspectedStory) -> InspectedStory:
        if not story.tokens or story.num_tokens < 1:
            raise ValueError("the story has no token")
        return story


@dataclass
class Scores:
    """The scores of every run that could be scored."""

    by: dict[str, dict[str, list[Group]]]  # way (see `diagnose.By`), run label, groups
    metric: str = ""  # what the difficulty is, as the scores record it
    stories: dict[str, InspectedStory] = field(default_factory=dict)  # run label, one story
    missing: list[str] = field(default_factory=list)  # why a run has none


def score_runs(runs: Iterable[RunLog], progress: Progress) -> Scores:
    """Score each finished model on its validation stories, or read what an earlier report kept.

    A run that cannot be scored, for want of a model or of its stories, costs only its own lines.
    """
    scores = Scores({way: {} for way in _WAYS})
    waiting: list[str] = []
    without: list[str] = []
    for run in runs:
        if run.model_folder is None:
            (waiting if run.evaluation is None else without).append(run.label)
            continue
        try:
            kept = _kept_or_scored(run, run.model_folder, progress)
        except (InputError, RunError) as error:
            scores.missing.append(f"{run.label} could not be scored: {error.message}.")
            progress.warn(scores.missing[-1])
            continue
        for way in _WAYS:
            scores.by[way][run.label] = kept.by[way]
        scores.metric = kept.difficulty_metric
        scores.stories[run.label] = kept.story
    if waiting:
        scores.missing.append(f"Without a finished model yet: {name_runs(waiting)}.")
    if without:
        scores.missing.append(
            f"Finished, but without a model to score in their folders: {name_runs(without)}."
        )
    return scores


def _kept_or_scored(run: RunLog, model: Path, progress: Progress) -> KeptScores:
    cache, identity = run.folder / CACHE_FILE, _identity(run, model)
    try:
        kept = read_record(cache, KeptScores)
        if kept.identity == identity and kept.by.keys() >= set(_WAYS):
            return kept
    except (OSError, ValueError):
        pass
    progress.note(f"scoring {run.label} on its validation stories")
    evaluation = open_evaluation(str(run.folder), progress=progress)
    diagnosis = diagnose(evaluation, by=_WAYS, metric=_METRIC, progress=progress).to_json()
    story = _inspect(evaluation, run.settings.get("ohem.ratio", 1.0), progress)
    scores = {"identity": identity, **diagnosis, "story": story.to_json()}
    try:
        write_json(cache, scores)
    except OSError as error:  # a folder that may only be read: the next report scores again
        progress.note(f"{cache} could not be written: {error.strerror}")
    return check_record(scores, KeptScores)


def _inspect(evaluation: Evaluation, ratio: float, progress: Progress) -> InspectedStory:
    """Score the first story that is short enough, or else the shortest, token by token."""
    tokens = np.diff(evaluation.store.offsets) - 1
    short = np.flatnonzero(tokens <= _STORY_TOKENS)
    number = int(short[0] if len(short) else tokens.argmin())
    text = nth_story(evaluation.part, number, progress)
    title = f"Story {number:,} of {evaluation.part.corpus.name}"
    # A run that keeps every token is shown what the usual half would be.
    return inspect_story(evaluation.source, text, ratio=ratio if ratio < 1 else 0.5, title=title)


def _identity(run: RunLog, model: Path) -> str:
    """Hash what the scores depend on: weights, tokens of both splits, and the difficulty."""
    weights = [hash_file(path) for path in sorted(model.glob("*.safetensors"))]
    tokens = run.record.token_hashes
    return hash_json([_FORMAT, weights, tokens, _METRIC, METRIC_VERSION])
