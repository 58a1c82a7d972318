"""`tinyohem runs list`: what a folder of runs holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.runs.listing import ListedRun
    from tinyohem_cli.console import Table

runs = typer.Typer(
    help="The runs of a folder: state, model, tokens, bits per byte.",
    no_args_is_help=True,
    add_completion=False,
)


@runs.callback()
def _only_list() -> None: ...


@runs.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs")] = Path("runs"),
    as_json: options.Json = False,
) -> None:
    """List the runs in and below a folder, those of comparisons too.

    Where runs were made in different ways, a second table has the settings that differ between
    them, unless they are the defaults.
    """
    from tinyohem.runs.listing import list_runs as listed
    from tinyohem.runs.scored import scoring_command
    from tinyohem_cli.console import err, out, print_json

    found = listed(folder)
    if as_json:
        print_json({"runs": [run.to_json() for run in found]})
        return
    if not found:
        err.print(f"{folder} holds no run; `tinyohem train` writes one", markup=False)
        return
    table, *apart = _tables(found)
    out.print(table)
    for other in apart:
        out.print()
        out.print(other)
    if len(_sets(found)) > 1:
        err.print("figures compare only among runs that were validated on the same set of stories")
    if partly := [Path(run.folder) for run in found if run.scored_in_part]:
        err.print(
            "figures of a part of the validation stories compare with no others; all stories: "
            f"{scoring_command(partly)}",
            markup=False,
        )


def _tables(found: "list[ListedRun]") -> "list[Table]":
    """Lay out a list of runs: their figures, and the settings that tell them apart."""
    from rich.markup import escape

    from tinyohem.runs.scored import coverage
    from tinyohem.runs.settings import labels
    from tinyohem_cli.console import Table

    table = Table("run", "state", "model", box=None, pad_edge=False)
    in_part = ["stories scored"] if any(run.scored_in_part for run in found) else []
    for heading in ("steps", "tokens", "bits per byte", "perplexity", *in_part):
        table.add_column(heading, justify="right")
    sets = _sets(found)
    if len(sets) > 1:
        table.add_column("validated on")
    for run in found:
        of_all = f" of {run.num_steps:,}" if run.num_steps and run.state != "finished" else ""
        cells = [
            escape(run.folder),
            run.state,
            escape(run.model or "–"),
            "–" if run.steps is None else f"{run.steps:,}{of_all}",
            "–" if run.tokens is None else f"{run.tokens:,}",
            "–" if run.bits_per_byte is None else f"{run.bits_per_byte:.4f}",
            "–" if run.perplexity is None else f"{run.perplexity:.3f}",
            *([coverage(run.scored_stories, run.validation_stories) or "–"] if in_part else []),
            *([sets.get(run.validated_on, "–")] if len(sets) > 1 else []),
        ]
        table.add_row(*cells)
    readable = {run.folder: run.settings for run in found if run.settings is not None}
    told = dict(zip(readable, labels(readable.values()), strict=True))
    if not any(told.values()):
        return [table]
    apart = Table("run", "settings that differ", box=None, pad_edge=False)
    for folder, label in told.items():
        apart.add_row(escape(folder), escape(label) or "–")
    return [table, apart]


def _sets(found: "list[ListedRun]") -> dict[str | None, str]:
    """Number the sets of stories on which the runs that have figures were validated."""
    used = dict.fromkeys(run.validated_on for run in found if run.bits_per_byte is not None)
    used.pop(None, None)  # early versions did not record it
    return {stories: f"set {number}" for number, stories in enumerate(used, 1)}
