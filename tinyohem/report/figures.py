"""Draw what was selected, paired differences, and where a model's loss sits."""

import math
from collections.abc import Sequence

import numpy as np

from tinyohem.evaluation.loss_groups import LOSS_GROUPS, UNDEFINED, Group
from tinyohem.experiments.statistics import MIN_SEEDS
from tinyohem.experiments.table import verdict
from tinyohem.report.curves import COINCIDE, Plot, lay_out_x, plain_log_scale
from tinyohem.report.lines import STUB, draw_lines, legend_line, mean_curve, reveal, thin
from tinyohem.report.run_logs import ComparisonResult, FloatArray, RunGroup
from tinyohem.report.style import (
    LEVELS,
    MARKERS,
    add_legend,
    colour,
    new_figure,
    series_style,
    shorten,
)

BUCKETS = {  # of the loss of a kept token in nats: metric, name
    "train/kept_below_1": "under 1",
    "train/kept_1_to_3": "1 to 3",
    "train/kept_3_to_5": "3 to 5",
    "train/kept_above_5": "over 5",
}

LEAST_TOKENS = 100  # of a part: the loss of fewer says more of them than of the model

Breakdowns = dict[str, list[Group]]  # of each run, by its label


def selection_plot(groups: Sequence[RunGroup]) -> Plot | None:
    """Draw which losses the kept tokens had, over training: one panel a group, seeds averaged."""
    bands = {}
    for group in groups:
        means = [mean_curve([run.series(key) for run in group.runs]) for key in BUCKETS]
        lengths = {len(y) for _, y in means}  # a damaged log may lack one here and there
        if len(lengths) == 1 and min(lengths) > 1:  # one point has no area
            bands[group.name] = [thin(*mean) for mean in means]
    if not bands:
        return None
    ends = [curves[0][0][-1] for curves in bands.values()]
    alike = min(ends) >= STUB * max(ends)  # else a short run would be a stroke
    height = max(2.9, 0.9 + (1.35 if alike else 1.6) * len(bands))
    figure, axes = new_figure("What was selected, by loss (nats)", len(bands), height, alike)
    for axis, (name, curves) in zip(axes, bands.items(), strict=True):
        shares = 100 * np.array([y for _, y in curves])
        areas = axis.stackplot(curves[0][0], shares, colors=[colour(level) for level in LEVELS])
        axis.set(ylim=(0, 100), ylabel="% of kept tokens")
        axis.margins(x=0)
        if len(groups) > 1:
            axis.set_title(shorten(name))
    for axis in axes[-1:] if alike else axes:
        lay_out_x(axis, "tokens", 0)
    add_legend(figure, areas, list(BUCKETS.values()))
    says = "Shares of the kept tokens by their loss in the step."
    if not alike:
        says += " Each panel is as wide as its run was long."
    if len(bands) < len(groups):
        says += " Runs without a panel did not record it."
    return Plot("selected-by-loss", says, figure, wide=True)


def forest_plot(result: ComparisonResult, suffix: str = "") -> Plot | None:
    """Draw the paired differences of a comparison with their intervals."""
    rows = [(i, row, row.difference) for i, row in zip(result.groups, result.rows, strict=True)]
    compared = [(index, row, d) for index, row, d in rows if d is not None]
    if not compared:
        return None
    baseline = shorten(result.rows[0].arm)
    height = 1.1 + 0.45 * len(compared)
    figure, (axis,) = new_figure(f"Difference to {baseline}", height=height)
    for place, (index, row, d) in enumerate(compared):
        style = series_style(index)
        if d.tested:
            axis.plot([d.low, d.high], [place, place], **style, linewidth=2.2)
        style |= {"marker": MARKERS[index % len(MARKERS)], "markeredgecolor": colour("surface")}
        axis.plot(d.mean, place, **style, markersize=7)
        axis.annotate(
            f"{d.mean:+.4f}\n{verdict(row)}",
            (1.03, place),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour("ink"),
        )
    axis.axvline(0, color=colour("ink"), linewidth=1)
    axis.set_yticks(range(len(compared)), [shorten(row.arm) for _, row, _ in compared])
    axis.tick_params(axis="y", labelcolor=colour("ink"))
    axis.grid(visible=False)
    axis.margins(x=0.08)
    axis.set_ylim(len(compared) - 0.5, -0.5)
    axis.set_xlabel("bits per byte, arm minus baseline (left: fewer)")
    says = f"Paired differences to {baseline} in bits per byte: means over the seeds"
    if any(d.tested for _, _, d in compared):
        says += (
            " with 95 % intervals of Student's t-test. An interval that crosses zero leaves the "
            "difference open"
        )
    if not all(d.tested for _, _, d in compared):
        says += f". Fewer than {MIN_SEEDS} seeds have no interval"
    return Plot(f"paired-differences{suffix}", f"{says}.", figure, wide=True)


def groups_plot(
    groups: Sequence[RunGroup], breakdowns: Breakdowns, name: str, title: str, label: str, says: str
) -> Plot | None:
    """Draw the perplexity of each part of the tokens or stories: a line for each group of runs."""
    parts, left_out = _parts(breakdowns)
    losses = _losses(groups, breakdowns, parts)
    if not losses or not parts:
        return None
    figure, (axis,) = new_figure(title)
    keys, means = {}, []
    for index, group in enumerate(groups):
        if group.name in losses:
            at = np.arange(len(parts), dtype=np.float64)
            lines = [(at, np.exp(row)) for row in losses[group.name]]
            means.append(draw_lines(axis, lines, mean_curve(lines), index, marked=True))
            keys[group.name] = legend_line(index, marked=True)
    plain_log_scale(axis)
    axis.set_xticks(range(len(parts)), [_tick(part) for part in parts])
    axis.set(xlabel=label, ylabel="perplexity per token (log scale)")
    says += left_out + (COINCIDE if reveal(axis, means) else "")
    if len(groups) > 1:
        add_legend(figure, list(keys.values()), list(keys))
    return Plot(name, says, figure)


def group_differences_plot(
    groups: Sequence[RunGroup], breakdowns: Breakdowns, name: str, title: str, label: str
) -> Plot | None:
    """Draw each part's loss minus that of the first group of runs."""
    parts, left_out = _parts(breakdowns)
    losses = _losses(groups, breakdowns, parts)
    scored = [[run for run in group.runs if run.label in breakdowns] for group in groups]
    groups = [RunGroup(g.name, tuple(runs)) for g, runs in zip(groups, scored, strict=True)]
    baseline = groups[0]
    others = [(i, g) for i, g in enumerate(groups) if i > 0 and g.name in losses]
    if baseline.name not in losses or not others or not parts:
        return None
    figure, (axis,) = new_figure(f"{title}, minus {shorten(baseline.name, 22)}")
    width = 0.8 / len(others)
    handles = {}
    for place, (index, group) in enumerate(others):
        at = np.arange(len(parts)) + (place + 0.5) * width - 0.4
        each = _minus(losses[group.name], losses[baseline.name], group, baseline)
        fill = series_style(index)["color"]
        handles[group.name] = axis.bar(at, each.mean(axis=0), 0.9 * width, color=fill)
        for values in each if len(each) > 1 else ():
            axis.plot(at, values, ".", color=colour("ink"), markersize=2.6, alpha=0.7)
    axis.axhline(0, color=colour("ink"), linewidth=1)
    axis.set_xticks(range(len(parts)), [_tick(part) for part in parts])
    axis.set(xlabel=label, ylabel="difference (nats per token)")
    add_legend(figure, list(handles.values()), list(handles))
    says = f"Mean loss minus that of {shorten(baseline.name)}: below zero, less than there."
    if any(len(group.runs) > 1 for _, group in others):
        says += " Dots are seeds."
    return Plot(name, says + left_out, figure)


def shares_plot(groups: Sequence[RunGroup], breakdowns: Breakdowns) -> Plot | None:
    """Draw how tokens and their loss are spread over easy and hard tokens: a bar for each group."""
    names, bars = [], []
    for group in groups:
        runs = [_shares(breakdowns[r.label]) for r in group.runs if r.label in breakdowns]
        if runs:
            names.append(shorten(group.name))
            bars.append(np.mean(runs, axis=0))  # (tokens and loss, loss groups)
    if not bars:
        return None
    shares, rows = 100 * np.array(bars), range(len(bars))
    figure, axes = new_figure("Tokens and their loss, by loss (nats)", 2, 1.5 + 0.44 * len(bars))
    for kind, (axis, title) in enumerate(zip(axes, ("tokens", "loss"), strict=True)):
        left = np.zeros(len(bars))
        handles = []
        for number, level in enumerate(LEVELS):
            values = shares[:, kind, number]
            handles.append(axis.barh(rows, values, 0.72, left, color=colour(level)))
            left = left + values
        axis.set(xlim=(0, 100), title=title)
        axis.set_yticks(rows, names)
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.tick_params(axis="y", labelcolor=colour("ink"))
    axes[-1].set_xlabel("% of the tokens, % of their loss")
    add_legend(figure, handles, list(BUCKETS.values()))
    says = (
        "Validation tokens of the finished model by their own loss: how many of them there are, "
        "and how much of the whole loss they hold."
    )
    return Plot("loss-by-loss", says, figure, wide=True)


def _shares(parts: Sequence[Group]) -> tuple[list[float], list[float]]:
    """Return the shares of tokens and of loss of the four loss groups; one left out has none."""
    by_name = {group.name: group for group in parts}
    total = sum(group.tokens for group in parts)
    bands = [by_name.get(name) for name in LOSS_GROUPS]
    return (
        [group.tokens / total if group else 0.0 for group in bands],
        [group.share_of_loss if group else 0.0 for group in bands],
    )


def _parts(breakdowns: Breakdowns) -> tuple[list[str], str]:
    """Return the names of the parts that are drawn, and a sentence about those too small for it.

    What has no difficulty is no part.
    """
    longest = max(breakdowns.values(), key=len, default=[])
    counts = {
        part.name: [p.tokens for parts in breakdowns.values() for p in parts if p.name == part.name]
        for part in longest
        if part.name != UNDEFINED
    }
    few = {name: tokens for name, tokens in counts.items() if min(tokens) < LEAST_TOKENS}
    names = [
        f"{name} ({min(n):,})" if min(n) == max(n) else f"{name} ({min(n):,} to {max(n):,})"
        for name, n in few.items()
    ]
    left_out = f" Left out, with fewer than {LEAST_TOKENS} tokens: {', '.join(names)}."
    return [name for name in counts if name not in few], left_out if few else ""


def _losses(
    groups: Sequence[RunGroup], breakdowns: Breakdowns, parts: Sequence[str]
) -> dict[str, FloatArray]:
    """Return for each group of runs its losses (runs, parts); NaN where a run lacks a part."""
    losses = {}
    for group in groups:
        known = [
            {part.name: part.loss for part in breakdowns[run.label]}
            for run in group.runs
            if run.label in breakdowns
        ]
        if known:
            losses[group.name] = np.array([[run.get(n, math.nan) for n in parts] for run in known])
    return losses


def _tick(part: str) -> str:
    """Shorten a part's name, `1 (easiest)` or `1,001 and rarer`, to what fits below an axis."""
    return part.partition(" (")[0].replace(" and rarer", "+")


def _minus(ours: FloatArray, theirs: FloatArray, group: RunGroup, base: RunGroup) -> FloatArray:
    """Subtract seed by seed where both groups have the same seeds, else the mean."""
    seeds, others = ([run.settings.get("training.seed") for run in g.runs] for g in (group, base))
    paired = seeds == others and ours.shape == theirs.shape
    return ours - (theirs if paired else theirs.mean(axis=0))
