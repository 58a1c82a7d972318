"""`tinyohem compare`: train arms on several seeds, and print their differences."""

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem.experiments.spec import Budget as BudgetName
from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.experiments.dry_run import ArmOutline, ComparisonOutline
    from tinyohem.experiments.table import Row
    from tinyohem_cli.console import Table

File = Annotated[
    Path | None,
    typer.Argument(help="TOML file with seeds, budget, common settings and arms; default: none"),
]
Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        metavar="NAME:…",
        help="A recipe, or name:key=value,key=value (a bare value names a recipe); repeatable, "
        "the first is the baseline; default: those of the file",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", help="How many (3: seeds 0, 1, 2) or which (0,4,7); default: 3"),
]
Budget = Annotated[
    BudgetName | None,
    typer.Option(
        "--budget",
        metavar="<word>",
        help="equal-tokens gives every arm the baseline's tokens, equal-seconds its seconds of "
        "training, equal-seconds-free-selection its seconds without what selection costs; default: "
        "equal-tokens",
    ),
]
Equivalence = Annotated[
    float | None,
    typer.Option(
        "--equivalence",
        help="Test also whether each arm is within so many bits a byte of the baseline, by two "
        "one-sided paired t-tests; default: no such test",
        metavar="BITS",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="<int>",
        help="Runs side by side; default: one a GPU, else one a core",
        min=1,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the runs and of the table")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Prepare the data, then show arms, seeds, steps, finished runs and the time only",
    ),
]

# Most comparisons need no others than those of the first panel.
_IN_BRIEF = (
    *("target.stories", "training.batch_size", "training.seq_len", "optim.lr"),
    *("training.eval_every", "training.device"),
)
EPILOG = """`tinyohem recipes list` names recipes for arms, `recipes show` every key.

Examples:
tinyohem compare --dataset sample --arm baseline --arm random --arm ohem
tinyohem compare --dataset sample --arm full:ohem.ratio=1.0 --arm ohem --dry-run
tinyohem compare arms.toml --dataset stories.jsonl --tokens 4M --seeds 5"""


@options.with_keys(
    *("file", "arms", "seeds", "budget", "equivalence", "recipe", "data.dataset", "data.valid"),
    *("model.preset", "training.tokens", "assignments", "workers", "out", "dry_run", "as_json"),
    *_IN_BRIEF,
    in_brief=_IN_BRIEF,
)
def compare(
    overrides: options.Overrides,
    file: File = None,
    arms: Arms = None,
    seeds: Seeds = None,
    budget: Budget = None,
    equivalence: Equivalence = None,
    recipe: options.Recipe = None,
    assignments: options.Set = None,
    workers: Workers = None,
    out: Out = Path("runs/compare"),
    dry_run: DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train every arm on every seed with an equal budget and test the differences.

    All arms share windows, tokenizer, initial weights and evaluation.

    Finished runs are never repeated: the same command goes on after a stop.

    --out gets the runs and table.md, table.json, runs.parquet.
    """
    from tinyohem.config.recipes import config_tree
    from tinyohem.experiments.dry_run import outline_comparison
    from tinyohem.experiments.run import run_comparison
    from tinyohem.experiments.spec import check, plan_comparison
    from tinyohem.experiments.table import summarise, to_json
    from tinyohem_cli.console import ConsoleProgress, print_json
    from tinyohem_cli.console import out as console

    common = config_tree(recipe, overrides, assignments or ())
    comparison = plan_comparison(file, arms or (), seeds, budget, common, equivalence)
    progress = ConsoleProgress()
    for warning in check(comparison):
        progress.warn(warning)
    if dry_run:
        _print_outline(outline_comparison(comparison, out, workers, progress), as_json)
        return
    rows = summarise(run_comparison(comparison, out, workers, progress), comparison.margin)
    if as_json:
        print_json(to_json(rows))
    else:
        console.print(*_tables(rows), sep="\n")


def _print_outline(outline: "ComparisonOutline", as_json: bool) -> None:
    """Print what a comparison would do, and how long the rest of it takes."""
    from rich.markup import escape

    from tinyohem_cli.console import Table, print_json
    from tinyohem_cli.console import out as console

    if as_json:
        print_json(asdict(outline))
        return
    heads = ("arm", "settings that differ", "steps", "tokens", "a run takes")
    table = Table(*heads, "seeds finished", "seeds to go")
    for arm in outline.arms:
        table.add_row(
            escape(arm.arm),
            escape(arm.settings) or "–",
            f"{arm.steps:,}",
            f"{arm.tokens:,}",
            _duration(arm.seconds),
            ", ".join(map(str, arm.finished)) or "–",
            _to_go(arm, outline.seeds) or "–",
        )
    console.print(table)
    left = outline.num_runs - outline.num_finished
    line = f"{outline.num_finished} of {outline.num_runs} runs are finished"
    if left:
        line += (
            f"; the other {left}, {min(left, outline.workers)} side by side, take about "
            f"{_duration(outline.seconds)} of training and scoring on this machine"
        )
    console.print(line)


def _to_go(arm: "ArmOutline", seeds: list[int]) -> str:
    """Name the seeds of an arm that are not finished, and where those that have begun go on."""
    left = [seed for seed in seeds if seed not in arm.finished]
    return ", ".join(
        f"{seed} (from step {arm.begun[seed]:,})" if arm.begun.get(seed) else str(seed)
        for seed in left
    )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _tables(rows: "list[Row]") -> "list[Table]":
    """Lay out a comparison: the verdicts, where the loss sits, how long it took."""
    from tinyohem.experiments.table import NUM_LOSS_CELLS, footnote, lay_out, num_verdict_cells
    from tinyohem_cli.console import Table

    lines = lay_out(rows)
    arm, *names = lines[0]
    losses_from = num_verdict_cells(rows[0]) - 1
    times_from = losses_from + NUM_LOSS_CELLS
    tables = []
    for part in (names[:losses_from], names[losses_from:times_from], names[times_from:]):
        table = Table(arm, *part)
        for line in lines:
            table.add_row(line[arm], *(line[name] for name in part))
        tables.append(table)
    tables[-1].caption = footnote(rows)
    return tables
