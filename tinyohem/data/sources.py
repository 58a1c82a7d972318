"""Open the stories of a run: to train on, to validate on, and those of its target."""

from dataclasses import dataclass

from tinyohem.config.data import DataConfig
from tinyohem.config.target import TargetConfig
from tinyohem.data.corpus import Corpus, MissingSplitError, open_corpus
from tinyohem.data.parts import HOLDOUT_EVERY, Part
from tinyohem.data.target import TargetStories, open_target
from tinyohem.io.hashing import hash_json
from tinyohem.progress import Progress


@dataclass(frozen=True)
class Sources:
    """The stories of a run before any of them are chosen."""

    train: Part
    valid: Part
    target: TargetStories | None = None  # stories of the wanted kind, if the run has some


def evaluation_part(dataset: str, text_field: str, progress: Progress) -> Part:
    """Return the validation split of a data set, or all of it if it has no splits."""
    return Part(_validation_corpus(dataset, text_field, progress), clean=False)


def open_sources(data: DataConfig, target: TargetConfig, progress: Progress) -> Sources:
    """Open the stories of a run: to train on, to validate on, and those of its target."""
    wanted = target_of(data, target, progress)
    valid = _validation_of(wanted, data) if wanted and not data.valid else None
    valid = valid or validation_part(data, progress)
    return Sources(_training_part(data, valid, progress), valid, wanted)


def target_of(data: DataConfig, target: TargetConfig, progress: Progress) -> TargetStories | None:
    """Return the stories of the wanted kind, if a run has some.

    Raises:
        InputError: see `open_target`.
    """
    if target.stories is None:
        return None
    valid = validation_part(data, progress) if data.valid else None
    return open_target(target.stories, valid=valid, text_field=data.text_field, progress=progress)


def _validation_of(target: TargetStories, data: DataConfig) -> Part:
    """Return the part of the target's stories that validates."""
    fingerprint = hash_json([target.fingerprint, "validate"])
    corpus = Corpus(target.name, "validation", fingerprint, lambda: iter(target.validate))
    return Part(corpus, data.clean)


def validation_part(
    data: DataConfig, progress: Progress, target: TargetConfig | None = None
) -> Part:
    """Return a run's validation stories; open training files only to hold some out."""
    if data.valid is not None:
        return Part(_validation_corpus(data.valid, data.text_field, progress), data.clean)
    wanted = target_of(data, target, progress) if target else None
    if wanted is not None:
        return _validation_of(wanted, data)
    try:
        corpus = open_corpus(
            data.dataset, "validation", text_field=data.text_field, progress=progress
        )
    except MissingSplitError:
        progress.note(
            f"no validation split: 1 story in {HOLDOUT_EVERY} is held out, by a hash of its text"
        )
        corpus = open_corpus(data.dataset, "train", text_field=data.text_field, progress=progress)
        return Part(corpus, data.clean, "held out")
    return Part(corpus, data.clean)


def _training_part(data: DataConfig, valid: Part, progress: Progress) -> Part:
    if valid.which == "held out":
        return Part(valid.corpus, data.clean, "not held out")
    train = open_corpus(data.dataset, "train", text_field=data.text_field, progress=progress)
    return Part(train, data.clean, without=valid if data.clean else None)


def _validation_corpus(name: str, text_field: str, progress: Progress) -> Corpus:
    try:
        return open_corpus(name, "validation", text_field=text_field, progress=progress)
    except MissingSplitError:
        return open_corpus(name, "train", text_field=text_field, progress=progress)
