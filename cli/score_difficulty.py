"""`tinyohem score-difficulty`: how hard every story of a corpus is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinyohem_cli.console import console_progress

if TYPE_CHECKING:
    from tinyohem.difficulty.summary import ScoreSummary
    from tinyohem.difficulty.table import ScoreTable

_SHOWN_CHARACTERS = 160

Dataset = Annotated[str, typer.Option(help="Hub id, story file, folder, glob, or `sample`")]
Out = Annotated[Path, typer.Option(help="Folder for scores.parquet, its manifest and report")]
Workers = Annotated[
    int | None, typer.Option(help="Processes; by default one for each core", show_default=False)
]
TextField = Annotated[str, typer.Option(help="Field that holds the story")]
LengthControl = Annotated[
    str, typer.Option(help="Of the compression ratio: raw, prefix, windows or residual")
]
Threshold = Annotated[float, typer.Option(help="Type-token ratio that ends a factor of MTLD")]
Closing = Annotated[str, typer.Option(help="A factor ends at_or_below or below the threshold")]
MinSegment = Annotated[int, typer.Option(help="Fewest words of a factor of MTLD")]
Show = Annotated[
    Path | None, typer.Option(help="Only show the report of this score folder", show_default=False)
]


def score_difficulty(
    dataset: Dataset = "roneneldan/TinyStories",
    out: Out = Path("scores"),
    workers: Workers = None,
    text_field: TextField = "text",
    length_control: LengthControl = "residual",
    mtld_threshold: Threshold = 0.72,
    mtld_closing: Closing = "at_or_below",
    mtld_min_segment: MinSegment = 1,
    show: Show = None,
) -> None:
    """Score how hard each story is (compression ratio, MTLD, Flesch, length) and report."""
    from tinyohem.data.corpus import open_corpus
    from tinyohem.difficulty.batch import ScoringRules
    from tinyohem.difficulty.metrics import CompressionRule
    from tinyohem.difficulty.mtld import MtldRule
    from tinyohem.difficulty.scoring import score_corpus
    from tinyohem.difficulty.table import open_scores

    if show is not None:
        _report(open_scores(show))
        return
    rules = ScoringRules(
        CompressionRule(length_control=length_control),  # type: ignore[arg-type]  # it checks
        MtldRule(mtld_threshold, mtld_closing, mtld_min_segment),  # type: ignore[arg-type]
    )
    progress = console_progress()
    corpus = open_corpus(dataset, text_field=text_field, progress=progress)
    _report(score_corpus(corpus, out, rules=rules, workers=workers, progress=progress))


def _report(table: "ScoreTable") -> None:
    from tinyohem.difficulty.page import write_page
    from tinyohem.difficulty.summary import summarise
    from tinyohem.errors import InputError

    progress = console_progress()
    summary = summarise(table)
    console = Console()
    for part in (_quantiles(summary), _correlations(summary), _flags(summary), *_examples(summary)):
        console.print(part)
    for metric, rho in summary.confounded.items():
        progress.warn(f"{metric} goes with length (Spearman {rho:.2f}): it mostly sorts by length")
    try:
        for path in write_page(summary, table.folder):
            progress.note(f"wrote {path}")
    except InputError as error:  # the report is shown already, the page is a bonus
        progress.note(f"{error.message}; {error.hint}")


def _quantiles(summary: "ScoreSummary") -> Table:
    from tinyohem.difficulty.summary import QUANTILES

    stories = f"{summary.manifest['stories']:,} stories"
    title = f"{stories}: values from the easiest (0 %) to the hardest (100 %)"
    table = Table("metric", *(f"{percent} %" for percent in QUANTILES), "undefined", title=title)
    for metric, values in summary.quantiles.items():
        undefined = summary.manifest["metrics"][metric]["undefined"]
        table.add_row(metric, *(f"{value:.4g}" for value in values), f"{undefined:,}")
    return table


def _correlations(summary: "ScoreSummary") -> Table:
    table = Table("", *summary.metrics, title="Spearman correlation of the difficulties")
    for metric in summary.metrics:
        row = (f"{summary.correlations[metric, other]:.2f}" for other in summary.metrics)
        table.add_row(metric, *row)
    return table


def _flags(summary: "ScoreSummary") -> Table:
    table = Table("flag", "stories", title="Flagged stories")
    for flag, count in summary.manifest["flags"].items():
        table.add_row(flag, f"{count:,}")
    return table


def _examples(summary: "ScoreSummary") -> list[Table]:
    from rich.text import Text

    def cell(story: dict | None) -> Text:  # Text: a story may hold what looks like markup
        if story is None:
            return Text("")
        opening = " ".join(story["opening"].split())[:_SHOWN_CHARACTERS]
        return Text(f"{story['row']:,} ({story['value']:.4g}): {opening}")

    tables = []
    for metric, ends in summary.examples.items():
        table = Table(
            "easiest", "hardest", title=f"By {metric}: row (value) and opening", show_lines=True
        )
        for index in range(max(len(ends["easiest"]), len(ends["hardest"]))):
            table.add_row(
                *(cell(end[index] if index < len(end) else None) for end in ends.values())
            )
        tables.append(table)
    return tables
