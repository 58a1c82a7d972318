"""`tinyohem eval-perplexity`: score a model on every token of a split."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinyohem.evaluation.calibration import Calibration
    from tinyohem.evaluation.diagnose import Diagnosis
    from tinyohem.evaluation.loss_groups import Group
    from tinyohem.evaluation.roles import StoryGroup
    from tinyohem_cli.console import Table

_TITLES = {
    "loss": "By the token's loss (nats)",
    "frequency": "By the rank of the token in the training split",
    "difficulty": "By the story's difficulty ({metric}), in tenths",
    "role": "By the role of the token's word in its story, the first that fits",
    "position": "By the token's place in its story",
}


By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="WAY,WAY",
        help="Also group the tokens by their loss, by their frequency in the training split, "
        "by the difficulty of their story, by the role of their word (a name's first or a later "
        "mention, a word seen before in the story, rare in training, other, none), by their place "
        "in the story: loss,frequency,difficulty,role,position; default: none",
    ),
]
Scores = Annotated[
    Path | None,
    typer.Option(
        "--scores",
        help="Score folder for --by difficulty; default: the stories are scored on the way",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="Difficulty for --by difficulty, as --curriculum-metric of `train`; default: flesch",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibration",
        help="Also measure the expected calibration error and the best temperature; takes some "
        "three times as long again",
    ),
]


def eval_perplexity(
    model: options.ScoredModel,
    dataset: options.ScoredDataset = None,
    text_field: options.TextField = None,
    seq_len: options.SeqLen = None,
    stride: options.Stride = None,
    by: By = None,
    scores: Scores = None,
    metric: Metric = None,
    calibration: Calibrate = False,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Score every token of every story once, with its own story as the only context.

    Without --dataset a run, or its checkpoint, is scored on the stories it was validated on.
    """
    from tinyohem.errors import InputError
    from tinyohem.evaluation.diagnose import diagnose, keep_perplexity, parse_ways
    from tinyohem.evaluation.open import open_evaluation
    from tinyohem_cli.console import ConsoleProgress, print_json

    ways = parse_ways(by)
    if (scores or metric) and "difficulty" not in ways:
        raise InputError("--scores and --metric are for --by difficulty", "add --by difficulty")
    progress = ConsoleProgress()
    evaluation = open_evaluation(
        model,
        dataset=dataset,
        text_field=text_field or "text",
        seq_len=seq_len,
        stride=stride,
        device=device or "auto",
        progress=progress,
    )
    found = diagnose(
        evaluation,
        by=ways,
        scores=scores,
        calibration=calibration,
        progress=progress,
        **options.given({"metric": metric}),
    )
    keep_perplexity(evaluation, found.perplexity)
    if as_json:
        print_json(found.to_json())
    else:
        _print_tables(found, model)


def _print_tables(found: "Diagnosis", model: str) -> None:
    from tinyohem_cli.console import out

    out.print(options.perplexity_table(found.perplexity, model))
    for way, groups in found.by.items():
        out.print(_group_table(_TITLES[way].format(metric=found.difficulty_metric), groups))
    if found.calibration is not None:
        out.print(_calibration_table(found.calibration))


def _group_table(title: str, groups: "Sequence[Group]") -> "Table":
    from tinyohem.evaluation.roles import StoryGroup
    from tinyohem_cli.console import Table

    table = Table(title=title, title_justify="left")
    table.add_column("group")
    loss = "nats per token"
    if any(isinstance(group, StoryGroup) for group in groups):
        loss += ", 95 % interval"
    for heading in ("tokens", "share", loss, "perplexity", "share of the loss"):
        table.add_column(heading, justify="right")
    total = sum(group.tokens for group in groups)
    for group in groups:
        table.add_row(
            group.name,
            f"{group.tokens:,}",
            f"{group.tokens / total:.1%}",
            f"{group.loss:.4f}" + (_margin(group) if isinstance(group, StoryGroup) else ""),
            f"{group.perplexity:,.4g}",
            f"{group.share_of_loss:.1%}",
        )
    return table


def _margin(group: "StoryGroup") -> str:
    return "" if group.low is None else f" ± {group.loss - group.low:.4f}"


def _calibration_table(calibration: "Calibration") -> "Table":
    from tinyohem_cli.console import Table

    table = Table(title="Calibration", title_justify="left", show_header=False)
    table.add_row("likeliest token is right", f"{calibration.accuracy:.2%}")
    table.add_row("its mean probability", f"{calibration.confidence:.2%}")
    table.add_row("expected calibration error", f"{calibration.calibration_error:.2%}")
    table.add_row("best temperature", f"{calibration.best_temperature:.3f}")
    table.add_row("loss at that temperature", f"{calibration.loss_at_best:.4f}")
    return table
