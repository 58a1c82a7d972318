"""Which stories of a pool pass by their scores: a line, a share, or a range of percentiles."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tinyohem.config.curriculum import CurriculumConfig, parse_weights
from tinyohem.config.difficulty import TARGET_METRIC
from tinyohem.config.target import TargetConfig
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.reference_scores import ReferenceScores
from tinyohem.difficulty.score_table import ScoreTable, combined_difficulty
from tinyohem.difficulty.target_rule import line_at
from tinyohem.difficulty.target_scores import TargetScores
from tinyohem.errors import InputError

_BINS = 40
_SPARKS = "▁▂▃▄▅▆▇█"
_NARROW = 1e-9
_ENDS = (0.5, 99.5)  # percent; a few outliers would leave the rest one bin


@dataclass(frozen=True, eq=False)
class Passing:
    """Scores of the rows of a pool, and which of them pass.

    Attributes:
        score: name of what was measured.
        unit: of a score.
        kept_where: the rule in words, after the score's name.
        fails: why the others are dropped.
        values: (rows,) scores, NaN where a row has none.
        passes: (rows,) whether a row's score passes; never where it has none.
        lines: scores at which passing begins or ends.
    """

    score: str
    unit: str
    kept_where: str
    fails: str
    values: FloatArray = field(repr=False)
    passes: npt.NDArray[np.bool_] = field(repr=False)
    lines: tuple[float, ...]

    def nearest(self, count: int, *, passing: bool) -> list[int]:
        """Return the rows nearest to a line on one side of it, the nearest first."""
        rows = np.flatnonzero(~np.isnan(self.values) & (self.passes == passing))
        to_lines = np.abs(self.values[rows, None] - np.array(self.lines))
        distance = to_lines.min(axis=1, initial=np.inf)
        return [int(row) for row in rows[np.argsort(distance, kind="stable")[:count]]]

    def histogram(self) -> tuple[list[int], list[float]]:
        """Return counts of rows and the edges between them; outliers count in the outer bins."""
        values = self.values[~np.isnan(self.values)]
        if not len(values):
            return [], []
        low, high = np.percentile(values, _ENDS)
        if high - low < _NARROW * max(1, abs(low)):  # edges between would be equal
            low, high = low - 0.5, high + 0.5
        counts, edges = np.histogram(values.clip(low, high), _BINS, (low, high))
        return counts.tolist(), edges.tolist()

    def sketch(self) -> str:
        """Draw the histogram in a line of text, with its ends and what passes."""
        counts, edges = self.histogram()
        if not counts:
            return "no story has a score"
        most = max(counts)
        bars = "".join(_SPARKS[-(-7 * count // most)] for count in counts)
        lines = " and ".join(f"{line:.2f}" for line in self.lines)
        return f"{edges[0]:.2f} {bars} {edges[-1]:.2f} {self.unit}, line at {lines}"


def pass_by_target(scores: TargetScores, config: TargetConfig) -> Passing:
    """Let pass what is like the target by its n-gram score; see `_pass_by_calibration`."""
    values = _by_row(scores.table, scores.table.column(TARGET_METRIC))
    passing = _pass_by_calibration(
        TARGET_METRIC, "nats per word", values, scores.calibration, config
    )
    if len(scores.lines) < 2:
        return passing
    first = scores.lines[0]
    found = f"(first pass: {first.passed:,} stories, at most {first.line:.3f})"
    return replace(passing, kept_where=f"{passing.kept_where} {found}")


def pass_by_reference(scores: ReferenceScores, config: TargetConfig) -> Passing:
    """Let pass what is like the target by a model's score; see `_pass_by_calibration`."""
    return _pass_by_calibration(
        config.score, "nats per token", scores.values, scores.calibration, config
    )


def _pass_by_calibration(
    score: str, unit: str, values: FloatArray, calibration: FloatArray, config: TargetConfig
) -> Passing:
    """Let pass what is like the target: up to the line of its own stories, or the best share.

    Where scores are equal, the earlier rows belong to the share.

    Args:
        values: (rows,) scores of the pool.
        calibration: (calibration stories,) the same score.
    """
    if config.share is None:
        line = line_at(calibration, config.quantile)
        passes = values <= line
        kept_where = f"at most {line:.3f}"
    else:
        ranked = np.argsort(values, kind="stable")  # NaN last
        count = max(1, round(config.share * np.count_nonzero(~np.isnan(values))))
        passes = np.zeros(len(values), dtype=bool)
        passes[ranked[:count]] = True
        passes &= ~np.isnan(values)
        line = float(values[ranked[count - 1]])
        kept_where = f"among the best {config.share:.4g} of all, at most {line:.3f}"
    return Passing(score, unit, f"{kept_where} {unit}", "beyond the line", values, passes, (line,))


def pass_by_difficulty(table: ScoreTable, config: CurriculumConfig) -> Passing:
    """Let pass a range of percentiles of difficulty; a story without one never passes.

    Raises:
        InputError: no story has a difficulty.
    """
    weights = parse_weights(config.metric)
    values = _percentiles(_by_row(table, combined_difficulty(table, weights)))
    if np.isnan(values).all():
        raise InputError(
            f"no story of {table.manifest.corpus.name} has a difficulty by {', '.join(weights)}: "
            "there is nothing to filter by",
            "choose another --curriculum-metric, such as mtld; Flesch is for Latin script",
        )
    low, high = config.keep_range
    return Passing(
        f"difficulty by {config.metric}",
        "percentile",
        f"from percentile {low:g} to {high:g}",
        "outside the range",
        values,
        (values >= low) & (values < high),
        tuple(line for line in (low, high) if 0 < line < 100),
    )


def _by_row(table: ScoreTable, values: FloatArray) -> FloatArray:
    """Return values of stories at their rows in the corpus, NaN where a row has none."""
    rows = table.column("row")
    placed = np.full(int(rows.max()) + 1, np.nan)
    placed[rows] = values
    return placed


def _percentiles(values: FloatArray) -> FloatArray:
    """Return the percentage of values below each, in (0, 100); equals share the middle."""
    ordered = np.sort(values[~np.isnan(values)])
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.where(np.isnan(values), np.nan, 50 * below / max(1, len(ordered)))
