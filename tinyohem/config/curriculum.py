"""The section `[curriculum]`: in which order training visits its windows."""

import math
from typing import Literal

from pydantic import Field, field_validator

from tinyohem.config.sections import Section
from tinyohem.errors import InputError

Pacing = Literal[
    "warmup",
    "sorted",
    "linear",
    "quadratic",
    "inverse_quadratic",
    "root",
    "interleaved",
    "zigzag",
    "shuffled",
    "reverse",
    "by_length",
]


def parse_weights(text: str) -> dict[str, float]:
    """Read metrics and weights: `mtld`, `mtld,flesch` (weight 1 each) or `mtld=2,flesch=1`.

    Raises:
        InputError: a weight that is no positive number, or a metric named twice.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            value = float(weight or 1)
        except ValueError:
            value = math.nan
        if not name or name in weights or not 0 < value < math.inf:
            raise InputError(f"cannot read the metrics {text!r}", "write them as mtld=2,flesch=1")
        weights[name] = value
    return weights


class CurriculumConfig(Section):
    """In which order training visits its windows."""

    enabled: bool = False
    # The one that knows best what a trained model finds hard (LOG.md), or several with weights:
    # `mtld=2,flesch=1`.
    metric: str = "flesch"
    pacing: Pacing = "warmup"
    fraction: float | None = Field(None, gt=0, le=1)  # default: 0.2 for `warmup`, else 1
    initial_competence: float = Field(0.01, gt=0, le=1)
    layers: int = Field(10, ge=1, le=2**20)
    jitter_window: int = Field(0, ge=0, le=2**31)  # windows
    scores: str | None = None  # score folder; default: scored once, kept with the prepared data

    @field_validator("metric")
    @classmethod
    def _metric_parses(cls, text: str) -> str:
        parse_weights(text)
        return text
