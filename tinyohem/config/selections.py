"""The ways to choose tokens: what they are called, what they keep, which facts a step relies on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class Selection:
    """Facts about one way to choose tokens; the `match` in `ohem/selection.py` runs it.

    Attributes:
        keeps: what it keeps, in a few words.
        exact_count: whether the keep ratio alone decides how many tokens are kept.
        surprising: whether it keeps tokens for a high score, all at the same weight.
        unbiased: whether its weights leave the gradient of all tokens unbiased; the loss is then
            divided by the number of all tokens.
        allows_dedup: whether near-identical tokens can be left out before it chooses.
        score: the default score.
    """

    keeps: str
    exact_count: bool = False
    surprising: bool = False
    unbiased: bool = False
    allows_dedup: bool = False
    score: str = "loss"


SELECTIONS = {
    "topk": Selection("the highest scores", exact_count=True, surprising=True, allows_dedup=True),
    "threshold": Selection("scores above a limit", surprising=True, allows_dedup=True),
    "band": Selection(
        "the highest scores but the very highest", surprising=True, allows_dedup=True
    ),
    "random": Selection("tokens at random, the control", exact_count=True),
    "importance": Selection(
        "a sample by score, weighted without bias", unbiased=True, score="gradnorm"
    ),
    "stratified": Selection(
        "the highest scores and a sample of the rest, weighted without bias",
        exact_count=True,
        unbiased=True,
    ),
    "mixed": Selection("shares of several selections", exact_count=True, surprising=True),
}

if TYPE_CHECKING:
    Select = str
else:
    Select = Literal[tuple(SELECTIONS)]
