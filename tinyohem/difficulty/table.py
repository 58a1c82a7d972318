"""The score table: one Parquet row a story, and a manifest that ties it to corpus and rules."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.artifacts import hash_file, read_sealed
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.text import IntArray
from tinyohem.errors import InputError

SCORES_FILE = "scores.parquet"
MANIFEST_FILE = "manifest.json"
EXAMPLES_FILE = "examples.json"
FORMAT = 1


@dataclass(frozen=True)
class Metric:
    """One way to say how hard a story is.

    Attributes:
        raw: the column with the value as the field defines it.
        harder: which raw values are harder; `difficulty_<metric>` is higher where harder.
    """

    raw: str
    harder: str

    @property
    def sign(self) -> int:
        """Return 1 or -1, what turns the raw value into a difficulty."""
        return 1 if self.harder == "higher" else -1


METRICS = {
    "compression_ratio": Metric("compressed_over_original", "higher"),
    "mtld": Metric("mtld", "higher"),
    "flesch": Metric("flesch_reading_ease", "lower"),
    "length": Metric("bytes", "higher"),
}


@dataclass(frozen=True)
class ScoreTable:
    """A score folder that was checked when it was opened."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def stories(self) -> int:
        """Return the number of rows."""
        return int(self.manifest["stories"])

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return the metrics that have a difficulty and a percentile column."""
        return {name: Metric(m["raw"], m["harder"]) for name, m in self.manifest["metrics"].items()}

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return one numeric column, (stories,); null is NaN."""
        column = pq.read_table(self.folder / SCORES_FILE, columns=[name]).column(name)
        return column.to_numpy()

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
        at = np.minimum(np.searchsorted(scored, rows), len(scored) - 1)
        missing = np.flatnonzero(scored[at] != rows)
        if len(missing):
            raise InputError(
                f"{self.folder} lacks scores of {len(missing):,} stories, "
                f"the first at row {rows[missing[0]]:,}",
                "Score the corpus again, into another folder",
            )
        return at

    def _known(self, metric: str) -> str:
        if metric not in self.metrics:
            raise InputError(
                f"the score table has no metric {metric!r}",
                f"It has {', '.join(self.metrics)}; `score-difficulty` adds fertility with "
                "--tokenizer, model_loss with --model",
            )
        return metric


def open_scores(folder: Path, fingerprint: str | None = None) -> ScoreTable:
    """Open a score folder and check that it is whole, and of the corpus with this fingerprint.

    Raises:
        InputError: no score folder, a damaged one, or one of another corpus.
    """
    again = "Score the corpus again, into another folder"
    try:
        manifest = read_sealed(folder / MANIFEST_FILE)
        scores_sha = hash_file(folder / SCORES_FILE)
        rows = pq.read_metadata(folder / SCORES_FILE).num_rows
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        hint = "Make one with `tinyohem score-difficulty`"
        raise InputError(f"{folder} is no score folder: it has no {missing}", hint) from None
    except (ValueError, pa.ArrowInvalid) as error:
        raise InputError(f"{folder} cannot be read: {error}", again) from None
    if manifest.get("format") != FORMAT:
        raise InputError(f"{folder}/{MANIFEST_FILE} is not of format {FORMAT}", again)
    if scores_sha != manifest["scores_sha256"] or rows != manifest["stories"]:
        raise InputError(
            f"{folder}/{SCORES_FILE} is not the file that its manifest describes", again
        )
    if fingerprint is not None and fingerprint != manifest["corpus"]["fingerprint"]:
        name = f"{manifest['corpus']['name']} ({manifest['corpus']['split']})"
        raise InputError(f"{folder} holds scores of another corpus, {name}", again)
    return ScoreTable(folder, manifest)


def read_examples(table: ScoreTable) -> dict[str, Any]:
    """Return the easiest and hardest stories by each metric, as the pass over the text left them.

    Raises:
        InputError: the file is gone or damaged.
    """
    try:
        return read_sealed(table.folder / EXAMPLES_FILE)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{table.folder / EXAMPLES_FILE} cannot be read: {error}",
            "Score the corpus again, into another folder",
        ) from None


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
