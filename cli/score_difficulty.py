"""`tinyohem score-difficulty`: how hard every story of a corpus is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.data.fingerprint import EachFile
    from tinyohem.difficulty.score_corpus import Engine
    from tinyohem.difficulty.score_table import ScoreTable
    from tinyohem.difficulty.summary import ScoreSummary
    from tinyohem_cli.console import Table

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
        help="Run, folder or Hub id of a tokenizer: adds `fertility`, its tokens per word",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Run, checkpoint, folder or Hub id of a model: adds `model_loss`, the nats per token "
        "that it gives each story",
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
    dataset: options.Dataset = None,
    out: Out = "scores",
    workers: Workers = None,
    engine: EngineName = "local",
    text_field: options.TextField = None,
    tokenizer: Tokenizer = None,
    model: Model = None,
    device: options.Device = None,
    length_control: LengthControl = "residual",
    mtld_threshold: Threshold = 0.72,
    mtld_closing: Closing = "at_or_below",
    mtld_min_segment: MinSegment = 1,
    show: Show = None,
    as_json: options.Json = False,
) -> None:
    """Score how hard each story is: compression ratio, MTLD, Flesch reading ease, length.

    Stories are scored as they stand, before any --clean; the scores are ranked within the corpus
    and tied to it. A pass that was stopped goes on where it was when the same command runs again;
    --tokenizer and --model add to a finished one.
    """
    from tinyohem.config.data import DataConfig
    from tinyohem.data.corpus import open_corpus
    from tinyohem.difficulty.metrics import CompressionRule
    from tinyohem.difficulty.mtld import MtldRule
    from tinyohem.difficulty.remote_scores import scores_at
    from tinyohem.difficulty.score_batch import ScoringRules
    from tinyohem.difficulty.score_corpus import is_started, score_corpus
    from tinyohem.difficulty.score_table import open_scores
    from tinyohem.io.locks import sole_writer
    from tinyohem.io.remote import is_url
    from tinyohem_cli.console import ConsoleProgress

    if show is not None:
        _report(open_scores(show), str(show), None, as_json)
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
    data = DataConfig(**options.given({"dataset": dataset, "text_field": text_field}))
    with _engine(engine, workers) as (score, each):
        corpus = open_corpus(data.dataset, text_field=data.text_field, progress=progress, each=each)
        add = _additions(tokenizer, model, device or "auto")
        far = scores_at(out, score, progress) if is_url(out) else nullcontext((Path(out), score))
        with far as (folder, score), sole_writer(folder, progress=progress):
            began, anew = time.perf_counter(), not is_started(folder)
            table = score_corpus(
                corpus, folder, rules=rules, engine=score, workers=workers, progress=progress
            )
            seconds = time.perf_counter() - began
            for metric in add:
                table = metric(table, corpus, progress=progress)
            _report(table, out, table.stories / seconds if anew else None, as_json)


@contextmanager
def _engine(name: str, workers: int | None) -> Iterator[tuple["Engine", "EachFile"]]:
    """Yield what scores a corpus, and what hashes its files."""
    from tinyohem.difficulty.score_corpus import score_here
    from tinyohem.errors import InputError
    from tinyohem.system.processes import usable_cores

    if name == "local":
        yield score_here, map
    elif name == "ray":
        from tinyohem.difficulty.ray_engine import each_on_ray, ray_cluster, score_on_ray

        with ray_cluster(usable_cores() if workers is None else workers):
            yield score_on_ray, each_on_ray
    else:
        raise InputError(f"there is no engine {name}", "--engine local or --engine ray")


def _additions(tokenizer: str | None, model: str | None, device: str) -> list[Any]:
    """Load what metrics beyond the text need; a wrong name is told before the corpus is scored."""
    from functools import partial

    add: list[Any] = []
    if tokenizer is not None:
        from tinyohem.evaluation.story_metrics import add_fertility, load_tokenizer_of

        loaded = load_tokenizer_of(tokenizer)
        add.append(partial(add_fertility, tokenizer=loaded, name=tokenizer))
    if model is not None:
        from tinyohem.evaluation.story_metrics import add_model_loss
        from tinyohem.models.source import load_source

        add.append(partial(add_model_loss, source=load_source(model, device), name=model))
    return add


def _report(
    table: "ScoreTable", place: str, stories_per_second: float | None, as_json: bool
) -> None:
    """Print what the table says, and write it as a page beside it; `place` is the user's word."""
    from tinyohem.difficulty.score_table import MANIFEST_FILE, SCORES_FILE
    from tinyohem.difficulty.summary import summarise
    from tinyohem.errors import InputError
    from tinyohem.report.difficulty_page import write_page
    from tinyohem_cli.console import ConsoleProgress, out, print_json

    progress = ConsoleProgress()
    summary = summarise(table)
    pages: list[Path] = []
    for metric, rho in summary.confounded.items():
        progress.warn(f"{metric} goes with length (Spearman {rho:.2f}): it mostly sorts by length")
    try:
        pages = write_page(summary, table.folder)
    except InputError as error:  # without the extra `plots` the tables below are the report
        progress.note(f"no HTML report: {error.message}; {error.hint}")
    if as_json:
        speed = {"stories_per_second": stories_per_second}  # null where no whole pass was made
        names = (SCORES_FILE, MANIFEST_FILE, *(page.name for page in pages))
        print_json(summary.to_json() | speed | {"files": [f"{place}/{name}" for name in names]})
        return
    for part in (_quantiles(summary), _correlations(summary), _flags(summary), *_examples(summary)):
        out.print(part)
    for path in pages:
        progress.note(f"wrote {place}/{path.name}")


def _quantiles(summary: "ScoreSummary") -> "Table":
    from tinyohem.difficulty.summary import QUANTILES
    from tinyohem_cli.console import Table

    stories = f"{summary.manifest['stories']:,} stories"
    title = f"{stories}: values from the easiest (0 %) to the hardest (100 %)"
    table = Table("", *map(summary.label, summary.metrics), title=title)
    for percent, *values in zip(QUANTILES, *summary.quantiles.values(), strict=True):
        table.add_row(f"{percent} %", *(f"{value:.4g}" for value in values))
    undefined = (metric["undefined"] for metric in summary.manifest["metrics"].values())
    table.add_row("undefined", *(f"{stories:,}" for stories in undefined))
    return table


def _correlations(summary: "ScoreSummary") -> "Table":
    from tinyohem_cli.console import Table

    table = Table("", *summary.metrics, title="Spearman correlation of the difficulties")
    for metric in summary.metrics:
        row = (f"{summary.correlations[metric, other]:.2f}" for other in summary.metrics)
        table.add_row(metric, *row)
    return table


def _flags(summary: "ScoreSummary") -> "Table":
    from tinyohem_cli.console import Table

    table = Table("flag", "stories", title="Flagged stories")
    for flag, count in summary.manifest["flags"].items():
        table.add_row(flag, f"{count:,}")
    return table


def _examples(summary: "ScoreSummary") -> list["Table"]:
    from rich.text import Text

    from tinyohem_cli.console import Table, harmless

    def cell(story: dict[str, Any]) -> Text:  # Text: a story may hold what looks like markup
        opening = _shorten(" ".join(story["opening"].split()))
        return Text(harmless(f"{story['row']:,} ({story['value']:.4g}): {opening}"))

    tables = []
    for metric, ends in summary.examples.items():
        title = f"By {summary.label(metric)}: row (value) and opening"
        table = Table("easiest", "hardest", title=title)
        for easy, hard in zip(ends["easiest"], ends["hardest"], strict=True):
            table.add_row(cell(easy), cell(hard))
        tables.append(table)
    return tables


def _shorten(text: str) -> str:
    """Return the beginning of a text, whole words where it has any."""
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    words, _, _ = text[: _SHOWN_CHARACTERS + 1].rpartition(" ")
    return f"{words or text[:_SHOWN_CHARACTERS]}…"
