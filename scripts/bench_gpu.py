"""Print what scripts/bench_gpu.sh measured as Markdown."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    bench: Annotated[Path, typer.Argument(help="What `tinyohem bench --json` printed")],
    run_dir: Annotated[Path, typer.Argument(help="Run folder")],
) -> None:
    """Print the machine, a table of the steps, and how long the run took without compiling."""
    measured = json.loads(bench.read_text())
    rows, found = measured["steps"], measured["environment"]
    run = json.loads((run_dir / "config.json").read_text())
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    training = measured["config"]["training"]
    products = rows[0]["model_flops_per_second"] / rows[0]["model_flop_utilization"]
    print(
        f"{found['device']}, torch {found['packages']['torch']}, {training['batch_size']} × "
        f"{training['seq_len']} tokens a step; matrix products alone, of the trunk's shapes: "
        f"{products / 1e12:.1f} TFLOP/s\n"
    )
    print("| step | ms (median) | min – max | tokens/s | against full | utilisation |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['name']} | {row['ms_per_step']:.2f} | {row['ms_min']:.2f} – "
            f"{row['ms_max']:.2f} | {row['tokens_per_second']:,.0f} | "
            f"{row['ratio_to_full']:.2f} | {row['model_flop_utilization']:.0%} |"
        )
    print(f"\n{_run(run, metrics)}")


def _run(run: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """Tell a run's seconds, compilation left out: from its tenth part on, laid over the whole."""
    logged = [row for row in metrics if "train/loss" in row]
    last = logged[-1]
    told = (
        f"`{run['config']['model']['preset']}` on {last['train/tokens_seen']:,} tokens"
        f"{', compiled' if run['config']['training']['compile'] else ''}: "
        f"{last['train/seconds']:.1f} s"
    )
    first = next(row for row in logged if row["step"] >= last["step"] / 10)
    if first is last:
        return told
    pace = (last["train/seconds"] - first["train/seconds"]) / (last["step"] - first["step"])
    return (
        f"{told}, {pace * last['step']:.1f} s at the pace of its steps {first['step']} to "
        f"{last['step']}, without the first ones, which may compile"
    )


if __name__ == "__main__":
    typer.run(main)
