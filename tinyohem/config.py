"""What decides a run: typed, frozen, validated once; `recipe.py` says where values come from."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tinyohem.difficulty.pacing import Pacing, parse_weights
from tinyohem.errors import InputError
from tinyohem.ohem.schedule import KeepSchedule, MixSchedule, parse_mix, parse_schedule

_TOKEN_BUDGET = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[xkKmMbB]?)")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # training.tokens = 250000 in a recipe or --set is a number
    )


class DataConfig(_Section):
    """Where the stories come from."""

    dataset: str = "roneneldan/TinyStories"  # Hub id, `sample`, file, folder or glob
    valid: str | None = None  # default: the data set's own validation split, else every 50th story
    text_field: str = "text"
    clean: bool = False


class TokenizerConfig(_Section):
    """The vocabulary: trained on the corpus, or loaded from `name`."""

    name: str | None = None  # Hub id or folder
    vocab_size: int = Field(4096, ge=257, le=2**31 - 1)


class ModelConfig(_Section):
    """A preset by parameter count; the other keys override single dimensions of it."""

    preset: Literal["260k", "0.5m", "1m", "2m", "5m", "15m"] = "2m"
    hidden_size: int | None = Field(None, ge=8)
    num_layers: int | None = Field(None, ge=1)
    num_heads: int | None = Field(None, ge=1)
    intermediate_size: int | None = Field(None, ge=1)


class TrainingConfig(_Section):
    """Budget, batch, and how often things happen (in optimizer steps)."""

    tokens: str = "20x"  # a count (`4M`) or a multiple of the model's parameters (`20x`)
    steps: int | None = Field(None, ge=1)  # overrides `tokens`
    seconds: float | None = Field(None, gt=0)  # of training, overrides both; not repeatable
    free_selection: bool = False  # `seconds` leaves out what selection costs
    batch_size: int = Field(8, ge=1)  # sequences an optimizer step
    micro_batch_size: int | None = Field(None, ge=1)  # sequences a forward pass; default: all
    seq_len: int = Field(256, ge=2)  # tokens
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    log_every: int = Field(10, ge=1)
    eval_every: int | None = Field(None, ge=1)  # default: ten times a run
    eval_tokens: int = Field(100_000, ge=1)  # of the validation split, while training
    save_every: int | None = Field(None, ge=1)  # default: ten times a run
    keep_last: int = Field(2, ge=1)  # checkpoints, beside `best`
    stop_at_step: int | None = Field(None, ge=1)  # end early, resumable

    @field_validator("tokens")
    @classmethod
    def _tokens_parse(cls, text: str) -> str:
        parse_tokens(text, num_parameters=1)
        return text

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size must divide batch_size = {self.batch_size}")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that an optimizer step sees."""
        return self.batch_size * self.seq_len

    @property
    def sequences_a_pass(self) -> int:
        """Sequences in one forward pass: a micro-batch, or the whole batch."""
        return self.micro_batch_size or self.batch_size


class OptimConfig(_Section):
    """The optimizer and its learning-rate schedule."""

    optimizer: Literal["adamw", "muon"] = "muon"  # for the trunk's matrices; AdamW for the rest
    lr: float = Field(16e-3, gt=0)
    schedule: Literal["cosine", "wsd"] = "wsd"
    warmup_fraction: float = Field(0.05, ge=0, lt=1)  # of all steps
    decay_fraction: float = Field(0.2, gt=0, le=1)  # of all steps; `wsd` only
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)


Score = Literal["loss", "loss_x_gradnorm", "gradnorm", "excess_loss", "entropy", "focal"]
Select = Literal["topk", "threshold", "band", "random", "importance", "stratified", "mixed"]


class OhemConfig(_Section):
    """Which tokens teach, how many of them, and when. Ratio 1.0 is plain cross entropy."""

    ratio: float = Field(1.0, gt=0, le=1)
    score: Score = "loss"  # `importance`: gradnorm
    select: Select = "topk"  # with the schedule `adaptive`: importance
    weight: Literal["none", "focal", "ghm", "class_balanced"] = "none"
    schedule: str = "recover"
    backward: Literal["exact", "pruned"] = "exact"  # pruned: no gradient of unkept keys, values
    interrupt: int | None = Field(None, ge=2)  # every so many steps one on all tokens
    scope: Literal["batch", "sequence"] = "batch"
    min_kept: int = Field(1, ge=1)  # tokens, in each scope
    denominator: Literal["kept", "all"] = "kept"  # `importance`, `stratified`, `ghm`: all
    loss_threshold: float | None = Field(None, gt=0)  # nats; `threshold`
    prob_threshold: float | None = Field(None, gt=0, lt=1)  # of the label; `threshold`
    queue_steps: int = Field(0, ge=0)  # `threshold` from the scores of the last steps
    noise_fraction: float = Field(0.02, ge=0, lt=1)  # of the tokens; `band` drops them
    floor: float = Field(0.1, ge=0, le=1)  # least chance of a token; `importance`
    variance: float = Field(0.1, gt=0)  # share of the gradient's energy; schedule `adaptive`
    random_share: float = Field(0.2, gt=0, lt=1)  # of the tokens that are not hardest; `stratified`
    mix: str = "topk=0.5,random=0.5"  # shares of k: topk, random, pool, or knots; `mixed`
    gamma: float = Field(1.0, gt=0)  # of focal weight and score
    ghm_bins: int = Field(30, ge=1)
    ghm_momentum: float = Field(0.75, ge=0, lt=1)
    class_power: float = Field(0.25, ge=0, le=1)  # weight ∝ frequency^−power; `class_balanced`
    nms_key: Literal["none", "position", "bigram"] = "none"  # de-duplication
    nms_window: int = Field(2, ge=1)  # tokens to either side; `position`
    nms_max: int = Field(1, ge=1)  # kept of each pair of tokens in a step; `bigram`
    reference: str = "ema"  # a running mean of the model, or a pool's folder; `excess_loss`
    ema_decay: float = Field(0.999, gt=0, lt=1)  # of the running mean
    hard_windows: float = Field(0.0, ge=0, lt=1)  # of a batch: from the pool's hardest tenth
    pool_refresh_every: int | None = Field(None, ge=1)  # steps; re-mines with the current weights
    pool_max_age: int | None = Field(None, ge=1)  # tokens; an older pool is re-mined, or refused

    @field_validator("pool_max_age", mode="before")
    @classmethod
    def _max_age_parses(cls, age: Any) -> Any:
        """Take `1M` as well as 1000000."""
        if not isinstance(age, str):
            return age
        if "x" in age.lower():
            raise ValueError("write a count of tokens such as 1M")
        return parse_tokens(age, num_parameters=0, key="ohem.pool_max_age")

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow(cls, tree: Any) -> Any:
        """Fill in what a method needs and the user left open."""
        if not isinstance(tree, Mapping):
            return tree
        adaptive = tree.get("schedule") == "adaptive"
        select = tree.get("select", "importance" if adaptive else "topk")
        unbiased = select in ("importance", "stratified") or tree.get("weight") == "ghm"
        return {
            "select": select,
            "score": "gradnorm" if select == "importance" else "loss",
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
            raise ValueError("schedule adaptive needs ratio < 1, the least share that a step keeps")
        fixed_limit = self.loss_threshold or self.prob_threshold
        if (self.select == "threshold") != bool(fixed_limit or self.queue_steps):
            raise ValueError(
                "select threshold goes with loss_threshold, prob_threshold or queue_steps"
            )
        if fixed_limit and self.queue_steps:
            raise ValueError("queue_steps stands in place of loss_threshold and prob_threshold")
        if self.prob_threshold and self.score != "loss":
            raise ValueError("prob_threshold needs score = loss")
        if self.nms_key != "none" and self.select not in ("topk", "threshold", "band"):
            raise ValueError("nms_key needs select = topk, threshold or band")
        needs_pool = {
            "mix with the source pool": self.mixes_pool,
            "hard_windows": self.hard_windows,
            "pool_refresh_every": self.pool_refresh_every,
            "pool_max_age": self.pool_max_age,
        }
        for key in (key for key, given in needs_pool.items() if given and self.reference == "ema"):
            raise ValueError(f"{key} needs reference = the folder of a pool")
        return self

    def keep_schedule(self) -> KeepSchedule:
        """Return the keep ratio over training; under `adaptive` its lower bound."""
        text = "constant" if self.adaptive else self.schedule
        return parse_schedule(text, self.ratio, self.interrupt)

    @property
    def adaptive(self) -> bool:
        """Whether each step chooses its own ratio."""
        return self.schedule == "adaptive"

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
        return self.select in ("topk", "threshold", "mixed", "band") and self.score != "entropy"

    @property
    def biases_the_end(self) -> bool:
        """Whether biased selection below 0.9 is still on when training ends."""
        schedule = self.keep_schedule()
        if self.select == "mixed" and self.mix_schedule().shares(1).get("random", 0) == 1:
            return False
        return self.biased and schedule.lowest < 0.9 and not schedule.ends_full


class CurriculumConfig(_Section):
    """In which order training visits its windows."""

    enabled: bool = False
    metric: str = "compression_ratio"  # or several with weights: `mtld=2,flesch=1`
    pacing: Pacing = "warmup"
    fraction: float | None = Field(None, gt=0, le=1)  # default: 0.2 for `warmup`, else 1
    initial_competence: float = Field(0.01, gt=0, le=1)
    layers: int = Field(10, ge=1)
    jitter_window: int = Field(0, ge=0)  # windows
    scores: str | None = None  # score folder; default: scored once, kept with the prepared data

    @field_validator("metric")
    @classmethod
    def _metric_parses(cls, text: str) -> str:
        parse_weights(text)
        return text


class TrackingConfig(_Section):
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "tinyohem"


class RunConfig(_Section):
    """Everything that decides what a run does."""

    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    optim: OptimConfig = OptimConfig()
    ohem: OhemConfig = OhemConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _a_plan_has_a_length(self) -> Self:
        if self.curriculum.enabled and self.training.seconds is not None:
            raise ValueError("a curriculum needs a budget in tokens or steps, not in seconds")
        return self

    @model_validator(mode="after")
    def _a_pools_age_has_an_end(self) -> Self:
        ohem = self.ohem
        if ohem.pool_max_age and not ohem.pool_refresh_every and self.training.seconds is not None:
            raise ValueError(
                "ohem.pool_max_age needs pool_refresh_every, or a budget in tokens or steps"
            )
        return self

    @model_validator(mode="after")
    def _hard_windows_fit_a_batch(self) -> Self:
        if self.ohem.hard_windows and self.curriculum.enabled:
            raise ValueError("ohem.hard_windows and a curriculum both choose windows: take one")
        if self.ohem.hard_windows and not 0 < self.hard_per_batch < self.training.batch_size:
            raise ValueError(
                f"ohem.hard_windows = {self.ohem.hard_windows:g} is {self.hard_per_batch} of "
                f"training.batch_size = {self.training.batch_size}: at least one of either kind"
            )
        return self

    @property
    def hard_per_batch(self) -> int:
        """Sequences of a batch that come from the pool's hardest windows."""
        return round(self.ohem.hard_windows * self.training.batch_size)


# Keys that may differ between a run and its resumption: they decide where it runs and what it
# leaves behind, not what it computes (another device or compiler rounds differently).
RESUME_MAY_CHANGE = frozenset(
    {
        "training.device",
        "training.compile",
        "training.log_every",
        "training.eval_every",
        "training.save_every",
        "training.keep_last",
        "training.stop_at_step",
        "tracking.wandb",
        "tracking.project",
    }
)


def parse_tokens(text: str, num_parameters: int, key: str = "training.tokens") -> int:
    """Return how many tokens `text` names: `4M`, `12.8M`, `250000`, or `20x` a parameter."""
    parsed = _TOKEN_BUDGET.fullmatch(text.strip().replace("_", ""))
    number = float(parsed["number"]) if parsed else 0.0
    if not parsed or number <= 0:
        raise InputError(
            f"{key} = {text!r} is not a number of tokens",
            "write a count such as 4M or 250k, or a multiple of the parameters such as 20x",
        )
    unit = parsed["unit"].lower()
    return round(number * (num_parameters if unit == "x" else _UNITS[unit]))


def validate_config(tree: Mapping[str, Any]) -> RunConfig:
    """Check a nested mapping and freeze it; the error names the field, the value and the rule."""
    reject_unknown_keys(tree)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "function-after")
        rule = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{field} = {first['input']!r}: {rule}"
            if not isinstance(first["input"], dict)
            else f"[{field}]: {rule}",
            "`tinyohem train --help` lists every option with its unit and default",
        ) from None


def reject_unknown_keys(tree: Mapping[str, Any]) -> None:
    """Refuse a section or key that no config has, suggesting the nearest name."""
    sections = RunConfig.model_fields
    known = {name: getattr(RunConfig(), name).__class__.model_fields for name in sections}
    every_key = [f"{section}.{key}" for section, keys in known.items() for key in keys]
    for section, values in tree.items():
        if section not in known:
            raise InputError(f"unknown section [{section}]{nearest(section, sections)}", _SHOW)
        if not isinstance(values, Mapping):
            raise InputError(f"[{section}] is {values!r}, not a table of keys", _SHOW)
        for key in values:
            if key not in known[section]:
                name = f"{section}.{key}"
                raise InputError(f"unknown key {name}{nearest(name, every_key)}", _SHOW)


_SHOW = "`tinyohem recipes show baseline` prints every section and key"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean …?` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
