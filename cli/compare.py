"""`tinyohem compare`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyohem_cli import options


def compare(
    file: Annotated[
        Path | None,
        typer.Argument(help="TOML file with seeds, budget, common sections and arms"),
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            help="A recipe, or name:key=value,key=value (a bare value names a recipe); repeatable; "
            "the first arm is the baseline",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="How many (3: seeds 0, 1, 2) or which (0,4,7); default: 3"),
    ] = None,
    budget: Annotated[
        Literal["equal-tokens", "equal-seconds", "equal-seconds-free-selection"] | None,
        typer.Option(
            "--budget",
            help="Give every arm the baseline's tokens, or its seconds of training (evaluation "
            "excluded), or its seconds not counting what selection costs; default: equal-tokens",
        ),
    ] = None,
    recipe: options.Recipe = None,
    dataset: options.Dataset = None,
    valid: options.Valid = None,
    model: options.Model = None,
    tokens: options.Tokens = None,
    batch_size: options.BatchSize = None,
    seq_len: options.WindowLen = None,
    lr: options.LearningRate = None,
    eval_every: options.EvalEvery = None,
    device: options.Device = None,
    assignments: options.Set = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", help="Runs side by side; default: one a GPU, else one a core", min=1
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs and of the table")] = Path(
        "runs/compare"
    ),
    as_json: options.Json = False,
) -> None:
    """Train every arm on every seed with an equal budget and test the differences.

    All arms share windows, tokenizer, initial weights and evaluation. Finished runs are never
    repeated: give the same command again to go on. --out gets table.md, table.json, runs.parquet.
    """
    from tinyohem.config.recipes import config_tree
    from tinyohem.experiments.run import run_comparison
    from tinyohem.experiments.spec import check, plan_comparison
    from tinyohem.experiments.table import summarise, to_json
    from tinyohem_cli.console import ConsoleProgress, print_json
    from tinyohem_cli.console import out as console

    overrides = {
        "data.dataset": dataset,
        "data.valid": valid,
        "model.preset": model,
        "training.tokens": tokens,
        "training.batch_size": batch_size,
        "training.seq_len": seq_len,
        "optim.lr": lr,
        "training.eval_every": eval_every,
        "training.device": device,
    }
    common = config_tree(recipe, options.given(overrides), assignments or ())
    comparison = plan_comparison(file, arms or (), seeds, budget, common)
    progress = ConsoleProgress()
    for warning in check(comparison):
        progress.warn(warning)
    rows = summarise(run_comparison(comparison, out, workers, progress))
    if as_json:
        print_json(to_json(rows))
    else:
        console.print(*options.comparison_tables(rows), sep="\n")
