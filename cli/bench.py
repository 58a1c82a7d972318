"""`tinyohem bench`."""

from typing import Annotated

import typer

from tinyohem_cli import options


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
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Time the training step: full, mined (exact and pruned), and what others do.

    The others: a bare PyTorch loop, the usual mask on its loss, a step of transformers' Trainer
    (where accelerate is installed). All steps are interleaved; random tokens, so no data is needed.
    """
    from rich.table import Table

    from tinyohem.evaluation.bench import FULL, run_bench
    from tinyohem.evaluation.bench_steps import PHASES
    from tinyohem.recipe import load_config
    from tinyohem_cli.console import ConsoleProgress, out, print_json

    given = options.given({"training.device": device, "training.compile": compile_steps})
    config = load_config(recipe, given, assignments or ())
    timings = run_bench(config, rounds, ConsoleProgress())
    full = next(timing for timing in timings if timing.name == FULL)
    rows = [timing.to_json(full) for timing in timings]
    if as_json:
        print_json(rows)
        return
    table = Table("step", "ms (median)", "min – max", "tokens/s", "speed against full")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['ms_per_step']:.1f}",
            f"{row['ms_min']:.1f} – {row['ms_max']:.1f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio_to_full']:.2f}×",
        )
    out.print(table)
    parts = Table("ms (median) of", *PHASES)
    for row in rows:
        if phases := row["ms_by_phase"]:
            cells = (f"{phases[name]:.1f}" if name in phases else "" for name in PHASES)
            parts.add_row(row["name"], *cells)
    out.print(parts)
