"""A choice among the stories of a pool: which rows to train on, and what there is to tell of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.corpus import Corpus, Story
from tinyohem.errors import InputError, plainly
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, Figure, Record, check_record, open_folder, seal_folder

_ROWS_FILE, _BARRED_FILE = "rows.npy", "barred.npy"


class ExampleOfChoice(Record):
    """A story near the line."""

    row: Count
    value: Figure
    opening: str


class ChoiceRecord(Record):
    """What a choice did, for people: the run folder keeps it as `chosen.json`."""

    identity: str  # SHA-256 in hex of everything that decided it
    pool: str  # name of the corpus
    target: str | None = None  # name of the stories of the wanted kind
    score: str | None = None  # None: every story was kept unscored
    unit: str = ""  # of the score
    kept_where: str  # the rule, as "at most 4.21 nats per token"
    stories: Count  # of the pool
    kept: Count
    dropped: dict[str, Count]  # by reason
    counts: list[Count]  # histogram of the scores
    edges: list[Figure]  # one more than counts
    lines: list[Figure]  # scores at which keeping begins or ends
    kept_examples: list[ExampleOfChoice]  # nearest to a line, the nearest first
    dropped_examples: list[ExampleOfChoice]
    seconds: Figure | None = None  # of fitting, scoring and choosing; None: not measured here

    @property
    def share(self) -> float:
        """The share of the pool's stories that is kept."""
        return self.kept / self.stories

    def summary(self) -> JsonObject:
        """Return the counts without histogram and examples."""
        left_out = {"counts", "edges", "lines", "kept_examples", "dropped_examples"}
        return {k: v for k, v in self.to_json().items() if k not in left_out}

    def describe(self) -> str:
        """Say in one line what was kept and dropped, and why."""
        rule = f"{self.score} {self.kept_where}" if self.score else self.kept_where
        dropped = ", ".join(f"{n:,} {reason}" for reason, n in self.dropped.items() if n)
        return (
            f"{self.kept:,} of {self.stories:,} stories of {self.pool} kept ({self.share:.1%}): "
            f"{rule}; dropped: {dropped or 'none'}"
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """The stories of a pool to train on.

    Attributes:
        rows: (kept,) their rows in the corpus, ascending.
        barred: rows of stories that no part of training may see, ascending: those that the target
            or the validation split holds too.
        record: what the choice did.
    """

    rows: NDArray[np.int64] = field(repr=False)
    barred: NDArray[np.int64] = field(repr=False)
    record: ChoiceRecord

    @property
    def identity(self) -> str:
        """Return the hash of everything that decided the choice, in hex."""
        return self.record.identity

    def stories(self, corpus: Corpus, which: Literal["kept", "dropped"]) -> Iterator[Story]:
        """Stream the stories of the corpus that were kept, or dropped and not barred, in order."""
        size = 1 + max(int(a[-1]) if len(a) else -1 for a in (self.rows, self.barred))
        mark = bytearray(size)
        keeps = which == "kept"
        for rows in (self.rows,) if keeps else (self.rows, self.barred):
            np.frombuffer(mark, np.uint8)[rows] = 1
        for story in corpus.stories():
            if (story.row < size and mark[story.row] == 1) is keeps:
                yield story

    def save(self, folder: Path) -> None:
        """Write the choice into a folder, which appears whole or not at all."""
        with atomic_folder(folder) as partial:
            np.save(partial / _ROWS_FILE, self.rows)
            np.save(partial / _BARRED_FILE, self.barred)
            seal_folder(partial, self.record.to_json())


def read_choice(folder: Path) -> Choice:
    """Read a choice back.

    Raises:
        InputError: it is damaged.
    """
    try:
        kept = open_folder(folder, ChoiceRecord, names=(_ROWS_FILE, _BARRED_FILE), sealed=True)
        facts = {name: value for name, value in kept.to_json().items() if name != "sha256"}
        record = check_record(facts, ChoiceRecord)
        rows, barred = (np.load(folder / name) for name in (_ROWS_FILE, _BARRED_FILE))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the choice of stories in {folder} is damaged: {plainly(error)}",
            f"delete {folder} and run the command again to rebuild it",
        ) from None
    return Choice(rows, barred, record)
