"""Summarise the results of single runs as one row an arm, and write that table."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tinyohem.experiments.folder import MARKDOWN_FILE, TABLE_FILE, RunResult, write_runs
from tinyohem.experiments.statistics import (
    MIN_SEEDS,
    SIGNIFICANCE,
    Difference,
    Equivalence,
    mean_sd,
    paired_difference,
    paired_equivalence,
)
from tinyohem.io.atomic import atomic_file
from tinyohem.io.json import JsonObject, write_json


@dataclass(frozen=True)
class Reached:
    """How many seeds reached a loss of the baseline, and their mean steps and seconds."""

    seeds: int
    steps: float | None  # None where no seed did
    seconds: float | None


@dataclass(frozen=True)
class Row:
    """One arm over its seeds: means with sample standard deviations, and the paired difference."""

    arm: str
    seeds: int
    bits_per_byte: tuple[float, float]
    perplexity: tuple[float, float]
    hardest_tenth: tuple[float, float]  # nats
    easiest_half: tuple[float, float]  # nats
    gini: tuple[float, float]
    kept: float  # share of the tokens seen that got a gradient
    train_seconds: tuple[float, float]
    select_seconds: tuple[float, float]
    choose_seconds: float  # of choosing the stories, which each seed shares
    halfway: Reached | None  # the baseline's loss at half of its steps; None: not known
    baseline: Reached | None  # its final loss
    difference: Difference | None  # of bits per byte, to the baseline; None for itself
    margin: float | None  # of equivalence, bits per byte; None: not asked
    equivalence: Equivalence | None  # of bits per byte; None for the baseline, and without a margin


def summarise(results: Sequence[RunResult], margin: float | None = None) -> list[Row]:
    """Return one row an arm, in order; the first arm is the baseline.

    Args:
        margin: bits per byte within which an arm counts as equivalent to the baseline.
    """
    arms: dict[str, list[RunResult]] = {}
    for result in results:
        arms.setdefault(result.arm, []).append(result)
    baseline = next(iter(arms.values()))
    return [_row(arm, runs, baseline, margin) for arm, runs in arms.items()]


def _row(arm: str, runs: list[RunResult], baseline: list[RunResult], margin: float | None) -> Row:
    def spread(name: str) -> tuple[float, float]:
        values = [getattr(run, name) for run in runs]
        return mean_sd([math.nan if value is None else value for value in values])

    ours, theirs = ({run.seed: run.bits_per_byte for run in group} for group in (runs, baseline))
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
    compared = runs is not baseline
    return Row(
        arm=arm,
        seeds=len(runs),
        bits_per_byte=spread("bits_per_byte"),
        perplexity=spread("perplexity"),
        hardest_tenth=spread("hardest_tenth"),
        easiest_half=spread("easiest_half"),
        gini=spread("gini"),
        kept=sum(run.tokens_selected for run in runs) / sum(run.tokens_seen for run in runs),
        train_seconds=spread("train_seconds"),
        select_seconds=spread("select_seconds"),
        choose_seconds=max(run.choose_seconds or 0.0 for run in runs),
        halfway=_reached(runs, "halfway"),
        baseline=_reached(runs, "baseline"),
        difference=paired_difference(*pairs) if compared else None,
        margin=margin,
        equivalence=paired_equivalence(*pairs, margin) if compared and margin else None,
    )


def _reached(runs: list[RunResult], milestone: str) -> Reached | None:
    """Average over the seeds that reached it; None where a run's validations are not known."""
    names = [f"{unit}_to_{milestone}" for unit in ("steps", "seconds")]
    if not all(run.model_fields_set.issuperset(names) for run in runs):
        return None
    steps, seconds = (
        [time for run in runs if (time := getattr(run, name)) is not None] for name in names
    )
    if not steps:
        return Reached(0, None, None)
    return Reached(len(steps), mean_sd(steps)[0], mean_sd(seconds)[0])


def verdict(row: Row) -> str:
    """Return the result of the paired test in words."""
    if row.difference is None:
        return "baseline"
    if not row.difference.tested:
        return "too few seeds"
    if not row.difference.shown:
        return "no difference shown"
    return "better" if row.difference.mean < 0 else "worse"


def equivalent(row: Row) -> str:
    """Return the result of the equivalence test in words; empty where there is none."""
    if row.equivalence is None:
        return ""
    words = {None: "too few seeds", True: "shown", False: "not shown"}
    return words[row.equivalence.shown]


CHOOSING = "choosing s"
NUM_LOSS_CELLS = 5  # where the loss sits; they follow the verdicts


def num_verdict_cells(row: Row) -> int:
    """Return how many of a row's first cells judge it; the rest is detail."""
    return 6 if row.margin is None else 8


def lay_out(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Lay out rows as text, by column; that of choosing stands where an arm chose stories."""
    lines = [cells(row) for row in rows]
    if any(row.choose_seconds for row in rows):
        return lines
    return [{name: cell for name, cell in line.items() if name != CHOOSING} for line in lines]


def cells(row: Row) -> dict[str, str]:
    """Lay out a row as text, by column."""
    difference = row.difference
    tested = difference if difference and difference.tested else None
    within = row.equivalence if tested else None
    name = f"within ±{row.margin:g}" if row.margin else ""
    equivalence = {f"{name}, p": f"{within.p_value:.2g}" if within else "", name: equivalent(row)}
    return {
        "arm": row.arm,
        "bits per byte": _spread(row.bits_per_byte, 4),
        "difference": f"{difference.mean:+.4f}" if difference else "",
        "95 % interval": f"{tested.low:+.4f} to {tested.high:+.4f}" if tested else "",
        "p": f"{tested.p_value:.2g}" if tested else "",
        "verdict": verdict(row),
        **(equivalence if row.margin else {}),
        "perplexity": _spread(row.perplexity, 2),
        "kept": f"{row.kept:.1%}",
        "hardest tenth": _spread(row.hardest_tenth, 3),
        "easiest half": _spread(row.easiest_half, 3),
        "Gini": _spread(row.gini, 3),
        "steps to half-way": _when(row.halfway, "steps", row.seeds),
        "steps to baseline": _when(row.baseline, "steps", row.seeds),
        "s to baseline": _when(row.baseline, "seconds", row.seeds),
        "train s": _spread(row.train_seconds, 0),
        "of it selection": _spread(row.select_seconds, 0),
        CHOOSING: f"{row.choose_seconds:.1f}" if row.choose_seconds else "",
    }


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table for a README; the number of seeds stands below it."""
    head, *_ = laid_out = lay_out(rows)
    lines = [head, ["---"] * len(head), *(line.values() for line in laid_out)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{footnote(rows)}.\n"


def footnote(rows: Sequence[Row]) -> str:
    """Say how to read the figures of a table."""
    fewest, most = min(row.seeds for row in rows), max(row.seeds for row in rows)
    seeds = f"{most} seed(s)" if fewest == most else f"{fewest} to {most} seeds"
    note = (
        f"mean ± sd over {seeds}; losses in nats per token; half-way: to the loss that the "
        "baseline has at half of its steps"
    )
    if margin := rows[0].margin:
        note += (
            f"; within ±{margin:g} bits per byte of the baseline: two one-sided paired t-tests, "
            f"shown where the larger p is below {SIGNIFICANCE:g}"
        )
    differences = [row.difference for row in rows if row.difference]
    tested = sum(difference.tested for difference in differences)
    if tested < len(differences):
        note += f"; no test below {MIN_SEEDS} seeds that an arm shares with the baseline"
    return note if tested < 2 else f"{note}; p is not adjusted for {tested} comparisons"


def to_json(rows: Sequence[Row]) -> list[JsonObject]:
    """Return the rows as JSON values; an undefined figure is null."""
    return [
        {
            **_without_nan(asdict(row)),
            "difference": row.difference
            and {**_without_nan(asdict(row.difference)), "shown": row.difference.shown},
            "equivalence": row.equivalence
            and {**_without_nan(asdict(row.equivalence)), "shown": row.equivalence.shown},
            "verdict": verdict(row),
        }
        for row in rows
    ]


def write_tables(folder: Path, results: Sequence[RunResult], margin: float | None = None) -> None:
    """Write the table of a comparison as JSON and Markdown, and one row a run as Parquet."""
    rows = summarise(results, margin)
    write_json(folder / TABLE_FILE, to_json(rows))
    with atomic_file(folder / MARKDOWN_FILE) as stream:
        stream.write(to_markdown(rows).encode())
    write_runs(folder, results)


def _when(reached: Reached | None, unit: Literal["steps", "seconds"], seeds: int) -> str:
    if reached is None:
        return ""
    value = reached.steps if unit == "steps" else reached.seconds
    if value is None:
        return "never"
    return f"{value:,.0f}" + ("" if reached.seeds == seeds else f" ({reached.seeds} of {seeds})")


def _spread(value: tuple[float, float], digits: int) -> str:
    mean, sd = value
    return f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
