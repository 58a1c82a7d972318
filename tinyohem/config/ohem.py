"""The section `[ohem]`: every way of mining by name, and which of them go together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tinyohem.config.schedule import KeepSchedule, MixSchedule, parse_mix, parse_schedule
from tinyohem.config.sections import MAX_COUNT, Section, parse_tokens

Score = Literal["loss", "loss_x_gradnorm", "gradnorm", "excess_loss", "entropy", "focal"]


@dataclass(frozen=True)
class Selection:
    """A way to choose tokens; `ohem/selection.py` holds the function of the same name.

    Attributes:
        keeps: what it keeps, in a few words.
        exact_count: whether the keep ratio alone decides how many tokens are kept.
        surprising: whether tokens are kept for a high score, all at the same weight.
        unbiased: whether its weights leave the gradient of all tokens unbiased; the loss is then
            divided by the number of all.
        ranks: whether near-identical tokens can be left out before it chooses.
        score: the usual one.
    """

    keeps: str
    exact_count: bool = False
    surprising: bool = False
    unbiased: bool = False
    ranks: bool = False
    score: str = "loss"


SELECTIONS = {
    "topk": Selection("the highest scores", exact_count=True, surprising=True, ranks=True),
    "threshold": Selection("scores above a limit", surprising=True, ranks=True),
    "band": Selection("the highest scores but the very highest", surprising=True, ranks=True),
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


def _known_selection(name: str) -> str:
    if name not in SELECTIONS:
        *others, last = map(repr, SELECTIONS)
        expected = f"{', '.join(others)} or {last}"
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": expected}
        )
    return name


Select = Annotated[str, AfterValidator(_known_selection)]

Backward = Literal["exact", "pruned"]


class OhemConfig(Section):
    """Which tokens teach, how many of them, and when. Ratio 1.0 is plain cross entropy."""

    # A description is the hint at a value that is refused.
    ratio: float = Field(
        1.0, gt=0, le=1, description="name a share of the tokens in (0, 1]: 0.5 keeps half"
    )
    score: Score = "loss"  # `importance`: gradnorm
    select: Select = "topk"  # with the schedule `adaptive`: importance
    weight: Literal["none", "focal", "ghm", "class_balanced"] = "none"
    schedule: str = "recover"
    backward: Backward = "exact"  # pruned: no gradient of unkept keys, values
    interrupt: int | None = Field(None, ge=2, le=MAX_COUNT)  # every so many steps one on all tokens
    scope: Literal["batch", "sequence"] = "batch"
    min_kept: int = Field(1, ge=1, le=MAX_COUNT)  # tokens, in each scope
    denominator: Literal["kept", "all"] = "kept"  # `importance`, `stratified`, `ghm`: all
    loss_threshold: float | None = Field(None, gt=0)  # nats; `threshold`
    prob_threshold: float | None = Field(None, gt=0, lt=1)  # of the label; `threshold`
    queue_steps: int = Field(0, ge=0, le=2**20)  # `threshold` from the scores of the last steps
    noise_fraction: float = Field(0.02, ge=0, lt=1)  # of the tokens; `band` drops them
    floor: float = Field(0.1, ge=0, le=1)  # least chance of a token; `importance`
    variance: float = Field(0.1, gt=0)  # share of the gradient's energy; schedule `adaptive`
    random_share: float = Field(0.2, gt=0, lt=1)  # of the tokens that are not hardest; `stratified`
    mix: str = "topk=0.5,random=0.5"  # shares of k: topk, random, pool, or knots; `mixed`
    gamma: float = Field(1.0, gt=0)  # of focal weight and score
    ghm_bins: int = Field(30, ge=1, le=2**20)
    ghm_momentum: float = Field(0.75, ge=0, lt=1)
    class_power: float = Field(0.25, ge=0, le=1)  # weight ∝ frequency^−power; `class_balanced`
    nms_key: Literal["none", "position", "bigram"] = "none"  # de-duplication
    nms_window: int = Field(2, ge=1, le=2**20)  # tokens to either side; `position`
    nms_max: int = Field(1, ge=1, le=MAX_COUNT)  # kept of each pair of tokens in a step; `bigram`
    reference: str = "ema"  # a running mean of the model, or a pool's folder; `excess_loss`
    ema_decay: float = Field(0.999, gt=0, lt=1)  # of the running mean
    hard_windows: float = Field(0.0, ge=0, lt=1)  # of a batch: from the pool's hardest tenth
    # In steps: then the pool is mined again, with the current weights.
    pool_refresh_every: int | None = Field(None, ge=1, le=MAX_COUNT)
    # In tokens: an older pool is mined again, or refused.
    pool_max_age: int | None = Field(None, ge=1, le=MAX_COUNT)

    @field_validator("pool_max_age", mode="before")
    @classmethod
    def _max_age_parses(cls, age: Any) -> Any:
        """Take `1M` as well as 1000000."""
        if not isinstance(age, str):
            return age
        if age.strip().lower().endswith(("x", "epoch", "epochs")):
            raise ValueError("write a count of tokens such as 1M")
        return parse_tokens(age, num_parameters=0, num_tokens=0, key="ohem.pool_max_age")

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow(cls, tree: Any) -> Any:
        """Fill in what a method needs and the user left open."""
        if not isinstance(tree, Mapping):
            return tree
        adaptive = tree.get("schedule") == "adaptive"
        select = tree.get("select", "importance" if adaptive else "topk")
        method = SELECTIONS.get(str(select), SELECTIONS["topk"])  # an unknown one is refused below
        unbiased = method.unbiased or tree.get("weight") == "ghm"
        return {
            "select": select,
            "score": method.score,
            "denominator": "all" if unbiased else "kept",
            **tree,
        }

    @model_validator(mode="after")
    def _methods_fit_together(self) -> Self:
        self.keep_schedule()
        self.mix_schedule()
        if self.adaptive and (self.select, self.score) != ("importance", "gradnorm"):
            raise ValueError("schedule adaptive needs select = importance and score = gradnorm")
        if self.adaptive and self.ratio == 1:
            raise ValueError(
                "schedule adaptive needs ratio < 1 (--ohem-ratio), the least that a step keeps"
            )
        fixed_limit = self.loss_threshold or self.prob_threshold
        if (self.select == "threshold") != bool(fixed_limit or self.queue_steps):
            raise ValueError(
                "select threshold goes with loss_threshold, prob_threshold or queue_steps"
            )
        if fixed_limit and self.queue_steps:
            raise ValueError("queue_steps stands in place of loss_threshold and prob_threshold")
        if self.prob_threshold and self.score != "loss":
            raise ValueError("prob_threshold needs score = loss")
        if self.nms_key != "none" and not self.method.ranks:
            ranking = [name for name, method in SELECTIONS.items() if method.ranks]
            raise ValueError(f"nms_key needs select = {', '.join(ranking[:-1])} or {ranking[-1]}")
        needs_pool = {
            "mix with the source pool": self.mixes_pool,
            "hard_windows": self.hard_windows,
            "pool_refresh_every": self.pool_refresh_every,
            "pool_max_age": self.pool_max_age,
        }
        for key in (key for key, given in needs_pool.items() if given and self.reference == "ema"):
            raise ValueError(f"{key} needs reference = the folder of a pool (--ohem-reference)")
        return self

    def keep_schedule(self) -> KeepSchedule:
        """Return the keep ratio over training; under `adaptive` its lower bound."""
        text = "constant" if self.adaptive else self.schedule
        return parse_schedule(text, self.ratio, self.interrupt)

    @property
    def adaptive(self) -> bool:
        """Whether each step chooses its own ratio."""
        return self.schedule == "adaptive"

    @property
    def idle_keys(self) -> list[str]:
        """Return the keys that ask for a way of mining where every step keeps all tokens."""
        # At a class-balanced weight the selection still says what the loss is divided by.
        if self.keep_schedule().lowest < 1 or self.weight == "class_balanced":
            return []
        usual = {"select": "topk", "score": self.method.score, "backward": "exact"}
        usual |= {"schedule": "recover", "nms_key": "none", "scope": "batch"}
        return [key for key, value in usual.items() if getattr(self, key) != value]

    @property
    def method(self) -> Selection:
        """The facts about `select`."""
        return SELECTIONS[self.select]

    def reads_first(self, keep_ratio: float) -> bool:
        """Whether a step has to see the loss of every token before it can weigh one."""
        return keep_ratio < 1 or self.weight == "ghm"

    def score_at(self, keep_ratio: float) -> Score:
        """Return the score that a step ranks by; any will do where all tokens are kept."""
        return self.score if keep_ratio < 1 else "loss"

    @property
    def keeps_at_least(self) -> bool:
        """Whether the keep ratio is a floor, above which each step decides for itself."""
        limit = self.select == "threshold" and not self.queue_steps and self.nms_key == "none"
        return self.adaptive or limit

    @property
    def loss_gamma(self) -> float:
        """γ of the loss itself; 0 where it is plain cross entropy."""
        return self.gamma if self.weight == "focal" else 0.0

    def mix_schedule(self) -> MixSchedule:
        """Return the shares of the sources of `mixed` over training."""
        return parse_mix(self.mix)

    @property
    def refers(self) -> bool:
        """Whether a step reads another model's losses: a running mean's or a pool's."""
        ranks = self.keep_schedule().lowest < 1
        return ranks and (self.score == "excess_loss" or self.mixes_pool)

    @property
    def mixes_pool(self) -> bool:
        """Whether some of the kept tokens are chosen by a pool's losses."""
        return "pool" in self.mix_schedule().knots and self.select == "mixed"

    @property
    def pool(self) -> Path | None:
        """The folder of the pool that training reads."""
        if self.reference == "ema" or not (self.refers or self.hard_windows):
            return None
        return Path(self.reference)

    @property
    def biased(self) -> bool:
        """Whether a token's own loss decides if it is kept, at the same weight as any other."""
        return self.method.surprising and self.score != "entropy"

    @property
    def biases_the_end(self) -> bool:
        """Whether biased selection below 0.9 is still on when training ends."""
        schedule = self.keep_schedule()
        if self.select == "mixed" and self.mix_schedule().shares(1).get("random", 0) == 1:
            return False
        return self.biased and schedule.lowest < 0.9 and not schedule.ends_full
