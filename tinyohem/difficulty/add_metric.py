"""Add a metric that comes from elsewhere to a score table: a model's loss, a tokenizer's fertility.

The new values are ranked like the built-in ones and the folder is replaced as a whole, so that a
kill leaves either the old table or the new one. Pages made from the old table are left out.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.difficulty.corpus_percentiles import EXAMPLES
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.ranking import lowest, write_percentiles
from tinyohem.difficulty.score_table import (
    EXAMPLES_FILE,
    HISTOGRAM_FILE,
    MANIFEST_FILE,
    PAGE_FILE,
    SCORES_FILE,
    Metric,
    ScoreTable,
    open_scores,
    read_examples,
)
from tinyohem.difficulty.shards import opening_of
from tinyohem.difficulty.text import IntArray
from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.hashing import hash_file
from tinyohem.io.manifest import write_sealed
from tinyohem.io.names import utf8_path

_REPLACED = shutil.ignore_patterns(SCORES_FILE, MANIFEST_FILE, PAGE_FILE, HISTOGRAM_FILE)


def add_metric(
    table: ScoreTable,
    name: str,
    metric: Metric,
    rows: IntArray,
    values: FloatArray,
    origin: Mapping[str, Any],
    text_of: Callable[[int], str],
) -> ScoreTable:
    """Return the table with one more metric, replacing the folder.

    Args:
        table: what to extend.
        name: of the metric; its columns are `difficulty_<name>` and `percentile_<name>`.
        metric: the raw column's name, and which values are harder.
        rows: corpus rows of the stories that have a value, each once; the others get null.
        values: (rows,) the raw values; NaN is undefined.
        origin: what the values depend on (hash and age of a checkpoint, hash of a tokenizer).
        text_of: gives the beginning of the story at a position of `rows`, for the examples.

    Raises:
        InputError: the table has such a metric or column already, or lacks one of the rows.
    """
    columns = [metric.raw, f"difficulty_{name}", f"percentile_{name}"]
    taken = set(columns) & set(table.manifest["columns"])
    if taken:
        raise InputError(
            f"{table.folder} has {', '.join(sorted(taken))} already",
            "choose another name, or score the corpus again",
        )
    raw = np.full(table.stories, np.nan)
    raw[table.positions(rows)] = values
    difficulty = metric.sign * raw
    percentiles, defined = _percentiles(difficulty)

    with atomic_folder(table.folder) as partial:
        # Links stay links: what they point to, be it a whole disk, is not ours to copy.
        shutil.copytree(
            table.folder,
            partial,
            symlinks=True,
            ignore=_REPLACED,
            copy_function=_link,
            dirs_exist_ok=True,
        )
        new = dict(zip(columns, (raw, difficulty, percentiles), strict=True))
        names = _write_with(new, table, partial / SCORES_FILE)
        described = {
            "raw": metric.raw,
            "harder": metric.harder,
            "undefined": table.stories - defined,
            "origin": dict(origin),
        }
        manifest = {
            **table.manifest,
            "metrics": {**table.manifest["metrics"], name: described},
            "columns": names,
            "scores_sha256": hash_file(partial / SCORES_FILE),
        }
        write_sealed(partial / MANIFEST_FILE, manifest)
        examples = read_examples(table)
        examples[name] = {
            end: [
                {
                    "row": int(rows[index]),
                    "value": float(values[index]),
                    "difficulty": float(metric.sign * values[index]),
                    "opening": opening_of(text_of(int(index))),
                }
                for index in lowest(sign * metric.sign * values, EXAMPLES)
            ]
            for end, sign in (("easiest", 1), ("hardest", -1))
        }
        write_sealed(partial / EXAMPLES_FILE, examples)
    return open_scores(table.folder)


def _link(source: str, target: str) -> None:
    """Give a file a second name: so the lock of who writes here goes over to the new folder."""
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _percentiles(difficulty: FloatArray) -> tuple[FloatArray, int]:
    with TemporaryDirectory() as folder:
        column, out = Path(folder) / "difficulty.column", Path(folder) / "percentile.column"
        difficulty.tofile(column)
        defined = write_percentiles(column, out)
        return np.fromfile(out), defined


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
    return schema.names
