"""Jobs side by side in processes of their own: a comparison's runs."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import active_children, get_context
from typing import Any, TypeVar

from tinyohem.errors import InputError, RunError
from tinyohem.processes import end_with_parent, usable_cores
from tinyohem.progress import Progress

Job = TypeVar("Job")
Result = TypeVar("Result")


def default_workers() -> int:
    """Return how many runs to keep going: GPUs, or cores where there is none."""
    import torch

    return torch.cuda.device_count() or usable_cores()


def in_parallel(
    jobs: Sequence[Job],
    work: Callable[[Job], Result],
    workers: int,
    name: Callable[[Job], str],
    progress: Progress,
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with what `work` made of it in a worker process, as they end.

    Args:
        work: a function of a module, since it travels to the worker by name.
        name: what a job is called where it failed.

    Raises:
        InputError: jobs failed, each for its input. The others are finished by then.
        RunError: jobs failed for whatever reason. The others are finished by then.
    """
    import torch

    failed: dict[str, Exception] = {}
    # Spawned, not forked: a forked copy of torch's thread pool hangs.
    context = get_context("spawn")
    places = context.SimpleQueue()
    for place in range(workers):
        places.put(place)
    # What OMP_NUM_THREADS allows at most; torch has read it.
    threads = max(1, min(torch.get_num_threads(), usable_cores() // workers))
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(places, threads))
    waiting = iter(jobs)
    running: dict[Future[Result], Job] = {}
    try:
        while True:
            # No job waits inside the pool: it could not be called back, and would begin after
            # Ctrl-C had ended the run before it.
            for job in islice(waiting, workers - len(running)):
                running[pool.submit(work, job)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    yield job, future.result()
                except Exception as error:  # one run's trouble must not cost the others
                    failed[name(job)] = error
                    progress.warn(f"{name(job)}: {str(error) or type(error).__name__}")
                    if isinstance(error, BrokenProcessPool):  # it takes no more jobs
                        waiting = iter(())
    except KeyboardInterrupt:
        for worker in active_children():  # a scheduler may have told this process alone
            worker.terminate()  # SIGTERM: a run in training saves first
        raise
    finally:
        pool.shutdown()
    if failed:
        raise _failure(failed)


def _failure(failed: dict[str, Exception]) -> InputError | RunError:
    kind = InputError if all(isinstance(e, InputError) for e in failed.values()) else RunError
    name, error = next(iter(failed.items()))
    return kind(
        f"{len(failed)} run(s) failed, the first was {name}: {str(error) or type(error).__name__}",
        "the finished runs are kept; mend the cause and repeat the command",
    )


_place = 0  # of this process among the workers


def _begin(places: Any, threads: int) -> None:
    global _place
    import torch

    _place = places.get()
    torch.set_num_threads(threads)
    end_with_parent()


def own_device() -> str:
    """Return the device of this worker process: its GPU, or the CPU where there is none."""
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{_place % gpus}" if gpus else "cpu"
