"""A table from whole numbers to their places in an array, looked up a whole array at a time."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from tinyohem.difficulty.text import IntArray

# Knuth's multiplicative hashing (The Art of Computer Programming 3, section 6.4): the upper bits of
# the product with an odd number near 2^64 divided by the golden ratio.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SLOTS_A_KEY = 8  # at least: so few keys share a slot that looking further costs little


@dataclass(frozen=True)
class HashTable:
    """Open addressing with linear probing; exact, since the keys themselves are compared.

    Attributes:
        keys: (keys + 1,) distinct and not negative; the last one, -1, ends the array.
        slots: (2^k + some,) the place of a key, that of the end in a free slot.
        shift: 64 - k.
    """

    keys: IntArray = field(repr=False)
    slots: npt.NDArray[np.int32] = field(repr=False)
    shift: int

    @classmethod
    def of(cls, keys: IntArray) -> Self:
        """Return the table of an array of distinct keys, none of them negative."""
        bits = max(4, (_SLOTS_A_KEY * len(keys)).bit_length())
        wanted = _first_slots(keys, 64 - bits)
        order = np.argsort(wanted, kind="stable")
        # In the order of their first slots, each takes that or the one after the key before it.
        ranks = np.arange(len(keys))
        taken = np.maximum.accumulate(wanted[order] - ranks) + ranks
        size = max(1 << bits, int(taken.max(initial=0)) + 1) + 1  # the last one stays free
        slots = np.full(size, len(keys), np.int32)
        slots[taken] = order
        return cls(np.append(keys, -1), slots, 64 - bits)

    def find(self, keys: IntArray) -> npt.NDArray[np.int32]:
        """Return the place of each key, that of the end where it is not there."""
        end = len(self.keys) - 1
        at = _first_slots(keys, self.shift)
        found = self.slots.take(at, mode="clip")  # no slot is out of bounds; faster than to check
        others = np.flatnonzero((self.keys.take(found, mode="clip") != keys) & (found != end))
        while len(others):
            at[others] += 1
            places = self.slots[at[others]]
            found[others] = places
            others = others[(self.keys[places] != keys[others]) & (places != end)]
        return found


def _first_slots(keys: IntArray, shift: int) -> IntArray:
    return ((keys.view(np.uint64) * _MULTIPLIER) >> np.uint64(shift)).view(np.int64)
