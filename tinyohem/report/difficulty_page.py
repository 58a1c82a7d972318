"""The report of a score table as one HTML file, and its histograms as a PNG."""

from pathlib import Path
from typing import TYPE_CHECKING

from tinyohem.config.difficulty import METRICS, TARGET_METRIC
from tinyohem.data.readers import name_with_split
from tinyohem.difficulty.score_table import HISTOGRAM_FILE, PAGE_FILE
from tinyohem.difficulty.summary import QUANTILES, ScoreSummary
from tinyohem.io.atomic import atomic_file
from tinyohem.report.html import require_plots, write_html
from tinyohem.report.style import (
    COLOURS,
    SERIES,
    colour,
    figure_style,
    inline_svg,
    new_figure,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_page(summary: ScoreSummary, folder: Path) -> list[Path]:
    """Write histograms and page into a score folder; the page needs no other file.

    Raises:
        InputError: matplotlib or jinja2 is not installed.
    """
    require_plots("the HTML report")
    histograms, page = folder / HISTOGRAM_FILE, folder / PAGE_FILE
    with figure_style():
        with atomic_file(histograms) as stream:
            _draw_all(summary).savefig(stream, format="png", dpi=110)
        pictures = {
            name: _picture(summary, name, f"histogram-{number}-")
            for number, name in enumerate(summary.histograms)
        }
    corpus = summary.manifest.corpus
    write_html(
        page,
        "difficulty.html.jinja",
        s=summary,
        corpus=name_with_split(corpus.name, corpus.split),
        facts=METRICS,
        quantile_names=QUANTILES,
        histograms=pictures,
        colours=COLOURS,
    )
    return [histograms, page]


def _draw_all(summary: ScoreSummary) -> "Figure":
    from matplotlib.figure import Figure

    rows = max(1, (len(summary.histograms) + 1) // 2)
    figure = Figure(figsize=(10, 3 * rows), layout="constrained")
    for number, name in enumerate(summary.histograms, start=1):
        _draw(summary, name, figure.add_subplot(rows, 2, number))
    return figure


def _picture(summary: ScoreSummary, name: str, prefix: str) -> str:
    """Return one histogram as markup for the page, which lays it out and keeps its text legible."""
    figure, (axis,) = new_figure(summary.label(name))
    _draw(summary, name, axis)
    return inline_svg(to_svg(figure), prefix)


def _draw(summary: ScoreSummary, name: str, axis: "Axes") -> None:
    histogram, metric = summary.histograms[name], summary.manifest.metrics[name]
    axis.stairs(histogram.counts, histogram.edges, fill=True, color=colour(SERIES[0]))
    if summary.target is not None and name == TARGET_METRIC:
        axis.axvline(summary.target.line, color=colour(SERIES[1]))
        axis.set_title(f"line at {summary.target.line:.4g}: stories left of it pass")
    axis.set(xlabel=f"{summary.label(name)} ({metric.harder} is harder)", ylabel="stories")
