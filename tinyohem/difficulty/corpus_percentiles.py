"""Rank the scores within their corpus, and join the shards to one score table.

This second pass follows the one over the text, because a percentile and the length-corrected
compression ratio need every story. It works over columns on disk, with memory that does not grow
with the corpus.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.config.difficulty import METRICS, SIGN
from tinyohem.difficulty.flags import Flag
from tinyohem.difficulty.ranking import lowest_rows, write_later_copies, write_percentiles
from tinyohem.difficulty.score_table import (
    EXAMPLES,
    EXAMPLES_FILE,
    FORMAT,
    MANIFEST_FILE,
    SCORES_FILE,
    ExampleRecord,
    ExamplesRecord,
    PassRecord,
)
from tinyohem.difficulty.shards import SHARD_SCHEMA, read_shard
from tinyohem.io.atomic import atomic_file
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import write_sealed
from tinyohem.progress import Progress

SHARDS_PER_ROW_GROUP = 16  # 65,536 stories
_RATIO = METRICS["compression_ratio"]
_OF_SHARDS_ALONE = {"text_hash", "flags", "opening", *(m.measure for m in METRICS.values())}
_STORED = [field for field in SHARD_SCHEMA if field.name not in _OF_SHARDS_ALONE]
_DERIVED = [f"{kind}_{metric}" for kind in ("difficulty", "percentile") for metric in METRICS]
TABLE_SCHEMA = pa.schema(
    [
        *_STORED,
        *(pa.field(name, pa.float64()) for name in _DERIVED),
        pa.field("flags", pa.string()),
    ]
)

_Line = tuple[float, float]  # intercept, slope


def write_scores(
    shards: Sequence[Path], out: Path, scored: PassRecord, workers: int, progress: Progress
) -> None:
    """Write score table, examples and, last, the manifest that makes them a score folder.

    Args:
        shards: files of scores, in the order of the corpus.
        scored: what the scores depend on, for the manifest.
        workers: threads; the files are the same for any number.
    """
    residual = scored.rules.compression.length_control == "residual"
    fit = _fit_ratio_on_length(shards) if residual else None
    work = shards[0].parent
    sizes = _write_columns(shards, work, fit)
    defined = _rank(work, workers, progress)
    flagged = {flag.label: 0 for flag in Flag}
    with (
        atomic_file(out / SCORES_FILE) as stream,
        pq.ParquetWriter(stream, TABLE_SCHEMA, compression="zstd") as writer,
    ):
        for table in _final_tables(shards, work, flagged, workers):
            writer.write_table(table)
    write_sealed(out / EXAMPLES_FILE, _examples(shards, work, sizes))
    manifest = {
        "format": FORMAT,
        **scored.to_json(),
        "stories": sum(sizes),
        "metrics": {
            name: {"raw": m.raw, "harder": m.harder, "undefined": sum(sizes) - defined[name]}
            for name, m in METRICS.items()
        },
        "min_compressed_bytes": _RATIO.min_bytes,
        "ratio_on_log_bytes": fit and {"intercept": fit[0], "slope": fit[1]},
        "flags": flagged,
        "columns": TABLE_SCHEMA.names,
        "scores_sha256": hash_file(out / SCORES_FILE),
    }
    write_sealed(out / MANIFEST_FILE, manifest)


def _fit_ratio_on_length(shards: Sequence[Path]) -> _Line:
    """Fit ratio = intercept + slope log(bytes) by least squares over all stories long enough."""
    count, sums = 0, np.zeros(4)  # of x, y, x², xy
    for shard in shards:
        table = read_shard(shard, ["bytes", _RATIO.measure])
        size, ratio = _numbers(table, "bytes"), _numbers(table, _RATIO.measure)
        usable = size >= _RATIO.min_bytes
        x, y = np.log(size[usable]), ratio[usable]
        count += len(x)
        sums += [x.sum(), y.sum(), (x * x).sum(), (x * y).sum()]
    if not count:
        return 0.0, 0.0
    mean_x, mean_y, mean_xx, mean_xy = sums / count
    spread = mean_xx - mean_x**2
    slope = (mean_xy - mean_x * mean_y) / spread if spread > 1e-9 else 0.0
    return float(mean_y - slope * mean_x), float(slope)


def _write_columns(shards: Sequence[Path], work: Path, fit: _Line | None) -> list[int]:
    """Write each difficulty, and 64 bits of the text's hash, as a column; return shards' sizes."""
    starts_from = {name: metric.measure or metric.raw for name, metric in METRICS.items()}
    sizes = []
    with ExitStack() as stack:
        hashes, *columns = (
            stack.enter_context((work / f"{name}.column").open("wb"))
            for name in ("hash", *(f"difficulty_{metric}" for metric in METRICS))
        )
        for shard in shards:
            table = read_shard(shard, ["text_hash", *{"bytes", *starts_from.values()}])
            size = _numbers(table, "bytes")
            sizes.append(len(size))
            hashes.write(_numbers(table, "text_hash").tobytes())
            for (name, metric), column in zip(METRICS.items(), columns, strict=True):
                usable = size >= metric.min_bytes
                values = SIGN[metric.harder] * _numbers(table, starts_from[name])
                if metric is _RATIO and fit is not None:
                    intercept, slope = fit
                    values = values - intercept - slope * np.log(np.where(usable, size, 1))
                column.write(np.where(usable, values.astype(np.float64), np.nan).tobytes())
    return sizes


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


def _final_tables(
    shards: Sequence[Path], work: Path, flagged: dict[str, int], workers: int
) -> Iterator[pa.Table]:
    """Join shards with their difficulties, percentiles and copies, some shards at a time.

    Args:
        flagged: the number of stories with each flag; these stories are added to it.
    """
    with ExitStack() as stack:
        *columns, copies = (
            stack.enter_context((work / f"{name}.column").open("rb"))
            for name in (*_DERIVED, "copies")
        )
        for table in _row_groups(shards, workers):
            flags = _numbers(table, "flags").astype(np.uint16)
            is_copy = np.fromfile(copies, np.uint8, len(table)).astype(bool)
            flags[is_copy & (flags != int(Flag.EMPTY))] |= int(Flag.DUPLICATE)
            for flag in Flag:
                flagged[flag.label] += int(np.count_nonzero(flags & int(flag)))
            derived = [np.fromfile(column, np.float64, len(table)) for column in columns]
            arrays = [
                *(table.column(field.name) for field in _STORED),
                *(pa.array(values, from_pandas=True) for values in derived),
                _flag_labels().take(pa.array(flags)),
            ]
            yield pa.table(arrays, schema=TABLE_SCHEMA)


def _row_groups(shards: Sequence[Path], workers: int) -> Iterator[pa.Table]:
    """Read the shards of each row group; with more workers, while the one before is written."""
    columns = [*(field.name for field in _STORED), "flags"]

    def read(first: int) -> pa.Table:
        group = shards[first : first + SHARDS_PER_ROW_GROUP]
        return pa.concat_tables([read_shard(shard, columns) for shard in group])

    starts = range(0, len(shards), SHARDS_PER_ROW_GROUP)
    if workers == 1:
        yield from map(read, starts)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, 0)
        for start in starts[1:]:
            table, coming = coming.result(), pool.submit(read, start)
            yield table
        yield coming.result()


@cache
def _flag_labels() -> pa.Array:
    return pa.array([Flag(bits).label for bits in range(2 * max(Flag))])


def _examples(shards: Sequence[Path], work: Path, sizes: Sequence[int]) -> JsonObject:
    """Return the easiest and hardest stories by each metric, with their openings."""
    starts = np.cumsum([0, *sizes])
    read = lru_cache(2 * EXAMPLES)(read_shard)

    def example(name: str, position: int, difficulty: float) -> ExampleRecord:
        shard = int(np.searchsorted(starts, position, "right")) - 1
        story = read(shards[shard]).slice(position - starts[shard], 1).to_pylist()[0]
        return ExampleRecord(
            row=story["row"],
            value=float(story[METRICS[name].raw]),
            difficulty=difficulty,
            opening=story["opening"],
        )

    def ends(name: str) -> ExamplesRecord:
        column = work / f"difficulty_{name}.column"
        easiest, hardest = (
            [example(name, at, sign * key) for at, key in lowest_rows(column, EXAMPLES, sign)]
            for sign in (1, -1)
        )
        return ExamplesRecord(easiest=easiest, hardest=hardest)

    return {name: ends(name).to_json() for name in METRICS}


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a numeric column; null is NaN."""
    return table.column(name).to_numpy()
