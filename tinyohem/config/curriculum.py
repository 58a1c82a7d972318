"""The section `[curriculum]`: the order of the training windows, or which stories to leave out."""

import math
from typing import Literal, Self

from pydantic import field_validator, model_validator

from tinyohem.config.difficulty import ADDED_METRICS, METRICS
from tinyohem.config.sections import Section, setting
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
    "filter",
]


def parse_weights(text: str) -> dict[str, float]:
    """Parse metrics with weights: `mtld`, `mtld,flesch` (weight 1 each) or `mtld=2,flesch=1`.

    Raises:
        InputError: a weight is no positive number, or a metric is repeated.
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
    """The order of the training windows."""

    enabled: bool = setting(
        False,
        "Order by difficulty: what training sees and when; scores the corpus first where no table "
        "fits it",
        flag="--curriculum/--no-curriculum",
    )
    # Of all metrics, flesch predicts best what a trained model finds hard (LOG.md).
    metric: str = setting(
        "flesch",
        f"Difficulty of a story: {', '.join(METRICS)}, or several with weights "
        f"(mtld=2,flesch=1); {' or '.join(ADDED_METRICS)} where --set curriculum.scores=FOLDER "
        "holds them",
        flag="--curriculum-metric",
    )
    pacing: Pacing = setting(
        "warmup",
        "Order of the windows: warmup, sorted, linear, quadratic, inverse_quadratic, root, "
        "interleaved, zigzag, or a control: shuffled, reverse, by_length; filter leaves out "
        "stories, see keep",
        flag="--pacing",
    )
    fraction: float | None = setting(
        None,
        "Share of training until warmup ends, or until everything is available",
        flag="--curriculum-fraction",
        default_is="0.2 for warmup, else 1",
        gt=0,
        le=1,
        unit="share of the training",
    )
    initial_competence: float = setting(
        0.01,
        "Share of the windows, the easiest, that linear, quadratic, inverse_quadratic and root "
        "begin with",
        gt=0,
        le=1,
        unit="share of the windows",
    )
    layers: int = setting(
        10, "Passes over the data of interleaved and zigzag", ge=1, le=2**20, unit="passes"
    )
    jitter_window: int = setting(
        0,
        "Shuffle the sorted order inside stretches of so many windows",
        ge=0,
        le=2**31,
        unit="windows",
    )
    keep: str = setting(
        "0-100",
        "Percentiles of difficulty that filter keeps, easiest first: 0-80 leaves out the hardest "
        "fifth, 5-95 both ends; the other stories are not trained on",
        hint="write two percentiles, the lower first, such as 0-80",
    )
    scores: str | None = setting(
        None, "Score folder", default_is="scored once, kept with the prepared data"
    )

    @field_validator("metric")
    @classmethod
    def _metric_parses(cls, text: str) -> str:
        parse_weights(text)
        return text

    @field_validator("keep")
    @classmethod
    def _keep_parses(cls, text: str) -> str:
        _parse_range(text)
        return text

    @model_validator(mode="after")
    def _filter_has_a_range(self) -> Self:
        everything = self.keep_range == (0, 100)
        if self.filters and everything:
            raise ValueError("pacing = filter needs a range of percentiles: keep = 0-80")
        if self.pacing != "filter" and not everything:
            raise ValueError("keep is the range of pacing = filter: set both or neither")
        return self

    @property
    def keep_range(self) -> tuple[float, float]:
        """The percentiles of difficulty that `filter` keeps: from, up to but not including."""
        return _parse_range(self.keep)

    @property
    def filters(self) -> bool:
        """Whether stories are left out by their difficulty; the others are not ordered."""
        return self.enabled and self.pacing == "filter"

    @property
    def orders(self) -> bool:
        """Whether windows are ordered by their difficulty."""
        return self.enabled and self.pacing != "filter"


def _parse_range(text: str) -> tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        first, last = float(low), float(high)
    except ValueError:
        dash = ""
    if not dash or not 0 <= first < last <= 100:
        raise ValueError("no range of percentiles")
    return first, last
