"""Run jobs side by side in processes; one that fails does not stop the others."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TypeVar

from tinyohem.config.run import RunConfig
from tinyohem.errors import InputError, RunError
from tinyohem.experiments.spec import Comparison
from tinyohem.progress import Progress
from tinyohem.system.processes import Workers, usable_cores

Job = TypeVar("Job")
Result = TypeVar("Result")


def default_workers() -> int:
    """Return how many runs to keep going: GPUs, or cores where there is none."""
    import torch

    return torch.cuda.device_count() or usable_cores()


def side_by_side(comparison: Comparison, workers: int | None) -> int:
    """Return how many runs of a comparison go on at a time: `workers`, or all there are."""
    return min(workers or default_workers(), len(comparison.arms) * len(comparison.seeds))


def threads_of(workers: int) -> int:
    """Return the threads that each of some runs side by side gets."""
    import torch

    # torch.get_num_threads() respects OMP_NUM_THREADS.
    return max(1, min(torch.get_num_threads(), usable_cores() // workers))


def in_parallel(
    jobs: Sequence[Job],
    work: Callable[[Job], Result],
    workers: int,
    name: Callable[[Job], str],
    progress: Progress,
) -> Generator[tuple[Job, Result]]:
    """Yield each job with what `work` made of it in a worker process, as they end.

    Args:
        work: a function of a module, since it travels to the worker by name.
        name: of a job, for the message where it failed.

    Raises:
        InputError: jobs failed, each for its input. The others are finished by then.
        RunError: jobs failed for whatever reason. The others are finished by then.
    """
    failed: dict[str, Exception] = {}

    def stopping(busy: int) -> None:
        progress.note(f"stopping: {busy} run(s) save where they are")

    with closing(outcomes(jobs, work, workers, stopping)) as ended:
        for job, outcome in ended:
            if isinstance(outcome, Exception):
                failed[name(job)] = outcome
                progress.warn(f"{name(job)}: {str(outcome) or type(outcome).__name__}")
            else:
                yield job, outcome
    if failed:
        raise _failure(failed)


def outcomes(
    jobs: Sequence[Job],
    work: Callable[[Job], Result],
    workers: int,
    stopping: Callable[[int], None] = lambda _: None,
) -> Generator[tuple[Job, Result | Exception]]:
    """Yield each job with what `work` made of it in a worker process, or its error, as they end.

    Args:
        work: a function of a module, since it travels to the worker by name.
        stopping: is told how many jobs are going on where it is left before all have ended.
    """
    with Workers(workers, work, partial(_begin, threads_of(workers))) as pool:
        waiting = iter(jobs)
        try:
            while True:
                for job in islice(waiting, workers - pool.busy):
                    pool.submit(job)
                if not pool.busy:
                    break
                yield pool.next_ended()
        except (KeyboardInterrupt, GeneratorExit):
            stopping(pool.busy)
            raise


def _failure(failed: dict[str, Exception]) -> InputError | RunError:
    kind = InputError if all(isinstance(e, InputError) for e in failed.values()) else RunError
    name, error = next(iter(failed.items()))
    return kind(
        f"{len(failed)} run(s) failed, the first was {name}: {str(error) or type(error).__name__}",
        "the finished runs are kept; mend the cause and repeat the command",
    )


_place = 0  # of this process among the workers


def _begin(threads: int, place: int) -> None:
    global _place
    import torch

    _place = place
    torch.set_num_threads(threads)


def on_own_device(config: RunConfig) -> RunConfig:
    """Return a config with this worker's device in place of `auto`: its GPU, or the CPU."""
    import torch

    if config.training.device != "auto":
        return config
    gpus = torch.cuda.device_count()
    device = f"cuda:{_place % gpus}" if gpus else "cpu"
    training = config.training.model_copy(update={"device": device})
    return config.model_copy(update={"training": training})
