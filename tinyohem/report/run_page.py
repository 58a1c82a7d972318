"""One page about one or several runs: self-contained HTML, every figure also as PNG and SVG."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tinyohem import __version__
from tinyohem.config.difficulty import metric_label
from tinyohem.errors import InputError
from tinyohem.evaluation.inspect_story import InspectedStory
from tinyohem.experiments.table import footnote
from tinyohem.io.atomic import atomic_file
from tinyohem.progress import SILENT, Progress
from tinyohem.report.chosen import choice_plots, choices_of, choices_table, examples_table
from tinyohem.report.curves import CURVES, FULL, CurveSpec, Plot, curve_plot
from tinyohem.report.figures import (
    LEAST_TOKENS,
    forest_plot,
    group_differences_plot,
    groups_plot,
    selection_plot,
    shares_plot,
)
from tinyohem.report.finished_models import Scores, score_runs
from tinyohem.report.html import require_plots, write_html
from tinyohem.report.run_logs import ReportInput, RunGroup, read_input
from tinyohem.report.style import (
    COLOURS,
    PALETTES,
    SERIES,
    figure_style,
    inline_svg,
    to_png,
    to_svg,
)
from tinyohem.report.summary import what_came_out
from tinyohem.report.tables import (
    Table,
    comparison_tables,
    environment_table,
    runs_table,
    settings_table,
)

_TITLE_LETTERS = 80


@dataclass
class Section:
    """A section of the page."""

    name: str  # of its anchor
    title: str
    intro: str = ""
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    story: InspectedStory | None = None
    missing: list[str] = field(default_factory=list)  # what is not shown, and why

    @property
    def rows(self) -> list[tuple[Plot, bool]]:
        """Return the plots, and whether each has a row to itself: it is wide, or the odd one."""
        paired = [plot for plot in self.plots if not plot.wide]
        odd = paired[-1] if len(paired) % 2 else None
        return [(plot, plot.wide or plot is odd) for plot in self.plots]


def write_report(folders: Sequence[Path], out: Path, progress: Progress = SILENT) -> list[Path]:
    """Write the page, and its figures into a folder beside it.

    Args:
        folders: of runs, finished or not, and of comparisons.

    Returns:
        The page and the folder of its figures.

    Raises:
        InputError: a folder holds no run or a damaged one, or matplotlib or jinja2 is missing.
    """
    require_plots("the report")
    if out.is_dir():
        raise InputError(f"{out} is a folder", "name the page itself: --out report.html")
    data = read_input(folders)
    warnings = [*data.warnings, *filter(None, [data.incomparable])]
    for warning in warnings:
        progress.warn(warning)
    scores = score_runs(data.runs, progress)
    with figure_style():
        sections = _sections(data, scores)
        figures = out.with_name(f"{out.stem}_figures")
        plots = [plot for section in sections for plot in section.plots]
        pictures = _draw(plots, figures, progress)
    write_html(
        out,
        "report.html.jinja",
        title=_title([g.name for g in data.groups] or [r.label for r in data.comparisons]),
        came_out=what_came_out(data),
        warnings=warnings,
        sections=sections,
        pictures=pictures,
        figures=quote(os.fsencode(figures.name)),
        colours=COLOURS,
        series=SERIES,
        palettes=PALETTES,
        version=__version__,
    )
    return [out, figures]


def _title(names: Sequence[str]) -> str:
    """Return the names as a title; those that do not fit are counted."""
    shown = 1
    while shown < len(names) and len(", ".join(names[: shown + 1])) <= _TITLE_LETTERS:
        shown += 1
    more = f" and {len(names) - shown} more" if shown < len(names) else ""
    return ", ".join(names[:shown]) + more


def _draw(plots: Sequence[Plot], folder: Path, progress: Progress) -> dict[str, str]:
    """Write every figure as PNG and SVG; return each as markup for the page."""
    pictures = {}
    progress.start("draw", len(plots), "figures")
    for done, plot in enumerate(plots, 1):
        svg = to_svg(plot.figure)
        for suffix, content in ((".svg", svg), (".png", to_png(plot.figure))):
            with atomic_file(folder / f"{plot.name}{suffix}") as stream:
                stream.write(content)
        pictures[plot.name] = inline_svg(svg, f"{plot.name}-")
        progress.advance(done)
    progress.finish()
    return pictures


def _sections(data: ReportInput, scores: Scores) -> list[Section]:
    groups = data.groups
    if not groups:
        return _comparisons(data)
    losses = CURVES["loss"] + (CURVES["bits"] if data.incomparable else [])
    return [
        *_comparisons(data),
        Section("runs", "Runs", _RUNS_INTRO, [runs_table(groups)]),
        *_chosen(groups),
        _curves("loss", "Loss", groups, losses),
        _selection(groups),
        _where_the_loss_sits(groups, scores),
        *_story(scores),
        _curves("optimisation", "Optimisation", groups, CURVES["optimisation"]),
        _settings(groups),
        Section("environment", "Data and machine", "", [environment_table(data.runs)]),
    ]


_RUNS_INTRO = (
    "Perplexity and bits per byte are of the validation tokens that the run was scored on, "
    "unweighted; “so far” marks those of a run that goes on, on the head of the validation stories."
)


def _chosen(groups: Sequence[RunGroup]) -> list[Section]:
    choices = choices_of(groups)
    if not choices:
        return []
    intro = (
        "Runs that train on a part of their pool only; the columns say why the rest was dropped."
    )
    table = choices_table(choices)
    sections = [Section("chosen", "Chosen stories", intro, [table], choice_plots(choices))]
    examples = examples_table(choices)
    if examples.rows:
        intro = "The beginnings of the stories whose scores come nearest to the line."
        sections.append(Section("near-the-line", "Either side of the line", intro, [examples]))
    return sections


def _comparisons(data: ReportInput) -> list[Section]:
    sections = []
    for number, result in enumerate(data.comparisons, 1):
        several = len(data.comparisons) > 1
        plot = forest_plot(result, f"-{number}" if several else "")
        sections.append(
            Section(
                f"comparison-{number}",
                f"Comparison {result.label}" if several else "Comparison",
                f"Differences are paired, seed by seed; {footnote(result.rows)}.",
                comparison_tables(result),
                [plot] if plot else [],
            )
        )
    return sections


def _curves(
    name: str, title: str, groups: Sequence[RunGroup], specs: Sequence[CurveSpec]
) -> Section:
    section = Section(name, title)
    for spec in specs:
        plot = curve_plot(groups, spec)
        if plot is not None:
            section.plots.append(plot)
        else:
            section.missing.append(f"{spec.title}: no run has recorded {spec.key}.")
    return section


def _selection(groups: Sequence[RunGroup]) -> Section:
    kept = [run.series("train/keep_ratio")[1] for group in groups for run in group.runs]
    all_kept = any(map(len, kept)) and not any((shares < FULL).any() for shares in kept)
    section = _curves("selection", "Selection", groups, () if all_kept else CURVES["selection"])
    if all_kept:
        section.missing.append("No run has left a token out so far.")
    plot = selection_plot(groups)
    if plot is not None:
        section.plots.append(plot)
    else:
        section.missing.append("What was selected, by loss: no run has recorded it twice.")
    return section


def _where_the_loss_sits(groups: Sequence[RunGroup], scores: Scores) -> Section:
    plots, missing = [shares_plot(groups, scores.by["loss"])], []
    difficulty = metric_label(scores.metric)
    for way, axis, says in _WAYS:
        parts, says = scores.by[way], says.format(difficulty=difficulty)
        title = f"Perplexity by {way}"
        plots.append(groups_plot(groups, parts, f"perplexity-by-{way}", title, axis, says))
        if any(parts.values()) and plots[-1] is None:
            missing.append(f"{title}: no part has {LEAST_TOKENS} tokens.")
        title = f"Loss by {way}"
        plots.append(group_differences_plot(groups, parts, f"difference-by-{way}", title, axis))
    intro = "Finished models on all their validation stories."
    return Section(
        "breakdown",
        "Where the loss sits",
        intro if any(plots) else "",
        plots=[plot for plot in plots if plot is not None],
        missing=[*missing, *scores.missing],
    )


_WAYS = (  # of `diagnose.By`: the horizontal axis, what the figure shows
    (
        "difficulty",
        "decile of the story's difficulty, easiest to hardest",
        "Perplexity per token in each tenth of the stories, by their {difficulty}.",
    ),
    (
        "frequency",
        "rank of the token type in the training split",
        "Perplexity of tokens by how often their type occurs in training, the most frequent first.",
    ),
)


def _story(scores: Scores) -> list[Section]:
    if not scores.stories:
        return []
    label, story = next(iter(scores.stories.items()))
    intro = (
        f"How hard each token of a validation story is for {label}, and which of them top-k would "
        "keep if it ranked this story alone; in training it ranks a whole batch."
    )
    return [Section("story", "One story", intro, story=story)]


def _settings(groups: Sequence[RunGroup]) -> Section:
    table = settings_table(groups)
    if len(groups) == 1:
        return Section("settings", "Settings", "What differs from the defaults.", [table])
    intro = "Only what differs between the runs."
    return Section("settings", "Settings", intro if table.rows else "All runs share them.", [table])
