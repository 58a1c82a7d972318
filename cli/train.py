"""`tinyohem train`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyohem.config.difficulty import ADDED_METRICS, METRICS
from tinyohem.errors import InputError
from tinyohem_cli import options

_MINING = "Hard-token mining"
_CURRICULUM = "Curriculum"


def train(
    recipe: options.Recipe = None,
    dataset: options.Dataset = None,
    valid: options.Valid = None,
    text_field: options.TextField = None,
    clean: options.Clean = None,
    tokenizer: options.Tokenizer = None,
    model: options.Model = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            help="Start from a trained model, with its shape and tokenizer: run folder, "
            "checkpoint, transformers folder or Hub id (safetensors only). Unless set, training "
            "is then AdamW at 5e-5, as transformers' Trainer tunes (the rates for random weights "
            "would wipe out what it knows), over one epoch; default: random weights",
        ),
    ] = None,
    tokens: options.Tokens = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            help="Budget in optimizer steps (of 8 × 256 tokens by default); default: by --tokens",
        ),
    ] = None,
    batch_size: options.BatchSize = None,
    seq_len: options.WindowLen = None,
    lr: options.LearningRate = None,
    eval_every: options.EvalEvery = None,
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
            help="Share of tokens that get a gradient, in (0, 1], the target of --ohem-schedule; "
            "anneal-quarter and knots stand as written; default: 1.0, plain training",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_select: Annotated[
        str | None,
        typer.Option(
            "--ohem-select",
            help="topk (highest scores), threshold, band, random (the control), importance or "
            "stratified (unbiased samples), mixed; default: topk, importance with adaptive. Bits "
            "per byte of `0.5m` after 4M tokens at ratio 0.5 (LOG.md): every token 0.912, topk "
            "0.913, band 0.916, importance 0.927, random 0.932",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_score: Annotated[
        str | None,
        typer.Option(
            "--ohem-score",
            help="How hard a token is: loss, loss_x_gradnorm, gradnorm, excess_loss (over "
            "--ohem-reference), entropy, focal; default: loss, gradnorm with importance",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_reference: Annotated[
        str | None,
        typer.Option(
            "--ohem-reference",
            help="What excess_loss compares with: ema (a running mean of the model) or the folder "
            "of a pool that `tinyohem mine` made on the same tokens; default: ema",
            rich_help_panel=_MINING,
        ),
    ] = None,
    pool_max_age: Annotated[
        str | None,
        typer.Option(
            "--pool-max-age",
            help="Most training tokens (500k, 1M) that the run may be ahead of the model that the "
            "pool was mined under: an older pool is refused before the first step, or re-mined "
            "where --pool-refresh-every is given; default: no limit",
            rich_help_panel=_MINING,
        ),
    ] = None,
    pool_refresh_every: Annotated[
        int | None,
        typer.Option(
            "--pool-refresh-every",
            help="Re-mine the pool with the current weights once it is so many steps old and a "
            "step reads it; that takes training time; default: never",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_weight: Annotated[
        str | None,
        typer.Option(
            "--ohem-weight",
            help="Weigh tokens softly, with or without selection: none, focal, ghm, "
            "class_balanced; default: none",
            rich_help_panel=_MINING,
        ),
    ] = None,
    ohem_schedule: Annotated[
        str | None,
        typer.Option(
            "--ohem-schedule",
            help="constant, anneal, anneal-quarter, recover, adaptive (each step keeps as few as "
            "importance sampling may, at least the ratio), or knots `t:ratio,…` with t from 0 "
            "to 1; default: recover, which trains on every token at both ends: top-k alone keeps "
            "tokens for having surprised, which teaches the model to distrust likely words, and "
            "the return to all tokens undoes that (recover 0.913 bits per byte, anneal 1.05, "
            "constant 1.10; every token 0.912)",
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
    ohem_backward: Annotated[
        str | None,
        typer.Option(
            "--ohem-backward",
            help="exact, or pruned: the backward pass leaves out what the other tokens teach as "
            "keys and values, an approximation that makes a step cheaper up to about two thirds of "
            "the tokens (above that it is exact) and a model worse (LOG.md: 0.928 bits per byte "
            "under recover, exact 0.913); default: exact",
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
    curriculum: Annotated[
        bool | None,
        typer.Option(
            "--curriculum/--no-curriculum",
            help="Order training by difficulty; scores the corpus first where no table fits it; "
            "default: no",
            rich_help_panel=_CURRICULUM,
        ),
    ] = None,
    curriculum_metric: Annotated[
        str | None,
        typer.Option(
            "--curriculum-metric",
            help=f"{', '.join(METRICS)}, or several with weights (mtld=2,flesch=1); "
            f"{' or '.join(ADDED_METRICS)} where --set curriculum.scores=FOLDER holds them; "
            "default: flesch",
            rich_help_panel=_CURRICULUM,
        ),
    ] = None,
    pacing: Annotated[
        str | None,
        typer.Option(
            "--pacing",
            help="warmup, sorted, linear, quadratic, inverse_quadratic, root, interleaved, zigzag, "
            "or a control: shuffled, reverse, by_length; default: warmup",
            rich_help_panel=_CURRICULUM,
        ),
    ] = None,
    curriculum_fraction: Annotated[
        float | None,
        typer.Option(
            "--curriculum-fraction",
            help="Share of training until warmup ends, or until everything is available; "
            "default: 0.2 for warmup, else 1",
            rich_help_panel=_CURRICULUM,
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
    on_nonfinite: Annotated[
        str | None,
        typer.Option(
            "--on-nonfinite",
            help="At a loss or gradient that is not finite: stop, or skip the step, which leaves "
            "weights and optimizer as they were, is counted, ends the run after 10 in a row, and "
            "makes a GPU wait at every step; default: stop",
        ),
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option(
            "--wandb", help="off, offline or online (needs a login: `wandb login`); default: off"
        ),
    ] = None,
    assignments: options.Set = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Prepare the data, then show budget, keep ratio and first and last windows only",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train a language model, by default on every token; --ohem-ratio turns mining on.

    A run folder gets config.json, metrics.jsonl, checkpoints/, eval.json and model/, which
    transformers loads. `torchrun --nproc-per-node 8 -m tinyohem_cli train …` trains the same run on
    8 GPUs; training.batch_size counts the sequences of all.
    """
    from tinyohem.config.recipes import load_config
    from tinyohem.progress import SILENT
    from tinyohem.runs.resume import default_run_dir
    from tinyohem.training.dry_run import dry_run as outline
    from tinyohem.training.loop import train as train_model
    from tinyohem.training.ranks import init_ranks
    from tinyohem_cli.console import ConsoleProgress
    from tinyohem_cli.train_output import print_outline, print_result, warn_of

    overrides = {
        "data.dataset": dataset,
        "data.valid": valid,
        "data.text_field": text_field,
        "data.clean": clean,
        "tokenizer.name": tokenizer,
        "model.preset": model,
        "model.init_from": init_from,
        "training.tokens": tokens,
        "training.steps": steps,
        "training.batch_size": batch_size,
        "training.seq_len": seq_len,
        "optim.lr": lr,
        "training.eval_every": eval_every,
        "training.seed": seed,
        "training.device": device,
        "training.on_nonfinite": on_nonfinite,
        "training.compile": compile_model,
        "ohem.ratio": ohem_ratio,
        "ohem.select": ohem_select,
        "ohem.score": ohem_score,
        "ohem.reference": ohem_reference,
        "ohem.pool_max_age": pool_max_age,
        "ohem.pool_refresh_every": pool_refresh_every,
        "ohem.weight": ohem_weight,
        "ohem.schedule": ohem_schedule,
        "ohem.scope": ohem_scope,
        "ohem.backward": ohem_backward,
        "ohem.min_kept": ohem_min_kept,
        "curriculum.enabled": curriculum,
        "curriculum.metric": curriculum_metric,
        "curriculum.pacing": pacing,
        "curriculum.fraction": curriculum_fraction,
        "tracking.wandb": wandb,
    }
    config = load_config(recipe, options.given(overrides), assignments or ())
    # --set wins over flags, so what it says of the steps is no contradiction.
    wins = any(assignment.startswith("training.steps=") for assignment in assignments or ())
    if tokens is not None and config.training.steps is not None and not wins:
        raise InputError("--tokens and training.steps are two budgets", "give one of them")
    run_dir = out or default_run_dir(config, recipe)
    ranks = init_ranks()
    progress = ConsoleProgress() if ranks.is_main else SILENT
    warn_of(config.ohem, progress)
    if dry_run:
        if ranks.is_main:
            print_outline(outline(config, progress), as_json)
        return
    run, perplexity = train_model(config, run_dir, resume=resume, progress=progress, ranks=ranks)
    if ranks.is_main:
        print_result(run, perplexity, recipe, as_json)
