"""Target stories: some of the wanted kind, split into parts that fit, calibrate and validate.

The split goes by the hash of the text, as the hold-out of `parts.py` does: it is the same for any
order of the file, and a copy is never on both sides. Where the user names validation stories of his
own, those that the target holds too are left out of it.
"""

import hashlib
from dataclasses import dataclass, field
from itertools import chain

from tinyohem.data.corpus import open_corpus
from tinyohem.data.parts import Part
from tinyohem.data.story_hash import near_hash, story_hash
from tinyohem.data.story_text import DEFAULT_TEXT_FIELD
from tinyohem.errors import InputError
from tinyohem.progress import SILENT, Progress

MIN_TARGET_STORIES = 50
_PART = 5  # one story in so many validates; of the others, one in so many calibrates
# Part of every fingerprint: raise it when a change splits the same stories otherwise.
_SPLIT_FORMAT = 1


@dataclass(frozen=True)
class TargetStories:
    """Distinct stories of the wanted kind; no story is in two parts.

    Attributes:
        name: as the user typed it.
        fingerprint: SHA-256 in hex of the parts, text by text.
        fit: stories that models of the target are fitted on.
        calibrate: stories that tell where the line lies.
        validate: held-out stories to evaluate on; empty where the user names others.
        hashes: `story_hash` of the stories of all parts.
    """

    name: str
    fingerprint: str
    fit: tuple[str, ...] = field(repr=False)
    calibrate: tuple[str, ...] = field(repr=False)
    validate: tuple[str, ...] = field(repr=False)
    hashes: frozenset[int] = field(repr=False)


def open_target(
    name: str,
    *,
    valid: Part | None = None,
    text_field: str = DEFAULT_TEXT_FIELD,
    progress: Progress = SILENT,
) -> TargetStories:
    """Read the target stories into memory and split them; repeated stories count once.

    Args:
        name: any data set that `open_corpus` knows; its train split counts.
        valid: stories that validate, which are left out of the target; without them a fifth of
            the target's own do. Of the others, a fifth calibrates and four fifths fit.

    Raises:
        InputError: fewer than `MIN_TARGET_STORIES` distinct stories, or see `open_corpus`.
    """
    stories: dict[int, str] = {}
    for story in open_corpus(name, text_field=text_field, progress=progress).stories():
        stories.setdefault(story_hash(story.text), story.text)
    shared = _shared(stories, valid) if valid else set()
    if shared:
        assert valid is not None
        stories = {found: text for found, text in stories.items() if found not in shared}
        progress.note(
            f"{len(shared):,} stories of the target {name} validate, as {valid.corpus.name} holds "
            "them too: nothing is learned from them"
        )
    if len(stories) < MIN_TARGET_STORIES:
        besides = " besides those that validate" if shared else ""
        hint = f"name at least {MIN_TARGET_STORIES}, better several hundred"
        raise InputError(
            f"the target {name} holds {len(stories):,} distinct stories{besides}, too few to learn "
            "from and to tell where the line lies",
            f"{hint}, or other stories with --valid" if shared else hint,
        )
    in_order = [stories[found] for found in sorted(stories)]
    validates = 0 if valid else len(in_order) // _PART
    calibrates = validates + (len(in_order) - validates) // _PART
    validate, calibrate, fit = (
        tuple(in_order[:validates]),
        tuple(in_order[validates:calibrates]),
        tuple(in_order[calibrates:]),
    )
    fingerprint = _fingerprint(fit, calibrate, validate)
    return TargetStories(name, fingerprint, fit, calibrate, validate, frozenset(stories))


def _shared(stories: dict[int, str], valid: Part) -> set[int]:
    """Return the keys of the stories that validate: those with the same letters (`near_hash`)."""
    keys: dict[int, set[int]] = {}
    for key, text in stories.items():
        keys.setdefault(near_hash(text), set()).add(key)
    return {key for story in valid.stories(SILENT) for key in keys.get(near_hash(story.text), ())}


def _fingerprint(*parts: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr([_SPLIT_FORMAT, *map(len, parts)]).encode())
    for text in chain(*parts):
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()
