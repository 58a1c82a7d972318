"""`tinyohem bench`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from rich.table import Table

    Rows = list[dict[str, Any]]


def bench(
    recipe: options.Recipe = None,
    rounds: Annotated[
        int, typer.Option("--rounds", help="Timed steps of each variant", min=1)
    ] = 10,
    device: options.Device = None,
    compile_steps: Annotated[
        bool | None,
        typer.Option("--compile", help="Time our steps through torch.compile as well"),
    ] = None,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory", help="Measure each step's peak memory as well, in a process of its own"
        ),
    ] = False,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Time the training step: full, mined (exact and pruned), and what others do.

    The others: a bare PyTorch loop, the usual mask on its loss, a step of transformers' Trainer
    (where accelerate is installed). All steps are interleaved; random tokens, so no data is needed.
    """
    from tinyohem.evaluation.bench import run_bench
    from tinyohem.recipe import load_config
    from tinyohem_cli.console import ConsoleProgress, out, print_json

    given = options.given({"training.device": device, "training.compile": compile_steps})
    config = load_config(recipe, given, assignments or ())
    found = run_bench(config, rounds, memory=memory, progress=ConsoleProgress())
    rows = found.rows()
    if as_json:
        print_json(rows)
        return
    out.print(_steps(rows))
    out.print(_phases(rows))
    rate = found.product_flops_per_second
    out.print(
        f"matrix products alone, of the trunk's shapes: {rate / 1e12:.3g} TFLOP/s; utilisation is "
        "the share of it that a plain step in that time would reach"
    )


def _steps(rows: "Rows") -> "Table":
    from rich.table import Table

    heads = ("step", "ms (median)", "min – max", "tokens/s", "speed against full", "utilisation")
    measured = any(row["peak_memory_bytes"] for row in rows)
    table = Table(*heads, *(["peak MiB"] if measured else []))
    for row in rows:
        cells = [
            row["name"],
            f"{row['ms_per_step']:.1f}",
            f"{row['ms_min']:.1f} – {row['ms_max']:.1f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio_to_full']:.2f}×",
            f"{row['model_flop_utilization']:.0%}",
        ]
        table.add_row(*cells, *([f"{row['peak_memory_bytes'] / 2**20:,.0f}"] if measured else []))
    return table


def _phases(rows: "Rows") -> "Table":
    from rich.table import Table

    from tinyohem.evaluation.bench_steps import PHASES

    table = Table("ms (median) of", *PHASES)
    for row in rows:
        if phases := row["ms_by_phase"]:
            cells = (f"{phases[name]:.1f}" if name in phases else "" for name in PHASES)
            table.add_row(row["name"], *cells)
    return table
