"""The pass over a corpus on a Ray cluster: its machines read, parse and score; this one writes.

Shards must be those of a pass on one machine, so they are planned before: the workers cut each file
into blocks and return only how large those are; from that it is known where every shard begins. A
task is then a run of shards that begin in one file. It yields the bytes of their files, which this
process alone stores: a task that Ray repeats, because its worker died, does no harm.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tinyohem.data.blocks import read_blocks
from tinyohem.difficulty.score_table import library_versions
from tinyohem.difficulty.shards import (
    Rules,
    ScoreShard,
    scores_of,
    shard_path,
    shards_of,
    store_shard,
)
from tinyohem.errors import InputError, RunError
from tinyohem.progress import Progress

if TYPE_CHECKING:
    from tinyohem.data.corpus import Corpus
    from tinyohem.difficulty.score_corpus import Scoring

# A task cuts its way through the file to its first shard: few enough tasks a file to make that
# cheap, enough to give one large file to many cores.
SHARDS_PER_RUN = 16
RUNS_PER_FILE = 16

T = TypeVar("T")
R = TypeVar("R")
TASKS_PER_CORE = 2  # handed to the cluster at a time: results wait in its memory


class _Cut(NamedTuple):
    """The size and place of a block that has not been read; see `Measured`."""

    rows: int
    size: int
    file: int
    number: int  # in its file


@dataclass(frozen=True)
class _Run:
    """Consecutive shards that begin in one file."""

    files: tuple[Path, ...]  # from the one that they begin in to the one that they end in
    skip: int  # blocks of the first file that come before
    blocks: int  # number of blocks
    index: int  # of the first shard
    first_row: int  # of the first shard
    missing: frozenset[int]  # indices of the shards that have no file yet


@contextmanager
def ray_cluster(workers: int) -> Iterator[None]:
    """Connect to the cluster that $RAY_ADDRESS names, else start one on this machine.

    Args:
        workers: cores of a cluster that is started here.

    Raises:
        InputError: Ray is not installed, or no cluster answers at that address.
        RunError: none could be started here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it would call home
    try:
        import ray
    except ImportError:
        hint = "pip install 'tinyohem[ray]'"
        raise InputError("--engine ray needs Ray, which is not installed", hint) from None
    if ray.is_initialized():
        yield
        return
    try:
        _connect(workers)
        yield
    finally:
        ray.shutdown()


def _connect(workers: int) -> None:
    import ray

    address = os.environ.get("RAY_ADDRESS")  # Ray looks there by itself
    local = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    local |= {"_system_config": {"worker_niceness": 0}}  # by default workers give way to all others
    try:
        with _own_sigterm():
            ray.init(**({} if address else local), logging_level="error", log_to_driver=False)
    except ConnectionError as error:
        what = f"no Ray cluster answers at {address}: {error}"
        raise InputError(what, "check $RAY_ADDRESS, or unset it to use this machine") from None
    except Exception as error:  # Ray has no class of its own for it
        raise RunError(f"Ray did not start: {error}", "run the same command again") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this program's handler of SIGTERM, which Ray replaces with one that exits."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def score_on_ray(
    corpus: "Corpus", folder: Path, rules: Rules, _workers: int, progress: Progress
) -> "Scoring":
    """Score with the cluster that is connected; see `score_corpus.Engine`.

    Shards come as they get ready. Their `share` is of the rows that are done by then.

    Raises:
        InputError: a corpus that is not of files, a row that cannot be parsed, or a worker with
            other libraries than here.
        RunError: the cluster failed.
    """
    if not corpus.files:
        what = f"--engine ray reads story files, and {corpus.name} is none"
        raise InputError(what, "name files, also by URL (hf://datasets/…), or use --engine local")
    cuts = _survey(corpus, progress)
    shards = list(shards_of((cut, 0.0) for cut in cuts))
    missing = {shard.index for shard in shards if not shard_path(folder, shard.index).exists()}
    runs = list(_runs(shards, missing, corpus.files))
    work = partial(_score, text_field=corpus.text_field, rules=rules)
    return _store(shards, missing, _scatter(work, runs), folder)


def each_on_ray(function: Callable[[Path], str], files: Iterable[Path]) -> Iterator[str]:
    """Apply a function to every file on the cluster, as `map` does for `open_corpus`."""

    def work(path: Path) -> Iterator[str]:
        yield function(path)

    return _scatter(work, files, in_order=True)


def _survey(corpus: "Corpus", progress: Progress) -> list[_Cut]:
    """Return every block of the corpus, unread."""
    progress.start("cutting", len(corpus.files), "files")
    cuts: list[_Cut] = []
    work = partial(_cut, text_field=corpus.text_field)
    for file, sizes in enumerate(_scatter(work, corpus.files, in_order=True)):
        cuts += [_Cut(rows, size, file, number) for number, (rows, size) in enumerate(sizes)]
        progress.advance(file + 1)
    progress.finish()
    return cuts


def _cut(path: Path, text_field: str) -> Iterator[list[tuple[int, int]]]:
    yield [(block.rows, block.size) for block, _ in read_blocks(path, text_field)]


def _runs(
    shards: Sequence[ScoreShard[_Cut]], missing: set[int], files: Sequence[Path]
) -> Iterator[_Run]:
    """Group shards into runs, without those that miss no shard."""
    for _, group in groupby(shards, key=lambda shard: shard.blocks[0].file):
        of_file = list(group)
        length = max(SHARDS_PER_RUN, -(-len(of_file) // RUNS_PER_FILE))
        for at in range(0, len(of_file), length):
            run = of_file[at : at + length]
            first, last = run[0].blocks[0], run[-1].blocks[-1]
            wanted = missing.intersection(shard.index for shard in run)
            if wanted:
                yield _Run(
                    files=tuple(files[first.file : last.file + 1]),
                    skip=first.number,
                    blocks=sum(len(shard.blocks) for shard in run),
                    index=run[0].index,
                    first_row=run[0].first_row,
                    missing=frozenset(wanted),
                )


def _score(run: _Run, text_field: str, rules: Rules) -> Iterator[tuple[int, bytes]]:
    """Read the files of a run from the start; yield its missing shards."""
    read = chain.from_iterable(read_blocks(path, text_field) for path in run.files)
    # Cut from where a shard begins, the rest falls into the same shards as in the whole corpus.
    for shard in shards_of(islice(read, run.skip, run.skip + run.blocks)):
        index, first_row = run.index + shard.index, run.first_row + shard.first_row
        if index in run.missing:
            yield index, scores_of(replace(shard, index=index, first_row=first_row), rules)


def _store(
    shards: Sequence[ScoreShard[_Cut]],
    missing: set[int],
    scored: Generator[tuple[int, bytes], None, None],
    folder: Path,
) -> "Scoring":
    """Store shards as they come; yield them, those that are there already first."""
    total, done = max(1, sum(shard.rows for shard in shards)), 0
    for shard in shards:
        if shard.index not in missing:
            done += shard.rows
            yield replace(shard, share=done / total), False
    with closing(scored):
        for index, content in scored:
            store_shard(content, folder, index)
            done += shards[index].rows
            yield replace(shards[index], share=done / total), True


def _scatter(
    work: Callable[[T], Iterator[R]], items: Iterable[T], *, in_order: bool = False
) -> Generator[R, None, None]:
    """Do work on every item, on any machine of the cluster, and yield its results as they come.

    Args:
        in_order: yield the results in the order of the items.

    Raises:
        InputError: the work raised it, or a worker has other libraries than here.
        RunError: the cluster failed.
    """
    import ray

    task = ray.remote(num_returns="streaming")(_work_on)
    coming, versions = iter(items), library_versions()
    shared = ray.put(work)  # once: it may hold a model
    running: list[Any] = []  # generators of results
    try:
        while True:
            cores = int(ray.cluster_resources().get("CPU", 1))  # a cluster may grow
            free = max(0, TASKS_PER_CORE * cores - len(running))
            running += [task.remote(shared, item, versions) for item in islice(coming, free)]
            if not running:
                return
            ready = running if in_order else ray.wait(running)[0]
            result = next(ready[0], None)
            if result is None:
                running.remove(ready[0])
                continue
            value = ray.get(result)
            if isinstance(value, InputError):
                raise value
            yield value
    except ray.exceptions.RayTaskError:
        raise  # a mistake in this program
    except ray.exceptions.RayError as error:
        what = f"the Ray cluster failed: {error}"
        raise RunError(what, "run the same command again: finished shards are kept") from error
    finally:
        for results in running if ray.is_initialized() else ():
            ray.cancel(results)


def _work_on(
    work: Callable[[T], Iterator[R]], item: T, versions: dict[str, str]
) -> Iterator[R | InputError]:
    """Do the work on a worker; return an InputError as a result, which Ray would wrap."""
    try:
        _check_versions(versions)
        yield from work(item)
    except InputError as error:
        yield error


def _check_versions(wanted: dict[str, str]) -> None:
    """Refuse to score with libraries that the manifest does not name."""
    here = library_versions()
    for name, version in wanted.items():
        if here[name] != version:
            what = f"a worker has {name} {here[name]}, the machine that asks has {version}"
            raise InputError(what, "install the same versions on every machine of the cluster")
