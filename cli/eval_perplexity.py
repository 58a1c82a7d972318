"""`tinyohem eval-perplexity`."""

from typing import Annotated

import typer

from tinyohem_cli import options


def eval_perplexity(
    model: Annotated[
        str, typer.Argument(help="Run folder, checkpoint, transformers folder or Hub id")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Stories to score, as for `train`: the validation split, or all where there are "
            "no splits; default: what the run was validated on",
        ),
    ] = None,
    text_field: options.TextField = None,
    seq_len: Annotated[
        int | None,
        typer.Option("--seq-len", help="Context in tokens; default: the model's own", min=2),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            help="Tokens newly scored by each window of a story longer than the context; "
            "default: half the context",
            min=1,
        ),
    ] = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Score every token of every story once, with its own story as the only context.

    Without --dataset a run is scored on the validation stories it was trained beside.
    """
    from pathlib import Path

    from tinyohem.artifacts import write_json
    from tinyohem.evaluation.source import evaluate_source
    from tinyohem_cli.console import ConsoleProgress, out, print_json

    perplexity = evaluate_source(
        model,
        dataset=dataset,
        text_field=text_field or "text",
        seq_len=seq_len,
        stride=stride,
        device=device or "auto",
        progress=ConsoleProgress(),
    )
    own_validation = dataset is None and seq_len is None and stride is None
    if own_validation and (Path(model) / "model").is_dir():
        write_json(Path(model) / "eval.json", perplexity.to_json())
    if as_json:
        print_json(perplexity.to_json())
    else:
        out.print(options.perplexity_table(perplexity, model))
