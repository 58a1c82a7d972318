"""Scores of a pool by how much each story is like the target's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tinyohem.data.corpus import Corpus
from tinyohem.data.target import TargetStories
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.score_table import ScoreTable
from tinyohem.progress import SILENT, Progress

TargetScore = Literal["target_ngram", "target_ratio"]


@dataclass(frozen=True)
class TargetScores:
    """The scores of a pool and, by the same model, those of the calibration stories.

    Attributes:
        score: name of the metric and of its raw column: `table.column(score)`, (stories,), nats per
            word; the lower, the more like the target; NaN where a story holds no word.
        table: scores of the pool.
        calibration: (calibration stories,) the same score.
    """

    score: TargetScore
    table: ScoreTable
    calibration: FloatArray

    def line(self, quantile: float) -> float:
        """Return the score up to which a story passes: see `line_at`."""
        return line_at(self.calibration, quantile)


def line_at(calibration: FloatArray, quantile: float) -> float:
    """Return the highest score that passes, so that at most a share `quantile` of stories like
    those that calibrate is expected to be lost.

    Args:
        calibration: (stories,) scores, lower is better.
        quantile: in (0, 1).
    """
    ordered = np.sort(calibration)
    rank = int(np.ceil((1 - quantile) * (len(ordered) + 1)))
    return float(ordered[min(rank, len(ordered)) - 1])


def target_scores(
    pool: Corpus,
    target: TargetStories,
    folder: Path | None = None,
    *,
    score: TargetScore = "target_ngram",
    workers: int | None = None,
    progress: Progress = SILENT,
) -> TargetScores:
    """Return the scores of a pool: those of a folder, or scored now and kept in the data folder.

    Args:
        folder: a score folder of this pool and target; None: one in the data folder, made if need
            be.

    Raises:
        InputError: the folder holds scores of another pool or target or lacks the score.
    """
    raise NotImplementedError
