"""`tinyohem mine`: every training token's loss under a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.training.mine_pool import Mined

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run (its newest checkpoint), one checkpoint, transformers folder or Hub id",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the pool")]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", help="Training stories, as in `train`; default: those of the run"),
]
Valid = Annotated[
    str | None,
    typer.Option(
        "--valid",
        help="Validation stories, as in `train`: without any, 1 story in 50 is held out; "
        "default: those of the run",
    ),
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        "--seq-len",
        help="Tokens of a window, training.seq_len of the run that will read the pool; "
        "default: the model's longest context",
    ),
]


def mine(
    run: Run,
    out: Out = Path("pool"),
    dataset: Dataset = None,
    valid: Valid = None,
    text_field: options.TextField = None,
    clean: options.Clean = None,
    seq_len: SeqLen = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Store every training token's loss under a checkpoint, for `train --ohem-reference`.

    A pass that was stopped goes on where it was when the same command runs again, and a damaged
    shard is mined again by it.
    """
    from tinyohem.training.mine_run import mine_run
    from tinyohem_cli.console import ConsoleProgress

    data = {"dataset": dataset, "valid": valid, "text_field": text_field, "clean": clean}
    mined = mine_run(
        run,
        out,
        data=options.given(data),
        seq_len=seq_len,
        device=device or "auto",
        progress=ConsoleProgress(),
    )
    _print_pool(mined, out, as_json)


def _print_pool(mined: "Mined", out: Path, as_json: bool) -> None:
    from rich.markup import escape

    from tinyohem_cli.console import Table, print_json
    from tinyohem_cli.console import out as stdout

    manifest = mined.manifest
    figures = {
        "pool": str(out),
        "loss": mined.loss,
        "tokens": mined.tokens,
        "new_tokens": mined.new_tokens,
        "shards": len(manifest.shards or ()),
        "seq_len": manifest.context.seq_len,
        "tokens_seen": manifest.tokens_seen,
        "weights_sha256": manifest.weights_sha256,
    }
    if as_json:
        print_json(figures)
        return
    table = Table(title=escape(str(out)), title_justify="left", show_header=False)
    for label, name, form in (
        ("loss (nats per token)", "loss", ".4f"),
        ("tokens", "tokens", ","),
        ("of them mined now", "new_tokens", ","),
        ("shards", "shards", ","),
        ("tokens of a window", "seq_len", ","),
        ("training tokens of the model", "tokens_seen", ","),
    ):
        figure = figures[name]
        table.add_row(label, "unknown" if figure is None else format(figure, form))
    stdout.print(table)
