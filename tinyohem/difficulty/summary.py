"""What a score table says about its corpus: spread, correlations, dirt, easy and hard stories."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinyohem.config.difficulty import SIGN
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.score_table import (
    ExampleRecord,
    ExamplesRecord,
    ScoreManifest,
    ScoreTable,
    read_examples,
)
from tinyohem.difficulty.target_record import TargetRecord, read_target
from tinyohem.io.json import JsonObject

LENGTH_CONFOUND = 0.5  # a metric that goes with length as closely as this mostly sorts by length
QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_HISTOGRAM_BINS = 60
_HISTOGRAM_ENDS = (0.5, 99.5)  # percent; a few outliers would leave the rest one bin
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
    """The figures of a score table.

    Attributes:
        quantiles: for each metric the values at `QUANTILES` percent of the way from the easiest to
            the hardest story. Values have the metric's own sign; those of the compression ratio are
            after length control.
        correlations: Spearman's rho of the difficulties of each pair of metrics.
        confounded: the metrics that go with length more closely than `LENGTH_CONFOUND`.
        histograms: of the same values as `quantiles`.
        examples: the easiest and hardest stories by each metric, with such a `value` each.
        target: what was kept of the target, if there was one.
    """

    manifest: ScoreManifest
    quantiles: dict[str, list[float]]
    correlations: dict[tuple[str, str], float]
    confounded: dict[str, float]
    histograms: dict[str, Histogram]
    examples: dict[str, ExamplesRecord]
    target: TargetRecord | None = None

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
        text = f"{self.manifest.stories:,} stories"
        if "length" in self.histograms:
            text += f", the middle half of them {self._middle_half('length')} bytes long"
        if "flesch" in self.histograms:
            ease = self.quantiles["flesch"][QUANTILES.index(50)]
            word = next(word for least, word in _EASE if ease >= least)
            text += f", with a Flesch reading ease of {self._middle_half('flesch')} ({word})"
        flags = self.manifest.flags.items()
        flagged = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in flags if count)
        return f"{text}. {f'Flagged: {flagged}' if flagged else 'Nothing is flagged'}."

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
            **({"target": self.target.to_json()} if self.target else {}),
        }

    def told_line(self) -> str:
        """Say in a sentence where the line of the target lies; empty without a target."""
        if self.target is None:
            return ""
        passes = zip(("first", "second"), self.target.lines, strict=False)
        counts = (
            f"{found.passed:,} the {name} (line at {found.line:.4g})" for name, found in passes
        )
        return (
            f"Stories of the target {self.target.name} score up to {self.target.line:.4g} nats per "
            f"word, {self.target.quantile:.0%} of them more: that is the line. Stories that "
            f"pass: {', '.join(counts)}."
        )


def summarise(table: ScoreTable) -> ScoreSummary:
    """Read a score table twice, in chunks, and the examples that were kept beside it."""
    names = list(table.metrics)
    nearest = {name: _Nearest((*QUANTILES, *_HISTOGRAM_ENDS)) for name in names}
    products = _PairwiseProducts(names)
    for values, percentiles in _chunks(table):
        products.add(percentiles)
        for name in names:
            nearest[name].add(percentiles[name], values[name])

    correlations = products.correlations()
    confounded = {
        name: rho
        for name in names
        if name != "length" and abs(rho := correlations.get((name, "length"), 0)) > LENGTH_CONFOUND
    }
    return ScoreSummary(
        table.manifest,
        {name: nearest[name].values[: len(QUANTILES)] for name in names},
        correlations,
        confounded,
        _histograms(table, {name: nearest[name].values[len(QUANTILES) :] for name in names}),
        _examples(table),
        read_target(table),
    )


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


class _Nearest:
    """The values whose percentiles lie nearest to some targets: quantiles, in one pass."""

    def __init__(self, targets: Sequence[float]) -> None:
        self._targets = targets
        self._distances = [np.inf] * len(targets)
        self.values = [np.nan] * len(targets)

    def add(self, percentiles: FloatArray, values: FloatArray) -> None:
        defined = ~np.isnan(percentiles)
        percentiles, values = percentiles[defined], values[defined]
        for index, target in enumerate(self._targets if len(values) else ()):
            nearest = np.argmin(distance := np.abs(percentiles - target))
            if distance[nearest] < self._distances[index]:
                self._distances[index] = float(distance[nearest])
                self.values[index] = float(values[nearest])


class _PairwiseProducts:
    """Pearson's correlation of percentiles, which are ranks: Spearman's, in one pass.

    Exact where both metrics of a pair are defined for the same stories; a story that lacks one of
    them leaves the pair, and the ranks of the others stay those of the whole corpus.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = {(a, b): np.zeros(6) for a in names for b in names}

    def add(self, percentiles: dict[str, FloatArray]) -> None:
        for (a, b), sums in self._sums.items():
            both = ~np.isnan(percentiles[a]) & ~np.isnan(percentiles[b])
            x, y = percentiles[a][both] - 50, percentiles[b][both] - 50
            sums += [len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]

    def correlations(self) -> dict[tuple[str, str], float]:
        return {pair: _pearson(*sums) for pair, sums in self._sums.items()}


def _pearson(n: float, x: float, y: float, xx: float, yy: float, xy: float) -> float:
    spread = (n * xx - x * x) * (n * yy - y * y)
    return float((n * xy - x * y) / np.sqrt(spread)) if spread > 0 else np.nan


def _histograms(table: ScoreTable, ends: dict[str, list[float]]) -> dict[str, Histogram]:
    edges = {
        name: np.histogram_bin_edges([], _HISTOGRAM_BINS, (min(pair), max(pair)))
        for name, pair in ends.items()
        if not np.isnan(pair).any()
    }
    counts = {name: np.zeros(_HISTOGRAM_BINS, np.int64) for name in edges}
    for values, _ in _chunks(table):
        for name, bins in edges.items():
            counts[name] += np.histogram(values[name][~np.isnan(values[name])], bins)[0]
    return {name: Histogram(counts[name].tolist(), edges[name].tolist()) for name in edges}


def _chunks(table: ScoreTable) -> Iterator[tuple[dict[str, FloatArray], dict[str, FloatArray]]]:
    """Yield values (difficulties with the metric's own sign) and percentiles of some stories."""
    signs = {name: SIGN[metric.harder] for name, metric in table.metrics.items()}
    columns = [f"{kind}_{name}" for kind in ("difficulty", "percentile") for name in signs]
    for batch in table.batches(columns):
        arrays = {
            name: table.checked(batch.column(name).to_numpy(zero_copy_only=False))
            for name in columns
        }
        yield (
            {name: sign * arrays[f"difficulty_{name}"] for name, sign in signs.items()},
            {name: arrays[f"percentile_{name}"] for name in signs},
        )
