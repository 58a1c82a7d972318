"""`tinyohem bench`: time training steps, and print the comparison."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from tinyohem.config.run import RunConfig
    from tinyohem_cli.console import Table

    Rows = list[dict[str, Any]]


Rounds = Annotated[
    int,
    typer.Option("--rounds", help="Timed steps of each variant, after two that warm up", min=1),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile", help="Time all but the mask through torch.compile as well; default: no"
    ),
]
Memory = Annotated[
    bool,
    typer.Option(
        "--memory", help="Measure each step's peak memory as well, in a process of its own"
    ),
]


@options.with_keys(
    *("recipe", "model.preset", "training.batch_size", "training.seq_len", "rounds"),
    *("training.device", "compile_steps", "memory", "assignments", "as_json"),
)
def bench(
    overrides: options.Overrides,
    recipe: options.Recipe = None,
    rounds: Rounds = 10,
    compile_steps: Compile = None,
    memory: Memory = False,
    assignments: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Time the training step: full, top-k at fixed ratios (exact and pruned), and what others do.

    The others: a bare PyTorch loop, the usual mask on its loss, a step of transformers' Trainer
    (where accelerate is installed). All steps are interleaved; random tokens, so no data is needed.
    """
    from tinyohem.bench.run import run_bench
    from tinyohem.config.ohem import OhemConfig
    from tinyohem.config.recipes import load_config
    from tinyohem.system.device import pick_device
    from tinyohem.system.environment import environment
    from tinyohem_cli.console import ConsoleProgress, out, print_json

    steps = options.given({"training.compile": compile_steps})
    config = load_config(recipe, {**overrides, **steps}, assignments or ())
    progress = ConsoleProgress()
    usual = dict(OhemConfig())
    if ignored := [f"ohem.{k}" for k, v in config.ohem if k != "scope" and v != usual[k]]:
        progress.warn(f"bench has its own keep ratios and ways: it ignores {', '.join(ignored)}")
    found = run_bench(config, rounds, memory=memory, progress=progress)
    rows, machine = found.rows(), environment(pick_device(config.training.device))
    if as_json:
        print_json({"environment": machine, "config": config.model_dump(), "steps": rows})
        return
    out.print(_what(config, machine), markup=False)
    out.print(_steps(rows))
    out.print(_phases(rows))
    rate = found.product_flops_per_second
    out.print(
        f"matrix products alone, of the trunk's shapes: {rate / 1e12:.3g} TFLOP/s; utilisation is "
        "the share of it that a plain step in that time would reach"
    )


def _what(config: "RunConfig", machine: dict[str, Any]) -> str:
    from tinyohem.config.model import model_shape

    training, shape = config.training, model_shape(config.model)
    where = machine["device"]
    if where == "cpu":
        where = f"{machine['processor']}, {machine['threads']} thread(s)"
    return (
        f"{where}, torch {machine['packages']['torch']}; "
        f"{shape.num_parameters(config.tokenizer.vocab_size):,} parameters, vocabulary of "
        f"{config.tokenizer.vocab_size:,}, {training.batch_size} × {training.seq_len} tokens a "
        f"step, precision {training.precision}"
    )


def _steps(rows: "Rows") -> "Table":
    from tinyohem_cli.console import Table

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
    from tinyohem.bench.steps import PHASES
    from tinyohem_cli.console import Table

    table = Table("ms (median) of", *PHASES)
    for row in rows:
        if phases := row["ms_by_phase"]:
            cells = (f"{phases[name]:.1f}" if name in phases else "" for name in PHASES)
            table.add_row(row["name"], *cells)
    return table
