"""Every run is visible in every chart that names it, judged by the picture itself."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tinyohem.evaluation.loss_groups import Group
from tinyohem.io.manifest import check_record
from tinyohem.report.curves import CURVES, Plot, curve_plot
from tinyohem.report.figures import groups_plot, selection_plot
from tinyohem.report.lines import thin
from tinyohem.report.records import EvaluationRecord, MetricsRow, RunFacts
from tinyohem.report.run_logs import RunGroup, RunLog
from tinyohem.report.style import COLOURS, LEVELS, SERIES, figure_style

SPECS = [  # cropped, in seconds, smoothed, from zero, with gaps, logarithmic
    *(CURVES["loss"][0], CURVES["loss"][1], CURVES["loss"][2]),
    *(CURVES["selection"][0], CURVES["selection"][1], CURVES["optimisation"][1]),
]
RECORD = RunFacts(config={"training": {"batch_size": 4, "seq_len": 32}})


def run(label: str, steps: int, floor: float = 2.0, mined: Sequence[bool] = (True,)) -> RunLog:
    """Return a run of some steps, logged 30 times or less; its loss falls from floor + 6."""
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(np.unique(np.linspace(1, steps, 30).astype(int)).tolist()):
        loss = floor + 6 * math.exp(-step / 40)
        keep = 0.5 if mined[number % len(mined)] else 1.0
        shares = dict(zip(("below_1", "1_to_3", "3_to_5", "above_5"), (0.4, 0.3, 0.2, 0.1),
                          strict=True))  # fmt: skip
        rows.append(
            {
                "step": step,
                "val/loss": loss,
                "val/bpb": loss / 3,
                "train/loss": loss,
                "train/keep_ratio": keep,
                "train/loss_threshold": 2.0,
                "train/lr": 0.01,
                "train/kept_loss_share": keep**0.5,
                "train/effective_sample_size": keep,
                "train/grad_norm": 1 + 1 / step,
                "train/tokens_per_second": 20_000.0,
                **{f"train/kept_{name}": share for name, share in shares.items()},
                "train/seconds": 0.5 * step,
            }
        )
    return RunLog(
        Path(label),
        label,
        RECORD,
        [check_record(row, MetricsRow) for row in rows],
        EvaluationRecord(),
    )


def alone(runs: Sequence[RunLog]) -> list[RunGroup]:
    return [RunGroup(run.label, (run,)) for run in runs]


def painted(plot: Plot | None, names: Sequence[str], panel: int = 0) -> dict[str, int]:
    """Count the pixels inside a panel that have a colour, or nearly, by its name."""
    assert plot is not None
    plot.figure.set_layout_engine("none")  # which, with the text, takes most of the time
    for axis in plot.figure.axes:
        axis.xaxis.set_visible(False)
        axis.yaxis.set_visible(False)
    canvas = FigureCanvasAgg(plot.figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].astype(int)
    box = plot.figure.axes[panel].get_window_extent()
    height = len(pixels)
    left, right = int(box.x0) - 4, int(box.x1) + 4
    inside = pixels[height - int(box.y1) - 4 : height - int(box.y0) + 4, left:right]
    palette = {name: np.array([int(COLOURS[name][0][i : i + 2], 16) for i in (1, 3, 5)])
               for name in (*names, "surface", "muted", "grid", "ink")}  # fmt: skip
    distance = np.stack([np.abs(inside - rgb).sum(axis=2) for rgb in palette.values()])
    nearest, close = distance.argmin(axis=0), distance.min(axis=0) < 90
    return {name: int(((nearest == i) & close).sum()) for i, name in enumerate(palette)}


def hidden(plot: Plot | None, count: int) -> list[str]:
    """Return the colours of groups that a chart does not show."""
    names = SERIES[:count]
    return [name for name in names if painted(plot, names)[name] < 3]


LENGTHS = st.floats(0, 5).map(lambda power: round(10**power))


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(LENGTHS, st.sampled_from([2.0, 2.001, 4.0])), min_size=2, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=4),
)
@example([(10, 2.0), (10, 2.0), (100, 2.0)], [False])  # markers so dense that they hide others
@example([(100, 2.0), (133, 2.0), (2371, 2.0)], [False])  # one is just too short for dashes
@example([(56, 2.0), (10_000, 2.0), (32, 2.0)], [False, True])  # two dots, on other zigzags
def test_every_run_is_seen_in_every_chart(runs: list[tuple[int, float]], mined: list[bool]) -> None:
    """From one step to 100,000 beside each other, the same curve or not."""
    logs = [run(f"r{i}", steps, floor, mined) for i, (steps, floor) in enumerate(runs)]
    with figure_style():
        for spec in SPECS:
            shown = [log for log in logs if np.isfinite(drawn_values(log, spec)).any()]
            plot = curve_plot(alone(logs), spec)
            assert (plot is None) == (not shown), spec.name
            if plot is None:
                continue
            named = {text.get_text() for legend in plot.figure.legends for text in legend.texts}
            assert named == {log.label for log in shown}, spec.name
            seen = painted(plot, SERIES[: len(logs)])
            for index, log in enumerate(logs):
                if log in shown:
                    assert seen[SERIES[index]] >= 3, (spec.name, log.label, runs)


def drawn_values(log: RunLog, spec: Any) -> np.ndarray:
    values = log.series(spec.key, spec.by)[1]
    if spec.mined_only:
        values = np.where(log.series("train/keep_ratio")[1] < 1, values, np.nan)
    return values


def test_a_run_that_stopped_early_lies_inside_the_axes() -> None:
    """976 steps and 60, of the same data and model: the crop hid the short one."""
    logs = [run("long", 976), run("short", 60)]
    with figure_style():
        for spec in CURVES["loss"]:
            plot = curve_plot(alone(logs), spec)
            assert plot is not None
            bottom, top = plot.figure.axes[0].get_ylim()
            for log in logs:
                last = log.series(spec.key)[1][-1]
                assert bottom < last < top, (spec.name, log.label)
            assert hidden(plot, 2) == []


def test_the_steep_beginning_is_still_cut_off() -> None:
    with figure_style():
        for logs in ([run("long", 1000)], [run("long", 1000), run("half", 500)]):
            plot = curve_plot(alone(logs), CURVES["loss"][0])
            assert plot is not None
            loss_at_a_tenth = 2 + 6 * math.exp(-100 / 40)
            assert plot.figure.axes[0].get_ylim()[1] < loss_at_a_tenth + 0.5
            assert "cut off above" in plot.caption


@pytest.mark.parametrize("count", [2, 4, 6])
@pytest.mark.parametrize("steps", [1, 40, 1000])
def test_lines_that_coincide_are_all_seen(count: int, steps: int) -> None:
    """As points, as stubs beside a long run, and as whole lines."""
    gaps = (True, False)  # of the threshold alone: its points have no neighbours
    logs = [run("long", 1000, 4.0, gaps), *(run(f"r{i}", steps, 2.0, gaps) for i in range(count))]
    with figure_style():
        for spec in (CURVES["loss"][0], CURVES["selection"][1], CURVES["optimisation"][0]):
            assert hidden(curve_plot(alone(logs), spec), count + 1) == [], spec.name


def test_models_that_are_the_same_are_all_seen_by_part() -> None:
    logs = [run(f"r{i}", 100) for i in range(4)]
    parts = {log.label: [Group(str(n), 500, 1.0 + n, 0.2) for n in range(5)] for log in logs}
    with figure_style():
        plot = groups_plot(alone(logs), parts, "n", "Title", "x", "Says.")
        assert hidden(plot, 4) == []
        assert plot is not None
        assert plot.caption == "Says. Lines that coincide take turns, as dashes."


def test_a_selection_is_seen_however_short_the_run() -> None:
    logs = [run("long", 100_000), run("short", 3)]
    with figure_style():
        plot = selection_plot(alone(logs))
        for panel in range(2):
            seen = painted(plot, LEVELS, panel)
            assert min(seen[level] for level in LEVELS) >= 3


def test_a_log_with_gaps_keeps_its_points_when_it_is_thinned() -> None:
    y = np.full(4000, np.nan)
    y[::7] = np.arange(len(y[::7]))
    x, fewer = thin(np.arange(4000.0), y)
    parts = np.array_split(y, 400)
    np.testing.assert_allclose(fewer, [np.nanmean(part) for part in parts])
    assert len(x) == 400
    gone = thin(np.arange(4000.0), np.where(np.arange(4000) < 2000, y, np.nan))[1]
    assert np.isnan(gone[200:]).all()
