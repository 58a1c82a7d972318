"""The table of `methods.toml`, from the records of its runs.

    for run in runs/methods/*-seed0; do    # a minute each; one seed will do
      tinyohem eval-perplexity $run --calibration --json > $run/calibration.json
    done
    python scripts/methods_table.py runs/methods

`compare` prints the same figures for one set of seeds. Here arms may have one seed or three, and
the best temperature of their models stands beside them: below 1 the predictions are too flat.
"""

import json
import math
import sys
import tomllib
from pathlib import Path
from typing import Any

from tinyohem.experiments.folder import RESULT_FILE, RunResult, run_folders
from tinyohem.experiments.statistics import mean_sd
from tinyohem.experiments.table import Row, cells, summarise
from tinyohem.io.manifest import read_record

SHOWN = ("bits per byte", "difference", "95 % interval", "p", "perplexity", "kept")
SHOWN += ("hardest tenth", "easiest half", "Gini")


def main(folder: Path) -> None:
    """Print the table in Markdown, arms in the order of the comparison file."""
    order = list(tomllib.loads((Path(__file__).parent / "methods.toml").read_text())["arms"])
    runs = run_folders(folder, order).values()
    results = [read_record(run / RESULT_FILE, RunResult) for run in runs]
    names = ["arm", "seeds", *SHOWN, "best temperature"]
    print(f"| {' | '.join(names)} |\n| {' | '.join(['---'] * len(names))} |")
    for row in summarise(results):
        print(f"| {' | '.join(line(row, temperatures(folder, row.arm)))} |")


def line(row: Row, found: list[float]) -> list[str]:
    """Lay out an arm."""
    shown = cells(row)
    temperature = f"{mean_sd(found)[0]:.3f}" if found else ""
    return [row.arm, str(row.seeds), *(shown[name] for name in SHOWN), temperature]


def temperatures(folder: Path, arm: str) -> list[float]:
    """Read the best temperatures of an arm's models, of the seeds that were measured."""
    reports: list[dict[str, Any]] = [
        json.loads(path.read_text()) for path in folder.glob(f"{arm}-seed*/calibration.json")
    ]
    found = [float(report["calibration"]["best_temperature"]) for report in reports]
    return [temperature for temperature in found if math.isfinite(temperature)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
