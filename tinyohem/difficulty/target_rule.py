"""Score by a target: models of the stories to fit, a line drawn by those that calibrate.

A pool is scored twice. In the first pass the model of the target alone tells which stories pass.
For the second the pool is halved by a hash of the text, and each half is scored by a model of the
target and of what passed of the **other** half (see `refit.py`). A model of some thousand stories
of the wanted kind knows far more of their word orders than one of some hundred, and none scores a
story that it has seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tinyohem.config.difficulty import TARGET_METRIC
from tinyohem.data.story_hash import near_hash
from tinyohem.data.target import TargetStories
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.ngram import NgramModel
from tinyohem.difficulty.text import Words, pack, split_words
from tinyohem.errors import InputError
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, Record

QUANTILE = 0.05  # of stories like the target that the line of a pass loses
FOLDS = 2
# Raise it when a change scores the same stories otherwise.
# 2: a second pass, by models of the target and of what passed the first.
MODEL_VERSION = 2


class LineRecord(Record):
    """What a pass over a pool found.

    Attributes:
        line: the highest score that passes, in nats per word.
        passed: stories of the pool that score at most that.
    """

    line: float
    passed: Count


@dataclass(frozen=True)
class TargetRule:
    """The score of a story by its target: nats per word under an n-gram model.

    Attributes:
        stories: the target.
        models: one, or one for each fold of a pool.
        calibration: (stories,) scores of the calibration stories that hold a word: the mean over
            the models.
        first: what the first pass found; None for the rule of that pass itself.
    """

    stories: TargetStories
    models: tuple[NgramModel, ...] = field(repr=False, compare=False)
    calibration: FloatArray = field(repr=False, compare=False)
    first: LineRecord | None = None

    @classmethod
    def fit(cls, target: TargetStories) -> Self:
        """Fit the model of the first pass, and score the calibration stories.

        Raises:
            InputError: the stories to fit, or those that calibrate, hold no word.
        """
        return cls._of(target, (NgramModel.fit(target.fit),))

    def refit(self, passed: Sequence[Sequence[str]], first: LineRecord) -> Self:
        """Return the rule of the second pass.

        Args:
            passed: for each fold, stories of it that passed the first.
            first: what that found.
        """
        others = reversed(passed)
        models = tuple(NgramModel.fit([*self.stories.fit, *texts]) for texts in others)
        return self._of(self.stories, models, first)

    @classmethod
    def _of(
        cls, target: TargetStories, models: tuple[NgramModel, ...], first: LineRecord | None = None
    ) -> Self:
        words = split_words(pack(target.calibrate))
        scores = np.mean([model.nats_per_word(words) for model in models], axis=0)
        scores = scores[~np.isnan(scores)]
        if not len(scores):
            what = f"no calibration story of {target.name} holds a word"
            raise InputError(what, "name more stories with --target")
        return cls(target, models, scores, first)

    def scores(self, texts: Sequence[str], words: Words) -> FloatArray:
        """Return the score of each story of a batch, (stories,); NaN without a word.

        Args:
            texts: the stories.
            words: theirs.
        """
        if len(self.models) == 1:
            return self.models[0].nats_per_word(words)
        scores, folds = np.empty(len(texts)), folds_of(keys_of(texts))
        for fold, model in enumerate(self.models):
            scores[folds == fold] = model.nats_per_word(words.of(folds == fold))
        return scores

    def first_look(self, texts: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return what the second pass has to know of each story, (stories,) each."""
        words = split_words(pack(texts))
        return {
            "key": keys_of(texts),
            "words": words.counts,
            TARGET_METRIC: self.scores(texts, words),
        }

    def to_json(self) -> JsonObject:
        """Return all that the scores depend on, besides the pool."""
        return {"fingerprint": self.stories.fingerprint, "model_version": MODEL_VERSION}


def keys_of(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the `near_hash` of each text, (texts,)."""
    return np.array([near_hash(text) for text in texts], np.uint64)


def folds_of(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the fold of each story, from its key: texts with the same letters share it."""
    return keys % np.uint64(FOLDS)


def line_at(calibration: FloatArray, quantile: float) -> float:
    """Return the highest score that passes, so that a share `quantile` of the wanted stories fails.

    A new story like the n that calibrate is as likely to fall into each of the n + 1 gaps between
    their scores. So it fails with a probability of at most `quantile` if the line is the
    ceil((1 - quantile)(n + 1))-th lowest of them (split conformal prediction, Vovk et al. 2005); it
    is the highest where there are too few.

    Args:
        calibration: (stories,) scores, the lower the better.
        quantile: from 0 to below 1.
    """
    rank = math.ceil((1 - quantile) * (len(calibration) + 1))
    return float(np.sort(calibration)[min(rank, len(calibration)) - 1])
