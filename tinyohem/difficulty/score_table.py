"""The score table: one Parquet row a story, and a manifest that ties it to corpus and rules.

Columns of `scores.parquet`; `add_metric` puts those of another metric ahead of `flags`:

    row                      i64; the story's row in the corpus
    text_sha                 SHA-256 of its text in UTF-8, in hex
    bytes, words, sentences, syllables    i64; counts of its text
    <Metric.raw>             f64; the metric's value, null where undefined
    difficulty_<metric>      f64; rises with difficulty, null where undefined
    percentile_<metric>      f64 in (0, 100); rank of the difficulty in the corpus
    flags                    names of `Flag`, joined by commas
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from tinyohem.config.difficulty import ADDED_METRICS
from tinyohem.difficulty.metrics import FloatArray, LengthControl
from tinyohem.difficulty.text import IntArray
from tinyohem.errors import InputError, plainly
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, Figure, Record, check_record, read_record, read_sealed
from tinyohem.io.names import utf8_path
from tinyohem.io.streams import MAX_EXPANSION

SCORES_FILE = "scores.parquet"
MANIFEST_FILE = "manifest.json"
EXAMPLES_FILE = "examples.json"
HISTOGRAM_FILE = "histograms.png"
PAGE_FILE = "report.html"
EXAMPLES = 10  # stories at either end of each metric
FORMAT = 1
# What the values mean; raise it when a rule changes that no parameter records.
# 2: accents, unseen characters, apostrophes of every make, abbreviations, stories not in Latin.
METRIC_VERSION = 2
_AGAIN = "score the corpus again, into another folder"
_ROW_BYTES = 8  # of a column in memory
_BATCH_ROWS = 1 << 16

Word = Annotated[str, Field(pattern=r"^\w{1,40}$")]


class CorpusRecord(Record):
    """The corpus that was scored."""

    name: str
    split: str
    fingerprint: str


class CompressionRecord(Record):
    """How the compression ratio became a difficulty, see `CompressionRule`."""

    level: int = 3
    length_control: LengthControl


class TargetRuleRecord(Record):
    """The target that stories were compared with, see `TargetRule`."""

    fingerprint: str
    model_version: int = 1


class RulesRecord(Record):
    """What the scores followed, see `ScoringRules`."""

    compression: CompressionRecord
    target: TargetRuleRecord | None = None


class PassRecord(Record):
    """What a pass over a corpus depends on."""

    corpus: CorpusRecord
    metric_version: int = 1  # before it was recorded
    rules: RulesRecord
    versions: dict[str, str] = Field({})


class MetricRecord(Record):
    """A metric of a score table, see `Metric`."""

    raw: str
    harder: Literal["higher", "lower"]
    undefined: Count  # stories
    origin: JsonObject = Field({})  # what an added one depends on, such as a tokenizer's hash


class ScoreManifest(PassRecord):
    """The manifest of a score table."""

    format: Literal[1]
    stories: int = Field(ge=1)  # rows of the corpus, empty ones too
    metrics: dict[Word, MetricRecord]
    min_compressed_bytes: Count = 100
    ratio_on_log_bytes: JsonObject | None = None  # intercept and slope of its fit, if there is one
    flags: dict[Word, Count]
    columns: list[str]
    scores_sha256: str


@dataclass(frozen=True)
class ScoreTable:
    """An opened and checked score folder."""

    folder: Path
    manifest: ScoreManifest

    @property
    def stories(self) -> int:
        """Return the number of rows."""
        return self.manifest.stories

    @property
    def metrics(self) -> dict[str, MetricRecord]:
        """Return the metrics that have a difficulty and a percentile column."""
        return self.manifest.metrics

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield some columns, or all, of all stories in order, some stories at a time.

        Raises:
            InputError: the file is damaged, though its manifest knows it.
        """
        num_rows = 0
        try:
            with pq.ParquetFile(utf8_path(self.folder / SCORES_FILE)) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                    num_rows += len(batch)
                    yield batch
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(plainly(error)) from None
        if num_rows != self.stories:
            raise self._damaged(f"{num_rows:,} rows can be read")

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one numeric column, (stories,); null is NaN."""
        parts = [b.column(name).to_numpy(zero_copy_only=False) for b in self.batches([name])]
        return self.checked(np.concatenate(parts))

    def checked(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values that are finite or undefined (NaN).

        Raises:
            InputError: one is infinite.
        """
        if np.isinf(values).any():
            raise self._damaged("a value is infinite")
        return values

    def _damaged(self, how: str) -> InputError:
        return InputError(f"{self.folder}/{SCORES_FILE} is damaged: {how}", _AGAIN)

    def difficulty(self, metric: str) -> FloatArray:
        """Return `difficulty_<metric>`, (stories,)."""
        return self.column(f"difficulty_{self._known(metric)}")

    def percentile(self, metric: str) -> FloatArray:
        """Return `percentile_<metric>` in (0, 100), (stories,)."""
        return self.column(f"percentile_{self._known(metric)}")

    def positions(self, rows: IntArray) -> IntArray:
        """Return where the table holds each of some corpus rows.

        Raises:
            InputError: it lacks one of them.
        """
        scored = self.column("row")
        if scored.dtype != np.int64 or (np.diff(scored) < 1).any():
            raise self._damaged("its rows are out of order")
        at = np.minimum(np.searchsorted(scored, rows), len(scored) - 1)
        missing = np.flatnonzero(scored[at] != rows)
        if len(missing):
            raise InputError(
                f"{self.folder} lacks scores of {len(missing):,} stories, "
                f"the first at row {rows[missing[0]]:,}",
                _AGAIN,
            )
        return at

    def _known(self, metric: str) -> str:
        if metric not in self.metrics:
            added = ", ".join(f"{name} with {m.option}" for name, m in ADDED_METRICS.items())
            raise InputError(
                f"the score table has no metric {metric!r}",
                f"it has {', '.join(self.metrics)}; `score-difficulty` adds {added}",
            )
        return metric


def open_scores(folder: Path, fingerprint: str | None = None) -> ScoreTable:
    """Open a score folder and check that it is whole, and of the corpus with this fingerprint.

    Raises:
        InputError: no score folder, a damaged one, one of another corpus or metric version.
    """
    try:
        manifest = read_record(folder / MANIFEST_FILE, ScoreManifest)
        _check_version(folder, manifest)
        scores_sha = hash_file(folder / SCORES_FILE)
        rows = _rows(folder / SCORES_FILE, manifest)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        hint = "make one with `tinyohem score-difficulty`"
        raise InputError(f"{folder} is no score folder: it has no {missing}", hint) from None
    except (ValueError, OSError, pa.ArrowException) as error:
        raise InputError(f"{folder} cannot be read: {plainly(error)}", _AGAIN) from None
    if scores_sha != manifest.scores_sha256 or rows != manifest.stories:
        raise InputError(
            f"{folder}/{SCORES_FILE} is not the file that its manifest describes", _AGAIN
        )
    if fingerprint is not None and fingerprint != manifest.corpus.fingerprint:
        name = f"{manifest.corpus.name} ({manifest.corpus.split})"
        raise InputError(f"{folder} holds scores of another corpus, {name}", _AGAIN)
    return ScoreTable(folder, manifest)


def _check_version(folder: Path, manifest: ScoreManifest) -> None:
    if manifest.metric_version != METRIC_VERSION:
        versions = f"{manifest.metric_version}, not {METRIC_VERSION}"
        raise InputError(
            f"{folder} holds scores of metric version {versions}: words, syllables and sentences "
            "are counted otherwise there",
            _AGAIN,
        )


def _rows(path: Path, manifest: ScoreManifest) -> int:
    """Return how many rows a score table has.

    Raises:
        ValueError: a column is missing or of another type, or the rows cannot be in the file.
    """
    file = pq.ParquetFile(utf8_path(path))
    schema, rows = file.schema_arrow, int(file.metadata.num_rows)
    wanted = {"row": pa.int64(), "text_sha": pa.string(), "words": pa.int64(), "bytes": pa.int64()}
    for name in manifest.metrics:
        wanted |= {f"{kind}_{name}": pa.float64() for kind in ("difficulty", "percentile")}
    for name, kind in wanted.items():
        if schema.get_field_index(name) < 0 or schema.field(name).type != kind:
            raise ValueError(f"{SCORES_FILE} has no column {name} of type {kind}")
    if rows * _ROW_BYTES > MAX_EXPANSION * path.stat().st_size:
        raise ValueError(f"{SCORES_FILE} is too small for its {rows:,} rows")
    return rows


class ExampleRecord(Record):
    """One story in `examples.json`."""

    row: Count
    value: Figure | None = None  # raw; a `ScoreSummary` shows the signed difficulty instead
    difficulty: Figure
    opening: str


class ExamplesRecord(Record):
    """The examples of one metric."""

    easiest: list[ExampleRecord]
    hardest: list[ExampleRecord]


def read_examples(table: ScoreTable) -> dict[str, ExamplesRecord]:
    """Return the easiest and hardest stories by each metric, as the pass over the text left them.

    Raises:
        InputError: the file is gone or damaged.
    """
    path = table.folder / EXAMPLES_FILE
    try:
        kept = read_sealed(path)
        examples = {name: check_record(kept.get(name), ExamplesRecord) for name in table.metrics}
        for name, ends in examples.items():
            if len(ends.easiest) != len(ends.hardest):
                raise ValueError(f"{name}: one end holds more stories than the other")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {plainly(error)}", _AGAIN) from None
    return examples


def combined_difficulty(table: ScoreTable, weights: dict[str, float]) -> FloatArray:
    """Return the weighted mean of percentiles in (0, 100), (stories,).

    Ranks, since the metrics have no common unit. NaN where any of them is undefined: a mean over
    the rest would compare stories by different things.
    """
    total = sum(weights.values())
    combined = np.zeros(table.stories)
    for metric, weight in weights.items():
        combined += weight / total * table.percentile(metric)
    return combined


def library_versions() -> dict[str, str]:
    """Return the versions of all that a score depends on."""
    import zstandard

    packages = ("tinyohem", "numpy", "pyarrow", "zstandard", "ftfy")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
    }
