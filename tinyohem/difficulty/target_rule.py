"""Score by a target: a model of the stories to fit, a line drawn by those that calibrate."""

import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from tinyohem.data.target import TargetStories
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.ngram import NgramModel
from tinyohem.difficulty.text import Words, pack, split_words
from tinyohem.errors import InputError
from tinyohem.io.json import JsonObject

QUANTILE = 0.05  # of stories like the target that the line of a report loses
# Raise it when a change scores the same stories otherwise.
_MODEL_VERSION = 1


@dataclass(frozen=True)
class TargetRule:
    """The score of a story by its target: nats per word under an n-gram model.

    Attributes:
        name: of the target, as the user typed it.
        fingerprint: of its parts.
        model: fitted on the stories to fit.
        calibration: (stories,) scores of the calibration stories that hold a word.
    """

    name: str
    fingerprint: str
    model: NgramModel = field(repr=False, compare=False)
    calibration: FloatArray = field(repr=False, compare=False)

    @classmethod
    def fit(cls, target: TargetStories) -> Self:
        """Fit the model, and score the calibration stories.

        Raises:
            InputError: the stories to fit, or those that calibrate, hold no word.
        """
        model = NgramModel.fit(target.fit)
        scores = model.nats_per_word(split_words(pack(target.calibrate)))
        scores = scores[~np.isnan(scores)]
        if not len(scores):
            what = f"no calibration story of {target.name} holds a word"
            raise InputError(what, "name more stories with --target")
        return cls(target.name, target.fingerprint, model, scores)

    def scores(self, words: Words) -> FloatArray:
        """Return the score of each story of a batch, (stories,); NaN without a word."""
        return self.model.nats_per_word(words)

    def to_json(self) -> JsonObject:
        """Return all that the scores depend on."""
        return {"fingerprint": self.fingerprint, "model_version": _MODEL_VERSION}


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
