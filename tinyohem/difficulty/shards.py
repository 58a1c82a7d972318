"""The pass over a corpus: rows in shards, each parsed, scored and stored whole by some process.

A shard is cut by counting rows and bytes, never by what a worker happens to do, and its file
appears whole or not at all. So any number of workers leaves the same files, and a pass that was
killed goes on with the shards that are missing.
"""

import io
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinyohem.config.difficulty import TARGET_METRIC, Metric
from tinyohem.data.blocks import BLOCK_BYTES, BLOCK_ROWS, Block, Measured
from tinyohem.difficulty.score_batch import Column, ScoringRules, score_batch, score_schema
from tinyohem.difficulty.target_rule import TargetRule
from tinyohem.difficulty.text import encode
from tinyohem.errors import RunError
from tinyohem.io.atomic import atomic_file
from tinyohem.io.names import utf8_path
from tinyohem.system.processes import WorkerDied, Workers

SHARD_ROWS, SHARD_BYTES = BLOCK_ROWS, BLOCK_BYTES  # so that a full block fills a shard
OPENING_CHARACTERS = 300
# Columns of the first of two passes, see `TargetRule.first_look`.
FIRST_SCHEMA = pa.schema(
    {"row": pa.int64(), "key": pa.uint64(), "words": pa.int64(), TARGET_METRIC: pa.float64()}
)
_WHOLE_WORDS = re.compile(r"(.*\S)\s", re.DOTALL)

B = TypeVar("B", bound=Measured)
Rules = ScoringRules | TargetRule  # of a whole pass, or of the first look by a target


@dataclass(frozen=True)
class ScoreShard(Generic[B]):
    """Consecutive rows of a corpus, scored by one process into one file."""

    index: int
    first_row: int  # of the corpus
    blocks: list[B]
    share: float  # of the corpus that was read by its end, 0 to 1; see `Corpus.blocks`

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return sum(block.rows for block in self.blocks)


def shards_of(blocks: Iterable[tuple[B, float]]) -> Iterator[ScoreShard[B]]:
    """Group blocks into shards of at most `SHARD_ROWS` rows, fewer where they are long."""
    index = first_row = rows = size = 0
    held: list[B] = []
    reached = 0.0
    for block, share in blocks:
        if held and (rows + block.rows > SHARD_ROWS or size + block.size > SHARD_BYTES):
            yield ScoreShard(index, first_row, held, reached)
            index, first_row, held, rows, size = index + 1, first_row + rows, [], 0, 0
        held.append(block)
        rows, size, reached = rows + block.rows, size + block.size, share
    if held:
        yield ScoreShard(index, first_row, held, reached)


def shard_schema(metrics: Mapping[str, Metric]) -> pa.Schema:
    """Return the columns of a shard of a pass that computes some metrics."""
    opening = pa.field("opening", pa.string())  # so that a report can show stories, unread
    return pa.schema([pa.field("row", pa.int64()), *score_schema(metrics), opening])


def opening_of(text: str) -> str:
    """Return the beginning of a story, cut between words, with "…" where it goes on."""
    if len(text) <= OPENING_CHARACTERS:
        return text
    whole_words = _WHOLE_WORDS.match(text[: OPENING_CHARACTERS + 1])
    return (whole_words[1] if whole_words else text[:OPENING_CHARACTERS]) + " …"


def shard_path(folder: Path, index: int) -> Path:
    """Return where a shard's scores stand."""
    return folder / f"shard_{index:07d}.parquet"


def scores_of(shard: ScoreShard[Block], rules: Rules) -> bytes:
    """Parse and score one shard; return the bytes of its file."""
    texts = [text.strip() for block in shard.blocks for text in block.texts()]
    assert len(texts) == shard.rows, "all later rows would be those of other stories"
    columns: dict[str, Column] = {"row": shard.first_row + np.arange(len(texts))}
    if isinstance(rules, TargetRule):
        columns |= rules.first_look(texts)
        schema = FIRST_SCHEMA
    else:
        columns |= score_batch(texts, rules)
        columns["opening"] = [encode(opening_of(text)).decode() for text in texts]
        schema = shard_schema(rules.metrics)
    arrays = [
        pa.array(columns[field.name], field.type, from_pandas=True)  # NaN becomes null
        for field in schema
    ]
    stream, table = io.BytesIO(), pa.table(arrays, schema=schema)
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    return stream.getvalue()


def store_shard(content: bytes, folder: Path, index: int) -> None:
    """Write what `scores_of` returned."""
    with atomic_file(shard_path(folder, index)) as stream:
        stream.write(content)


def score_shard(shard: ScoreShard[Block], folder: Path, rules: Rules) -> None:
    """Parse, score and store one shard."""
    store_shard(scores_of(shard, rules), folder, shard.index)


def read_shard(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read the scores of a shard, whose columns `schema` tells, or some columns of them.

    Raises:
        RunError: the file was damaged since it was written.
    """
    try:
        with pq.ParquetFile(utf8_path(path), page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(schema):
                raise pa.ArrowInvalid("its columns are others")
            return file.read(columns)
    except (OSError, pa.ArrowException) as error:
        hint = f"delete {path} and run the same command again"
        raise RunError(f"the scores in {path} are damaged: {error}", hint) from None


def score_missing_shards(
    shards: Iterable[ScoreShard[Block]], folder: Path, rules: Rules, workers: int
) -> Generator[tuple[ScoreShard[Block], bool], None, None]:
    """Score the shards that have no file yet; yield each once it has one, and whether it is new.

    Raises:
        RunError: a worker process died.
        InputError: a row cannot be parsed.
    """
    if workers == 1:
        for shard in shards:
            missing = not shard_path(folder, shard.index).exists()
            if missing:
                score_shard(shard, folder, rules)
            yield shard, missing
        return

    score = partial(score_shard, folder=folder, rules=rules)
    with Workers[ScoreShard[Block], None](workers, score) as pool:
        for shard in shards:
            if shard_path(folder, shard.index).exists():
                yield shard, False
                continue
            if pool.full:
                yield _next_scored(pool), True
            pool.submit(shard)
        while pool.busy:
            yield _next_scored(pool), True


def _next_scored(pool: Workers[ScoreShard[Block], None]) -> ScoreShard[Block]:
    shard, error = pool.next_ended()
    if isinstance(error, WorkerDied):
        raise RunError(
            "a scoring process died, perhaps for want of memory",
            "run the same command again, with fewer --workers: finished shards are kept",
        ) from error
    if error is not None:
        raise error
    return shard
