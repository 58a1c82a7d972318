"""Lines of a figure: a group's seeds and their mean, drawn so that none hides another."""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from tinyohem.report.run_logs import FloatArray
from tinyohem.report.style import MARKERS, LineStyle, colour, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Curve = tuple[FloatArray, FloatArray]

_MOST_POINTS = 400  # of a line; more cannot be told apart and weigh the page down
_MARKER = 4.2  # points
_RING = 4.0  # points more for each dot above
STUB = 0.05  # of an axis: a line that is no wider needs a dot to be seen
_DOTTED = 2 * STUB  # and one that is no wider gets it, since another may hide all the rest
_THICKNESS = 0.012  # of a line, as a share of an axis
_NONE = slice(0, 0)  # of a line's points bears a marker


def thin(x: FloatArray, y: FloatArray) -> Curve:
    """Average neighbouring points, gaps left out, until a line has few enough."""
    if len(x) <= _MOST_POINTS:
        return x, y
    parts = zip(np.array_split(x, _MOST_POINTS), np.array_split(y, _MOST_POINTS), strict=True)
    means = [(part.mean(), _mean(values[np.isfinite(values)])) for part, values in parts]
    array = np.array(means)
    return array[:, 0], array[:, 1]


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else np.nan


def mean_curve(lines: Sequence[Curve], by: str = "tokens") -> Curve:
    """Average over seeds where every one of them has a value, and nowhere else: (N,), (N,).

    By tokens at the points that all have; by seconds, which no two runs share, in between the
    latest beginning and the earliest end.
    """
    if len(lines) == 1:
        return lines[0]
    if by == "tokens":
        common = reduce(np.intersect1d, [x for x, _ in lines])
        return common, np.mean([_at(common, x, y) for x, y in lines], axis=0)
    if any(len(x) == 0 for x, _ in lines):
        return np.empty(0), np.empty(0)
    shortest, _ = min(lines, key=lambda line: line[0][-1])
    common = shortest[shortest >= max(x[0] for x, _ in lines)]
    return common, np.mean([np.interp(common, x, y) for x, y in lines], axis=0)


def _at(common: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the values at some of a line's points, the first where a point stands twice."""
    places, first = np.unique(x, return_index=True)
    return y[first[np.isin(places, common)]]


def draw_lines(
    axis: "Axes", seeds: Sequence[Curve], mean: Curve, index: int, *, marked: bool = False
) -> "Line2D":
    """Draw a group's seeds thin and their mean thick; return the thick line.

    Args:
        index: of the group, which decides its colour.
        marked: whether every point is marked; others are where `reveal` needs it.
    """
    style = series_style(index)
    if len(seeds) > 1:
        # Without a mean they are all that there is to see of the group.
        style |= {"linewidth": 0.8, "alpha": 0.45, "zorder": 2.6 if len(mean[0]) else 5}
        for x, y in seeds:
            axis.plot(*thin(x, y), **style, marker=".", markersize=4, markevery=_NONE)
    (line,) = axis.plot(*thin(*mean), **_thick(index), markevery=None if marked else _NONE)
    return line


def legend_line(index: int, *, marked: bool = False) -> "Line2D":
    """Return a group's line for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **(_thick(index) if marked else series_style(index)))


def _thick(index: int) -> LineStyle:
    return {
        **series_style(index),
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": _MARKER,
        "markeredgecolor": colour("surface"),
        "markeredgewidth": 0.6,
    }


def reveal(axis: "Axes", means: Sequence["Line2D"]) -> bool:
    """Restyle the lines of an axis whose limits are set, so that none is hidden.

    Points between gaps, and the end of a line that is hardly wider than a dot, are marked. Shorter
    means lie above longer ones. Where several coincide, dashes let the lower ones through, and a
    dot below others is larger than they are.

    Returns:
        Whether any line is dashed.
    """
    axis.autoscale_view()
    for line in axis.lines:
        if line.get_markevery() is not None:
            line.set_markevery(_unseen_points(axis, line) or _NONE)
    drawn = [(line, _places(axis, line)) for line in means]
    drawn.sort(key=lambda pair: -_width(pair[1]))
    close = [[_coincide(a, b) for _, b in drawn] for _, a in drawn]
    dashed = False
    for rank, (line, place) in enumerate(drawn):
        line.set_zorder(3 + rank / len(drawn))
        below, above = sum(close[rank][:rank]), sum(close[rank][rank + 1 :])
        if line.get_markevery() != _NONE:
            dots = [_dots_meet(place, other) for _, other in drawn[rank + 1 :]]
            line.set_markersize(_MARKER + _RING * max(above, sum(dots)))
        if below and _width(place) >= STUB:
            together = below + 1 + above
            # Points over the line's thickness; the pattern repeats twice at least.
            dash = min(3.0, 70 * _width(place) / together)
            line.set_linestyle((dash * below, (dash, dash * (together - 1))))
            dashed = True
    return dashed


def _unseen_points(axis: "Axes", line: "Line2D") -> list[int]:
    """Return the points of a line that need a marker to be seen."""
    known = np.isfinite(np.asarray(line.get_ydata(), dtype=np.float64))
    joined = np.zeros(len(known), dtype=bool)
    joined[1:] |= known[:-1]
    joined[:-1] |= known[1:]
    unseen = known & ~joined
    if _width(_places(axis, line)) < _DOTTED:
        unseen[np.flatnonzero(known)[-1:]] = True
    numbers: list[int] = np.flatnonzero(unseen).tolist()
    return numbers


def _places(axis: "Axes", line: "Line2D") -> FloatArray:
    """Return a line's points, gaps left out, in shares of the axes' width and height: (N, 2)."""
    points = np.asarray(line.get_xydata(), dtype=np.float64)
    to_axes = axis.transData + axis.transAxes.inverted()
    return np.asarray(to_axes.transform(points[np.isfinite(points).all(axis=1)]))


def _width(places: FloatArray) -> float:
    return float(np.ptp(places[:, 0])) if len(places) else 0.0


def _dots_meet(a: FloatArray, b: FloatArray) -> bool:
    """Whether both lines end in a dot, and one may hide the other."""
    if not len(a) or not len(b) or max(_width(a), _width(b)) >= _DOTTED:
        return False
    return bool(np.abs(a[-1] - b[-1]).max() <= STUB)


def _coincide(a: FloatArray, b: FloatArray) -> bool:
    """Whether one line hides the other: from end to end no farther away than it is thick."""
    if not len(a) or not len(b) or np.abs(a[[0, -1], 0] - b[[0, -1], 0]).max() > STUB:
        return False
    inside = a[a[:, 1] <= 1]  # what the axis cuts off hides nothing
    distance = np.abs(inside[:, 1] - np.interp(inside[:, 0], b[:, 0], b[:, 1]))
    return len(inside) > 0 and float(distance.mean()) <= _THICKNESS
