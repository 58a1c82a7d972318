"""The section `[ohem]`: how tokens are mined, and which options go together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from tinyohem.config.aliases import WITHDRAWN, current_name
from tinyohem.config.schedule import (
    DECAY_FRACTION,
    KeepSchedule,
    MixSchedule,
    parse_mix,
    parse_schedule,
)
from tinyohem.config.sections import MAX_COUNT, Section, parse_tokens, setting
from tinyohem.config.selections import SELECTIONS, Select, Selection

Score = Literal["loss", "loss_x_gradnorm", "gradnorm", "excess_loss", "lag", "entropy", "focal"]
Backward = Literal["exact", "pruned"]


def _token_count(count: Any) -> Any:
    """Convert a count such as `1M`; a number stays as it is."""
    if not isinstance(count, str):
        return count
    if count.strip().lower().endswith(("x", "epoch", "epochs")):
        raise ValueError("write a count of tokens such as 1M")
    return parse_tokens(count, num_parameters=0, num_tokens=0, key="ohem.pool_max_age")


TokenCount = Annotated[int, BeforeValidator(_token_count)]


class OhemConfig(Section):
    """Which tokens get a gradient, how many, and when. Ratio 1.0 is plain cross entropy."""

    ratio: float = setting(
        1.0,
        "Smallest share of tokens that get a gradient, in (0, 1]: --ohem-schedule says when; "
        "anneal-quarter and knots have their own",
        flag="--ohem-ratio",
        default_is="1.0, plain training",
        hint="name a share of the tokens in (0, 1]: 0.5 keeps half",
        gt=0,
        le=1,
        unit="share of the tokens",
    )
    score: Score = setting(
        "loss",
        "How hard a token is: loss, loss_x_gradnorm, gradnorm, excess_loss (over "
        "--ohem-reference), lag (of the reference behind the model: what was learned since), "
        "entropy, focal",
        flag="--ohem-score",
        default_is="loss, gradnorm with importance",
    )
    select: Select = setting(
        "topk",
        "How tokens are chosen; "
        + "; ".join(f"{name}: {method.keeps}" for name, method in SELECTIONS.items()),
        flag="--ohem-select",
        default_is="topk, importance with adaptive",
    )
    weight: Literal["none", "focal", "ghm", "class_balanced"] = setting(
        "none",
        "Weigh tokens softly, with or without selection: none, focal, ghm, class_balanced",
        flag="--ohem-weight",
    )
    schedule: str = setting(
        "recover",
        "Keep ratio over training: constant, anneal, anneal-quarter, recover, adaptive (each "
        "step keeps as few as importance sampling may, at least the ratio), or knots `t:ratio,…` "
        "with t from 0 to 1",
        flag="--ohem-schedule",
        default_is="recover, which trains on every token at both ends: top-k alone keeps tokens "
        "for having surprised, which teaches the model to distrust likely words, and the return "
        "to all tokens undoes that",
    )
    backward: Backward = setting(
        "exact",
        "Backward pass below ratio 1: exact, or pruned, which leaves out what the other tokens "
        "teach as keys and values, an approximation that makes a step cheaper up to about two "
        "thirds of the tokens (above that it is exact) and a model worse",
        flag="--ohem-backward",
    )
    full_step_every: int | None = setting(
        None,
        "Steps from one that keeps all tokens to the next",
        default_is="none does",
        ge=2,
        le=MAX_COUNT,
        unit="optimizer steps",
    )
    scope: Literal["batch", "sequence"] = setting(
        "batch",
        "Tokens that are ranked together: those of the whole step (batch) or of each sequence "
        "(sequence)",
        flag="--ohem-scope",
    )
    min_kept: int = setting(
        1,
        "Fewest tokens to keep in a scope",
        flag="--ohem-min-kept",
        ge=1,
        le=MAX_COUNT,
        unit="tokens",
    )
    denominator: Literal["kept", "all"] = setting(
        "kept",
        "Tokens whose number the loss is divided by",
        default_is="kept; all with importance, stratified and ghm",
    )
    loss_threshold: float | None = setting(
        None,
        "Loss in nats above which threshold keeps a token",
        default_is="none",
        gt=0,
        unit="nats",
    )
    prob_threshold: float | None = setting(
        None,
        "Probability of the label below which threshold keeps a token",
        default_is="none",
        gt=0,
        lt=1,
        unit="probability",
    )
    queue_steps: int = setting(
        0,
        "Last steps whose scores threshold takes its limit from; 0: none",
        ge=0,
        le=2**20,
        unit="optimizer steps",
    )
    noise_fraction: float = setting(
        0.02,
        "Share of the tokens, the hardest, that band drops",
        ge=0,
        lt=1,
        unit="share of the tokens",
    )
    floor: float = setting(
        0.1, "Least chance of a token under importance", ge=0, le=1, unit="probability"
    )
    variance: float = setting(
        0.1,
        "Variance that adaptive adds at most, as a share of the gradient's energy",
        gt=0,
        unit="share of the gradient's energy",
    )
    random_share: float = setting(
        0.2,
        "Share of the tokens that are not hardest which stratified samples",
        gt=0,
        lt=1,
        unit="share of the tokens",
    )
    mix: str = setting(
        "topk=0.5,random=0.5",
        "Shares of the kept tokens that mixed takes from topk, random and pool, or knots "
        "`t:shares; …` with t from 0",
    )
    gamma: float = setting(1.0, "Exponent of focal as weight and score", gt=0)
    ghm_bins: int = setting(30, "Bins of the gradient norm in ghm", ge=1, le=2**20, unit="bins")
    ghm_momentum: float = setting(
        0.75, "Share of a bin's count that ghm keeps a step", ge=0, lt=1, unit="share of a count"
    )
    class_power: float = setting(
        0.25, "Power p of class_balanced, which weighs by frequency^-p", ge=0, le=1
    )
    dedup: Literal["none", "position", "bigram"] = setting(
        "none", "Keep one of near-identical tokens: none, position (neighbours) or bigram"
    )
    dedup_window: int = setting(
        2, "Tokens to either side that position compares", ge=1, le=2**20, unit="tokens"
    )
    dedup_max: int = setting(
        1,
        "Tokens that bigram keeps of each pair of tokens in a step",
        ge=1,
        le=MAX_COUNT,
        unit="tokens",
    )
    reference: str = setting(
        "ema",
        "What excess_loss and lag compare with: ema (a running mean of the model), target (a small "
        "model trained on the stories of --target, whose losses are mined before the run) or the "
        "folder of a pool that `tinyohem mine` made on the same tokens",
        flag="--ohem-reference",
    )
    ema_horizon: float = setting(
        0.05,
        "Share of all steps that the running mean of the model spans; before it has seen so many, "
        "every step keeps all tokens",
        gt=0,
        lt=1,
        unit="share of the steps",
    )
    hard_window_share: float = setting(
        0.0,
        "Share of a batch's windows that come from the pool's hardest tenth",
        ge=0,
        lt=1,
        unit="share of the windows",
    )
    pool_refresh_every: int | None = setting(
        None,
        "Steps until the pool is mined again, with the current weights, once a step reads it; that "
        "takes training time",
        flag="--pool-refresh-every",
        default_is="never",
        ge=1,
        le=MAX_COUNT,
        unit="optimizer steps",
    )
    pool_max_age: TokenCount | None = setting(
        None,
        "Oldest pool to accept, in training tokens (500k, 1M) that the run is ahead of the model "
        "it was mined under: an older pool is refused before the first step, or re-mined where "
        "--pool-refresh-every is given",
        flag="--pool-max-age",
        default_is="no limit",
        ge=1,
        le=MAX_COUNT,
        unit="tokens",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow(cls, tree: Any) -> Any:
        """Fill in the method's own defaults for keys that the user did not set."""
        if not isinstance(tree, Mapping):
            return tree
        tree = {
            current_name("ohem", key, quiet=True): value
            for key, value in tree.items()
            if f"ohem.{key}" not in WITHDRAWN
        }
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
        if self.dedup != "none" and not self.method.allows_dedup:
            allowing = [name for name, method in SELECTIONS.items() if method.allows_dedup]
            raise ValueError(f"dedup needs select = {', '.join(allowing[:-1])} or {allowing[-1]}")
        needs_pool = {
            "mix with the source pool": self.mixes_pool,
            "hard_window_share": self.hard_window_share,
            "pool_refresh_every": self.pool_refresh_every,
            "pool_max_age": self.pool_max_age,
        }
        for key, given in needs_pool.items():
            if given and self.reference == "ema":
                raise ValueError(f"{key} needs reference = the folder of a pool (--ohem-reference)")
        for key in ("pool_refresh_every", "pool_max_age"):
            if needs_pool[key] and self.reference == "target":
                raise ValueError(f"{key} is for a pool of a run, not for reference = target")
        return self

    def keep_schedule(self, decay_fraction: float = DECAY_FRACTION) -> KeepSchedule:
        """Return the keep ratio over training, under `adaptive` its lower bound.

        Args:
            decay_fraction: `optim.decay_fraction` of the run.
        """
        text = "constant" if self.adaptive else self.schedule
        return parse_schedule(text, self.ratio, self.full_step_every, decay_fraction)

    @property
    def adaptive(self) -> bool:
        """Whether each step chooses its own ratio."""
        return self.schedule == "adaptive"

    @property
    def idle_keys(self) -> list[str]:
        """Return the keys without effect, because every step keeps all tokens."""
        # Under class_balanced the selection still decides what the loss is divided by.
        if self.keep_schedule().lowest < 1 or self.weight == "class_balanced":
            return []
        usual = {"select": "topk", "score": self.method.score, "backward": "exact"}
        usual |= {"schedule": "recover", "dedup": "none", "scope": "batch"}
        return [key for key, value in usual.items() if getattr(self, key) != value]

    @property
    def method(self) -> Selection:
        """The facts about `select`."""
        return SELECTIONS[self.select]

    def reads_first(self, keep_ratio: float) -> bool:
        """Whether a step needs the loss of every token before it can weigh any."""
        return keep_ratio < 1 or self.weight == "ghm"

    def score_at(self, keep_ratio: float) -> Score:
        """Return the score that a step ranks by; `loss` where it keeps all tokens."""
        return self.score if keep_ratio < 1 else "loss"

    @property
    def keeps_at_least(self) -> bool:
        """Whether the keep ratio is a lower bound; each step decides how many tokens it keeps."""
        limit = self.select == "threshold" and not self.queue_steps and self.dedup == "none"
        return self.adaptive or limit

    @property
    def loss_gamma(self) -> float:
        """γ of the loss; 0 is plain cross entropy."""
        return self.gamma if self.weight == "focal" else 0.0

    def mix_schedule(self) -> MixSchedule:
        """Return the share of each source of `mixed` over training."""
        return parse_mix(self.mix)

    @property
    def needs_reference(self) -> bool:
        """Whether a step reads the losses of another model: the running mean or a pool's."""
        selects = self.keep_schedule().lowest < 1
        return selects and (self.score in ("excess_loss", "lag") or self.mixes_pool)

    @property
    def averages_model(self) -> bool:
        """Whether a step reads the losses of the running mean."""
        return self.needs_reference and self.reference == "ema"

    def horizon_steps(self, num_steps: int) -> int:
        """Return the steps that the running mean spans in a run of `num_steps`, at least two.

        Over one step it would be the model itself.
        """
        return max(2, round(self.ema_horizon * num_steps))

    @property
    def mixes_pool(self) -> bool:
        """Whether some of the kept tokens are chosen by a pool's losses."""
        return "pool" in self.mix_schedule().knots and self.select == "mixed"

    @property
    def reads_pool(self) -> bool:
        """Whether training reads a pool of losses: a folder's, or the target's."""
        return self.reference != "ema" and bool(self.needs_reference or self.hard_window_share)

    @property
    def mines_target(self) -> bool:
        """Whether the pool is mined before the run, by a model of the target."""
        return self.reads_pool and self.reference == "target"

    @property
    def pool(self) -> Path | None:
        """The folder of the pool that training reads, where the config names it."""
        return Path(self.reference) if self.reads_pool and not self.mines_target else None

    @property
    def biases_the_end(self) -> bool:
        """Whether training ends while biased selection keeps fewer than 0.9 of the tokens.

        Selection is biased where a token's own loss decides whether it is kept, at the same weight
        as any other.
        """
        schedule = self.keep_schedule()
        biased = self.method.surprising and self.score != "entropy"
        if self.select == "mixed" and self.mix_schedule().shares(1).get("random", 0) == 1:
            return False
        return biased and schedule.lowest < 0.9 and not schedule.ends_full
