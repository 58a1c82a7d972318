"""What decides a run: typed, frozen, validated once; `recipe.py` says where values come from."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from tinyohem.aliases import nearest, suggest_key
from tinyohem.difficulty.pacing import Pacing, parse_weights
from tinyohem.errors import InputError
from tinyohem.ohem.config import OhemConfig
from tinyohem.settings import MAX_COUNT, Section, parse_tokens
from tinyohem.shapes import model_shape, suitable_lr

Precision = Literal["auto", "float32", "medium", "bfloat16"]


class DataConfig(Section):
    """Where the stories come from."""

    dataset: str = "roneneldan/TinyStories"  # Hub id, `sample`, file, folder or glob
    valid: str | None = None  # default: the data set's own validation split, else one story in 50
    text_field: str = "text"
    clean: bool = False


class TokenizerConfig(Section):
    """The vocabulary: trained on the corpus, or loaded from `name`."""

    name: str | None = None  # Hub id or folder
    vocab_size: int = Field(4096, ge=257, le=2**24)  # default on `sample`: 2,048


class ModelConfig(Section):
    """A preset by parameter count; the other keys override single dimensions of it."""

    preset: Literal["260k", "0.5m", "1m", "2m", "5m", "15m"] | None = "2m"
    hidden_size: int | None = Field(None, ge=8, le=2**16)
    num_layers: int | None = Field(None, ge=1, le=1_000)
    num_heads: int | None = Field(None, ge=1, le=2**16)
    intermediate_size: int | None = Field(None, ge=1, le=2**20)
    init_from: str | None = None  # run, folder or Hub id to start from, in place of all the others

    @model_validator(mode="before")
    @classmethod
    def _a_trained_model_has_its_shape(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping) or tree.get("init_from") is None:
            return tree
        flags = {"preset": "preset (--model)"}
        set_too = [key for key, value in tree.items() if key != "init_from" and value is not None]
        given = [flags.get(key, key) for key in set_too]
        if given:
            raise ValueError(f"init_from brings its own shape: leave out {', '.join(given)}")
        return {"preset": None, **tree}

    @model_validator(mode="after")
    def _there_is_a_shape(self) -> Self:
        if self.preset is None and self.init_from is None:
            raise ValueError("name a preset or init_from")
        return self


class TrainingConfig(Section):
    """Budget, batch, and how often things happen (in optimizer steps)."""

    # A count (`4M`), a multiple of the model's parameters (`20x`) or of the corpus (`1epoch`).
    tokens: str = "20x"
    steps: int | None = Field(None, ge=1, le=MAX_COUNT)  # overrides `tokens`
    seconds: float | None = Field(None, gt=0)  # of training, overrides both; not repeatable
    free_selection: bool = False  # `seconds` leaves out what selection costs
    # Sequences an optimizer step, of all ranks together.
    batch_size: int = Field(8, ge=1, le=2**20)
    micro_batch_size: int | None = Field(None, ge=1)  # sequences a forward pass; default: all
    seq_len: int = Field(256, ge=2, le=2**24)  # tokens
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = "auto"
    # auto: bfloat16 on CUDA, else float32; medium: float32, the factors of its products rounded.
    precision: Precision = "auto"
    compile: bool = False
    log_every: int = Field(10, ge=1, le=MAX_COUNT)  # more where that made over 20,000 rows
    eval_every: int | None = Field(None, ge=1, le=MAX_COUNT)  # default: ten times a run
    eval_tokens: int = Field(100_000, ge=1, le=MAX_COUNT)  # of the validation split, while training
    save_every: int | None = Field(None, ge=1, le=MAX_COUNT)  # default: ten times a run
    keep_last: int = Field(2, ge=1, le=MAX_COUNT)  # checkpoints, beside `best`
    stop_at_step: int | None = Field(None, ge=1, le=MAX_COUNT)  # end early, resumable
    on_nonfinite: Literal["stop", "skip"] = "stop"  # at a loss or gradient that is not finite

    @field_validator("tokens")
    @classmethod
    def _tokens_parse(cls, text: str) -> str:
        parse_tokens(text, num_parameters=1, num_tokens=1)
        return text

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size = {self.micro_batch_size} must divide batch_size = "
                f"{self.batch_size}"
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that an optimizer step sees."""
        return self.batch_size * self.seq_len

    @property
    def sequences_a_pass(self) -> int:
        """Sequences in one forward pass: a micro-batch, or the whole batch."""
        return self.micro_batch_size or self.batch_size


class OptimConfig(Section):
    """The optimizer and its learning-rate schedule."""

    optimizer: Literal["adamw", "muon"] = "muon"  # for the trunk's matrices; AdamW for the rest
    lr: float | None = Field(None, gt=0)  # default: by the width, 5.7e-3 for `2m`
    schedule: Literal["cosine", "wsd"] = "wsd"
    warmup_fraction: float = Field(0.05, ge=0, lt=1)  # of all steps
    decay_fraction: float = Field(0.2, gt=0, le=1)  # of all steps; `wsd` only
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.1, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)

    @property
    def peak_lr(self) -> float:
        """The learning rate, which `validate_config` fills in where nobody chose one."""
        assert self.lr is not None
        return self.lr


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


class TrackingConfig(Section):
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "tinyohem"


# Defaults of a run with `model.init_from`, ahead of the sections' own. Optimizer and learning rate
# are those of transformers' Trainer: the rates that serve random weights, a hundred times as high,
# wipe out what a model has learned. Twenty tokens a parameter is a rule for training from scratch.
FINE_TUNING: dict[str, dict[str, Any]] = {
    "training": {"tokens": "1epoch"},
    "optim": {"optimizer": "adamw", "lr": 5e-5},
}


# The built-in stories hold too few distinct words for the default vocabulary. As the recipe
# `quickstart` has it, so that both share what is prepared.
SAMPLE_VOCABULARY = 2_048


_MOST_RANKED = 2**24  # elements that torch.nanquantile takes


class RunConfig(Section):
    """Everything that decides what a run does."""

    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    optim: OptimConfig = OptimConfig()
    ohem: OhemConfig = OhemConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _the_sample_has_its_vocabulary(cls, tree: Any) -> Any:
        """Give the built-in stories a vocabulary that they support, where nobody chose one.

        Runs after the next one (pydantic goes upwards), which may name a tokenizer.
        """
        data = tree.get("data") if isinstance(tree, Mapping) else None
        if not isinstance(data, Mapping) or data.get("dataset") != "sample":
            return tree
        tokenizer = tree.get("tokenizer", {})
        if tokenizer.get("name") is not None:
            return tree
        return {**tree, "tokenizer": {"vocab_size": SAMPLE_VOCABULARY, **tokenizer}}

    @model_validator(mode="before")
    @classmethod
    def _a_trained_model_is_tuned(cls, tree: Any) -> Any:
        """Give a run that starts from a trained model its tokenizer and gentler defaults."""
        model = tree.get("model") if isinstance(tree, Mapping) else None
        init_from = model.get("init_from") if isinstance(model, Mapping) else None
        if init_from is None:
            return tree
        tokenizer = tree.get("tokenizer", {})
        if tokenizer.get("name") not in (None, init_from):
            raise ValueError(
                "model.init_from brings its own tokenizer: leave out tokenizer.name (--tokenizer)"
            )
        tuned = {section: {**own, **tree.get(section, {})} for section, own in FINE_TUNING.items()}
        return {**tree, **tuned, "tokenizer": {**tokenizer, "name": init_from}}

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

    @model_validator(mode="after")
    def _the_queue_can_be_ranked(self) -> Self:
        most = _MOST_RANKED // self.training.tokens_per_step
        if self.ohem.queue_steps > most:
            raise ValueError(
                f"ohem.queue_steps = {self.ohem.queue_steps:,} is more than the {most:,} steps of "
                f"{self.training.tokens_per_step:,} tokens whose quantile torch finds"
            )
        return self

    @property
    def hard_per_batch(self) -> int:
        """Sequences of a batch that come from the pool's hardest windows."""
        return round(self.ohem.hard_windows * self.training.batch_size)


# Keys that may differ between a run and its resumption: they decide where it runs and what it
# leaves behind, not what it computes (another device or compiler rounds differently). What to do
# about a step that broke is asked for when one has.
RESUME_MAY_CHANGE = frozenset(
    {
        "training.device",
        "training.compile",
        "training.log_every",
        "training.eval_every",
        "training.save_every",
        "training.keep_last",
        "training.stop_at_step",
        "training.on_nonfinite",
        "tracking.wandb",
        "tracking.project",
    }
)


def validate_config(tree: Any) -> RunConfig:
    """Check a nested mapping and freeze it; the error names the field, the value and the rule."""
    if not isinstance(tree, Mapping):
        raise InputError("a config is a table of sections", _SHOW)
    reject_unknown_keys(tree)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "function-after")
        rule = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], dict):  # a rule about several keys, or several sections
            where = f"[{field}]: " if field else ""
        else:
            where = f"{field} = {repr(first['input'])[:200]}: "
        raise InputError(where + rule, _advice(first["loc"])) from None
    if config.optim.lr is not None:
        return config
    lr = suitable_lr(model_shape(config.model).hidden_size)
    return config.model_copy(update={"optim": config.optim.model_copy(update={"lr": lr})})


def _advice(field: tuple[int | str, ...]) -> str:
    """Return what to do about a refused value: what its field says, or where to look."""
    keys: dict[str, FieldInfo] = RunConfig.model_fields
    for name in field:
        known = keys.get(str(name))
        if known is None:
            break
        if known.description:
            return known.description
        keys = getattr(known.annotation, "model_fields", {})
    return f"{_SHOW}; --set section.key=value sets one"


def reject_unknown_keys(tree: Mapping[str, Any]) -> None:
    """Refuse a section or key that no config has, suggesting the nearest name."""
    known = known_keys()
    for section, values in tree.items():
        if section not in known:
            raise InputError(f"unknown section [{section}]{_section_guess(section, values)}", _SHOW)
        if not isinstance(values, Mapping):
            raise InputError(f"[{section}] is {repr(values)[:200]}, not a table of keys", _SHOW)
        for key in values:
            if key not in known[section]:
                name = f"{section}.{key}"
                raise InputError(f"unknown key {name}{suggest_key(name, known)}", _SHOW)


def known_keys() -> dict[str, list[str]]:
    """Return the keys of each section."""
    sections = RunConfig.model_fields
    return {name: list(getattr(RunConfig(), name).__class__.model_fields) for name in sections}


def _section_guess(section: str, values: Any) -> str:
    """Return what an unknown section was meant to be: spelled like it, or home of its key."""
    known = known_keys()
    guess = nearest(section, known)
    for key in values if isinstance(values, Mapping) else ():
        if not any(f" {name}?" in guess and key in known[name] for name in known):
            guess = suggest_key(f"{section}.{key}", known) or guess
    return guess or f"; there are {', '.join(known)}"


_SHOW = "`tinyohem recipes show baseline` prints every section and key"
