"""What a score table says about its corpus: spread, correlations, dirt, easy and hard stories."""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from tinyohem.config.difficulty import SIGN
from tinyohem.difficulty.score_table import (
    ExampleRecord,
    ExamplesRecord,
    ScoreManifest,
    ScoreTable,
    read_examples,
)
from tinyohem.io.json import JsonObject

LENGTH_CONFOUND = 0.5  # a metric that goes with length as closely as this mostly sorts by length
QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_HISTOGRAM_BINS = 60
_HISTOGRAM_ENDS = (
    0.005,
    0.995,
)  # shares of the stories; a few outliers would leave the rest one bin
_EASE = (  # of reading, from this Flesch value on (Flesch 1949)
    (90, "very easy"),
    (80, "easy"),
    (70, "fairly easy"),
    (60, "standard"),
    (50, "fairly difficult"),
    (30, "difficult"),
    (-np.inf, "very difficult"),
)
_LENGTH_CONTROLS = {
    "raw": "",
    "prefix": ", of the first bytes",
    "windows": ", mean over windows",
    "residual": ", with length taken out",
}


@dataclass(frozen=True)
class Histogram:
    """Counts of stories, (bins,), between edges, (bins + 1,)."""

    counts: list[int]
    edges: list[float]


@dataclass(frozen=True)
class ScoreSummary:
    """What a person wants to see of a score table.

    Attributes:
        manifest: of the table.
        quantiles: for each metric the values at `QUANTILES` percent of the way from the easiest to
            the hardest story. Values have the metric's own sign; those of the compression ratio are
            after length control.
        correlations: Spearman's rho of the difficulties of each pair of metrics.
        confounded: the metrics that go with length more closely than `LENGTH_CONFOUND`.
        histograms: of the same values as `quantiles`.
        examples: the easiest and hardest stories by each metric, with such a `value` each.
    """

    manifest: ScoreManifest
    quantiles: dict[str, list[float]]
    correlations: dict[tuple[str, str], float]
    confounded: dict[str, float]
    histograms: dict[str, Histogram]
    examples: dict[str, ExamplesRecord]

    @property
    def metrics(self) -> list[str]:
        """Return the names of the metrics."""
        return list(self.manifest.metrics)

    def label(self, metric: str) -> str:
        """Return the name of a metric, with what keeps its values from going with length."""
        if metric != "compression_ratio":
            return metric
        return metric + _LENGTH_CONTROLS[self.manifest.rules.compression.length_control]

    def outcome(self) -> str:
        """Say in a sentence how long and how hard to read the stories are, then what is odd."""
        told = f"{self.manifest.stories:,} stories"
        if "length" in self.histograms:
            told += f", the middle half of them {self._middle_half('length')} bytes long"
        if "flesch" in self.histograms:
            ease = self.quantiles["flesch"][QUANTILES.index(50)]
            word = next(word for least, word in _EASE if ease >= least)
            told += f", with a Flesch reading ease of {self._middle_half('flesch')} ({word})"
        flags = self.manifest.flags.items()
        flagged = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in flags if count)
        return f"{told}. {f'Flagged: {flagged}' if flagged else 'Nothing is flagged'}."

    def _middle_half(self, metric: str) -> str:
        values = (self.quantiles[metric][QUANTILES.index(percent)] for percent in (25, 75))
        return " to ".join(f"{value:,.0f}" for value in sorted(values))

    def to_json(self) -> JsonObject:
        """Return counts and figures; None where a figure is undefined: JSON knows no NaN."""
        metrics = {
            name: {
                **metric.to_json(),
                "quantiles": {
                    str(percent): _or_none(value)
                    for percent, value in zip(QUANTILES, self.quantiles[name], strict=True)
                },
            }
            for name, metric in self.manifest.metrics.items()
        }
        correlations = {
            name: {other: _or_none(self.correlations[name, other]) for other in self.metrics}
            for name in self.metrics
        }
        return {
            "corpus": self.manifest.corpus.to_json(),
            "stories": self.manifest.stories,
            "flags": self.manifest.flags,
            "metrics": metrics,
            "correlations": correlations,
            "confounded_with_length": self.confounded,
        }


def summarise(table: ScoreTable) -> ScoreSummary:
    """Read a score table, two columns at a time, and the examples that were kept beside it."""
    quantiles, histograms = {}, {}
    for name, metric in table.metrics.items():
        difficulty = table.difficulty(name)
        difficulty = difficulty[~np.isnan(difficulty)]
        quantiles[name] = [np.nan] * len(QUANTILES)
        if len(difficulty):
            sign = SIGN[metric.harder]
            shares = (*(percent / 100 for percent in QUANTILES), *_HISTOGRAM_ENDS)
            # Values that stories have: between two of them there is none.
            *found, low, high = sign * np.quantile(difficulty, shares, method="inverted_cdf")
            quantiles[name] = list(map(float, found))
            ends = (min(low, high), max(low, high))
            counts, edges = np.histogram(sign * difficulty, _HISTOGRAM_BINS, ends)
            histograms[name] = Histogram(counts.tolist(), edges.tolist())
    correlations = _correlations(table)
    confounded = {
        name: rho
        for name in table.metrics
        if name != "length" and abs(rho := correlations.get((name, "length"), 0)) > LENGTH_CONFOUND
    }
    examples = _examples(table)
    return ScoreSummary(table.manifest, quantiles, correlations, confounded, histograms, examples)


def _correlations(table: ScoreTable) -> dict[tuple[str, str], float]:
    """Return Spearman's rho of each pair of metrics: Pearson's of percentiles, which are ranks.

    Exact where both metrics of a pair are defined for the same stories; a story that lacks one of
    them leaves the pair, and the ranks of the others stay those of the whole corpus.
    """
    found = {}
    for one, other in combinations_with_replacement(table.metrics, 2):
        ranks = np.stack([table.percentile(one), table.percentile(other)])
        both = ranks[:, ~np.isnan(ranks).any(axis=0)]
        with np.errstate(divide="ignore", invalid="ignore"):  # all stories alike: NaN
            rho = np.asarray(np.corrcoef(both))[0, 1] if both.shape[1] > 1 else np.nan
        found[one, other] = found[other, one] = float(rho)
    return found


def _examples(table: ScoreTable) -> dict[str, ExamplesRecord]:
    """Read the examples; show of each the value that the quantiles show, not the raw one."""

    def shown(stories: list[ExampleRecord], sign: int) -> list[ExampleRecord]:
        return [story.model_copy(update={"value": sign * story.difficulty}) for story in stories]

    return {
        name: ExamplesRecord(
            easiest=shown(ends.easiest, SIGN[table.metrics[name].harder]),
            hardest=shown(ends.hardest, SIGN[table.metrics[name].harder]),
        )
        for name, ends in read_examples(table).items()
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
