"""Ranks and duplicates of a corpus of any size: columns on disk, in sorted blocks.

A column is a file of 8-byte numbers, one a story. It is sorted in blocks that fit memory, and each
chunk of stories is looked up in each block. That is exact, takes 100 MB whatever the corpus, and
costs one look-up per story and block: the 2.7M stories of TinyStories are three blocks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 1 << 20


def write_percentiles(column: Path, out: Path, block_rows: int = BLOCK_ROWS) -> int:
    """Write for each number of a float64 column the percentage of numbers below it.

    Equal numbers share the middle of their ranks, so that values lie inside (0, 100). NaN has no
    rank, counts nowhere, and stays NaN.

    Returns:
        How many numbers are not NaN.
    """
    blocks = column.with_suffix(".sorted")
    sizes = []
    with blocks.open("wb") as stream:
        for chunk in _chunks(column, np.float64, block_rows):
            defined = np.sort(chunk[~np.isnan(chunk)])
            stream.write(defined.tobytes())
            sizes.append(len(defined))

    with out.open("wb") as stream:
        for chunk in _chunks(column, np.float64, block_rows):
            order = np.argsort(chunk, kind="stable")  # sorted look-ups stay in the cache
            wanted = chunk[order]
            below_twice = np.zeros(len(chunk), np.int64)
            for block in _blocks(blocks, np.float64, sizes):
                below_twice += np.searchsorted(block, wanted, "left")
                below_twice += np.searchsorted(block, wanted, "right")
            percentiles = np.empty(len(chunk))
            percentiles[order] = _percent(below_twice, sum(sizes))
            percentiles[np.isnan(chunk)] = np.nan
            stream.write(percentiles.tobytes())
    blocks.unlink()
    return sum(sizes)


def percentiles_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return in memory what `write_percentiles` writes."""
    ranked = np.sort(values[~np.isnan(values)])
    below_twice = np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")
    return np.where(np.isnan(values), np.nan, _percent(below_twice, len(ranked)))


def _percent(below_twice: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Return percentiles from how many of `count` numbers are below, plus how many not above."""
    return 50 * below_twice / max(1, count)


def write_later_copies(column: Path, out: Path, block_rows: int = BLOCK_ROWS) -> None:
    """Write one byte for each number of a uint64 column: 1 where the column had it before."""
    blocks = column.with_suffix(".sorted")
    sizes: list[int] = []
    with blocks.open("wb") as sorted_stream, out.open("wb") as stream:
        for chunk in _chunks(column, np.uint64, block_rows):
            order = np.argsort(chunk, kind="stable")
            wanted = chunk[order]
            seen = np.zeros(len(chunk), bool)
            seen[1:] = wanted[1:] == wanted[:-1]
            for block in _blocks(blocks, np.uint64, sizes):
                at = np.searchsorted(block, wanted)
                seen |= block[np.minimum(at, len(block) - 1)] == wanted
            copies = np.empty(len(chunk), np.uint8)
            copies[order] = seen
            stream.write(copies.tobytes())
            sorted_stream.write(wanted.tobytes())
            sorted_stream.flush()
            sizes.append(len(wanted))
    blocks.unlink()


def lowest(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.integer]:
    """Return where the lowest values stand, lowest first, equals in order; NaN is left out."""
    candidates = np.flatnonzero(~np.isnan(values))
    if len(candidates) > count:
        bound = np.partition(values[candidates], count - 1)[count - 1]
        candidates = candidates[values[candidates] <= bound]
    return candidates[np.argsort(values[candidates], kind="stable")][:count]


def lowest_rows(
    column: Path, count: int, sign: int = 1, least: float = -np.inf
) -> list[tuple[int, float]]:
    """Return the rows with the lowest values of a column, each with its value, lowest first.

    Equals are in the order of the column; NaN is left out.

    Args:
        sign: what the numbers of the column are multiplied by; -1 finds the highest, negated.
        least: lower values, after that, are left out.
    """
    rows, values, first = np.empty(0, np.int64), np.empty(0), 0
    for chunk in _chunks(column, np.float64, BLOCK_ROWS):
        signed = sign * chunk
        found = lowest(np.where(signed >= least, signed, np.nan), count)
        rows = np.concatenate([rows, first + found])
        values = np.concatenate([values, signed[found]])
        kept = lowest(values, count)
        rows, values, first = rows[kept], values[kept], first + len(chunk)
    return list(zip(rows.tolist(), values.tolist(), strict=True))


def _chunks(column: Path, dtype: npt.DTypeLike, rows: int) -> Iterator[npt.NDArray[Any]]:
    with column.open("rb") as stream:
        while len(chunk := np.fromfile(stream, dtype, rows)):
            yield chunk


def _blocks(blocks: Path, dtype: npt.DTypeLike, sizes: list[int]) -> Iterator[npt.NDArray[Any]]:
    with blocks.open("rb") as stream:
        for size in sizes:
            yield np.fromfile(stream, dtype, size)
