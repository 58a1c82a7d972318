"""The metrics of difficulty, from which score columns, help, summary and pages derive.

`score_batch` in `difficulty/score_batch.py` computes the raw values.
"""

from dataclasses import dataclass
from typing import Literal

SIGN = {"higher": 1, "lower": -1}  # times a raw value, by which values are harder
_MIN_BYTES = 100  # of a story, for a difficulty by compression ratio
TARGET_METRIC = "target_ngram"
MTLD_THRESHOLD = 0.72  # type-token ratio that completes a factor, see `MtldRule`


@dataclass(frozen=True)
class Metric:
    """A measure of how hard a story is.

    Attributes:
        raw: column of the value as the literature defines it, null where it is undefined.
        harder: which raw values are harder; `difficulty_<metric>` rises with difficulty.
        label: name for readers.
        undefined: where it is undefined; follows the word "undefined".
        min_bytes: shorter stories have a raw value, but no difficulty.
        measure: column of a shard that the difficulty is made from instead of `raw`, if any; it is
            not written to the score table.
        option: option of `score-difficulty` that adds it; empty: every pass computes it.
    """

    raw: str
    harder: Literal["higher", "lower"]
    label: str = ""
    undefined: str = ""
    min_bytes: int = 1
    measure: str = ""
    option: str = ""


METRICS = {
    "compression_ratio": Metric(
        "compressed_over_original",
        "higher",
        "compression ratio with length taken out",
        f"below {_MIN_BYTES} bytes, where the frame's own bytes outweigh what the text holds",
        min_bytes=_MIN_BYTES,
        measure="compression_measure",
    ),
    "mtld": Metric("mtld", "higher", "lexical diversity (MTLD)", "without a word"),
    "flesch": Metric(
        "flesch_reading_ease",
        "lower",
        "Flesch reading ease",
        "where most letters are not Latin, and without a word",
    ),
    "length": Metric("bytes", "higher", "length", "without text"),
}
ADDED_METRICS = {
    "fertility": Metric("tokens_per_word", "higher", option="--tokenizer"),
    "model_loss": Metric("nats_per_token", "higher", option="--model"),
    TARGET_METRIC: Metric(
        "target_ngram",
        "higher",
        "nats per word under an n-gram model of the target",
        "without a word",
        option="--target",
    ),
}


def metric_label(metric: str) -> str:
    """Return the label of a metric that every pass computes; other names stay as they are."""
    return METRICS[metric].label if metric in METRICS else metric
