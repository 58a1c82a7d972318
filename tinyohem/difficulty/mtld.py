"""MTLD, the measure of textual lexical diversity (McCarthy & Jarvis 2010), of whole batches.

Reading a text word by word, a *factor* is complete once the type-token ratio (distinct words over
words) of the words since the last factor has fallen to the threshold. MTLD is words / factors, the
mean of reading forwards and backwards: the mean number of words that stay that varied.

The publication leaves open whether a ratio equal to the threshold completes a factor, whether a
factor has a least length, and what the last word does; published tools differ, and agree in rank
only 0.90 to 0.95. `MtldRule` therefore is a recorded parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tinyohem.config.difficulty import MTLD_THRESHOLD
from tinyohem.difficulty.text import IntArray, Words
from tinyohem.errors import InputError

Positions = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

# Longer stories are read one by one: few lanes do not pay for a pass of array operations per word.
_MAX_LANE_WORDS = 1024


@dataclass(frozen=True)
class MtldRule:
    """When a factor is complete.

    Attributes:
        threshold: the type-token ratio that completes a factor, in (0, 1).
        closing: `at_or_below`: a ratio equal to the threshold completes a factor, as does the last
            word (LexicalRichness). `below`: only a lower ratio does, and the last word always
            leaves a partial factor (lexical-diversity).
        min_segment: fewest words of a complete factor (LexicalRichness 1, lexical-diversity 10).
    """

    threshold: float = MTLD_THRESHOLD
    closing: Literal["at_or_below", "below"] = "at_or_below"
    min_segment: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise InputError(f"mtld threshold is {self.threshold}", "choose one between 0 and 1")
        if self.closing not in ("at_or_below", "below"):
            raise InputError(f"mtld closing is {self.closing!r}", "choose at_or_below or below")
        if self.min_segment < 1:
            raise InputError(f"mtld min_segment is {self.min_segment}", "choose at least 1 word")


def mtld(words: Sequence[str], rule: MtldRule | None = None) -> float | None:
    """Return the MTLD of one text in words, None for a text without words.

    A text that never repeats a word has its length as MTLD: it stayed varied to its end.
    """
    known: dict[str, int] = {}
    ids = np.array([known.setdefault(word, len(known)) for word in words], np.int32)
    text = Words(ids=ids, offsets=np.array([0, len(ids)]), vocabulary=list(known))
    value = mtld_of_each(text, rule or MtldRule())[0]
    return None if np.isnan(value) else float(value)


def mtld_of_each(words: Words, rule: MtldRule) -> npt.NDArray[np.float64]:
    """Return the MTLD of each story in words, (stories,); NaN for a story without words."""
    forwards, backwards = _earlier_occurrences(words)
    counts = words.counts
    factors = np.zeros((len(counts), 2))
    for story in np.flatnonzero(counts > _MAX_LANE_WORDS):
        span = slice(words.offsets[story], words.offsets[story + 1])
        factors[story, 0] = count_factors(forwards[span].tolist(), rule)
        factors[story, 1] = count_factors(backwards[span][::-1].tolist(), rule)

    in_lanes = (counts > 0) & (counts <= _MAX_LANE_WORDS)
    factors[in_lanes] = _count_factors_in_lanes(forwards, backwards, words.offsets, in_lanes, rule)
    # No factor at all, not even part of one: every word was new.
    lengths = np.repeat(counts[:, None], 2, axis=1).astype(np.float64)
    both = np.divide(lengths, factors, out=lengths.copy(), where=factors > 0)
    return np.where(counts > 0, both.mean(axis=1), np.nan)


def count_factors(earlier: Sequence[int], rule: MtldRule) -> float:
    """Count the factors of one text read in one direction, the last one as a fraction.

    Args:
        earlier: for each word, the position where it last occurred, -1 where it is new. A word is
            new to the current factor where that position lies before the factor's start.
        rule: when a factor is complete.
    """
    start, types, factors, ratio = 0, 0, 0, 1.0
    last = len(earlier) - 1
    for position, occurred in enumerate(earlier):
        types += occurred < start
        size = position + 1 - start
        ratio = types / size
        if rule.closing == "at_or_below":
            complete = ratio <= rule.threshold
        else:
            complete = ratio < rule.threshold and position < last
        if complete and size >= rule.min_segment:
            start, types, factors, ratio = position + 1, 0, factors + 1, 1.0
    return factors + (1 - ratio) / (1 - rule.threshold)


def _count_factors_in_lanes(
    forwards: Positions, backwards: Positions, offsets: IntArray, chosen: Mask, rule: MtldRule
) -> npt.NDArray[np.float64]:
    """Do what `count_factors` does for the chosen stories in both directions, (chosen, 2).

    Every story is a forward and a backward lane; one step reads one word of every lane. The longest
    lanes come first, so that those that have ended are a tail to leave out.
    """
    counts = np.diff(offsets)
    longest_first = np.flatnonzero(chosen)[np.argsort(-counts[chosen], kind="stable")]
    earlier, lanes_at = _lay_out(forwards, backwards, offsets, longest_first)
    last = np.repeat(counts[longest_first], 2) - 1
    start = np.zeros(len(last), np.int32)
    types = np.zeros(len(last), np.int32)
    ratio = np.ones(len(last))
    factors = np.zeros(len(last))
    read = 0
    for position, lanes in enumerate(lanes_at):
        types[:lanes] += earlier[read : read + lanes] < start[:lanes]
        size = position + 1 - start[:lanes]
        np.divide(types[:lanes], size, out=ratio[:lanes])
        if rule.closing == "at_or_below":
            complete = ratio[:lanes] <= rule.threshold
        else:
            complete = (ratio[:lanes] < rule.threshold) & (position < last[:lanes])
        if rule.min_segment > 1:
            complete &= size >= rule.min_segment
        closed = np.flatnonzero(complete)
        start[closed], types[closed], ratio[closed] = position + 1, 0, 1.0
        factors[closed] += 1
        read += lanes
    in_order = np.empty((len(counts), 2))
    in_order[longest_first] = (factors + (1 - ratio) / (1 - rule.threshold)).reshape(-1, 2)
    return in_order[chosen]


def _lay_out(
    forwards: Positions, backwards: Positions, offsets: IntArray, longest_first: IntArray
) -> tuple[Positions, list[int]]:
    """Order the words of some stories by position, then by lane: the order of reading them.

    Returns:
        The earlier occurrence of each word, and for each position how many lanes reach it.
    """
    counts = np.diff(offsets)
    ascending = counts[longest_first][::-1]
    longest = int(ascending[-1]) if len(ascending) else 0
    reaching = 2 * (len(ascending) - np.searchsorted(ascending, np.arange(longest), "right"))
    step_starts = np.concatenate([[0], np.cumsum(reaching)]).astype(np.int32)

    lane = np.full(len(counts), -1, np.int32)
    lane[longest_first] = 2 * np.arange(len(longest_first))
    lane = np.repeat(lane, counts)
    starts = np.repeat(offsets[:-1].astype(np.int32), counts)
    position = np.arange(offsets[-1], dtype=np.int32) - starts
    from_end = np.repeat(counts.astype(np.int32) - 1, counts) - position
    if len(longest_first) < len(counts):
        inside = lane >= 0
        lane, position, from_end = lane[inside], position[inside], from_end[inside]
        forwards, backwards = forwards[inside], backwards[inside]

    earlier = np.empty(step_starts[-1], np.int32)
    earlier[step_starts[position] + lane] = forwards
    earlier[step_starts[from_end] + lane + 1] = backwards
    return earlier, reaching.tolist()


def _earlier_occurrences(words: Words) -> tuple[Positions, Positions]:
    """Return for each word where its story had it last, reading forwards and backwards; -1: new.

    Positions count from the story's start when reading forwards, from its end when backwards.
    """
    total, counts = len(words.ids), words.counts
    # One integer a word, sorted once: words that are the same stand together, in reading order.
    position_bits = total.bit_length()
    key = np.repeat(np.arange(len(counts)) * len(words.vocabulary), counts)
    key += words.ids
    key <<= position_bits
    key |= np.arange(total)
    key.sort()
    position = (key & ((1 << position_bits) - 1)).astype(np.int32)
    key >>= position_bits
    same = key[1:] == key[:-1]
    before, after = position[:-1][same], position[1:][same]

    starts = np.repeat(words.offsets[:-1].astype(np.int32), counts)
    lasts = np.repeat(words.offsets[1:].astype(np.int32) - 1, counts)
    forwards = np.full(total, -1, np.int32)
    forwards[after] = before - starts[before]
    backwards = np.full(total, -1, np.int32)
    backwards[before] = lasts[before] - after
    return forwards, backwards
