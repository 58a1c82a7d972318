"""Split a corpus into training and validation stories, without a story in both."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.choice import Choice
from tinyohem.data.clean import CLEAN_FORMAT, VALIDATION, Cleaning, clean_stories
from tinyohem.data.corpus import Corpus, Story
from tinyohem.data.story_hash import story_hash
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import JsonObject
from tinyohem.progress import Progress

HOLDOUT_EVERY = 50  # without a validation split, hold out one story in so many
# Raise it when a change holds out other stories.
SPLIT_FORMAT = 2

_HASHES = 2**64
_HASHES_A_BLOCK = 1 << 20


@dataclass(frozen=True)
class Part:
    """The stories of one split, and the identity that names its caches.

    Attributes:
        corpus: the corpus that it is a part of.
        clean: whether to repair and drop stories (see `clean.py`).
        which: all stories, those held out by their hash, or the others.
        without: validation stories, which cleaning drops too.
        choice: the rows that were chosen, if any were; made before cleaning.
        and_dropped: whether the rows that were not chosen follow those that were.
    """

    corpus: Corpus
    clean: bool
    which: Literal["all", "held out", "not held out"] = "all"
    without: "Part | None" = None
    choice: Choice | None = None
    and_dropped: bool = False

    @property
    def identity(self) -> JsonObject:
        """Return all that decides which stories these are."""
        return {
            "corpus": self.corpus.fingerprint,
            "part": self.which if self.which == "all" else f"{self.which}, {SPLIT_FORMAT}",
            "clean": self.clean and CLEAN_FORMAT,
            **({"without": self.without.identity} if self.without else {}),
            **({"choice": self.choice.identity} if self.choice else {}),
            **({"and_dropped": True} if self.and_dropped else {}),
        }

    def stories(self, progress: Progress) -> Iterator[Story]:
        """Stream the stories of the part, and report what cleaning did.

        Raises:
            InputError: there is no story.
        """
        cleaning = Cleaning()
        stories, empty = self._chosen(cleaning), True
        for story in stories:
            empty = False
            yield story
        if self.clean and self.which != "held out":  # the other part reports the same cleaning
            for line in cleaning.lines():
                progress.note(f"cleaned {self.corpus.name} ({self.corpus.split}): {line}")
        if empty:
            raise self._nothing_left(cleaning)

    def _chosen(self, cleaning: Cleaning) -> Iterator[Story]:
        if self.which == "all":
            return self._candidates(cleaning)
        choose = held_out if self.which == "held out" else not_held_out
        limit = holdout_limit(replace(self, choice=None)._candidates(Cleaning()))
        return choose(self._candidates(cleaning), limit)

    def _candidates(self, cleaning: Cleaning) -> Iterator[Story]:
        """Stream the corpus, cleaned before stories are held out, so that copies look alike."""
        stories = self._read()
        if not self.clean:
            return stories
        left_out = self.without.hashes() if self.without else ()
        return clean_stories(stories, cleaning, left_out)

    def _read(self) -> Iterator[Story]:
        if self.choice is None:
            return self.corpus.stories()
        kept = self.choice.stories(self.corpus, "kept")
        if not self.and_dropped:
            return kept
        return chain(kept, self.choice.stories(self.corpus, "dropped"))

    def hashes(self) -> set[int]:
        """Return the hash of every story, which takes about 100 bytes each."""
        return {story_hash(story.text) for story in self._chosen(Cleaning())}

    def _nothing_left(self, cleaning: Cleaning) -> InputError:
        if self.without is not None and cleaning.dropped[VALIDATION]:
            return same_stories(self.without.corpus.name)
        if self.clean and not cleaning.kept:
            return InputError(f"cleaning {self.corpus.name} leaves no story", "leave out --clean")
        return InputError(
            f"{self.corpus.name}: no story is left to train on once one is held out",
            "name validation stories with --valid; if the file holds several stories, part them as "
            "its format does: a line <|endoftext|> in a .txt file",
        )

    def as_corpus(self, progress: Progress) -> Corpus:
        """Return a corpus of these stories alone, each at its row; they must be in that order."""

        def texts() -> Iterator[str]:
            next_row = 0
            for story in self.stories(progress):
                yield from repeat("", story.row - next_row)  # rows without text hold no story
                yield story.text
                next_row = story.row + 1

        return Corpus(self.corpus.name, self.corpus.split, hash_json(self.identity), texts)


def same_stories(valid: str) -> InputError:
    """Return the error for validation stories that are the training stories."""
    return InputError(
        f"the validation stories {valid} are the training stories",
        "name held-out stories with --valid, or leave it out",
    )


def holdout_limit(stories: Iterable[Story]) -> int:
    """Return the highest hash of a held-out story, so that one in `HOLDOUT_EVERY` is held out.

    If no story is below it, return the lowest hash of the corpus. Reads up to the first held-out
    story: some fifty stories, unless there is none.
    """
    limit, lowest = _HASHES // HOLDOUT_EVERY, _HASHES
    for story in stories:
        lowest = min(lowest, story_hash(story.text))
        if lowest <= limit:
            return limit
    return lowest


def held_out(stories: Iterable[Story], limit: int) -> Iterator[Story]:
    """Yield the stories with a hash up to `limit`, without copies.

    A copy would count twice in a validation loss.
    """
    seen = set()
    for story in stories:
        found = story_hash(story.text)
        if found <= limit and found not in seen:
            seen.add(found)
            yield story


def not_held_out(stories: Iterable[Story], limit: int) -> Iterator[Story]:
    """Yield the stories with a hash above `limit`: no copy of a held-out story is among them."""
    return (story for story in stories if story_hash(story.text) > limit)


def count_shared(train: NDArray[np.uint64], valid: NDArray[np.uint64]) -> int:
    """Return how many validation stories are training stories too.

    Memory is bounded by the validation split: the training split may be mapped.

    Args:
        train: (stories,) hashes.
        valid: (stories,) hashes.
    """
    distinct, copies = np.unique(valid, return_counts=True)
    shared = np.zeros(len(distinct), dtype=bool)
    for first in range(0, len(train), _HASHES_A_BLOCK):
        block = train[first : first + _HASHES_A_BLOCK]
        places = np.searchsorted(distinct, block).clip(max=len(distinct) - 1)
        shared[places[distinct[places] == block]] = True
    return int(copies[shared].sum())
