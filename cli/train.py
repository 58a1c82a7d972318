"""`tinyohem train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.evaluation.perplexity import Perplexity
    from tinyohem.training.loop import Run

_MINING = "Hard-token mining"


def train(
    recipe: options.Recipe = None,
    dataset: options.Dataset = None,
    valid: options.Valid = None,
    text_field: options.TextField = None,
    clean: options.Clean = None,
    tokenizer: options.Tokenizer = None,
    model: options.Model = None,
    tokens: options.Tokens = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            help="Budget in optimizer steps of 8 × 256 tokens; default: by --tokens",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Of the weights, the order of the data and random selection; default: 0",
        ),
    ] = None,
    device: options.Device = None,
    compile_model: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="torch.compile the trunk; default: no",
        ),
    ] = None,
    ohem_ratio: Annotated[
        float | None,
        typer.Option(
            "--ohem-ratio",
            help="Share of tokens that get a gradient, in (0, 1]; default: 1.0, plain training",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_select: Annotated[
        str | None,
        typer.Option(
            "--ohem-select",
            help="topk (highest loss) or random (the control); default: topk",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_schedule: Annotated[
        str | None,
        typer.Option(
            "--ohem-schedule",
            help="constant, anneal, anneal-quarter, recover, or knots `t:ratio,…` with t from 0 "
            "to 1; default: recover, which trains on every token at both ends: top-k alone keeps "
            "tokens for having surprised, which teaches the model to distrust likely words, and "
            "the return to all tokens undoes that",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_scope: Annotated[
        str | None,
        typer.Option(
            "--ohem-scope",
            help="Rank the tokens of the whole step together (batch) or each sequence by itself "
            "(sequence); default: batch",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_min_kept: Annotated[
        int | None,
        typer.Option(
            "--ohem-min-kept",
            help="Fewest tokens to keep in a scope; default: 1",
            rich_help_panel=_MINING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder; default: runs/<recipe or model>-<hash>"),
    ] = None,
    resume: Annotated[
        Literal["never", "auto", "must"],
        typer.Option(
            "--resume", help="never refuses to touch an existing run, auto goes on if it can"
        ),
    ] = "never",
    wandb: Annotated[
        str | None,
        typer.Option("--wandb", help="off, offline or online; default: off"),
    ] = None,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Train a language model, by default on every token; --ohem-ratio turns mining on.

    A run folder gets config.json, metrics.jsonl, checkpoints/, eval.json and model/, which
    transformers loads.
    """
    from tinyohem.recipe import load_config
    from tinyohem.training.loop import train as train_model
    from tinyohem.training.run_folder import default_run_dir
    from tinyohem_cli.console import ConsoleProgress

    overrides = {
        "data.dataset": dataset,
        "data.valid": valid,
        "data.text_field": text_field,
        "data.clean": clean,
        "tokenizer.name": tokenizer,
        "model.preset": model,
        "training.tokens": tokens,
        "training.steps": steps,
        "training.seed": seed,
        "training.device": device,
        "training.compile": compile_model,
        "ohem.ratio": ohem_ratio,
        "ohem.select": ohem_select,
        "ohem.schedule": ohem_schedule,
        "ohem.scope": ohem_scope,
        "ohem.min_kept": ohem_min_kept,
        "tracking.wandb": wandb,
    }
    config = load_config(recipe, options.given(overrides), assignments or ())
    run_dir = out or default_run_dir(config, recipe)
    progress = ConsoleProgress()
    if config.ohem.biases_the_end:
        progress.warn(BIAS_WARNING)
    run, perplexity = train_model(config, run_dir, resume=resume, progress=progress)
    _print_result(run, perplexity, as_json)


# Measured with the `2m` preset; LOG.md names the commands.
BIAS_WARNING = "top-k to the end of training worsens full-token perplexity"


def _print_result(run: "Run", perplexity: "Perplexity | None", as_json: bool) -> None:
    from tinyohem_cli.console import err, out, print_json, quote

    summary = {
        "run": str(run.run_dir),
        "finished": run.finished,
        "steps": run.state.step,
        "tokens_seen": run.state.tokens_seen,
        "tokens_selected": run.state.tokens_selected,
        "train_seconds": run.state.train_seconds,
    }
    if as_json:
        print_json(summary | (perplexity.to_json() if perplexity else {}))
    elif perplexity is None:
        out.print(
            f"stopped at step {run.state.step:,} of {run.budget.steps:,}; everything is saved"
        )
        out.print(f"go on with: {_resume_command()}")
    else:
        out.print(options.perplexity_table(perplexity, str(run.run_dir)))
        err.print(f"try: tinyohem generate {quote(run.run_dir)} --prompt 'Once upon a time'")


def _resume_command() -> str:
    """Return the command line that was typed, with --resume auto."""
    import shlex
    import sys

    arguments = sys.argv[1:]
    if "--resume" in arguments:
        at = arguments.index("--resume")
        del arguments[at : at + 2]
    kept = [a for a in arguments if not a.startswith("--resume=")]
    return shlex.join(["tinyohem", *kept, "--resume", "auto"])
