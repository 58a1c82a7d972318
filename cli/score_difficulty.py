"""`tinyohem score-difficulty`: how hard every story of a corpus is."""

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem.config.difficulty import ADDED_METRICS, METRICS, MTLD_THRESHOLD
from tinyohem_cli import options

if TYPE_CHECKING:
    from rich.text import Text

    from tinyohem.difficulty.score_table import ExampleRecord
    from tinyohem.difficulty.summary import ScoreSummary
    from tinyohem.difficulty.target_record import TargetRecord
    from tinyohem.report.score_difficulty import DifficultyReport
    from tinyohem_cli.console import Table

EPILOG = "\n\n".join(
    [
        *(
            f"{name}: {metric.label}; {metric.harder} is harder; undefined {metric.undefined}"
            for name, metric in METRICS.items()
        ),
        *(f"{name}: see {metric.option}" for name, metric in ADDED_METRICS.items()),
    ]
)
_SHOWN_PERCENTS = (0, 5, 50, 95, 100)
_SHOWN_STORIES = 4  # on each side of the line of a target
_SHOWN_CHARACTERS = 56  # of an opening: two lines of a table of 80 columns

Out = Annotated[
    str,
    typer.Option("--out", help="Folder of scores.parquet, its manifest and report, or its URL"),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes; default: one for each core")
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="local: this machine; ray: the cluster that $RAY_ADDRESS names, else one started "
        "here (needs the extra `ray`). The scores are the same",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Run, folder or Hub id of a tokenizer: adds `fertility`, its tokens per word; "
        "default: none",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Run, checkpoint, folder or Hub id of a model: adds `model_loss`, the nats per token "
        "that it gives each story; default: none",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="Some hundred stories of the wanted kind, as --dataset: adds `target_ngram`, the nats "
        "per word of each story under an n-gram model of them, and shows where their own line "
        "lies. A fifth of them is held out to validate, as `train` does without --valid; default: "
        "none",
    ),
]
LengthControl = Annotated[
    str,
    typer.Option(
        "--length-control",
        help="What keeps the compression ratio from sorting by length: residual, prefix, "
        "windows, or raw for nothing",
    ),
]
Threshold = Annotated[
    float, typer.Option("--mtld-threshold", help="Type-token ratio that completes a factor of MTLD")
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
    Path | None,
    typer.Option("--show", help="Only show the report of this score folder; default: none"),
]


def score_difficulty(
    dataset: options.Dataset = None,
    out: Out = "scores",
    workers: Workers = None,
    engine: EngineName = "local",
    text_field: options.TextField = None,
    tokenizer: Tokenizer = None,
    model: Model = None,
    target: Target = None,
    device: options.Device = None,
    length_control: LengthControl = "residual",
    mtld_threshold: Threshold = MTLD_THRESHOLD,
    mtld_closing: Closing = "at_or_below",
    mtld_min_segment: MinSegment = 1,
    show: Show = None,
    as_json: options.Json = False,
) -> None:
    """Score how hard each story is by several metrics, and rank the corpus by each.

    Stories are scored as they stand, before any --clean; the scores are ranked within the corpus
    and tied to it. A pass that was stopped goes on where it was when the same command runs again;
    --tokenizer and --model add to a finished one, --target begins a new one.
    """
    from tinyohem.config.data import DataConfig
    from tinyohem.difficulty.metrics import CompressionRule
    from tinyohem.difficulty.mtld import MtldRule
    from tinyohem.difficulty.score_batch import ScoringRules
    from tinyohem.difficulty.score_table import open_scores
    from tinyohem.report import score_difficulty as scoring
    from tinyohem_cli.console import ConsoleProgress, print_json

    progress = ConsoleProgress()
    if show is not None:
        report = scoring.report_on(open_scores(show), str(show), progress=progress)
    else:
        # The rules themselves refuse any other word.
        mtld = MtldRule(mtld_threshold, mtld_closing, mtld_min_segment)  # type: ignore[arg-type]
        compression = CompressionRule(length_control=length_control)  # type: ignore[arg-type]
        report = scoring.score_difficulty(
            DataConfig(**options.given({"dataset": dataset, "text_field": text_field})),
            out,
            ScoringRules(compression, mtld),
            engine=engine,
            workers=workers,
            tokenizer=tokenizer,
            model=model,
            target=target,
            device=device or "auto",
            progress=progress,
        )
    if as_json:
        print_json(report.to_json())
        return
    _print_summary(report)
    for page in report.pages:
        progress.note(f"wrote {report.place}/{page}")


def _print_summary(report: "DifficultyReport") -> None:
    """Print a screen of what a score folder says; its files and --json have the rest."""
    from tinyohem_cli.console import harmless, out

    summary = report.summary
    out.print(summary.outcome(), markup=False)
    out.print(_values(summary))
    if summary.target is None:
        out.print(_examples(summary))
    else:
        out.print(harmless(summary.told_line()), markup=False)
        out.print(_beside_line(summary.target))


def _values(summary: "ScoreSummary") -> "Table":
    from tinyohem.difficulty.summary import QUANTILES
    from tinyohem_cli.console import Table

    places = [QUANTILES.index(percent) for percent in _SHOWN_PERCENTS]
    title = "Values from the easiest story (0 %) to the hardest (100 %)"
    heads = [f"{percent} %" for percent in _SHOWN_PERCENTS]
    undefined = any(metric.undefined for metric in summary.manifest.metrics.values())
    heads += ["goes with length", *(["undefined"] if undefined else [])]
    table = Table("", title=title, title_justify="left", box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right")
    for name, metric in summary.manifest.metrics.items():
        rho = summary.correlations.get((name, "length"))
        cells = [
            *(f"{summary.quantiles[name][place]:.4g}" for place in places),
            "–" if rho is None or name == "length" else f"{rho:.2f}",
            f"{metric.undefined:,}",
        ]
        table.add_row(summary.label(name), *cells[: len(heads)])
    return table


def _examples(summary: "ScoreSummary") -> "Table":
    from tinyohem_cli.console import Table

    title = "The easiest and the hardest story: row (value) and opening"
    table = Table("", "easiest", "hardest", title=title, title_justify="left")
    for metric, ends in summary.examples.items():
        table.add_row(
            metric, *(_cell(next(iter(end), None)) for end in (ends.easiest, ends.hardest))
        )
    return table


def _beside_line(target: "TargetRecord") -> "Table":
    from tinyohem_cli.console import Table

    title = "Beside the line of the target: row (nats per word) and opening"
    table = Table("the last that pass", "the first that do not", title=title, title_justify="left")
    for last, first in zip_longest(
        target.passing[:_SHOWN_STORIES], target.failing[:_SHOWN_STORIES]
    ):
        table.add_row(_cell(last), _cell(first))
    return table


def _cell(story: "ExampleRecord | None") -> "Text":
    from rich.text import Text

    from tinyohem_cli.console import harmless

    if story is None:
        return Text("")
    opening = _shorten(" ".join(story.opening.split()))
    # Text, since a story may hold what looks like markup
    return Text(harmless(f"{story.row:,} ({story.value:.4g}): {opening}"))


def _shorten(text: str) -> str:
    """Return the beginning of a text, whole words where it has any."""
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    words, _, _ = text[: _SHOWN_CHARACTERS + 1].rpartition(" ")
    return f"{words or text[:_SHOWN_CHARACTERS]}…"
