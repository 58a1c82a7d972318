"""`tinyohem train`: train a model, or outline the run with --dry-run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem.errors import InputError
from tinyohem.runs.resume import Resume as ResumeName
from tinyohem.runs.resume import default_run_dir
from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.config.training import TrainingConfig

Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run folder; default: runs/<recipe or model>-<hash>"),
]
Resume = Annotated[
    ResumeName,
    typer.Option(
        "--resume",
        metavar="<word>",
        help="never refuses to touch an existing run, auto goes on if it can, must needs one",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Prepare the data, then show budget, keep ratio and first and last windows only",
    ),
]


# Most runs need no others than those of the first panel.
_IN_BRIEF = (
    *("data.valid", "data.text_field", "data.clean", "tokenizer.name"),
    *("model.init_from", "training.steps", "training.batch_size", "training.seq_len", "optim.lr"),
    *("training.seed", "training.device", "training.compile", "training.eval_every"),
    *("training.on_nonfinite", "tracking.wandb"),
    *("ohem.select", "ohem.score", "ohem.schedule", "ohem.weight", "ohem.scope", "ohem.backward"),
    *("ohem.min_kept", "ohem.reference", "ohem.pool_max_age", "ohem.pool_refresh_every"),
    *("curriculum.enabled", "curriculum.metric", "curriculum.pacing", "curriculum.fraction"),
)
EPILOG = """`tinyohem recipes show` explains every option and key in full.

Examples:
tinyohem train --dataset sample --minutes 2
tinyohem train --dataset stories.jsonl --ohem-ratio 0.5 --out runs/mined
tinyohem train --dataset pool.jsonl --target wanted.jsonl --dry-run"""


@options.with_keys(
    *("recipe", "data.dataset", "model.preset", "training.tokens", "training.minutes"),
    *("ohem.ratio", "target.stories", "out", "resume", "assignments", "dry_run", "as_json"),
    *_IN_BRIEF,
    in_brief=_IN_BRIEF,
)
def train(
    overrides: options.Overrides,
    recipe: options.Recipe = None,
    out: Out = None,
    resume: Resume = "never",
    assignments: options.Set = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train a language model, by default on every token; --ohem-ratio turns mining on.

    A run folder gets config.json, metrics.jsonl, checkpoints/, eval.json and model/, which
    transformers loads.

    `torchrun --nproc-per-node 8 -m tinyohem_cli train …` trains the same run on 8 GPUs;
    training.batch_size counts the sequences of all.
    """
    from tinyohem.config.recipes import load_config
    from tinyohem.progress import SILENT
    from tinyohem.training.dry_run import dry_run as outline
    from tinyohem.training.loop import train as train_model
    from tinyohem.training.ranks import init_ranks
    from tinyohem_cli.console import ConsoleProgress
    from tinyohem_cli.train_output import print_outline, print_result, warn_of

    config = load_config(recipe, overrides, assignments or ())
    _require_one_budget(config.training, overrides, assignments or ())
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


def _require_one_budget(
    training: "TrainingConfig", overrides: options.Overrides, assignments: Sequence[str]
) -> None:
    """Refuse --tokens beside another budget, unless --set gives that one: it wins over flags."""
    for key in ("steps", "minutes"):
        wins = any(assignment.startswith(f"training.{key}=") for assignment in assignments)
        if "training.tokens" in overrides and getattr(training, key) is not None and not wins:
            raise InputError(f"--tokens and training.{key} are two budgets", "give one of them")
