"""Score a pool by how much each story is like the target's."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyohem.config.difficulty import TARGET_METRIC
from tinyohem.data.corpus import Corpus
from tinyohem.data.target import TargetStories
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import METRIC_VERSION, ScoreTable, open_scores, read_examples
from tinyohem.difficulty.target_record import read_target
from tinyohem.difficulty.target_rule import MODEL_VERSION, LineRecord, TargetRule, line_at
from tinyohem.errors import InputError
from tinyohem.io.data_dir import data_dir
from tinyohem.io.locks import sole_writer
from tinyohem.progress import SILENT, Progress

_OPENING = 300  # characters


@dataclass(frozen=True)
class TargetScores:
    """The scores of a pool and, by the same model, those of the calibration stories.

    Attributes:
        table: scores of the pool, with the column `target_ngram`, nats per word; the lower, the
            more like the target; NaN where a story holds no word.
        calibration: (calibration stories,) the same score.
        lines: what each pass over the pool found, for the record.
    """

    table: ScoreTable
    calibration: FloatArray
    lines: Sequence[LineRecord] = ()

    def line(self, quantile: float) -> float:
        """Return the score up to which a story passes: see `line_at`."""
        return line_at(self.calibration, quantile)


def target_scores(
    pool: Corpus,
    target: TargetStories,
    folder: Path | None = None,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> TargetScores:
    """Return the scores of a pool: those of a folder, or scored now and kept in the data folder.

    Args:
        folder: a score folder of this pool and target; None: one in the data folder, made if need
            be.

    Raises:
        InputError: the folder holds scores of another pool or target, by an earlier kind of model,
            or of none; or the pool is in another script than the target. See `score_corpus`, too.
    """
    if folder is not None:
        table = open_scores(folder, pool.fingerprint)
    else:
        prints = f"{pool.fingerprint[:16]}-{target.fingerprint[:16]}"
        folder = data_dir() / "scores" / f"{prints}-{METRIC_VERSION}.{MODEL_VERSION}"
        if not folder.exists():
            progress.note(f"no score table fits the pool and its target: scoring into {folder}")
        rules = ScoringRules(target=TargetRule.fit(target))
        with sole_writer(folder, patience=math.inf, progress=progress):  # runs share it
            table = score_corpus(pool, folder, rules=rules, workers=workers, progress=progress)
    record, rule = read_target(table), table.manifest.rules.target
    if record is None or rule is None:
        raise InputError(
            f"{folder} holds no scores by a target",
            "make them with `tinyohem score-difficulty --target`",
        )
    if record.fingerprint != target.fingerprint:
        raise InputError(
            f"{folder} holds scores by another target, {record.name}, or by other parts of it",
            "score the pool again, into another folder; --valid decides the parts, too",
        )
    if rule.model_version != MODEL_VERSION:
        raise InputError(
            f"{folder} holds scores by model version {rule.model_version}, not {MODEL_VERSION}",
            "score the pool again, into another folder",
        )
    check_script(table, target)
    return TargetScores(table, np.array(record.calibration), record.lines)


def check_script(table: ScoreTable, target: TargetStories) -> None:
    """Refuse a pool in another script than the target's.

    The stories most like the target would be in its script if any were, and their openings are at
    hand.

    Raises:
        InputError: these stories hold not one letter of the target's script.
    """
    best = [story.opening for story in read_examples(table)[TARGET_METRIC].easiest]
    script, found = _main_script(target), _scripts(best)
    if found and script not in found:
        raise _another_script(target, script, table.manifest.corpus.name, found)


def check_openings(pool: Corpus, target: TargetStories) -> None:
    """Refuse a pool in another script than the target's, before anything is scored.

    Reads the pool up to the first story that will do.

    Raises:
        InputError: no story begins in the target's script: most of the letters are others.
    """
    script, found = _main_script(target), Counter[str]()
    for story in pool.stories():
        opening = _scripts([story.text[:_OPENING]])
        if opening and opening[script] == max(opening.values()):
            return
        found += opening
    if found:
        raise _another_script(target, script, pool.name, found)


def _main_script(target: TargetStories) -> str:
    wanted = _scripts(target.calibrate)
    return max(wanted, key=wanted.__getitem__, default="")


def _another_script(
    target: TargetStories, script: str, pool: str, found: Counter[str]
) -> InputError:
    return InputError(
        f"the target {target.name} is written in {script} letters, "
        f"{pool} in {max(found, key=found.__getitem__)} ones",
        "name a target of the kind of stories that the pool holds",
    )


def _scripts(texts: Iterable[str]) -> Counter[str]:
    """Count letters by script: the first word of a letter's name in Unicode, such as LATIN."""
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(character for character in text if character.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNKNOWN").partition(" ")[0]] += count
    return scripts
