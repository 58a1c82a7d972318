"""The pass over a corpus: stories in shards, each scored and stored whole by some process.

A shard is cut by counting stories and text, never by what a worker happens to do, and its file
appears whole or not at all. So any number of workers leaves the same files, and a pass that was
killed goes on with the shards that are missing.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.artifacts import atomic_file
from tinyohem.difficulty.batch import ScoringRules, score_batch
from tinyohem.difficulty.text import encode
from tinyohem.errors import RunError
from tinyohem.processes import end_with_parent

if TYPE_CHECKING:
    from tinyohem.data.corpus import Story

SHARD_STORIES = 4096
SHARD_CHARACTERS = 8 << 20
OPENING_CHARACTERS = 300

SHARD_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("text_sha", pa.string()),
        ("bytes", pa.int64()),
        ("words", pa.int64()),
        ("sentences", pa.int64()),
        ("syllables", pa.int64()),
        ("compressed_over_original", pa.float64()),
        ("compression_measure", pa.float64()),
        ("mtld", pa.float64()),
        ("flesch_reading_ease", pa.float64()),
        ("flags", pa.uint8()),
        ("opening", pa.string()),  # so that a report can show stories without reading them again
    ]
)


@dataclass(frozen=True)
class Shard:
    """Consecutive stories of a corpus."""

    index: int
    rows: list[int]
    texts: list[str]


def shards_of(stories: Iterable["Story"]) -> Iterator[Shard]:
    """Cut a corpus into shards of at most 4,096 stories, fewer where stories are long."""
    index, characters = 0, 0
    rows: list[int] = []
    texts: list[str] = []
    for story in stories:
        rows.append(story.row)
        texts.append(story.text)
        characters += len(story.text)
        if len(rows) == SHARD_STORIES or characters >= SHARD_CHARACTERS:
            yield Shard(index, rows, texts)
            index, characters, rows, texts = index + 1, 0, [], []
    if rows:
        yield Shard(index, rows, texts)


def shard_path(folder: Path, index: int) -> Path:
    """Return where a shard's scores stand."""
    return folder / f"shard_{index:07d}.parquet"


def score_shard(shard: Shard, folder: Path, rules: ScoringRules) -> None:
    """Score one shard and store it."""
    columns = score_batch(shard.texts, rules)
    columns["row"] = shard.rows
    columns["opening"] = [encode(text[:OPENING_CHARACTERS]).decode() for text in shard.texts]
    arrays = [
        pa.array(columns[field.name], field.type, from_pandas=True)  # NaN becomes null
        for field in SHARD_SCHEMA
    ]
    with atomic_file(shard_path(folder, shard.index)) as stream:
        table = pa.table(arrays, schema=SHARD_SCHEMA)
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def read_shard(path: Path) -> pa.Table:
    """Read the scores of a shard.

    Raises:
        RunError: the file was damaged since it was written.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        hint = f"Delete {path} and run the same command again"
        raise RunError(f"the scores in {path} are damaged: {error}", hint) from None


def score_missing_shards(
    shards: Iterable[Shard], folder: Path, rules: ScoringRules, workers: int
) -> Iterator[tuple[Shard, bool]]:
    """Score the shards that have no file yet; yield each in order, and whether it was scored now.

    Raises:
        RunError: a worker process died.
    """
    if workers == 1:
        for shard in shards:
            missing = not shard_path(folder, shard.index).exists()
            if missing:
                score_shard(shard, folder, rules)
            yield shard, missing
        return

    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent)
    try:
        # Enough to keep every worker busy, few enough to bound the text held in memory.
        waiting: deque[tuple[Shard, Future[None] | None]] = deque()
        for shard in shards:
            missing = not shard_path(folder, shard.index).exists()
            scoring = pool.submit(score_shard, shard, folder, rules) if missing else None
            waiting.append((shard, scoring))
            if len(waiting) > 2 * workers:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
    except BrokenProcessPool as error:
        raise RunError(
            "a scoring process died, perhaps for want of memory",
            "Run the same command again, with fewer --workers: finished shards are kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(shard: Shard, scoring: Future[None] | None) -> tuple[Shard, bool]:
    if scoring is not None:
        scoring.result()
    return shard, scoring is not None
