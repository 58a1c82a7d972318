"""Rank the scores within their corpus, and join the shards to one score table.

This second pass follows the one over the text, because a percentile and the length-corrected
compression ratio need every story. It works over columns on disk, with memory that does not grow
with the corpus.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.config.difficulty import METRICS, SIGN, TARGET_METRIC, Metric
from tinyohem.difficulty.flags import Flag
from tinyohem.difficulty.ranking import lowest_rows, write_later_copies, write_percentiles
from tinyohem.difficulty.score_batch import ScoringRules
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
from tinyohem.difficulty.shards import read_shard, shard_schema
from tinyohem.difficulty.target_record import write_target
from tinyohem.difficulty.target_rule import QUANTILE, LineRecord, line_at
from tinyohem.io.atomic import atomic_file
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import write_sealed
from tinyohem.progress import Progress

SHARDS_PER_ROW_GROUP = 16  # 65,536 stories
_RATIO = METRICS["compression_ratio"]
_OF_SHARDS_ALONE = {"text_hash", "flags", "opening", *(m.measure for m in METRICS.values())}
_Line = tuple[float, float]  # intercept, slope


@dataclass(frozen=True)
class _Shards:
    """The files of a finished pass over the text.

    Attributes:
        paths: of the shards, in the order of the corpus.
        metrics: those that the pass computed.
    """

    paths: Sequence[Path]
    metrics: Mapping[str, Metric]

    @property
    def folder(self) -> Path:
        """Return the folder that they stand in."""
        return self.paths[0].parent

    def read(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        """Read one of them, or some of its columns."""
        return read_shard(path, shard_schema(self.metrics), columns)


def table_schema(metrics: Mapping[str, Metric]) -> pa.Schema:
    """Return the columns of the score table of a pass that computes some metrics."""
    derived = [pa.field(name, pa.float64()) for name in _derived(metrics)]
    return pa.schema([*_stored(metrics), *derived, pa.field("flags", pa.string())])


def _stored(metrics: Mapping[str, Metric]) -> list[pa.Field]:
    """Return the columns that go from a shard to the table as they are."""
    return [field for field in shard_schema(metrics) if field.name not in _OF_SHARDS_ALONE]


def _derived(metrics: Mapping[str, Metric]) -> list[str]:
    """Return the columns that follow from the whole corpus."""
    return [f"{kind}_{name}" for kind in ("difficulty", "percentile") for name in metrics]


def write_scores(
    paths: Sequence[Path],
    out: Path,
    scored: PassRecord,
    rules: ScoringRules,
    workers: int,
    progress: Progress,
) -> None:
    """Write score table, examples and, last, the manifest that makes them a score folder.

    Args:
        paths: files of scores, in the order of the corpus.
        scored: what the scores depend on, for the manifest.
        rules: what they followed.
        workers: threads; the files are the same for any number.
    """
    shards, schema = _Shards(paths, rules.metrics), table_schema(rules.metrics)
    residual = scored.rules.compression.length_control == "residual"
    fit = _fit_ratio_on_length(shards) if residual else None
    sizes = _write_columns(shards, fit)
    defined = _rank(shards, workers, progress)
    flagged = {flag.label: 0 for flag in Flag}
    with (
        atomic_file(out / SCORES_FILE) as stream,
        pq.ParquetWriter(stream, schema, compression="zstd") as writer,
    ):
        for table in _final_tables(shards, flagged, workers):
            writer.write_table(table)
    examples = _Examples(shards, sizes)
    write_sealed(out / EXAMPLES_FILE, {name: examples.ends(name) for name in rules.metrics})
    if rules.target is not None:
        line = line_at(rules.target.calibration, QUANTILE)
        write_target(out, rules.target, examples.found(line), *examples.beside_line(line))
    manifest = {
        "format": FORMAT,
        **scored.to_json(),
        "stories": sum(sizes),
        "metrics": {
            name: {"raw": m.raw, "harder": m.harder, "undefined": sum(sizes) - defined[name]}
            for name, m in rules.metrics.items()
        },
        "min_compressed_bytes": _RATIO.min_bytes,
        "ratio_on_log_bytes": fit and {"intercept": fit[0], "slope": fit[1]},
        "flags": flagged,
        "columns": schema.names,
        "scores_sha256": hash_file(out / SCORES_FILE),
    }
    write_sealed(out / MANIFEST_FILE, manifest)


def _fit_ratio_on_length(shards: _Shards) -> _Line:
    """Fit ratio = intercept + slope log(bytes) by least squares over all stories long enough."""
    count, sums = 0, np.zeros(4)  # of x, y, x², xy
    for path in shards.paths:
        table = shards.read(path, ["bytes", _RATIO.measure])
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


def _write_columns(shards: _Shards, fit: _Line | None) -> list[int]:
    """Write each difficulty, and 64 bits of the text's hash, as a column; return shards' sizes."""
    starts_from = {name: metric.measure or metric.raw for name, metric in shards.metrics.items()}
    sizes = []
    with ExitStack() as stack:
        hashes, *columns = (
            stack.enter_context((shards.folder / f"{name}.column").open("wb"))
            for name in ("hash", *(f"difficulty_{metric}" for metric in shards.metrics))
        )
        for path in shards.paths:
            table = shards.read(path, ["text_hash", *{"bytes", *starts_from.values()}])
            size = _numbers(table, "bytes")
            sizes.append(len(size))
            hashes.write(_numbers(table, "text_hash").tobytes())
            for (name, metric), column in zip(shards.metrics.items(), columns, strict=True):
                usable = size >= metric.min_bytes
                values = SIGN[metric.harder] * _numbers(table, starts_from[name])
                if metric is _RATIO and fit is not None:
                    intercept, slope = fit
                    values = values - intercept - slope * np.log(np.where(usable, size, 1))
                column.write(np.where(usable, values.astype(np.float64), np.nan).tobytes())
    return sizes


def _rank(shards: _Shards, workers: int, progress: Progress) -> dict[str, int]:
    """Write percentiles and later copies; return how many stories have a value of each metric."""
    work, metrics = shards.folder, shards.metrics
    progress.start("ranking", len(metrics), "metrics")
    with ThreadPoolExecutor(min(workers, 1 + len(metrics))) as pool:
        copies = pool.submit(write_later_copies, work / "hash.column", work / "copies.column")
        ranked = {
            metric: pool.submit(
                write_percentiles,
                work / f"difficulty_{metric}.column",
                work / f"percentile_{metric}.column",
            )
            for metric in metrics
        }
        defined = {}
        for done, (metric, ranking) in enumerate(ranked.items(), start=1):
            defined[metric] = ranking.result()
            progress.advance(done)
        copies.result()
    progress.finish()
    return defined


def _final_tables(shards: _Shards, flagged: dict[str, int], workers: int) -> Iterator[pa.Table]:
    """Join shards with their difficulties, percentiles and copies, some shards at a time.

    Args:
        flagged: the number of stories with each flag; these stories are added to it.
    """
    stored, schema = _stored(shards.metrics), table_schema(shards.metrics)
    with ExitStack() as stack:
        *columns, copies = (
            stack.enter_context((shards.folder / f"{name}.column").open("rb"))
            for name in (*_derived(shards.metrics), "copies")
        )
        for table in _row_groups(shards, workers):
            flags = _numbers(table, "flags").astype(np.uint16)
            is_copy = np.fromfile(copies, np.uint8, len(table)).astype(bool)
            flags[is_copy & (flags != int(Flag.EMPTY))] |= int(Flag.DUPLICATE)
            for flag in Flag:
                flagged[flag.label] += int(np.count_nonzero(flags & int(flag)))
            derived = [np.fromfile(column, np.float64, len(table)) for column in columns]
            arrays = [
                *(table.column(field.name) for field in stored),
                *(pa.array(values, from_pandas=True) for values in derived),
                _flag_labels().take(pa.array(flags)),
            ]
            yield pa.table(arrays, schema=schema)


def _row_groups(shards: _Shards, workers: int) -> Iterator[pa.Table]:
    """Read the shards of each row group; with more workers, while the one before is written."""
    columns = [*(field.name for field in _stored(shards.metrics)), "flags"]

    def read(first: int) -> pa.Table:
        group = shards.paths[first : first + SHARDS_PER_ROW_GROUP]
        return pa.concat_tables([shards.read(path, columns) for path in group])

    starts = range(0, len(shards.paths), SHARDS_PER_ROW_GROUP)
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


class _Examples:
    """Stories to show, with their openings."""

    def __init__(self, shards: _Shards, sizes: Sequence[int]) -> None:
        self._shards, self._starts = shards, np.cumsum([0, *sizes])
        self._read = lru_cache(2 * EXAMPLES)(shards.read)

    def ends(self, name: str) -> JsonObject:
        """Return the easiest and hardest stories by a metric."""
        column = self._column(name)
        easiest, hardest = (
            [self._example(name, at, sign * key) for at, key in lowest_rows(column, EXAMPLES, sign)]
            for sign in (1, -1)
        )
        return ExamplesRecord(easiest=easiest, hardest=hardest).to_json()

    def beside_line(self, line: float) -> tuple[list[ExampleRecord], list[ExampleRecord]]:
        """Return the last stories that pass the line of the target, and the first that do not."""
        column, name = self._column(TARGET_METRIC), TARGET_METRIC
        passing, failing = (
            [
                self._example(name, at, sign * key)
                for at, key in lowest_rows(column, EXAMPLES, sign, least)
            ]
            for sign, least in ((-1, -line), (1, float(np.nextafter(line, np.inf))))
        )
        return passing, failing

    def found(self, line: float) -> LineRecord:
        """Return how many stories pass the line of the target."""
        scores = np.memmap(self._column(TARGET_METRIC), np.float64, "r")
        return LineRecord(line=line, passed=int(np.count_nonzero(scores <= line)))

    def _column(self, name: str) -> Path:
        return self._shards.folder / f"difficulty_{name}.column"

    def _example(self, name: str, position: int, difficulty: float) -> ExampleRecord:
        shard = int(np.searchsorted(self._starts, position, "right")) - 1
        rows = self._read(self._shards.paths[shard])
        story = rows.slice(position - self._starts[shard], 1).to_pylist()[0]
        return ExampleRecord(
            row=story["row"],
            value=float(story[self._shards.metrics[name].raw]),
            difficulty=difficulty,
            opening=story["opening"],
        )


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a numeric column; null is NaN."""
    return table.column(name).to_numpy()
