"""The second pass: what a score means within its corpus. Shards of scores to one score table.

A percentile and the length-corrected compression ratio need every story, so they follow the pass
over the text: over columns on disk, with memory that does not grow with the corpus.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.artifacts import atomic_file, hash_file, write_json
from tinyohem.difficulty.flags import Flag
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.ranking import read_rows, write_later_copies, write_percentiles
from tinyohem.difficulty.shards import SHARD_SCHEMA, read_shard
from tinyohem.difficulty.table import FORMAT, MANIFEST_FILE, METRICS, SCORES_FILE
from tinyohem.progress import Progress

MIN_COMPRESSED_BYTES = 100  # below, the frame's own bytes outweigh what the text holds
EXAMPLES_FILE = "examples.json"
EXAMPLES = 10
SHARDS_PER_ROW_GROUP = 16  # 65,536 stories
_STORED = [
    SHARD_SCHEMA.field(name)
    for name in SHARD_SCHEMA.names
    if name not in ("compression_measure", "flags", "opening")
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

    stories: int = 0
    flags: dict[str, int] = field(default_factory=lambda: {flag.label: 0 for flag in Flag})
    examples: dict[str, dict[str, list[dict[str, Any]]]] = field(
        default_factory=lambda: {metric: {"easiest": [], "hardest": []} for metric in METRICS}
    )


def write_scores(
    shards: Sequence[Path], out: Path, description: dict[str, Any], progress: Progress
) -> None:
    """Write score table, examples and, last, the manifest that makes them a score folder."""
    progress.start("ranking", len(METRICS), "metrics")
    residual = description["rules"]["compression"]["length_control"] == "residual"
    fit = _fit_ratio_on_length(shards) if residual else None
    work = shards[0].parent
    _write_columns(shards, work, fit)
    defined = {}
    for done, metric in enumerate(METRICS, start=1):
        column = work / f"difficulty_{metric}.column"
        defined[metric] = write_percentiles(column, work / f"percentile_{metric}.column")
        progress.advance(done)
    write_later_copies(work / "hash.column", work / "copies.column")
    progress.finish()

    totals = _Totals()
    with (
        atomic_file(out / SCORES_FILE) as stream,
        pq.ParquetWriter(stream, TABLE_SCHEMA, compression="zstd") as writer,
    ):
        for table in _final_tables(shards, work, totals):
            writer.write_table(table)
    write_json(out / EXAMPLES_FILE, totals.examples)
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
    write_json(out / MANIFEST_FILE, manifest)


def _fit_ratio_on_length(shards: Sequence[Path]) -> tuple[float, float]:
    """Fit ratio = intercept + slope log(bytes) by least squares over all stories long enough."""
    count, sums = 0, np.zeros(4)  # of x, y, x², xy
    for shard in shards:
        table = read_shard(shard)
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
    with ExitStack() as stack:
        hashes, *columns = (
            stack.enter_context((work / f"{name}.column").open("wb"))
            for name in ("hash", *(f"difficulty_{metric}" for metric in METRICS))
        )
        for shard in shards:
            table = read_shard(shard)
            prefixes = [int(sha[:16], 16) for sha in table.column("text_sha").to_pylist()]
            hashes.write(np.array(prefixes, np.uint64).tobytes())
            for metric, column in zip(METRICS, columns, strict=True):
                column.write(_difficulty(table, metric, fit).tobytes())


def _difficulty(table: pa.Table, metric: str, fit: tuple[float, float] | None) -> FloatArray:
    """Return the difficulty of each story of a shard, higher where harder, NaN where undefined."""
    if metric != "compression_ratio":
        return float(METRICS[metric].sign) * _numbers(table, METRICS[metric].raw)
    size, difficulty = _numbers(table, "bytes"), _numbers(table, "compression_measure")
    usable = size >= MIN_COMPRESSED_BYTES
    if fit is not None:
        intercept, slope = fit
        difficulty = difficulty - intercept - slope * np.log(np.where(usable, size, 1))
    return np.where(usable, difficulty, np.nan)


def _final_tables(shards: Sequence[Path], work: Path, totals: _Totals) -> Iterator[pa.Table]:
    """Join shards with their difficulties, percentiles and copies, some shards at a time."""
    with ExitStack() as stack:
        columns = {
            field.name: stack.enter_context((work / f"{field.name}.column").open("rb"))
            for field in _DERIVED
        }
        copies = stack.enter_context((work / "copies.column").open("rb"))
        for first in range(0, len(shards), SHARDS_PER_ROW_GROUP):
            group = shards[first : first + SHARDS_PER_ROW_GROUP]
            table = pa.concat_tables([read_shard(shard) for shard in group])
            derived = {
                name: read_rows(stream, np.float64, len(table)) for name, stream in columns.items()
            }
            flags = _numbers(table, "flags").astype(np.uint8)
            flags |= read_rows(copies, np.uint8, len(table)) * int(Flag.DUPLICATE)
            _add_to_totals(totals, table, derived, flags)
            yield _final_table(table, derived, flags)


def _final_table(
    table: pa.Table, derived: dict[str, FloatArray], flags: npt.NDArray[np.uint8]
) -> pa.Table:
    labels = np.array([Flag(bits).label for bits in range(2 * max(Flag))], object)
    arrays = [table.column(field.name) for field in _STORED]
    arrays += [pa.array(derived[field.name], from_pandas=True) for field in _DERIVED]
    arrays += [pa.array(labels[flags], pa.string())]
    return pa.table(arrays, schema=TABLE_SCHEMA)


def _add_to_totals(
    totals: _Totals,
    table: pa.Table,
    derived: dict[str, FloatArray],
    flags: npt.NDArray[np.uint8],
) -> None:
    totals.stories += len(table)
    for flag in Flag:
        totals.flags[flag.label] += int(np.count_nonzero(flags & int(flag)))
    for metric, ends in totals.examples.items():
        difficulty = derived[f"difficulty_{metric}"]
        hardest_last = np.argsort(difficulty, kind="stable")
        hardest_last = hardest_last[: np.count_nonzero(~np.isnan(difficulty))]
        ends["easiest"] += _examples(table, metric, difficulty, hardest_last[:EXAMPLES])
        ends["easiest"].sort(key=lambda story: (story["difficulty"], story["row"]))
        ends["hardest"] += _examples(table, metric, difficulty, hardest_last[-EXAMPLES:])
        ends["hardest"].sort(key=lambda story: (-story["difficulty"], story["row"]))
        del ends["easiest"][EXAMPLES:], ends["hardest"][EXAMPLES:]


def _examples(
    table: pa.Table, metric: str, difficulty: FloatArray, chosen: npt.NDArray[np.integer]
) -> list[dict[str, Any]]:
    columns = {"row": "row", "value": METRICS[metric].raw, "opening": "opening"}
    rows = table.select(list(columns.values())).take(chosen).rename_columns(list(columns))
    stories = rows.to_pylist()
    for story, index in zip(stories, chosen, strict=True):
        story["difficulty"] = float(difficulty[index])
    return stories


def _numbers(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a numeric column; null is NaN."""
    return table.column(name).to_numpy()
