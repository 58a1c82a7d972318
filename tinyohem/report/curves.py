"""Figures over training: what was logged, by tokens or by seconds.

Runs of one group share a colour. Where a group has several seeds, each is a thin line and their
mean a thick one.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from tinyohem.report.lines import Curve, draw_lines, legend_line, mean_curve, reveal
from tinyohem.report.run_logs import FloatArray, RunGroup, RunLog
from tinyohem.report.style import add_legend, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COINCIDE = " Lines that coincide take turns, as dashes."
FULL = 0.9995  # a larger share kept means that nothing was selected
_BEGINNING = 0.1  # of a run: steep, and no measure of what comes after
_ENDS_NAMED = 6  # groups whose last value a caption names


@dataclass(frozen=True)
class CurveSpec:
    """One figure over training; `curves.toml` says what its settings are."""

    name: str
    title: str
    key: str
    label: str
    says: str
    by: str = "tokens"
    scale: float = 1.0
    smooth: bool = False
    marked: bool = False
    log: bool = False
    zoomed: bool = False
    mined_only: bool = False
    from_zero: bool = False
    ends: bool = False


CURVES = {
    section: [CurveSpec(**spec) for spec in specs]
    for section, specs in tomllib.loads(
        resources.files("tinyohem.report").joinpath("curves.toml").read_text(encoding="utf-8")
    ).items()
}


@dataclass(frozen=True)
class Plot:
    """A figure with its name and caption on the page."""

    name: str  # of its files
    caption: str
    figure: "Figure"
    wide: bool = False  # whether it has a row of the page to itself

    @property
    def title(self) -> str:
        """Return the title that the figure bears."""
        return str(self.figure.get_suptitle())


@dataclass(frozen=True)
class _GroupCurve:
    """The lines of a group's seeds, and their mean as far as all of them have come."""

    index: int  # of the group
    name: str
    finished: bool
    seeds: list[Curve]
    mean: Curve


def curve_plot(groups: Sequence[RunGroup], spec: CurveSpec) -> Plot | None:
    """Draw one figure over training; None where no run has the series."""
    curves = [_group_curve(i, group, spec) for i, group in enumerate(groups)]
    curves = [curve for curve in curves if any(np.isfinite(y).any() for _, y in curve.seeds)]
    if not curves:
        return None
    lines = [line for curve in curves for line in curve.seeds if np.isfinite(line[1]).any()]
    figure, (axis,) = new_figure(spec.title)
    unit = lay_out_x(axis, spec.by, max(x[-1] for x, _ in lines))
    means = []
    for curve in curves:
        mean, *seeds = [(x / unit, y) for x, y in (curve.mean, *curve.seeds)]
        means.append(draw_lines(axis, seeds, mean, curve.index, marked=spec.marked))
    axis.set_ylabel(spec.label)
    cut = _lay_out_y(axis, spec, [*lines, *(curve.mean for curve in curves)])
    dashed = reveal(axis, means)
    if len(groups) > 1:  # one line alone needs a key too, to say whose it is
        keys = [legend_line(curve.index, marked=spec.marked) for curve in curves]
        add_legend(figure, keys, [curve.name for curve in curves])
    caption = spec.says
    if spec.ends and len(curves) <= _ENDS_NAMED:
        caption += _ends(curves, spec.by)
    if any(not c.finished and len(x) > len(c.mean[0]) for c in curves for x, _ in c.seeds):
        caption += " A mean goes as far as all of its seeds have come."
    if dashed:
        caption += COINCIDE
    if cut:
        caption += " The steep beginning is cut off above."
    return Plot(spec.name, caption, figure)


def _group_curve(index: int, group: RunGroup, spec: CurveSpec) -> _GroupCurve:
    seeds = [_curve(run, spec) for run in group.runs]
    finished = all(run.evaluation is not None for run in group.runs)
    return _GroupCurve(index, group.name, finished, seeds, mean_curve(seeds, spec.by))


def _ends(curves: Sequence[_GroupCurve], by: str) -> str:
    """Name the last values: those of finished runs, else those where all seeds have one."""
    if all(curve.finished for curve in curves):
        lasts = [(c.name, [y[-1] for _, y in c.seeds if len(y)]) for c in curves]
        ends = [f"{shorten(name)} {np.mean(values):.4g}" for name, values in lasts]
        return f" At the end: {', '.join(ends)}."
    reached = [
        (f"{shorten(c.name)} {c.mean[1][-1]:.4g}", _place(c.mean[0][-1], by))
        for c in curves
        if len(c.mean[0])
    ]
    places = {place for _, place in reached}
    if len(places) == 1:
        return f" So far, at {places.pop()}: {', '.join(end for end, _ in reached)}."
    ends = [f"{end} at {place}" for end, place in reached]
    return f" So far: {', '.join(ends)}." if ends else ""


def _place(x: float, by: str) -> str:
    """Return a position on the horizontal axis as text, to three digits."""
    from matplotlib.ticker import EngFormatter

    if by == "tokens":
        return f"{EngFormatter(sep='')(float(f'{x:.3g}'))} tokens"
    unit, name = _time_unit(x)
    return f"{x / unit:.3g} {name}"


def _curve(run: RunLog, spec: CurveSpec) -> Curve:
    x, y = run.series(spec.key, spec.by)
    if spec.mined_only:
        _, kept = run.series("train/keep_ratio", spec.by)
        y = np.where(kept < FULL, y, np.nan) if len(kept) == len(y) else y
    y = y * spec.scale
    return x, _smoothed(y) if spec.smooth else y


def _smoothed(y: FloatArray) -> FloatArray:
    """Return exponential means whose span is a fiftieth of the series, without a bias at zero."""
    keep = 1 - 2 / (1 + max(1.0, len(y) / 50))
    total = weight = 0.0
    means = np.empty_like(y)
    for index, value in enumerate(y):
        total, weight = keep * total + value, keep * weight + 1
        means[index] = total / weight
    return means


def lay_out_x(axis: "Axes", by: str, last: float) -> float:
    """Label the horizontal axis and return what its values are divided by."""
    from matplotlib.ticker import EngFormatter

    if by == "tokens":
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel("tokens seen")
        return 1.0
    unit, name = _time_unit(last)
    axis.set_xlabel(f"training time ({name})")
    return unit


def _time_unit(seconds: float) -> tuple[float, str]:
    return (1, "s") if seconds < 180 else (60, "min") if seconds < 3 * 3600 else (3600, "h")


def _lay_out_y(axis: "Axes", spec: CurveSpec, lines: Sequence[Curve]) -> bool:
    """Set the limits of the vertical axis; return whether they cut off the beginning."""
    if spec.log and all((y[np.isfinite(y)] > 0).all() for _, y in lines):
        plain_log_scale(axis)
    if spec.from_zero:
        axis.set_ylim(bottom=0)
    if not spec.zoomed:
        return False
    known = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in lines]
    known = [(x, y) for x, y in known if len(x)]
    beginning = _BEGINNING * max(x[-1] for x, _ in known)
    # Of a line that is short beside the longest, half is seen all the same.
    late = [y[x >= min(beginning, x[-1] / 2)].max() for x, y in known]
    low, high = min(float(y.min()) for _, y in known), float(max(late))
    margin = 0.06 * (high - low) or 0.1
    axis.set_ylim(low - margin, high + margin)
    return any(y.max() > high + margin for _, y in known)


def plain_log_scale(axis: "Axes") -> None:
    """Make the vertical axis logarithmic, with a handful of plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    ticks = (1,) if high / low > 1e4 else (1, 3) if high / low > 30 else (1, 1.5, 2, 3, 5, 7)
    axis.yaxis.set_major_locator(LogLocator(10, ticks))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
