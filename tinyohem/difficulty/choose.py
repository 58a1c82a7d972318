"""Choose the stories of a pool to train on, before a vocabulary is trained or a token is cut.

By likeness to a target (`[target]`), or by a range of difficulty (`curriculum.pacing = "filter"`).
"""

import hashlib
import math
import time
from array import array
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyohem.config.data import TokenizerConfig
from tinyohem.config.run import RunConfig
from tinyohem.data.choice import Choice, ChoiceRecord, ExampleOfChoice, read_choice
from tinyohem.data.corpus import Story
from tinyohem.data.prepare import Prepared, absent, prepare_data
from tinyohem.data.sources import Sources
from tinyohem.data.story_hash import near_hash, story_hash
from tinyohem.data.target import TargetStories
from tinyohem.difficulty.passing import (
    Passing,
    pass_by_difficulty,
    pass_by_reference,
    pass_by_target,
)
from tinyohem.difficulty.reference_scores import ScoreByModel, reference_scores
from tinyohem.difficulty.score_corpus import scores_for_curriculum
from tinyohem.difficulty.score_table import MANIFEST_FILE, ScoreTable
from tinyohem.difficulty.target_scores import target_scores
from tinyohem.errors import InputError
from tinyohem.io.data_dir import data_dir
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import read_json, write_json
from tinyohem.progress import SILENT, Progress

# Raise it when a change chooses other stories by the same scores.
_FORMAT = 1
OWN, VALIDATES = "the target's own", "a validation story"
REPEATS, UNSCORED = "repeats a kept one", "without a score"
_EXAMPLES = 10  # on either side of the line
_CANDIDATES = 4 * _EXAMPLES  # some of them may be barred, or repeat another
_OPENING = 300  # characters
_TOLD_EVERY = 1000  # stories


def prepare_chosen(
    config: RunConfig,
    progress: Progress = SILENT,
    *,
    tokenizer: TokenizerConfig | None = None,
    every_byte: bool = False,
    by_model: ScoreByModel | None = None,
) -> Prepared:
    """Return the data of a run, with the stories that its config chooses.

    Args:
        tokenizer: in place of the config's own.
        every_byte: see `open_store`.
        by_model: see `reference_scores`.

    Raises:
        InputError: as `prepare_data`, or nothing is chosen.
    """
    return prepare_data(
        config.data,
        tokenizer or config.tokenizer,
        progress,
        target=config.target,
        choose=partial(choose_stories, config, progress=progress, by_model=by_model),
        every_byte=every_byte,
    )


def choose_stories(
    config: RunConfig,
    sources: Sources,
    *,
    progress: Progress,
    by_model: ScoreByModel | None = None,
) -> Choice | None:
    """Return the stories of a run's pool to train on, None where it chooses none.

    A choice is kept with the prepared data.

    Args:
        by_model: see `reference_scores`.

    Raises:
        InputError: no story passes, all that pass are the target's own, or the scores do not fit.
    """
    if sources.target is None and not config.curriculum.filters:
        return None
    pool, target = sources.train.corpus, sources.target
    passing, seconds = _score(config, sources, by_model, progress)
    settings = [
        _FORMAT,
        pool.fingerprint,
        target and target.fingerprint,
        sources.valid.identity,
        config.target.model_dump(include={"keep", "quantile"}),
        passing and hashlib.sha256(passing.values.tobytes() + passing.passes.tobytes()).hexdigest(),
    ]
    folder = data_dir() / "choices" / hash_json(settings)[:16]
    with absent(folder, progress) as is_absent:
        if is_absent:
            began = time.perf_counter()
            progress.start("choose", None, "stories")
            found = _sort_out(sources, passing, progress)
            progress.finish()
            seconds = seconds and seconds + time.perf_counter() - began
            found.choice(sources, passing, seconds).save(folder)
        choice = read_choice(folder)
    names = {"pool": pool.name, "target": target and target.name}  # files may have moved since
    choice = replace(choice, record=choice.record.model_copy(update=names))
    progress.note(choice.record.describe())
    if passing is not None and passing.passes[~np.isnan(passing.values)].all():
        progress.note(f"every story of {pool.name} passes: {passing.sketch()}")
    return choice


def _score(
    config: RunConfig, sources: Sources, by_model: ScoreByModel | None, progress: Progress
) -> tuple[Passing | None, float | None]:
    """Return which rows of the pool pass, and the seconds that fitting and scoring took.

    The first is None where all are kept unscored, the second where the scores come from elsewhere.
    """
    pool, began, since = sources.train.corpus, time.perf_counter(), time.time()
    if sources.target is None:
        table = scores_for_curriculum(config.curriculum, pool, progress)
        passing = pass_by_difficulty(table, config.curriculum)
    elif config.target.share == 1:
        return None, 0.0
    elif config.target.by_model:
        found = reference_scores(config, sources, by_model, progress)
        return pass_by_reference(found, config.target), found.seconds
    else:
        folder = Path(config.target.scores) if config.target.scores else None
        scores = target_scores(pool, sources.target, folder, progress=progress)
        table, passing = scores.table, pass_by_target(scores, config.target)
    return passing, _scoring_seconds(table, time.perf_counter() - began, since)


def _scoring_seconds(table: ScoreTable, took: float, since: float) -> float | None:
    """Return the seconds that making a table took, remembered where it was made for a choice.

    Args:
        took: seconds from the time `since` to now: the table's own if it was made in them.
    """
    path = data_dir() / "choices" / f"scores-{table.manifest.scores_sha256[:16]}.json"
    if (table.folder / MANIFEST_FILE).stat().st_mtime >= since:
        write_json(path, took)
    try:
        return float(read_json(path))
    except (OSError, ValueError, TypeError):
        return None


@dataclass
class _Sorted:
    """The stories of a pool, sorted into those to keep and those to drop."""

    kept: "array[int]" = field(default_factory=lambda: array("q"))  # rows
    keys: "array[int]" = field(default_factory=lambda: array("Q"))  # of the kept: `near_hash`
    barred: "array[int]" = field(default_factory=lambda: array("q"))  # rows
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    openings: dict[int, str] = field(default_factory=dict)  # of rows near a line
    stories: int = 0

    def drop_repeats(self) -> None:
        """Keep the first of equal stories only."""
        first = np.unique(np.frombuffer(self.keys, np.uint64), return_index=True)[1]
        rows = np.frombuffer(self.kept, np.int64)[np.sort(first)]
        self.dropped[REPEATS] = len(self.kept) - len(rows)
        self.kept = array("q", rows.tobytes())

    def choice(self, sources: Sources, passing: Passing | None, seconds: float | None) -> Choice:
        """Return the choice.

        Args:
            seconds: that fitting, scoring and choosing took, if they are known.
        """
        rows, barred = (np.array(a, dtype=np.int64) for a in (self.kept, self.barred))
        counts, edges = passing.histogram() if passing else ([], [])
        target = sources.target
        digest = hashlib.sha256(rows.tobytes() + barred.tobytes()).hexdigest()
        fingerprints = [sources.train.corpus.fingerprint, target and target.fingerprint]
        record = ChoiceRecord(
            identity=hash_json([_FORMAT, *fingerprints, digest, len(rows)]),
            pool=sources.train.corpus.name,
            target=target.name if target else None,
            score=passing.score if passing else None,
            unit=passing.unit if passing else "",
            kept_where=passing.kept_where if passing else "every story, unscored",
            stories=self.stories,
            kept=len(rows),
            dropped={reason: n for reason, n in self.dropped.items() if n},
            counts=counts,
            edges=edges,
            lines=list(passing.lines) if passing else [],
            kept_examples=self._examples(passing, rows, passes=True),
            dropped_examples=self._examples(passing, rows, passes=False),
            seconds=seconds,
        )
        return Choice(rows, barred, record)

    def _examples(
        self, passing: Passing | None, rows: NDArray[np.int64], *, passes: bool
    ) -> list[ExampleOfChoice]:
        if passing is None:
            return []
        near = passing.nearest(_CANDIDATES, passing=passes)
        barred = set(self.barred)
        near = [r for r in near if r in self.openings and r not in barred]
        if passes:
            near = [row for row, is_kept in zip(near, np.isin(near, rows), strict=True) if is_kept]
        return [
            ExampleOfChoice(row=r, value=float(passing.values[r]), opening=self.openings[r])
            for r in near[:_EXAMPLES]
        ]


def _sort_out(sources: Sources, passing: Passing | None, progress: Progress = SILENT) -> _Sorted:
    """Read the pool once and sort its stories; memory grows by 16 bytes a kept story."""
    found, target, pool = _Sorted(), sources.target, sources.train.corpus
    # Without a target no story is barred: validation stories stay where `Part` puts them.
    validates = sources.valid.hashes() if target else ()
    shown = _near_the_line(passing)
    for story in pool.stories():
        found.stories += 1
        if found.stories % _TOLD_EVERY == 0:
            progress.advance(found.stories)
        reason = _why_dropped(story, passing, target, validates)
        if reason is not None:
            found.dropped[reason] += 1
            if reason in (OWN, VALIDATES):
                found.barred.append(story.row)
        else:
            found.kept.append(story.row)
            if target is not None and passing is not None:
                found.keys.append(near_hash(story.text))
        if story.row in shown:
            found.openings[story.row] = " ".join(story.text[:_OPENING].split())
    progress.advance(found.stories)
    if found.keys:
        found.drop_repeats()
    if not found.kept:
        raise _nothing_passes(sources, passing, found)
    return found


def _near_the_line(passing: Passing | None) -> set[int]:
    if passing is None:
        return set()
    sides = (passing.nearest(_CANDIDATES, passing=passes) for passes in (True, False))
    return {row for side in sides for row in side}


def _why_dropped(
    story: Story,
    passing: Passing | None,
    target: TargetStories | None,
    validates: Container[int],
) -> str | None:
    """Return why a story is dropped, None where it is kept."""
    if target is not None:
        own = story_hash(story.text)
        if own in validates:
            return VALIDATES
        if own in target.hashes:
            return OWN
    if passing is None:
        return None
    if story.row >= len(passing.values) or math.isnan(passing.values[story.row]):
        return UNSCORED
    return None if passing.passes[story.row] else passing.fails


def _nothing_passes(sources: Sources, passing: Passing | None, found: _Sorted) -> InputError:
    pool, target = sources.train.corpus, sources.target
    if found.barred and (passing is None or passing.passes.any()):
        return InputError(
            f"every story of {pool.name} that passes is one of the target's own",
            "name other stories with --target, or another --dataset",
        )
    assert passing is not None
    hint = (
        "choose a wider range of percentiles"
        if target is None
        else "a share, --set target.keep=0.2, keeps the best of them whatever their scores"
    )
    return InputError(f"no story of {pool.name} passes: {passing.sketch()}", hint)
