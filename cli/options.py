"""Options that several commands share, each with its unit and default in the help."""

from itertools import pairwise, starmap
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tinyohem.evaluation.perplexity import Perplexity
    from tinyohem.evaluation.table import Row

Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="Built-in recipe (`recipes list`) or a .toml file; default: none"
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Hub id, `sample` (built in, synthetic), file, folder or glob of .txt .jsonl .json "
        ".parquet .arrow, also .gz or .zst, here or by URL (s3://…, https://…); "
        "default: roneneldan/TinyStories",
    ),
]
Valid = Annotated[
    str | None,
    typer.Option(
        "--valid",
        help="Validation stories, as --dataset; default: the data set's own split, "
        "else every 50th story",
    ),
]
TextField = Annotated[
    str | None, typer.Option("--text-field", help="Field that holds the story; default: text")
]
Clean = Annotated[
    bool | None,
    typer.Option(
        "--clean/--no-clean",
        help="Repair mojibake, drop empty, cut-off and repeated stories, in each split by itself; "
        "default: no",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Hub id or folder; default: a byte-level BPE of 4,096 (on `sample` 2,048) is trained",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Size in parameters: 260k, 0.5m, 1m, 2m, 5m or 15m; default: 2m"),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        help="Budget in tokens (4M, 1e6, 1G), times the parameters (20x, 192x) or the corpus "
        "(1epoch); default: 20x",
    ),
]
ScoredModel = Annotated[
    str, typer.Argument(help="Run folder, checkpoint, transformers folder or Hub id")
]
ScoredDataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Stories to score, as for `train`: the validation split, or all where there are "
        "no splits; default: what the run was validated on",
    ),
]
SeqLen = Annotated[
    int | None,
    typer.Option("--seq-len", help="Context in tokens; default: the model's own", min=2),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        help="Tokens newly scored by each window of a story longer than the context; "
        "default: half the context",
        min=1,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="auto, cpu, cuda or cuda:N; default: auto (CUDA if there is one)"
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set any recipe key; repeatable"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else")]


def given(overrides: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that the user gave."""
    return {key: value for key, value in overrides.items() if value is not None}


def perplexity_table(perplexity: "Perplexity", title: str) -> "Table":
    """Lay out an evaluation for a person."""
    from rich.markup import escape
    from rich.table import Table

    figures = perplexity.to_json()
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for label, name, form in (
        ("perplexity per token", "perplexity", ".3f"),
        ("perplexity per word", "word_perplexity", ".2f"),
        ("perplexity per byte", "byte_perplexity", ".4f"),
        ("bits per byte", "bits_per_byte", ".4f"),
        ("loss (nats per token)", "loss", ".4f"),
        ("tokens", "tokens", ","),
        ("words", "words", ","),
        ("bytes", "bytes", ","),
        ("stories", "stories", ","),
    ):
        figure = figures[name]
        table.add_row(label, "too large" if figure is None else format(figure, form))
    return table


def comparison_tables(rows: "list[Row]") -> "list[Table]":
    """Lay out a comparison for a person: the verdicts, where the loss sits, how long it took."""
    from rich.table import Table

    from tinyohem.evaluation.table import CELLS, NUM_LOSS_CELLS, NUM_VERDICT_CELLS, cells, footnote

    ends = (1, NUM_VERDICT_CELLS, NUM_VERDICT_CELLS + NUM_LOSS_CELLS, len(CELLS))
    tables = []
    for part in starmap(slice, pairwise(ends)):
        tables.append(Table(CELLS[0], *CELLS[part]))
        for row in rows:
            arm, *_ = line = cells(row)
            tables[-1].add_row(arm, *line[part])
    tables[-1].caption = footnote(rows)
    return tables
