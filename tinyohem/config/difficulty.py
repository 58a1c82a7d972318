"""The metrics of difficulty: what they are called, where their values stand, which are harder.

Everything else derives from these tables: the columns of scores, the help, the summary, the pages.
`score_batch` in `difficulty/score_batch.py` computes the raw values.
"""

from dataclasses import dataclass
from typing import Literal

SIGN = {"higher": 1, "lower": -1}  # what turns a raw value into a difficulty, by which is harder


@dataclass(frozen=True)
class Metric:
    """One way to say how hard a story is.

    Attributes:
        raw: the column with the value as the field defines it, null where it is undefined.
        harder: which raw values are harder; `difficulty_<metric>` is higher where harder.
        label: what a reader calls it.
        undefined: where it is undefined, to be read after that word.
        min_bytes: shorter stories have a raw value, but no difficulty.
        measure: the column that the difficulty starts from where length is controlled, else `raw`;
            score tables leave it out.
        option: the option of `score-difficulty` that adds it; none: every pass computes it.
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
        "below 100 bytes, where the frame's own bytes outweigh what the text holds",
        min_bytes=100,
        measure="compression_measure",
    ),
    "mtld": Metric("mtld", "higher", "MTLD", "without a word"),
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
}


def metric_label(metric: str) -> str:
    """Return what a reader calls a metric of a table made without options; others as they are."""
    return (METRICS[metric].label if metric in METRICS else "") or metric
