"""`tinyohem compare`: train arms on several seeds, and print their differences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem.experiments.spec import Budget as BudgetName
from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.experiments.table import Row
    from tinyohem_cli.console import Table

File = Annotated[
    Path | None,
    typer.Argument(help="TOML file with seeds, budget, common sections and arms"),
]
Arms = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        help="A recipe, or name:key=value,key=value (a bare value names a recipe); repeatable; "
        "the first arm is the baseline",
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
        help="Give every arm the baseline's tokens, or its seconds of training (evaluation "
        "excluded), or its seconds not counting what selection costs; default: equal-tokens",
    ),
]
Equivalence = Annotated[
    float | None,
    typer.Option(
        "--equivalence",
        help="Test also whether each arm is within so many bits a byte of the baseline (two "
        "one-sided paired t-tests); default: no such test",
        metavar="BITS",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Runs side by side; default: one a GPU, else one a core", min=1),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the runs and of the table")]


@options.with_keys(
    *("file", "arms", "seeds", "budget", "equivalence", "recipe", "data.dataset", "data.valid"),
    *("target.stories", "model.preset", "training.tokens", "training.batch_size"),
    *("training.seq_len", "optim.lr"),
    *("training.eval_every", "training.device", "assignments", "workers", "out", "as_json"),
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

    common = config_tree(recipe, overrides, assignments or ())
    comparison = plan_comparison(file, arms or (), seeds, budget, common, equivalence)
    progress = ConsoleProgress()
    for warning in check(comparison):
        progress.warn(warning)
    rows = summarise(run_comparison(comparison, out, workers, progress), comparison.margin)
    if as_json:
        print_json(to_json(rows))
    else:
        console.print(*_tables(rows), sep="\n")


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
