"""`tinyohem score-difficulty`: how hard every story of a corpus is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tinyohem.difficulty.summary import ScoreSummary
    from tinyohem.difficulty.table import ScoreTable

_SHOWN_CHARACTERS = 160

Dataset = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="Hub id, `sample` (built in, synthetic), file, folder or glob of .txt .jsonl .json "
        ".parquet, also .gz or .zst",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder of scores.parquet, its manifest and report")
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes; default: one for each core")
]
TextField = Annotated[str, typer.Option("--text-field", help="Field that holds the story")]
LengthControl = Annotated[
    str,
    typer.Option(
        "--length-control",
        help="What keeps the compression ratio from sorting by length: residual, prefix, "
        "windows, or raw for nothing",
    ),
]
Threshold = Annotated[
    float, typer.Option("--mtld-threshold", help="Type-token ratio that completes a factor")
]
Closing = Annotated[
    str,
    typer.Option(
        "--mtld-closing",
        help="at_or_below that ratio (LexicalRichness) or below (lexical-diversity)",
    ),
]
MinSegment = Annotated[
    int, typer.Option("--mtld-min-segment", help="Fewest words of a complete factor")
]
Show = Annotated[
    Path | None, typer.Option("--show", help="Only show the report of this score folder")
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
    """Score how hard each story is: compression ratio, MTLD, Flesch reading ease, length.

    The scores are ranked within the corpus and tied to it. A pass that was stopped goes on where it
    was when the same command runs again.
    """
    from tinyohem.data.corpus import open_corpus
    from tinyohem.difficulty.batch import ScoringRules
    from tinyohem.difficulty.metrics import CompressionRule
    from tinyohem.difficulty.mtld import MtldRule
    from tinyohem.difficulty.scoring import score_corpus
    from tinyohem.difficulty.table import open_scores
    from tinyohem_cli.console import ConsoleProgress

    if show is not None:
        _report(open_scores(show))
        return
    # The rules themselves refuse any other word.
    compression: Any = {"length_control": length_control}
    mtld: Any = {
        "threshold": mtld_threshold,
        "closing": mtld_closing,
        "min_segment": mtld_min_segment,
    }
    rules = ScoringRules(CompressionRule(**compression), MtldRule(**mtld))
    progress = ConsoleProgress()
    corpus = open_corpus(dataset, text_field=text_field, progress=progress)
    _report(score_corpus(corpus, out, rules=rules, workers=workers, progress=progress))


def _report(table: "ScoreTable") -> None:
    from tinyohem.difficulty.page import write_page
    from tinyohem.difficulty.summary import summarise
    from tinyohem.errors import InputError
    from tinyohem_cli.console import ConsoleProgress, out

    progress = ConsoleProgress()
    summary = summarise(table)
    for part in (_quantiles(summary), _correlations(summary), _flags(summary), *_examples(summary)):
        out.print(part)
    for metric, rho in summary.confounded.items():
        progress.warn(f"{metric} goes with length (Spearman {rho:.2f}): it mostly sorts by length")
    try:
        for path in write_page(summary, table.folder):
            progress.note(f"wrote {path}")
    except InputError as error:  # without the extra `plots` the tables above are the report
        progress.note(f"no HTML report: {error.message}; {error.hint}")


def _quantiles(summary: "ScoreSummary") -> "Table":
    from rich.table import Table

    from tinyohem.difficulty.summary import QUANTILES

    stories = f"{summary.manifest['stories']:,} stories"
    title = f"{stories}: values from the easiest (0 %) to the hardest (100 %)"
    table = Table("", *summary.metrics, title=title)
    for percent, *values in zip(QUANTILES, *summary.quantiles.values(), strict=True):
        table.add_row(f"{percent} %", *(f"{value:.4g}" for value in values))
    undefined = (metric["undefined"] for metric in summary.manifest["metrics"].values())
    table.add_row("undefined", *(f"{stories:,}" for stories in undefined))
    return table


def _correlations(summary: "ScoreSummary") -> "Table":
    from rich.table import Table

    table = Table("", *summary.metrics, title="Spearman correlation of the difficulties")
    for metric in summary.metrics:
        row = (f"{summary.correlations[metric, other]:.2f}" for other in summary.metrics)
        table.add_row(metric, *row)
    return table


def _flags(summary: "ScoreSummary") -> "Table":
    from rich.table import Table

    table = Table("flag", "stories", title="Flagged stories")
    for flag, count in summary.manifest["flags"].items():
        table.add_row(flag, f"{count:,}")
    return table


def _examples(summary: "ScoreSummary") -> list["Table"]:
    from rich.table import Table
    from rich.text import Text

    def cell(story: dict[str, Any]) -> Text:  # Text: a story may hold what looks like markup
        opening = " ".join(story["opening"].split())[:_SHOWN_CHARACTERS]
        return Text(f"{story['row']:,} ({story['value']:.4g}): {opening}")

    tables = []
    for metric, ends in summary.examples.items():
        title = f"By {metric}: row (value) and opening"
        table = Table("easiest", "hardest", title=title, show_lines=True)
        for easy, hard in zip(ends["easiest"], ends["hardest"], strict=True):
            table.add_row(cell(easy), cell(hard))
        tables.append(table)
    return tables
