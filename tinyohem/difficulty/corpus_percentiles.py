"""The second pass: what a score means within its corpus. Shards of scores to one score table.

A percentile and the length-corrected compression ratio need every story, so they follow the pass
over the text: over columns on disk, with memory that does not grow with the corpus.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.difficulty.flags import Flag
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.ranking import (
    lowest,
    read_rows,
    write_later_copies,
    write_percentiles,
)
from tinyohem.difficulty.score_table import (
    EXAMPLES_FILE,
    FORMAT,
    MANIFEST_FILE,
    METRICS,
    SCORES_FILE,
)
from tinyohem.difficulty.shards import SHARD_SCHEMA, read_shard
from tinyohem.io.atomic import atomic_file
from tinyohem.io.hashing import hash_file
from tinyohem.io.manifest import write_sealed
from tinyohem.progress import Progress

MIN_COMPRESSED_BYTES = 100  # below, the frame's own bytes outweigh what the text holds
EXAMPLES = 10
SHARDS_PER_ROW_GROUP = 16  # 65,536 stories
_STORED = [
    SHARD_SCHEMA.field(name)
    for name in SHARD_SCHEMA.names
    if name not in ("text_hash", "compression_measure", "flags", "opening")
]
_DERIVED = [
    pa.field(f"{kind}_{metric}", pa.float64())
    for kind in ("difficulty", "percentile")
    for metric in METRICS
]
TABLE_SCHEMA = pa.schema([*_STORED, *_DERIVED, pa.field("flags", pa.string())])


@dataclass
class _Totals:
    """What is gathered while the table is written."""

    shard_sizes: list[int] = field(default_factory=list)  # stories
    flags: dict[str, int] = field(default_factory=lambda: {flag.label: 0 for flag in Flag})
    examples: dict[str, dict[str, list[dict[str, Any]]]] = field(
        default_factory=lambda: {metric: {"easiest": [], "hardest": []} for metric in METRICS}
    )

    @property
    def stories(self) -> int:
        """Return how many stories were written so far."""
        return sum(self.shard_sizes)


def write_scores(
    shards: Sequence[Path],
    out: Path,
    description: dict[str, Any],
    workers: int,
    progress: Progress,
) -> None:
    """Write score table, examples and, last, the manifest that makes them a score folder.

    Args:
        shards: files of scores, in the order of the corpus.
        out: the score folder.
        description: what the scores depend on, for the manifest.
        workers: threads; the files are the same for any number.
        progress: who hears about it.
    """
    residual = description["rules"]["compression"]["length_control"] == "residual"
    fit = _fit_ratio_on_length(shards) if residual else None
    work = shards[0].parent
    _write_columns(shards, work, fit)
    defined = _rank(work, workers, progress)
    totals = _Totals()
    with (
        atomic_file(out / SCORES_FILE) as stream,
        pq.ParquetWriter(stream, TABLE_SCHEMA, compression="zstd") as writer,
    ):
        for table in _final_tables(shards, work, totals, workers):
            writer.write_table(table)
    _add_openings(totals, shards)
    write_sealed(out / EXAMPLES_FILE, totals.examples)
    metrics = {
        name: {"raw": m.raw, "harder": m.harder, "undefined": totals.stories - defined[name]}
        for name, m in METRICS.items()
    }
    manifest = {
        "format": FORMAT,
        **description,
        "stories": totals.stories,
        "metrics": metrics,
        "min_compressed_bytes": MIN_COMPRESSED_BYTES,
        "ratio_on_log_bytes": fit and {"intercept": fit[0], "slope": fit[1]},
        "flags": totals.flags,
        "columns": TABLE_SCHEMA.names,
        "scores_sha256": hash_file(out / SCORES_FILE),
    }
    write_sealed(out / MANIFEST_FILE, manifest)


def _rank(work: Path, workers: int, progress: Progress) -> dict[str, int]:
    """Write percentiles and later copies; return how many stories have a value of each metric."""
    progress.start("ranking", len(METRICS), "metrics")
    with ThreadPoolExecutor(min(workers, 1 + len(METRICS))) as pool:
        copies = pool.submit(write_later_copies, work / "hash.column", work / "copies.column")
        ranked = {
            metric: pool.submit(
                write_percentiles,
                work / f"difficulty_{metric}.column",
                work / f"percentile_{metric}.column",
            )
            for metric in METRICS
        }
        defined = {}
        for done, (metric, ranking) in enumerate(ranked.items(), start=1):
            defined[metric] = ranking.result()
            progress.advance(done)
        copies.result()
    progress.finish()
    return defined


def _fit_ratio_on_length(shards: Sequence[Path]) -> tuple[float, float]:
    """Fit ratio = intercept + slope log(bytes) by least squares over all stories long enough."""
    count, sums = 0, np.zeros(4)  # of x, y, x², xy
    for shard in shards:
        table = read_shard(shard, ["bytes", "compression_measure"])
        size, ratio = _numbers(table, "bytes"), _numbers(table, "compression_measure")
        usable = size >= MIN_COMPRESSED_BYTES
        x, y = np.log(size[usable]), ratio[usable]
        count += len(x)
        sums += [x.sum(), y.sum(), (x * x).sum(), (x * y).sum()]
    if not count:
        return 0.0, 0.0
    mean_x, mean_y, mean_xx, mean_xy = sums / count
    spread = mean_xx - mean_x**2
    slope = (mean_xy - mean_x * mean_y) / spread if spread > 1e-9 else 0.0
    return float(mean_y - slope * mean_x), float(slope)


def _write_columns(shards: Sequence[Path], work: Path, fit: tuple[float, float] | None) -> None:
    """Write each difficulty, and 64 bits of the text's hash, as a column file."""
    needed = ["text_hash", "compression_measure", *(metric.raw for metric in METRICS.values())]
    with ExitStack() as stack:
        hashes, *columns = (
            stack.enter_context((work / f"{name}.column").open("wb"))
            for name in ("hash", *(f"difficulty_{metric}" for metric in METRICS))
        )
        for shard in shards:
            table = read_shard(shard, needed)
            hashes.write(_numbers(table, "text_hash").tobytes())
            for metric, column in zip(METRICS, columns, strict=True):
                column.write(_difficulty(table, metric, fit).tobytes())


def _difficulty(table: pa.Table, metric: str, fit: tuple[float, float] | None) -> FloatArray:
    """Return the difficulty of each story of a shard, higher where harder, NaN where undefined."""
    size = _numbers(table, "bytes")
    if metric != "compression_ratio":
        difficulty = METRICS[metric].sign * _numbers(table, METRICS[metric].raw)
        return np.where(size > 0, difficulty.astype(np.float64), np.nan)
    difficulty = _numbers(table, "compression_measure")
    usable = size >= MIN_COMPRESSED_BYTES
    if fit is not None:
        intercept, slope = fit
        difficulty = difficulty - intercept - slope * np.log(np.where(usable, size, 1))
    return np.where(usable, difficulty, np.nan)


def _final_tables(
    shards: Sequence[Path], work: Path, totals: _Totals, workers: int
) -> Iterator[pa.Table]:
    """Join shards with their difficulties, percentiles and copies, some shards at a time."""
    with ExitStack() as stack:
        columns = {
            field.name: stack.enter_context((work / f"{field.name}.column").open("rb"))
            for field in _DERIVED
        }
        copies = stack.enter_context((work / "copies.column").open("rb"))
        for parts in _groups(shards, workers):
            table = pa.concat_tables(parts)
            derived = {
                name: read_rows(stream, np.float64, len(table)) for name, stream in columns.items()
            }
            flags = _numbers(table, "flags").astype(np.uint16)
            is_copy = read_rows(copies, np.uint8, len(table)).astype(bool)
            flags[is_copy & (flags != int(Flag.EMPTY))] |= int(Flag.DUPLICATE)
            _add_to_totals(totals, table, derived, flags)
            totals.shard_sizes += map(len, parts)
            yield _final_table(table, derived, flags)


def _groups(shards: Sequence[Path], workers: int) -> Iterator[list[pa.Table]]:
    """Read the shards of each row group; with more workers, while the one before is written."""
    needed = [*(field.name for field in _STORED), "flags"]
    paths = [
        shards[at : at + SHARDS_PER_ROW_GROUP] for at in range(0, len(shards), SHARDS_PER_ROW_GROUP)
    ]

    def read(group: Sequence[Path]) -> list[pa.Table]:
        return [read_shard(shard, needed) for shard in group]

    if workers == 1:
        yield from map(read, paths)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, paths[0])
        for following in paths[1:]:
            parts, coming = coming.result(), pool.submit(read, following)
            yield parts
        yield coming.result()


def _final_table(
    table: pa.Table, derived: dict[str, FloatArray], flags: npt.NDArray[np.uint16]
) -> pa.Table:
    arrays = [table.column(field.name) for field in _STORED]
    arrays += [pa.array(derived[field.name], from_pandas=True) for field in _DERIVED]
    arrays += [_flag_labels().take(pa.array(flags))]
    return pa.table(arrays, schema=TABLE_SCHEMA)


@cache
def _flag_labels() -> pa.Array:
    return pa.array([Flag(bits).label for bits in range(2 * max(Flag))])


def _add_to_totals(
    totals: _Totals,
    table: pa.Table,
    derived: dict[str, FloatArray],
    flags: npt.NDArray[np.uint16],
) -> None:
    for flag in Flag:
        totals.flags[flag.label] += int(np.count_nonzero(flags & int(flag)))
    for metric, ends in totals.examples.items():
        difficulty = derived[f"difficulty_{metric}"]
        raw = _numbers(table, METRICS[metric].raw)
        for name, sign in (("easiest", 1), ("hardest", -1)):
            ends[name] += [
                {
                    "row": int(_numbers(table, "row")[index]),
                    "value": float(raw[index]),
                    "difficulty": float(difficulty[index]),
                    "position": totals.stories + int(index),
                }
                for index in lowest(sign * difficulty, EXAMPLES)
            ]
            ends[name].sort(key=lambda story: (sign * story["difficulty"], story["row"]))
            del ends[name][EXAMPLES:]


def _add_openings(totals: _Totals, shards: Sequence[Path]) -> None:
    """Give each example the opening of its story; the openings of all would take long to read."""
    starts = np.cumsum([0, *totals.shard_sizes])
    openings: dict[int, pa.ChunkedArray] = {}
    for ends in totals.examples.values():
        for story in (*ends["easiest"], *ends["hardest"]):
            position = story.pop("position")
            shard = int(np.searchsorted(starts, position, "right")) - 1
            if shard not in openings:
                openings[shard] = read_shard(shards[shard], ["opening"]).column("opening")
            story["opening"] = openings[shard][position - starts[shard]].as_py()


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a numeric column; null is NaN."""
    return table.column(name).to_numpy()
