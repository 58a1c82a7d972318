"""Which words gain: the losses of a comparison's arms by the role of the word.

    for run in runs/clean/*-seed*; do    # a minute each
      tinyohem eval-perplexity $run --by role --json > $run/roles.json
    done
    python scripts/who_gains.py runs/clean topk random

The first column of losses is the baseline's, the arm `full`, over all its seeds. Differences are
arm minus baseline in nats per token over the seeds that both have, paired, with 95 % intervals. Six
roles an arm are six tests: of those that have nothing to show, one in twenty falls below p = 0.05.
"""

import json
import sys
from pathlib import Path
from typing import NoReturn

from tinyohem.experiments.folder import run_folders
from tinyohem.experiments.statistics import Difference, mean_sd, paired_difference

Losses = dict[str, dict[int, float]]  # role: seed: nats per token
BASELINE = "full"


def main(folder: Path, arms: list[str]) -> None:
    """Print the table in Markdown."""
    tokens: dict[str, int] = {}
    baseline = losses_of(folder, BASELINE, tokens)
    found = {arm: losses_of(folder, arm, tokens) for arm in arms}
    head = ["role", "share of tokens", BASELINE, *arms]
    print(f"| {' | '.join(head)} |\n| {' | '.join(['---'] * len(head))} |")
    for role, own in baseline.items():
        mean, sd = mean_sd(list(own.values()))
        share = tokens[role] / sum(tokens.values())
        cells = [role, f"{share:.1%}", f"{mean:.3f} ± {sd:.3f}"]
        cells += [shown(difference(losses[role], own)) for losses in found.values()]
        print(f"| {' | '.join(cells)} |")


def losses_of(folder: Path, arm: str, tokens: dict[str, int]) -> Losses:
    """Read an arm's losses by role and seed.

    Args:
        tokens: of each role, the same in all runs; the first run fills it.
    """
    losses: Losses = {}
    for (name, seed), run in run_folders(folder).items():
        if name == arm and (run / "roles.json").exists():
            try:
                groups = json.loads((run / "roles.json").read_text())["by"]["role"]
            except (ValueError, KeyError):
                refuse(f"{run}/roles.json is no output of --by role --json")
            own = {group["name"]: group["tokens"] for group in groups}
            if own != (tokens or own):
                refuse(f"{run} was scored on other tokens")
            tokens |= own
            for group in groups:
                losses.setdefault(group["name"], {})[seed] = group["loss"]
    if not losses:
        refuse(f"no {arm}-seed*/roles.json in {folder}")
    return losses


def difference(arm: dict[int, float], baseline: dict[int, float]) -> Difference:
    """Compare an arm with the baseline, over the seeds that both have."""
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds:
        refuse(f"an arm has no seed in common with {BASELINE}")
    return paired_difference([arm[s] for s in seeds], [baseline[s] for s in seeds])


def refuse(what: str) -> NoReturn:
    """End with an error."""
    print(f"error: {what}\nhint: see the top of scripts/who_gains.py", file=sys.stderr)
    sys.exit(2)


def shown(found: Difference) -> str:
    """Lay out a difference."""
    if not found.tested:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}, p {found.p_value:.2g})"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        refuse("name a folder of runs and at least one arm")
    main(Path(sys.argv[1]), sys.argv[2:])
