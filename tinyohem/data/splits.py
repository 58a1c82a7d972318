"""No story both trains and validates: who is held out, and what two splits share."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.corpus import Story
from tinyohem.data.story_hash import story_hash

HOLDOUT_EVERY = 50  # without a validation split, one story in so many is held out
# Raise it when other stories would be held out.
SPLIT_FORMAT = 2

_HASHES = 2**64
_HASHES_A_BLOCK = 1 << 20


def holdout_limit(stories: Iterable[Story]) -> int:
    """Return up to which hash a corpus's stories are held out: one in `HOLDOUT_EVERY`.

    A corpus so small that this leaves none gives the story with the lowest hash. Reads as far as
    the first story that is held out, some fifty stories in all but such a corpus.
    """
    limit, lowest = _HASHES // HOLDOUT_EVERY, _HASHES
    for story in stories:
        lowest = min(lowest, story_hash(story.text))
        if lowest <= limit:
            return limit
    return lowest


def held_out(stories: Iterable[Story], limit: int) -> Iterator[Story]:
    """Yield the stories with a hash up to `limit`, each the first time it comes.

    A copy would weigh double in a validation loss.
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
