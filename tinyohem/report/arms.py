"""The folder of a comparison: which runs have begun in it, and what it still lacks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ARM_FOLDER = re.compile(r"(?P<arm>.+)-seed(?P<seed>\d+)")
_RUNS_NAMED = 12  # in a sentence
RESULT_FILE = "result.json"  # of a run that `compare` has finished

ArmFolders = dict[str, dict[int, Path]]  # of each arm, by seed
Planned = tuple[list[str], list[int]] | None  # arms and seeds


def is_run(folder: Path) -> bool:
    """Whether a folder holds the record of a run."""
    return any((folder / name).exists() for name in ("config.json", RESULT_FILE))


def arm_folders(folder: Path, order: Sequence[str]) -> ArmFolders:
    """Find the runs that have begun; arms not in `order` follow those that are."""
    arms: ArmFolders = {arm: {} for arm in order}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _ARM_FOLDER.fullmatch(path.name)
        if match and is_run(path):
            arms.setdefault(match["arm"], {})[int(match["seed"])] = path
    return {arm: dict(sorted(seeds.items())) for arm, seeds in arms.items()}


def what_is_missing(
    label: str, planned: Planned, arms: ArmFolders, results: Sequence[Mapping[str, Any]]
) -> str | None:
    """Say how many runs of a comparison are finished and which are not; None where all are.

    Args:
        planned: arms and seeds of the last command; None where an earlier version left no plan.
            Then arms that have not begun are unknown, and every arm has the seeds of the others.
    """
    tabled = {(result["arm"], result["seed"]) for result in results}
    done = tabled | {
        (arm, seed)
        for arm, seeds in arms.items()
        for seed, path in seeds.items()
        if any((path / name).exists() for name in ("eval.json", RESULT_FILE))
    }
    begun = {(arm, seed) for arm, seeds in arms.items() for seed in seeds} | done
    names, seeds = planned or (
        list(dict.fromkeys([*arms, *(arm for arm, _ in tabled)])),
        sorted({seed for _, seed in begun}),
    )
    runs = list(dict.fromkeys([*((arm, seed) for arm in names for seed in seeds), *sorted(begun)]))
    missing = [f"{arm}-seed{seed}" for arm, seed in runs if (arm, seed) not in done]
    if missing:
        named = name_runs(missing)
        if results and not planned and begun == done:
            return f"The arms of {label} do not all have the same seeds. Without: {named}."
        unknown = "" if planned else "; arms that have not begun are not counted"
        return (
            f"The comparison {label} is not finished: {len(done)} of {len(runs)} runs are. "
            f"Missing: {named}{unknown}."
        )
    if done - tabled:
        return (
            f"All {len(runs)} runs of {label} are finished, but its table does not hold them yet: "
            "the same compare command makes it."
        )
    return None


def name_runs(names: Sequence[str]) -> str:
    """Name some runs in a sentence, the first dozen of many."""
    more = len(names) - _RUNS_NAMED
    return ", ".join(names[:_RUNS_NAMED]) + (f" and {more} more" if more > 0 else "")
