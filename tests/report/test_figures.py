"""Figures: that they draw what was logged, can be read, and turn with the page's colours."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from tinyohem.evaluation.loss_groups import Group
from tinyohem.report.curves import CURVES as SECTIONS
from tinyohem.report.curves import Plot, curve_plot
from tinyohem.report.figures import (
    forest_plot,
    group_differences_plot,
    groups_plot,
    selection_plot,
    shares_plot,
)
from tinyohem.report.lines import mean_curve, thin
from tinyohem.report.run_logs import ComparisonResult, ReportInput, RunGroup, read_input
from tinyohem.report.style import (
    COLOURS,
    SERIES,
    colour,
    figure_style,
    inline_svg,
    shorten,
    to_png,
    to_svg,
)

CURVES = {spec.name: spec for specs in SECTIONS.values() for spec in specs}


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with figure_style():
        yield


@pytest.fixture(scope="module")
def data(comparison: Path) -> ReportInput:
    return read_input([comparison])


@pytest.fixture
def single(make_run, tmp_path: Path) -> ReportInput:
    return read_input([make_run(tmp_path / "mined", keep=0.5)])


def lines_of(plot: Plot | None) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Return x, y and width of every line drawn."""
    assert plot is not None
    (axis,) = plot.figure.axes
    return [(*map(np.asarray, line.get_data()), line.get_linewidth()) for line in axis.lines]


def breakdowns(data: ReportInput) -> dict[str, list[Group]]:
    """Losses of three parts, and for the ohem arm a tenth of a nat more in the second."""
    names = ("1 (easiest)", "2", "3 (hardest)", "undefined")
    found = {}
    for group in data.groups:
        for seed, run in enumerate(group.runs):
            extra = 0.1 if group.name == "ohem" else 0.0
            losses = (1 + 0.01 * seed, 2 + 0.01 * seed + extra, 3.0, 9.0)
            found[run.label] = [
                Group(name, 1000, loss, 0.25) for name, loss in zip(names, losses, strict=True)
            ]
    return found


def all_plots(data: ReportInput) -> list[Plot]:
    parts = breakdowns(data)
    by_loss = {label: [Group("<1", 30, 0.5, 0.1), Group(">5", 10, 6.0, 0.9)] for label in parts}
    plots = [curve_plot(data.groups, spec) for spec in CURVES.values()]
    plots += [forest_plot(result) for result in data.comparisons]
    plots += [selection_plot(data.groups), shares_plot(data.groups, by_loss)]
    plots.append(groups_plot(data.groups, parts, "g", "Perplexity by x", "x", "Says."))
    plots.append(group_differences_plot(data.groups, parts, "d", "Loss by x", "x"))
    return [plot for plot in plots if plot is not None]


class TestCurves:
    def test_a_line_is_what_was_logged(self, single: ReportInput) -> None:
        for name in ("validation-loss-by-tokens", "keep-ratio", "throughput"):
            spec = CURVES[name]
            ((x, y, _),) = lines_of(curve_plot(single.groups, spec))
            logged = single.runs[0].series(spec.key)
            np.testing.assert_allclose(x, logged[0])
            np.testing.assert_allclose(y, logged[1] * spec.scale)

    def test_seconds_are_those_logged(self, single: ReportInput) -> None:
        plot = curve_plot(single.groups, CURVES["validation-loss-by-seconds"])
        ((x, _, _),) = lines_of(plot)
        np.testing.assert_allclose(x, single.runs[0].series("val/loss", by="seconds")[0])
        assert plot is not None
        assert plot.figure.axes[0].get_xlabel() == "training time (s)"

    def test_long_runs_are_labelled_in_hours(self, make_run, tmp_path: Path) -> None:
        rows = [
            {"step": step, "val/loss": 3.0, "train/seconds": 3600.0 * step} for step in (1, 2, 5)
        ]
        groups = read_input([make_run(tmp_path / "a", rows=rows)]).groups
        plot = curve_plot(groups, CURVES["validation-loss-by-seconds"])
        assert lines_of(plot)[0][0].tolist() == [1, 2, 5]
        assert plot is not None
        assert plot.figure.axes[0].get_xlabel() == "training time (h)"

    def test_the_threshold_is_shown_only_where_tokens_were_left_out(
        self, single: ReportInput
    ) -> None:
        ((x, y, _),) = lines_of(curve_plot(single.groups, CURVES["loss-threshold"]))
        _, kept = single.runs[0].series("train/keep_ratio")
        np.testing.assert_array_equal(np.isfinite(y), kept < 1)
        np.testing.assert_allclose(y[kept < 1], 2 * (1 - kept[kept < 1]))
        assert len(x) == len(kept)

    def test_seeds_are_thin_and_their_mean_is_thick(self, data: ReportInput) -> None:
        lines = lines_of(curve_plot(data.groups[:1], CURVES["validation-loss-by-tokens"]))
        *seeds, (_, mean, thick) = lines
        logged = [run.series("val/loss")[1] for run in data.groups[0].runs]
        for (_, y, width), expected in zip(seeds, logged, strict=True):
            np.testing.assert_allclose(y, expected)
            assert width < thick
        np.testing.assert_allclose(mean, np.mean(logged, axis=0))

    def test_a_line_that_hides_another_lets_it_through(self, make_run, tmp_path: Path) -> None:
        folders = [make_run(tmp_path / name) for name in "ab"]
        folders.append(make_run(tmp_path / "c", level=0.5))
        groups = read_input(folders).groups
        for name, dashed in (
            ("validation-loss-by-tokens", [False, True, False]),
            ("keep-ratio", [False, True, True]),
        ):
            plot = curve_plot(groups, CURVES[name])
            assert plot is not None
            lines = plot.figure.axes[0].lines
            assert [line.get_linestyle() != "-" for line in lines] == dashed
            assert "Lines that coincide take turns" in plot.caption

    def test_no_run_has_the_series(self, make_run, tmp_path: Path) -> None:
        groups = read_input([make_run(tmp_path / "a", rows=[{"step": 1, "val/loss": 2}])]).groups
        assert curve_plot(groups, CURVES["keep-ratio"]) is None
        assert selection_plot(groups) is None

    def test_a_log_that_lacks_one_bucket_once(
        self, single: ReportInput, make_run, tmp_path: Path
    ) -> None:
        whole = [row.to_json() for row in single.runs[0].rows if row.get("train/kept_1_to_3")]
        lacking = [dict(row) for row in whole]
        del lacking[3]["train/kept_1_to_3"]
        for rows, drawn in ((whole, True), (lacking, False)):
            groups = read_input([make_run(tmp_path / str(drawn), rows=rows)]).groups
            assert (selection_plot(groups) is not None) == drawn

    def test_the_caption_ends_with_the_last_values(self, single: ReportInput) -> None:
        plot = curve_plot(single.groups, CURVES["validation-loss-by-tokens"])
        last = single.runs[0].last("val/loss")
        assert plot is not None
        assert last is not None
        assert f"At the end: mined {last:.4g}." in plot.caption

    def test_one_row_is_a_dot(self, make_run, tmp_path: Path) -> None:
        rows = [{"step": 1, "train/loss": 2.0, "train/seconds": 1.0}]
        groups = read_input([make_run(tmp_path / "a", rows=rows)]).groups
        plot = curve_plot(groups, CURVES["training-loss-by-tokens"])
        assert plot is not None
        assert plot.figure.axes[0].lines[0].get_marker() == "o"
        to_svg(plot.figure)  # limits of a single value are limits all the same

    def test_smoothing_is_an_exponential_mean_without_a_bias(self, make_run, tmp_path) -> None:
        noise = np.random.default_rng(0).normal(3, 1, 300)
        rows = [{"step": i, "train/loss": float(y)} for i, y in enumerate(noise, 1)]
        groups = read_input([make_run(tmp_path / "a", rows=rows)]).groups
        ((_, y, _),) = lines_of(curve_plot(groups, CURVES["training-loss-by-tokens"]))
        span = 300 / 50
        fade = 1 - 2 / (1 + span)
        for index in (0, 1, 17, 299):
            weights = fade ** np.arange(index, -1, -1)
            expected = (weights * noise[: index + 1]).sum() / weights.sum()
            assert y[index] == pytest.approx(expected)


def test_the_mean_is_where_every_seed_has_a_value_and_nowhere_else() -> None:
    x, y = mean_curve(
        [
            (np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4])),
            (np.array([0.0, 2, 3]), np.array([9.0, 0, 1])),
        ]
    )
    assert x.tolist() == [2, 3]
    assert y.tolist() == [1, 2]
    x, y = mean_curve([(np.array([1.0]), np.array([1.0])), (np.empty(0), np.empty(0))])
    assert len(x) == len(y) == 0


def test_by_seconds_the_mean_spans_what_all_seeds_ran() -> None:
    """One seed took thrice the other's time: both values are known from 3 s to 4 s alone."""
    quick = (np.array([1.0, 2, 3, 4]), np.array([8.0, 6, 4, 2]))
    slow = (np.array([3.0, 6, 9, 12]), np.array([8.0, 5, 2, 1]))
    x, y = mean_curve([quick, slow], "seconds")
    assert x.tolist() == [3, 4]
    np.testing.assert_allclose(y, [(4 + 8) / 2, (2 + 7) / 2])


class TestUnfinished:
    """Three seeds: one has finished, one is half-way, one has just begun."""

    @pytest.fixture
    def groups(self, make_run, make_log, tmp_path: Path) -> list[RunGroup]:
        for seed, rows in enumerate((25, 13, 6)):
            log = make_log(level=seed, keep=0.5)[:rows]
            make_run(tmp_path / "c" / f"ohem-seed{seed}", rows=log, finished=seed == 0)
        return read_input([tmp_path / "c"]).groups

    def test_the_mean_and_its_caption_end_where_the_last_seed_is(
        self, groups: list[RunGroup]
    ) -> None:
        plot = curve_plot(groups, CURVES["validation-loss-by-tokens"])
        *_, (x, y, thick) = lines_of(plot)
        assert thick > 1
        assert x.tolist() == [40 * 128]
        logged = [run.series("val/loss")[1][0] for run in groups[0].runs]
        np.testing.assert_allclose(y, [np.mean(logged)])
        assert plot is not None
        assert f"So far, at 5.12k tokens: ohem {np.mean(logged):.4g}." in plot.caption
        assert "A mean goes as far as all of its seeds have come." in plot.caption
        assert "At the end" not in plot.caption

    def test_the_caption_says_how_far_each_arm_has_come(
        self, groups: list[RunGroup], make_run, tmp_path: Path
    ) -> None:
        full = read_input([make_run(tmp_path / "full")]).groups
        plot = curve_plot([*full, *groups], CURVES["training-loss-by-tokens"])
        assert plot is not None
        assert re.search(
            r"So far: full 3\.\d+ at 25\.6k tokens, ohem [\d.]+ at 6\.4k tokens\.", plot.caption
        )
        plot = curve_plot([*full, *groups], CURVES["training-loss-by-seconds"])
        assert plot is not None
        assert re.search(r"full 3\.\d+ at 100 s, ohem [\d.]+ at 25 s\.", plot.caption)

    def test_a_seed_without_a_value_leaves_no_mean(
        self, groups: list[RunGroup], make_run, make_log, tmp_path: Path
    ) -> None:
        assert len(groups[0].runs) == 3
        make_run(tmp_path / "c" / "ohem-seed3", rows=make_log()[:2], finished=False)
        plot = curve_plot(read_input([tmp_path / "c"]).groups, CURVES["validation-loss-by-tokens"])
        assert plot is not None
        assert "So far" not in plot.caption
        widths = [width for x, _, width in lines_of(plot) if len(x)]
        assert len(widths) == 3
        assert max(widths) < 1

    def test_one_point_is_no_area(self, make_run, make_log, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "a", rows=make_log(keep=0.5)[:1], finished=False)
        assert selection_plot(read_input([folder]).groups) is None


def test_runs_of_unequal_length_end_where_each_ended(make_run, make_log, tmp_path: Path) -> None:
    """Equal seconds: all have finished, after more steps or fewer."""
    for seed, rows in enumerate((25, 15)):
        make_run(tmp_path / "c" / f"ohem-seed{seed}", rows=make_log(level=seed)[:rows])
    groups = read_input([tmp_path / "c"]).groups
    for by in ("tokens", "seconds"):
        plot = curve_plot(groups, CURVES[f"validation-loss-by-{by}"])
        lasts = [run.series("val/loss")[1][-1] for run in groups[0].runs]
        assert plot is not None
        assert f"At the end: ohem {np.mean(lasts):.4g}." in plot.caption


def test_thinning_keeps_the_mean_of_the_line() -> None:
    x, y = np.arange(4000.0), np.random.default_rng(0).normal(size=4000)
    fewer_x, fewer_y = thin(x, y)
    assert len(fewer_x) == len(fewer_y) == 400
    assert fewer_y.mean() == pytest.approx(y.mean())
    assert fewer_x.mean() == pytest.approx(x.mean())
    assert np.all(np.diff(fewer_x) > 0)


class TestOthers:
    def test_the_forest_has_each_difference_with_its_interval(self, data: ReportInput) -> None:
        (result,) = data.comparisons
        lines = lines_of(forest_plot(result))
        drawn = [(x.tolist(), y.tolist()) for x, y, _ in lines]
        for place, row in enumerate(result.rows[1:]):
            assert row.difference is not None
            assert ([row.difference.low, row.difference.high], [place, place]) in drawn
            assert ([row.difference.mean], [place]) in drawn

    def test_the_forest_says_the_verdict(self, data: ReportInput) -> None:
        plot = forest_plot(data.comparisons[0])
        assert plot is not None
        said = [text.get_text() for text in plot.figure.axes[0].texts]
        assert said == ["+0.0330\nworse", "+0.0003\nno difference shown"]

    def test_what_was_selected_adds_up(self, single: ReportInput) -> None:
        plot = selection_plot(single.groups)
        assert plot is not None
        (axis,) = plot.figure.axes
        tops = [area.get_paths()[0].vertices[:, 1].max() for area in axis.collections]
        first = single.runs[0].series("train/kept_below_1")[1]
        assert tops[0] == pytest.approx(100 * first.max())
        assert tops[-1] == pytest.approx(100)

    def test_perplexity_of_each_part_without_the_undefined(self, data: ReportInput) -> None:
        plot = groups_plot(data.groups[2:], breakdowns(data), "n", "t", "x", "s")
        x, mean, _ = lines_of(plot)[-1]
        assert x.tolist() == [0, 1, 2]
        expected = [np.mean([math.exp(1 + 0.01 * s) for s in range(3)])]
        expected += [np.mean([math.exp(2.1 + 0.01 * s) for s in range(3)]), math.exp(3)]
        np.testing.assert_allclose(mean, expected)
        assert plot is not None
        ticks = [tick.get_text() for tick in plot.figure.axes[0].get_xticklabels()]
        assert ticks == ["1", "2", "3"]

    def test_differences_are_paired_by_seed(self, data: ReportInput) -> None:
        plot = group_differences_plot(data.groups, breakdowns(data), "n", "t", "x")
        assert plot is not None
        bars = [patch.get_height() for patch in plot.figure.axes[0].patches]
        np.testing.assert_allclose(bars, [0, 0, 0, 0, 0.1, 0], atol=1e-12)
        dots = [y for _, y, _ in lines_of(plot) if len(y) == 3]
        np.testing.assert_allclose(dots, [[0, 0, 0]] * 3 + [[0, 0.1, 0]] * 3, atol=1e-12)

    def test_seeds_that_were_not_scored_pair_with_none(self, data: ReportInput) -> None:
        """Two of three seeds in either group, but not the same two: the mean is all there is."""
        parts = breakdowns(data)
        del parts["full-seed1"], parts["ohem-seed0"]
        plot = group_differences_plot([data.groups[0], data.groups[2]], parts, "n", "t", "x")
        dots = [y for _, y, _ in lines_of(plot) if len(y) == 3]
        np.testing.assert_allclose(dots, [[0, 0.1, 0], [0.01, 0.11, 0]], atol=1e-12)

    @pytest.mark.parametrize(
        ("tokens", "left_out"),
        [
            ((4, 4), " Left out, with fewer than 100 tokens: unseen (4)."),
            ((99, 5_000), " Left out, with fewer than 100 tokens: unseen (99 to 5,000)."),
            ((100, 101), ""),
        ],
    )
    def test_a_part_of_a_few_tokens_is_left_out_and_counted(
        self, make_run, tmp_path: Path, tokens: tuple[int, int], left_out: str
    ) -> None:
        groups = read_input([make_run(tmp_path / name) for name in "ab"]).groups
        parts = {
            name: [Group("top 10", 900, 1.0, 0.5), Group("unseen", n, 9.0, 0.5)]
            for name, n in zip("ab", tokens, strict=True)
        }
        plots = [
            groups_plot(groups, parts, "n", "t", "x", "Says."),
            group_differences_plot(groups, parts, "n", "t", "x"),
        ]
        for plot in plots:
            assert plot is not None
            assert plot.caption.partition(" Lines that")[0].endswith("." + left_out)
            ticks = [tick.get_text() for tick in plot.figure.axes[0].get_xticklabels()]
            assert ticks == ["top 10"] + ["unseen"] * (not left_out)

    def test_where_all_parts_are_small_there_is_no_figure(self, single: ReportInput) -> None:
        parts = {"mined": [Group("1", 99, 1.0, 0.5), Group("2", 5, 1.0, 0.5)]}
        assert groups_plot(single.groups, parts, "n", "t", "x", "s") is None
        assert group_differences_plot(single.groups, parts, "n", "t", "x") is None

    def test_below_three_seeds_the_forest_has_no_interval(self, comparison: Path) -> None:
        from tinyohem.experiments.folder import read_runs
        from tinyohem.experiments.table import summarise

        rows = summarise([run for run in read_runs(comparison) if run.seed < 2])
        plot = forest_plot(ComparisonResult("two", rows, [0, 1, 2]))
        assert plot is not None
        assert [len(x) for x, _, _ in lines_of(plot)] == [1, 1, 2]  # two means, and the zero line
        said = [text.get_text() for text in plot.figure.axes[0].texts]
        assert said == ["+0.0325\ntoo few seeds", "-0.0005\ntoo few seeds"]
        assert plot.caption.endswith("means over the seeds. Fewer than 3 seeds have no interval.")

    def test_one_group_has_no_differences(self, single: ReportInput) -> None:
        parts = {"mined": [Group("1", 100, 1.0, 1.0)]}
        assert group_differences_plot(single.groups, parts, "n", "t", "x") is None
        assert groups_plot(single.groups, {}, "n", "t", "x", "s") is None
        assert shares_plot(single.groups, {}) is None

    def test_shares_of_tokens_and_loss(self, single: ReportInput) -> None:
        parts = {"mined": [Group("<1", 30, 0.5, 0.1), Group(">5", 10, 6.0, 0.9)]}
        plot = shares_plot(single.groups, parts)
        assert plot is not None
        widths = [[patch.get_width() for patch in axis.patches] for axis in plot.figure.axes]
        np.testing.assert_allclose(widths, [[75, 0, 0, 25], [10, 0, 0, 90]])


class TestLegibility:
    def test_every_figure_has_title_axes_legend_and_a_caption(self, data: ReportInput) -> None:
        plots = all_plots(data)
        assert len(plots) == len(CURVES) + 5
        assert len({plot.name for plot in plots}) == len({plot.title for plot in plots})
        for plot in plots:
            assert plot.title, plot.name
            assert plot.caption.endswith("."), plot.name
            axes = plot.figure.axes
            assert axes[-1].get_xlabel(), plot.name
            named = [bool(a.get_ylabel() or a.get_yticklabels()[0].get_text()) for a in axes]
            assert all(named), plot.name
            if not plot.name.startswith("paired"):  # its rows are named at the axis
                assert plot.figure.legends, plot.name

    def test_nothing_leaves_a_figure(self, data: ReportInput) -> None:
        for plot in all_plots(data):
            figure = plot.figure
            figure.draw_without_rendering()
            box, page = figure.get_tightbbox(), figure.get_size_inches()
            assert box.x0 >= -0.02, plot.name
            assert box.y0 >= -0.02, plot.name
            assert box.x1 <= page[0] + 0.02, plot.name
            assert box.y1 <= page[1] + 0.02, plot.name

    @pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
    def test_series_stand_out_from_the_background(self, mode: int) -> None:
        """WCAG 2.2 asks 3:1 of graphics and 4.5:1 of text."""
        surface = COLOURS["surface"][mode]
        for role in SERIES:
            assert contrast(COLOURS[role][mode], surface) >= 3, role
        for role in ("ink", "muted"):
            assert contrast(COLOURS[role][mode], surface) >= 4.5, role

    def test_long_names_are_cut_in_the_middle(self) -> None:
        assert shorten("short") == "short"
        cut = shorten("runs/tinystories-2m-with-a-very-long-name-seed17")
        assert len(cut) <= 34
        assert cut.startswith("runs/tiny")
        assert cut.endswith("seed17")


class TestSvg:
    def test_it_turns_with_the_page_and_asks_for_nothing(self, data: ReportInput) -> None:
        light = {values[0] for values in COLOURS.values()}
        for plot in all_plots(data):
            markup = inline_svg(to_svg(plot.figure), "p-")
            assert not light & set(re.findall(r"#[0-9a-f]{6}", markup)), plot.name
            assert "var(--ink)" in markup
            assert "http" not in markup
            assert "DejaVu" not in markup
            root = ElementTree.fromstring(markup)
            ids = {element.get("id") for element in root.iter()} - {None}
            assert all(str(name).startswith("p-") for name in ids)
            used = set(re.findall(r'(?:href="|url\()#([^")]+)', markup))
            assert used <= ids, plot.name

    def test_text_stays_text(self, make_run, tmp_path: Path) -> None:
        names = [
            "<script>alert(1)<script>",
            '"><img src=x onerror=alert(1)>',
            "$x$",
            "_a",
            "#0072b2",
        ]
        groups = read_input([make_run(tmp_path / name) for name in names]).groups
        plot = curve_plot(groups, CURVES["keep-ratio"])
        assert plot is not None
        markup = inline_svg(to_svg(plot.figure), "p-")
        root = ElementTree.fromstring(markup)
        shown = {"".join(element.itertext()) for element in root.iter("text")}
        assert set(names) <= shown
        assert {element.tag for element in root.iter()} <= {
            "svg",
            "defs",
            "g",
            "path",
            "clipPath",
            "rect",
            "use",
            "text",
            "tspan",
        }

    def test_the_same_figure_gives_the_same_bytes(self, single: ReportInput) -> None:
        first, second = (
            to_svg(curve_plot(single.groups, CURVES["keep-ratio"]).figure)  # type: ignore[union-attr]
            for _ in range(2)
        )
        assert first == second

    def test_files_have_the_light_colours(self, single: ReportInput) -> None:
        plot = curve_plot(single.groups, CURVES["keep-ratio"])
        assert plot is not None
        svg = to_svg(plot.figure).decode()
        assert colour("surface") in svg
        assert "var(" not in svg
        assert to_png(plot.figure).startswith(b"\x89PNG")


def contrast(a: str, b: str) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    bright, dim = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
