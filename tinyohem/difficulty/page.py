"""The report of a score table as one HTML file, and its histograms as a PNG."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from tinyohem.artifacts import atomic_file
from tinyohem.difficulty.summary import QUANTILES, ScoreSummary
from tinyohem.pages import render, require_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTOGRAM_FILE = "histograms.png"
PAGE_FILE = "report.html"


def write_page(summary: ScoreSummary, folder: Path) -> list[Path]:
    """Write histograms and page into a score folder; the page needs no other file.

    Raises:
        InputError: matplotlib or jinja2 is not installed.
    """
    require_plots("the HTML report")
    figure = _draw(summary)
    histograms, page = folder / HISTOGRAM_FILE, folder / PAGE_FILE
    with atomic_file(histograms) as stream:
        figure.savefig(stream, format="png", dpi=110)
    encoded = base64.b64encode(histograms.read_bytes()).decode()
    html = render("difficulty.html.jinja", s=summary, quantile_names=QUANTILES, histograms=encoded)
    with atomic_file(page) as stream:
        stream.write(html.encode())
    return [histograms, page]


def _draw(summary: ScoreSummary) -> "Figure":
    from matplotlib.figure import Figure

    rows = max(1, (len(summary.histograms) + 1) // 2)
    figure = Figure(figsize=(10, 3 * rows), layout="constrained")
    for number, (name, histogram) in enumerate(summary.histograms.items(), start=1):
        axis = figure.add_subplot(rows, 2, number)
        axis.stairs(histogram.counts, histogram.edges, fill=True)
        metric = summary.manifest["metrics"][name]
        axis.set(xlabel=f"{summary.label(name)} ({metric['harder']} is harder)", ylabel="stories")
    return figure
