"""The runs of a comparison: the config and the folder of each, and the result that it left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyohem.config.run import RunConfig, decides_figures, has_biased_mean, validate_config
from tinyohem.data.choice import ChoiceRecord
from tinyohem.errors import InputError
from tinyohem.experiments.folder import RESULT_FILE, FinishedRun, run_folder
from tinyohem.experiments.shared import Shared
from tinyohem.experiments.spec import Arm, Comparison
from tinyohem.io.manifest import read_record
from tinyohem.runs.layout import CHOICE_FILE

RESULT_FORMAT = 2


@dataclass(frozen=True, eq=False)
class Job:
    """A run of a comparison."""

    arm: str
    seed: int
    config: RunConfig
    shared: Shared
    run_dir: Path


def jobs_of(
    comparison: Comparison,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    out: Path,
    shared: Shared,
    seconds: Mapping[int, float] | None = None,
) -> list[Job]:
    """Return the runs of some arms, arm by arm.

    Args:
        out: the folder of the comparison.
        seconds: of the baseline, by seed, that are the budget of these arms; default: their own.

    Raises:
        InputError: choosing its stories leaves an arm nothing of its budget.
    """
    jobs = []
    for arm in arms:
        for seed in seeds:
            folder = run_folder(out, arm.name, seed)
            left = seconds[seed] if seconds else None
            if left is not None and comparison.budget == "equal-seconds":
                left = _left(arm.name, left, shared, folder)
            jobs.append(Job(arm.name, seed, comparison.config(arm, seed, left), shared, folder))
    return jobs


def seconds_for_others(baseline: FinishedRun, free: bool) -> float:
    """Return the seconds of a run that the other arms get, those of its choosing included.

    Args:
        free: leave out what selecting tokens and choosing stories cost.
    """
    if free:
        return baseline.train_seconds - baseline.select_seconds
    return baseline.train_seconds + (baseline.choose_seconds or 0.0)


def _left(arm: str, seconds: float, shared: Shared, run_dir: Path) -> float:
    """Return what choosing leaves an arm of its budget, in seconds.

    A run that has begun keeps to the seconds that it recorded.

    Raises:
        InputError: nothing is left, or nobody knows what scoring took.
    """
    spent = shared.seconds_before(arm)
    if (run_dir / CHOICE_FILE).exists():
        chosen = read_record(run_dir / CHOICE_FILE, ChoiceRecord).seconds
        spent = None if chosen is None else chosen + shared.mine_seconds[arm]
    if spent is None:
        raise InputError(
            f"nothing says how long scoring took for the arm {arm!r}, and it counts",
            "leave out target.scores and curriculum.scores: the pool is then scored and timed",
        )
    if spent >= seconds:
        raise InputError(
            f"choosing the stories of the arm {arm!r} took {spent:,.1f} s, the baseline's whole "
            f"training {seconds:,.1f} s",
            "give the baseline more tokens, or compare with --budget equal-tokens",
        )
    return seconds - spent


def finished_result(job: Job) -> FinishedRun | None:
    """Return the result that a job left, if it did.

    Raises:
        InputError: the result is damaged, or of another config or other stories.
    """
    path = job.run_dir / RESULT_FILE
    if not path.exists():
        return None
    try:
        result = read_record(path, FinishedRun)
        if missing := [*result.missing, *({"steps"} - result.model_fields_set)]:
            raise ValueError(f"it lacks {missing[0]}")
    except ValueError as error:
        hint = "delete it: the run then goes on from its last checkpoint"
        raise InputError(f"{path} is damaged: {error}", hint) from None
    if not _same(result, job):
        raise InputError(
            f"{job.run_dir} holds the result of another config or other stories",
            "choose another --out, or delete that folder",
        )
    return result


def _same(result: FinishedRun, job: Job) -> bool:
    """Whether a result is of this job's config and tokens.

    Config keys that it lacks have their defaults; keys that change no figure and the settings of a
    curriculum that is off do not matter. A result of a biased running mean is no longer that of any
    config.
    """
    if (result.format, result.tokens_sha256) != (RESULT_FORMAT, job.shared.tokens_sha256[job.arm]):
        return False
    try:
        config = validate_config(result.config)
    except InputError:
        return False
    if has_biased_mean(result.config, config):
        return False
    if not config.curriculum.enabled and not job.config.curriculum.enabled:
        config = config.model_copy(update={"curriculum": job.config.curriculum})
    return decides_figures(config) == decides_figures(job.config)
