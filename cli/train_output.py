"""Output of `tinyohem train`: its warnings, its result, and the outline of --dry-run."""

import sys
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

from tinyohem_cli import options
from tinyohem_cli.console import Table, err, harmless, out, print_json, quote

if TYPE_CHECKING:
    from tinyohem.config.ohem import OhemConfig
    from tinyohem.evaluation.perplexity import Perplexity
    from tinyohem.progress import Progress
    from tinyohem.training.dry_run import DryRun
    from tinyohem.training.run import Run

_ENDS_EARLY = "training.stop_at_step"
_SHOWN_CHARACTERS = 200  # of a window, in --dry-run

# `0.5m`, 4M tokens of the real sample, keep ratio 0.5, three seeds: LOG.md, 2026-11-22.
_BIAS_WARNING = (
    "top-k is still on when training ends; at ratio 0.5 that raised perplexity on all tokens from "
    "12.4 to 18.2 (anneal) and 20.6 (constant), against 12.5 with recover"
)
_IDLE_WARNING = "every step keeps all tokens, so nothing comes of {}"
_UNREAD_WARNING = (
    "nothing reads the pool of ohem.reference: below ratio 1 --ohem-score excess_loss and lag do, "
    "and --ohem-select mixed with a share of it; ohem.hard_window_share always"
)


def warn_of(ohem: "OhemConfig", progress: "Progress") -> None:
    """Warn of mining settings that bias the end, have no effect, or leave a pool unread."""
    if ohem.biases_the_end:
        progress.warn(_BIAS_WARNING)
    if idle := ohem.idle_keys:
        hint = "; --ohem-ratio 0.5 turns mining on" if ohem.ratio == 1 else ""
        progress.warn(_IDLE_WARNING.format(", ".join(f"ohem.{key}" for key in idle)) + hint)
    if ohem.reference != "ema" and not ohem.reads_pool:
        progress.warn(_UNREAD_WARNING)


def print_result(
    run: "Run", perplexity: "Perplexity | None", recipe: str | None, as_json: bool
) -> None:
    """Print the evaluation of a run, or how to go on with one that was stopped."""
    chosen = run.data.choice and run.data.choice.record
    summary = {
        "run": str(run.run_dir),
        "finished": run.finished,
        "steps": run.state.step,
        "tokens_seen": run.state.tokens_seen,
        "tokens_selected": run.state.tokens_selected,
        "skipped_steps": run.state.skipped_steps,
        "train_seconds": run.state.train_seconds,
        "pause_seconds": run.state.pause_seconds,
        "validation_stories": run.data.valid.num_stories,
        **({"choice": chosen.summary()} if chosen else {}),
    }
    if as_json:
        print_json(summary | (perplexity.to_json() if perplexity else {}))
    elif perplexity is None:
        out.print(
            f"stopped at step {run.state.step:,} of {run.budget.steps:,}; everything is saved"
        )
        out.print(f"go on with: {_resume_command(recipe)}", markup=False)
    else:
        out.print(options.perplexity_table(perplexity, str(run.run_dir)))
        if chosen:
            err.print(chosen.describe(), markup=False)
        seconds, pauses = run.state.train_seconds, run.state.pause_seconds
        err.print(
            f"trained for {seconds:,.0f} s; {pauses / (seconds + pauses):.1%} of the whole went to "
            "evaluation, checkpoints and the log"
        )
        if run.config.keep_schedule.lowest < 1:
            kept = run.state.tokens_selected / run.state.tokens_seen
            err.print(f"{kept:.1%} of the tokens got a gradient")
        if perplexity.stories < run.data.valid.num_stories:
            err.print(
                f"scored the first {perplexity.stories:,} of {run.data.valid.num_stories:,} "
                f"validation stories; all: tinyohem eval-perplexity {quote(run.run_dir)}"
            )
        err.print(f"try: tinyohem generate {quote(run.run_dir)} --prompt 'Once upon a time'")


def print_outline(outline: "DryRun", as_json: bool) -> None:
    """Print what a run would do: budget, keep ratio, curriculum, first and last windows."""
    if as_json:
        print_json(asdict(outline))
        return
    out.print(
        f"{outline.num_parameters:,} parameters, {outline.num_steps:,} steps, "
        f"{outline.num_tokens:,} tokens, {outline.epochs:.2f} epochs, about "
        f"{timedelta(seconds=round(outline.seconds))} of training on this machine"
    )
    if min(outline.keep_ratios) < 1:
        kept = "tokens kept, at least" if outline.keep_at_least else "tokens kept"
        keep = Table("training", kept, "")
        for tenth, ratio in enumerate(outline.keep_ratios):
            keep.add_row(f"{tenth * 10} %", f"{ratio:.0%}", "█" * round(40 * ratio))
        out.print(keep)
    if outline.choice:
        out.print(f"chosen: {outline.choice}", markup=False)
    if outline.curriculum:
        out.print(f"curriculum: {outline.curriculum}", markup=False)
        out.print(f"curriculum plan {outline.plan_hash}")
    if outline.phases:
        out.print(f"phases: {outline.phases}")
        out.print(f"plan {outline.plan_hash}")
    for title, windows in (("first", outline.first_windows), ("last", outline.last_windows)):
        for text in windows:
            shown = harmless(" ".join(text.split()))[:_SHOWN_CHARACTERS]
            out.print(f"{title}: {shown}", markup=False)


def _resume_command(recipe: str | None) -> str:
    """Return the command line of this process with --resume auto and without an early stop."""
    from tinyohem.config.recipes import read_recipe

    kept: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag not in ("--resume", "--set"):
            kept.append(argument)
            continue
        value = value if equals else next(arguments, "")
        if flag == "--set" and value.partition("=")[0].strip() != _ENDS_EARLY:
            kept += [argument] if equals else [flag, value]
    section, _, key = _ENDS_EARLY.partition(".")
    if recipe is not None and key in read_recipe(recipe).get(section, {}):
        kept += ["--set", f"{_ENDS_EARLY}=null"]
    return " ".join(map(quote, ["tinyohem", *kept, "--resume", "auto"]))
