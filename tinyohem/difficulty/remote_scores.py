"""A score folder at a URL: made here, its shards and results copied there.

The shards go there one by one, so that a pass goes on after this machine is lost.
"""

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tinyohem.difficulty.score_corpus import DESCRIPTION_FILE, UNFINISHED, Engine, Scoring
from tinyohem.difficulty.score_table import EXAMPLES_FILE, MANIFEST_FILE, SCORES_FILE
from tinyohem.difficulty.shards import Rules, ScoreShard, shard_path
from tinyohem.difficulty.target_record import TARGET_FILE
from tinyohem.difficulty.target_rule import TargetRule
from tinyohem.io.hashing import hash_files
from tinyohem.io.remote import RemoteFolder
from tinyohem.progress import Progress

if TYPE_CHECKING:
    from tinyohem.data.corpus import Corpus

_COPIES = 32  # files on their way at a time: an object store answers slowly, but many at once
_SHARD = re.compile(r"shard_\d{7,}\.parquet")


@contextmanager
def scores_at(url: str, engine: Engine, progress: Progress) -> Iterator[tuple[Path, Engine]]:
    """Stand in for the score folder at a URL with a local one.

    Yields:
        The local folder, with the results that the URL holds; and the engine, which now also keeps
        its shards at the URL. At the end, what has changed is copied there, the manifest last.

    Raises:
        InputError: the URL cannot be reached.
    """
    remote = RemoteFolder(url)
    progress.note(f"{url} knows no locks: see that no other process writes there")
    with TemporaryDirectory(prefix="tinyohem-scores-") as scratch:
        folder = Path(scratch) / "scores"
        folder.mkdir()
        if remote.fetch(MANIFEST_FILE, folder / MANIFEST_FILE):
            for name in (SCORES_FILE, EXAMPLES_FILE, TARGET_FILE):
                remote.fetch(name, folder / name)
        before = hash_files(folder)
        yield folder, _copying(engine, remote)
        after = hash_files(folder)
        changed = {name for name, sha in after.items() if before.get(name) != sha}
        for name in sorted(changed, key=lambda name: name == MANIFEST_FILE):
            remote.put(folder / name, name)
        remote.remove(UNFINISHED)


def _copying(engine: Engine, remote: RemoteFolder) -> Engine:
    """Return an engine whose shards are also copied to a remote folder."""

    def score(
        corpus: "Corpus", unfinished: Path, rules: Rules, workers: int, progress: Progress
    ) -> Scoring:
        if isinstance(rules, TargetRule):  # a first look, quickly taken again
            return engine(corpus, unfinished, rules, workers, progress)
        _resume(remote, unfinished)
        return _copy_each(engine(corpus, unfinished, rules, workers, progress), remote, unfinished)

    return score


def _resume(remote: RemoteFolder, unfinished: Path) -> None:
    """Fetch the shards of an earlier pass, if it was one over the same corpus in the same way."""
    described, earlier = unfinished / DESCRIPTION_FILE, unfinished / "earlier"
    begun = remote.fetch(f"{UNFINISHED}/{DESCRIPTION_FILE}", earlier)
    if not begun or earlier.read_bytes() != described.read_bytes():
        remote.remove(UNFINISHED)
        remote.put(described, f"{UNFINISHED}/{DESCRIPTION_FILE}")
        return
    names = [name for name in remote.names(UNFINISHED) if _SHARD.fullmatch(name)]
    with ThreadPoolExecutor(_COPIES) as pool:
        list(pool.map(lambda name: remote.fetch(f"{UNFINISHED}/{name}", unfinished / name), names))


def _copy_each(scoring: Scoring, remote: RemoteFolder, unfinished: Path) -> Scoring:
    """Pass on each shard once the remote folder has it."""

    def copy(shard: ScoreShard[Any]) -> tuple[ScoreShard[Any], bool]:
        path = shard_path(unfinished, shard.index)
        remote.put(path, f"{UNFINISHED}/{path.name}")
        return shard, True

    waiting: deque[Future[tuple[ScoreShard[Any], bool]]] = deque()
    with ThreadPoolExecutor(_COPIES) as pool, closing(scoring):
        for shard, scored_now in scoring:
            if not scored_now:
                yield shard, False
                continue
            waiting.append(pool.submit(copy, shard))
            if len(waiting) > _COPIES:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
