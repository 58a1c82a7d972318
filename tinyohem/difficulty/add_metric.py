"""Add a metric from elsewhere to a score table: a model's loss, a tokenizer's fertility.

The new values are ranked like the built-in ones and the folder is replaced as a whole, so that a
kill leaves either the old table or the new one. Pages made from the old table are left out.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.config.difficulty import SIGN, Metric
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.ranking import lowest, percentiles_of
from tinyohem.difficulty.score_table import (
    EXAMPLES,
    EXAMPLES_FILE,
    HISTOGRAM_FILE,
    MANIFEST_FILE,
    PAGE_FILE,
    SCORES_FILE,
    ExampleRecord,
    ExamplesRecord,
    MetricRecord,
    ScoreTable,
    open_scores,
    read_examples,
)
from tinyohem.difficulty.shards import opening_of
from tinyohem.difficulty.text import IntArray
from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import write_sealed
from tinyohem.io.names import utf8_path

_REPLACED = shutil.ignore_patterns(
    SCORES_FILE, MANIFEST_FILE, EXAMPLES_FILE, PAGE_FILE, HISTOGRAM_FILE
)


def add_metric(
    table: ScoreTable,
    name: str,
    metric: Metric,
    rows: IntArray,
    values: FloatArray,
    origin: JsonObject,
    text_of: Callable[[int], str],
) -> ScoreTable:
    """Return the table with one more metric, replacing the folder.

    Args:
        name: of the metric; its columns are `difficulty_<name>` and `percentile_<name>`.
        metric: the raw column's name, and which values are harder.
        rows: corpus rows of the stories that have a value, each once; the others get null.
        values: (rows,) the raw values; NaN is undefined.
        origin: what the values depend on (hash and age of a checkpoint, hash of a tokenizer).
        text_of: gives the beginning of the story at a position of `rows`, for the examples.

    Raises:
        InputError: the table has such a metric or column already, or lacks one of the rows.
    """
    columns = _columns(table, name, metric, rows, values)
    examples = read_examples(table)
    examples[name] = _examples(metric, rows, values, text_of)
    undefined = int(np.isnan(columns[metric.raw]).sum())
    added = MetricRecord(raw=metric.raw, harder=metric.harder, undefined=undefined, origin=origin)
    with atomic_folder(table.folder) as partial:
        # Keep links as links: what they point to may be a whole disk.
        shutil.copytree(
            table.folder,
            partial,
            symlinks=True,
            ignore=_REPLACED,
            copy_function=_link,
            dirs_exist_ok=True,
        )
        manifest = table.manifest.model_copy(
            update={
                "metrics": {**table.metrics, name: added},
                "columns": _write_with(columns, table, partial / SCORES_FILE),
                "scores_sha256": hash_file(partial / SCORES_FILE),
            }
        )
        write_sealed(partial / MANIFEST_FILE, manifest.to_json())
        kept = {metric: ends.to_json() for metric, ends in examples.items()}
        write_sealed(partial / EXAMPLES_FILE, kept)
    return open_scores(table.folder)


def _columns(
    table: ScoreTable, name: str, metric: Metric, rows: IntArray, values: FloatArray
) -> dict[str, FloatArray]:
    """Return the raw values, difficulties and percentiles of all stories, (stories,) each."""
    raw = np.full(table.stories, np.nan)
    names = (metric.raw, f"difficulty_{name}", f"percentile_{name}")
    if taken := set(names) & set(table.manifest.columns):
        raise InputError(
            f"{table.folder} has {', '.join(sorted(taken))} already",
            "choose another name, or score the corpus again",
        )
    raw[table.positions(rows)] = values
    difficulty = SIGN[metric.harder] * raw
    return dict(zip(names, (raw, difficulty, percentiles_of(difficulty)), strict=True))


def _examples(
    metric: Metric, rows: IntArray, values: FloatArray, text_of: Callable[[int], str]
) -> ExamplesRecord:
    """Return the easiest and hardest stories, with their openings."""
    difficulty = SIGN[metric.harder] * values
    easiest, hardest = (
        [
            ExampleRecord(
                row=int(rows[at]),
                value=float(values[at]),
                difficulty=float(difficulty[at]),
                opening=opening_of(text_of(int(at))),
            )
            for at in lowest(sign * difficulty, EXAMPLES)
        ]
        for sign in (1, -1)
    )
    return ExamplesRecord(easiest=easiest, hardest=hardest)


def _link(source: str, target: str) -> None:
    """Hard-link a file, so that the lock of the process that writes here stays the same file."""
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _write_with(new: dict[str, FloatArray], table: ScoreTable, out: Path) -> list[str]:
    """Copy a score table with more columns before its last one, and return all their names."""
    schema = pq.read_schema(utf8_path(table.folder / SCORES_FILE))
    for name in new:
        schema = schema.insert(len(schema) - 1, pa.field(name, pa.float64()))
    first = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in table.batches():
            part = pa.Table.from_batches([batch])
            for name, values in new.items():
                numbers = pa.array(values[first : first + len(part)], from_pandas=True)
                part = part.add_column(part.num_columns - 1, name, numbers)
            writer.write_table(part)
            first += len(part)
    return list(schema.names)
