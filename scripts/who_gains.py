"""Which words gain: the losses of a comparison's arms by the role of the word.

    for run in runs/clean/*-seed?; do    # a minute each
      tinyohem eval-perplexity $run --by role --json > $run/roles.json
    done
    python scripts/who_gains.py runs/clean topk random

The first column of losses is the baseline's: the arm `full`. Differences are arm minus baseline in
nats per token, paired by seed, with 95 % intervals. Six roles an arm are six tests: of those that
have nothing to show, one in twenty falls below p = 0.05.
"""

import json
import sys
from pathlib import Path

from tinyohem.experiments.folder import run_folders
from tinyohem.experiments.statistics import Difference, mean_sd, paired_difference

Losses = dict[str, dict[int, float]]  # role: seed: nats per token
BASELINE = "full"


def main(folder: Path, arms: list[str]) -> None:
    """Print the table in Markdown."""
    tokens, baseline = losses_of(folder, BASELINE)
    found = {}
    for arm in arms:
        own_tokens, found[arm] = losses_of(folder, arm)
        if own_tokens != tokens:
            sys.exit(f"error: {arm} was scored on other tokens\nhint: leave it out")
    head = ["role", "share of tokens", BASELINE, *arms]
    print(f"| {' | '.join(head)} |\n| {' | '.join(['---'] * len(head))} |")
    for role, own in baseline.items():
        mean, sd = mean_sd(list(own.values()))
        share = tokens[role] / sum(tokens.values())
        cells = [role, f"{share:.1%}", f"{mean:.3f} ± {sd:.3f}"]
        cells += [shown(difference(losses[role], own)) for losses in found.values()]
        print(f"| {' | '.join(cells)} |")


def losses_of(folder: Path, arm: str) -> tuple[dict[str, int], Losses]:
    """Read each role's number of tokens, and an arm's losses by role and seed."""
    tokens: dict[str, int] = {}
    losses: Losses = {}
    for (name, seed), run in run_folders(folder).items():
        if name == arm and (run / "roles.json").exists():
            for group in json.loads((run / "roles.json").read_text())["by"]["role"]:
                tokens[group["name"]] = group["tokens"]
                losses.setdefault(group["name"], {})[seed] = group["loss"]
    if not losses:
        sys.exit(f"error: no {arm}-seed*/roles.json in {folder}\nhint: see the top of this script")
    return tokens, losses


def difference(arm: dict[int, float], baseline: dict[int, float]) -> Difference:
    """Compare an arm with the baseline, over the seeds that both have."""
    seeds = sorted(arm.keys() & baseline.keys())
    return paired_difference([arm[s] for s in seeds], [baseline[s] for s in seeds])


def shown(found: Difference) -> str:
    """Lay out a difference."""
    if not found.tested:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}, p {found.p_value:.2g})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
