"""Options that several commands share, each with its unit and default in the help."""

from collections.abc import Collection
from itertools import pairwise, starmap
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tinyohem.evaluation.perplexity import Perplexity
    from tinyohem.experiments.table import Row
    from tinyohem_cli.console import Table

# What other programs call those of our options that set no key of a recipe.
_OPTIONS = dict.fromkeys(("output", "output-dir", "output_dir", "out-dir", "run-dir"), "--out")
_OPTIONS |= dict.fromkeys(("config", "config-file", "cfg"), "--recipe")
_OPTIONS |= dict.fromkeys(("continue", "resume-from-checkpoint", "restart"), "--resume")

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
        "else 1 story in 50, chosen by a hash of its text; stories that are in both are told",
    ),
]
TextField = Annotated[
    str | None, typer.Option("--text-field", help="Field that holds the story; default: text")
]
Clean = Annotated[
    bool | None,
    typer.Option(
        "--clean/--no-clean",
        help="Repair mojibake; drop stories that are empty, begin or end inside a sentence, repeat "
        "an earlier one, or train and validate; default: no",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Hub id or folder; one that loses text costs the figures per byte and per word; "
        "default: a byte-level BPE of 4,096 (on `sample` 2,048) is trained",
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
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", help="Sequences of an optimizer step, of all GPUs; default: 8"),
]
WindowLen = Annotated[
    int | None, typer.Option("--seq-len", help="Tokens of a training window; default: 256")
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        help="Highest learning rate; default: by the width of the model, 5.7e-3 for `2m`; "
        "5e-5 with --init-from",
    ),
]
EvalEvery = Annotated[
    int | None,
    typer.Option(
        "--eval-every",
        help="Optimizer steps between two validations; default: ten of them in a run",
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
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Set any recipe key, `null` for none; repeatable"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else")]


def given(overrides: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that the user gave."""
    return {key: value for key, value in overrides.items() if value is not None}


def suggest_option(name: str, known: Collection[str]) -> str:
    """Return `; did you mean …?` for an unknown option, by meaning, then by spelling; or nothing.

    Args:
        known: the options of the command.
    """
    from tinyohem.config.aliases import meant_key, nearest, remark
    from tinyohem.config.run import known_keys

    word = name.lstrip("-")
    key = meant_key(word, known_keys()) or ""
    section, _, rest = key.replace("_", "-").partition(".")
    whole = section if rest in ("preset", "name", "enabled") else rest
    for option in (f"--{whole}", f"--{rest}", f"--{section}-{rest}", _OPTIONS.get(word, "")):
        if option in known:
            return f"; did you mean {option}{remark(word, key)}?"
    if key and "--set" in known:
        return f"; did you mean --set {key}=…{remark(word, key)}?"
    return nearest(word, [option.lstrip("-") for option in known]).replace("mean ", "mean --")


def perplexity_table(perplexity: "Perplexity", title: str) -> "Table":
    """Lay out an evaluation for a person."""
    from rich.markup import escape

    from tinyohem.evaluation.perplexity import PER_TEXT
    from tinyohem_cli.console import Table

    figures, loss = perplexity.to_json(), perplexity.text_loss
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for label, name, form in [
        ("perplexity per token", "perplexity", ".3f"),
        ("perplexity per word", "word_perplexity", ".2f"),
        ("perplexity per byte", "byte_perplexity", ".4f"),
        ("bits per byte", "bits_per_byte", ".4f"),
        ("loss (nats per token)", "loss", ".4f"),
        ("tokens", "tokens", ","),
        ("words", "words", ","),
        ("bytes", "bytes", ","),
        ("stories", "stories", ","),
        *([("stories that the tokenizer loses", "lost_story_share", ".1%")] if loss else ()),
        *([("unknown tokens", "unknown_token_share", ".1%")] if loss.unknown_tokens else ()),
    ]:
        figure = figures[name]
        missing = "–" if loss and name in PER_TEXT else "too large"
        table.add_row(label, missing if figure is None else format(figure, form))
    return table


def comparison_tables(rows: "list[Row]") -> "list[Table]":
    """Lay out a comparison for a person: the verdicts, where the loss sits, how long it took."""
    from tinyohem.experiments.table import NUM_LOSS_CELLS, NUM_VERDICT_CELLS, cells, footnote
    from tinyohem_cli.console import Table

    lines = [cells(row) for row in rows]
    first, *_ = names = list(lines[0])
    ends = (1, NUM_VERDICT_CELLS, NUM_VERDICT_CELLS + NUM_LOSS_CELLS, len(names))
    tables = []
    for part in starmap(slice, pairwise(ends)):
        tables.append(Table(first, *names[part]))
        for line in lines:
            tables[-1].add_row(line[first], *list(line.values())[part])
    tables[-1].caption = footnote(rows)
    return tables
