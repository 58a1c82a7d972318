"""All scores of a batch of stories that need no other story: one tokenisation feeds them all.

A pure function of texts and rules. Whatever runs it, on however many cores, and however a corpus is
cut into batches, the values of a story are the same to the last bit.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinyohem.config.difficulty import METRICS
from tinyohem.difficulty.flags import Flag, flags_of_each
from tinyohem.difficulty.metrics import (
    CompressionRule,
    FloatArray,
    compression_ratios,
    flesch_reading_ease,
)
from tinyohem.difficulty.mtld import MtldRule, mtld_of_each
from tinyohem.difficulty.sentences import count_sentences
from tinyohem.difficulty.syllables import count_syllables
from tinyohem.difficulty.text import IntArray, encode, pack, split_words

_TEXT_FIELDS = {
    "text_sha": pa.string(),
    "text_hash": pa.uint64(),  # the first 64 bits of text_sha
    "bytes": pa.int64(),
    "words": pa.int64(),
    "sentences": pa.int64(),
    "syllables": pa.int64(),
}
_METRIC_FIELDS = {
    column: pa.float64()
    for metric in METRICS.values()
    for column in (metric.raw, metric.measure)
    if column and column not in _TEXT_FIELDS
}
SCORE_SCHEMA = pa.schema({**_TEXT_FIELDS, **_METRIC_FIELDS, "flags": pa.uint16()})


@dataclass(frozen=True)
class ScoringRules:
    """Every parameter that changes a score; recorded in the manifest."""

    compression: CompressionRule = field(default_factory=CompressionRule)
    mtld: MtldRule = field(default_factory=MtldRule)


class BatchScores:
    """The scores of some stories: each property is the column of its name, (stories,).

    NaN where a value is undefined. A new metric is a property here and a row of `METRICS`.
    """

    def __init__(self, texts: Sequence[str], rules: ScoringRules) -> None:
        """Take the stories apart."""
        self._texts, self._rules = texts, rules
        self._encoded = [encode(text) for text in texts]
        self._packed = pack(texts)
        self._words = split_words(self._packed)

    @cached_property
    def text_sha(self) -> list[str]:
        """Return the SHA-256 of each story, in hex."""
        return [hashlib.sha256(story).hexdigest() for story in self._encoded]

    @property
    def text_hash(self) -> npt.NDArray[np.uint64]:
        """Return the first 64 bits of each SHA-256."""
        return np.array([int(sha[:16], 16) for sha in self.text_sha], np.uint64)

    @property
    def bytes(self) -> IntArray:
        """Return the size of each story in UTF-8."""
        return np.fromiter(map(len, self._encoded), np.int64, len(self._encoded))

    @cached_property
    def words(self) -> IntArray:
        """Return the number of words."""
        return self._words.counts

    @cached_property
    def sentences(self) -> IntArray:
        """Return the number of sentences."""
        return count_sentences(self._packed)

    @cached_property
    def syllables(self) -> IntArray:
        """Return the number of syllables."""
        of_word = np.array([count_syllables(word) for word in self._words.vocabulary], np.int64)
        running = np.concatenate([[0], np.cumsum(of_word[self._words.ids])])
        return np.diff(running[self._words.offsets])

    @cached_property
    def flags(self) -> npt.NDArray[np.uint16]:
        """Return `Flag` bits, all but `DUPLICATE`."""
        return flags_of_each(self._texts, self.words)

    @cached_property
    def _ratios(self) -> tuple[FloatArray, FloatArray]:
        return compression_ratios(self._encoded, self._rules.compression)

    @property
    def compressed_over_original(self) -> FloatArray:
        """Return the compression ratio."""
        return self._ratios[0]

    @property
    def compression_measure(self) -> FloatArray:
        """Return the ratio that the difficulty starts from, see `CompressionRule`."""
        return self._ratios[1]

    @property
    def mtld(self) -> FloatArray:
        """Return the MTLD."""
        return mtld_of_each(self._words, self._rules.mtld)

    @property
    def flesch_reading_ease(self) -> FloatArray:
        """Return the reading ease; its coefficients and the syllables are those of English."""
        ease = flesch_reading_ease(self.words, self.sentences, self.syllables)
        return np.where(self.flags & int(Flag.NOT_LATIN), np.nan, ease)


def score_batch(texts: Sequence[str], rules: ScoringRules) -> dict[str, Any]:
    """Score stories: the columns of `SCORE_SCHEMA`, (stories,) each, NaN where undefined."""
    scores = BatchScores(texts, rules)
    return {name: getattr(scores, name) for name in SCORE_SCHEMA.names}
