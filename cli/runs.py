"""`tinyohem runs list`: what a folder of runs holds."""

from pathlib import Path
from typing import Annotated

import typer

from tinyohem_cli import options

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
    """List the runs in and below a folder, those of comparisons too."""
    from rich.markup import escape

    from tinyohem.runs.listing import list_runs as listed
    from tinyohem.runs.scored import coverage, scoring_command
    from tinyohem_cli.console import Table, err, out, print_json

    found = listed(folder)
    if as_json:
        print_json({"runs": [run.to_json() for run in found]})
        return
    if not found:
        err.print(f"{folder} holds no run; `tinyohem train` writes one", markup=False)
        return
    table = Table("run", "state", "model", "mining", box=None, pad_edge=False)
    for heading in ("steps", "tokens", "bits per byte", "perplexity", "stories scored"):
        table.add_column(heading, justify="right")
    for run in found:
        of_all = f" of {run.num_steps:,}" if run.num_steps and run.state != "finished" else ""
        table.add_row(
            escape(run.folder),
            run.state,
            escape(run.model or "–"),
            run.mining or "–",
            "–" if run.steps is None else f"{run.steps:,}{of_all}",
            "–" if run.tokens is None else f"{run.tokens:,}",
            "–" if run.bits_per_byte is None else f"{run.bits_per_byte:.4f}",
            "–" if run.perplexity is None else f"{run.perplexity:.3f}",
            coverage(run.scored_stories, run.validation_stories) or "–",
        )
    out.print(table)
    if partly := [Path(run.folder) for run in found if run.scored_in_part]:
        err.print(
            "figures of a part of the validation stories compare with no others; all stories: "
            f"{scoring_command(partly)}",
            markup=False,
        )
