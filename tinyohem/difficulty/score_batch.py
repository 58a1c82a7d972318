"""Score a batch of stories by their text alone: all scores come from one split into words.

A pure function of texts and rules. Whatever runs it, on however many cores, and however a corpus is
cut into batches, the values of a story are the same to the last bit.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinyohem.config.difficulty import ADDED_METRICS, METRICS, TARGET_METRIC, Metric
from tinyohem.difficulty.flags import Flag, flags_of_each
from tinyohem.difficulty.metrics import CompressionRule, compression_ratios, flesch_reading_ease
from tinyohem.difficulty.mtld import MtldRule, mtld_of_each
from tinyohem.difficulty.sentences import count_sentences
from tinyohem.difficulty.syllables import count_syllables
from tinyohem.difficulty.target_rule import TargetRule
from tinyohem.difficulty.text import IntArray, Words, encode, pack, split_words
from tinyohem.io.json import JsonObject

Column = Sequence[str] | npt.NDArray[Any]

_TEXT_FIELDS = {
    "text_sha": pa.string(),
    "text_hash": pa.uint64(),  # the first 64 bits of text_sha
    "bytes": pa.int64(),
    "words": pa.int64(),
    "sentences": pa.int64(),
    "syllables": pa.int64(),
}


@dataclass(frozen=True)
class ScoringRules:
    """Every parameter that changes a score; recorded in the manifest."""

    compression: CompressionRule = field(default_factory=CompressionRule)
    mtld: MtldRule = field(default_factory=MtldRule)
    target: TargetRule | None = None

    @property
    def metrics(self) -> dict[str, Metric]:
        """Return the metrics of the pass."""
        if self.target is None:
            return METRICS
        return {**METRICS, TARGET_METRIC: ADDED_METRICS[TARGET_METRIC]}

    def to_json(self) -> JsonObject:
        """Return the rules as the manifest records them."""
        target = {} if self.target is None else {"target": self.target.to_json()}
        return {"compression": asdict(self.compression), "mtld": asdict(self.mtld), **target}


def score_schema(metrics: Mapping[str, Metric]) -> pa.Schema:
    """Return the columns of a pass that computes some metrics."""
    columns = [column for m in metrics.values() for column in (m.raw, m.measure) if column]
    of_metrics = {name: pa.float64() for name in columns if name not in _TEXT_FIELDS}
    return pa.schema({**_TEXT_FIELDS, **of_metrics, "flags": pa.uint16()})


def score_batch(texts: Sequence[str], rules: ScoringRules) -> dict[str, Column]:
    """Score stories: the columns of `score_schema`, (stories,) each, NaN where undefined.

    A new metric is an entry here, under its raw column's name, and a row of `METRICS`.
    """
    encoded = [encode(text) for text in texts]
    packed = pack(texts)
    words = split_words(packed)
    sentences = count_sentences(packed)
    syllables = _syllables_of_each(words)
    flags = flags_of_each(texts, words.counts)
    ease = flesch_reading_ease(words.counts, sentences, syllables)
    ratio, measure = compression_ratios(encoded, rules.compression)
    digests = [hashlib.sha256(story).digest() for story in encoded]
    return {
        "text_sha": [digest.hex() for digest in digests],
        "text_hash": np.array([int.from_bytes(digest[:8]) for digest in digests], np.uint64),
        "bytes": np.fromiter(map(len, encoded), np.int64, len(encoded)),
        "words": words.counts,
        "sentences": sentences,
        "syllables": syllables,
        "compressed_over_original": ratio,
        "compression_measure": measure,
        "mtld": mtld_of_each(words, rules.mtld),
        # Its coefficients and the syllables are those of English.
        "flesch_reading_ease": np.where(flags & int(Flag.NOT_LATIN), np.nan, ease),
        **({} if rules.target is None else {TARGET_METRIC: rules.target.scores(texts, words)}),
        "flags": flags,
    }


def _syllables_of_each(words: Words) -> IntArray:
    of_word = np.array([count_syllables(word) for word in words.vocabulary], np.int64)
    running = np.concatenate([[0], np.cumsum(of_word[words.ids])])
    return np.diff(running[words.offsets])
