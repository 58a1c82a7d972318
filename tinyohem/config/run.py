"""The config of a run, typed, frozen and validated once; `recipes.py` merges its values."""

from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from tinyohem.config.aliases import WITHDRAWN, current_name, nearest, suggest_key
from tinyohem.config.curriculum import CurriculumConfig
from tinyohem.config.data import DataConfig, TokenizerConfig
from tinyohem.config.model import ModelConfig, model_shape, suitable_lr
from tinyohem.config.ohem import OhemConfig
from tinyohem.config.schedule import KeepSchedule
from tinyohem.config.sections import ConfigTree, Section, setting, words
from tinyohem.config.target import TargetConfig
from tinyohem.config.training import OptimConfig, TrainingConfig
from tinyohem.errors import InputError


class TrackingConfig(Section):
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["off", "offline", "online"] = setting(
        "off",
        "Track the run in wandb: off, offline or online (needs a login: `wandb login`)",
        flag="--wandb",
    )
    project: str = setting("tinyohem", "The project of Weights & Biases that gets the run")


# Defaults of a run with `model.init_from`. Optimizer and learning rate are those of transformers'
# Trainer: the rates for random weights are a hundred times as high and wipe out what a model has
# learned. Twenty tokens a parameter is a rule for training from scratch.
FINE_TUNING: dict[str, dict[str, Any]] = {
    "training": {"tokens": "1epoch"},
    "optim": {"optimizer": "adamw", "lr": 5e-5},
}

# The built-in stories have too few distinct words for the default vocabulary. The recipe
# `quickstart` sets the same size, so that both share the prepared data.
SAMPLE_VOCABULARY = 2_048

_MOST_RANKED = 2**24  # elements that torch.nanquantile takes


class RunConfig(Section):
    """All sections of a run. A section's title heads its options in `--help`."""

    data: DataConfig = Field(default_factory=DataConfig, title="Data")
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig, title="Data")
    model: ModelConfig = Field(default_factory=ModelConfig, title="Training")
    training: TrainingConfig = Field(default_factory=TrainingConfig, title="Training")
    optim: OptimConfig = Field(default_factory=OptimConfig, title="Training")
    ohem: OhemConfig = Field(default_factory=OhemConfig, title="Hard-token mining")
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig, title="Curriculum")
    target: TargetConfig = Field(default_factory=TargetConfig, title="Choosing stories")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, title="Training")

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow(cls, tree: Any) -> Any:
        """Fill in the defaults that depend on the model and on the data set."""
        if not isinstance(tree, Mapping):
            return tree
        return _with_sample_vocabulary(_with_fine_tuning(tree))  # the latter may name a tokenizer

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        ohem, training = self.ohem, self.training
        if self.curriculum.orders and training.seconds is not None:
            raise ValueError("a curriculum needs a budget in tokens or steps, not in seconds")
        self._check_phases()
        recovers = ohem.schedule == "recover" and ohem.ratio < 1
        if recovers and self.optim.decay_fraction == 1:
            raise ValueError(
                "ohem.schedule = recover keeps all tokens while the learning rate falls: with "
                "optim.decay_fraction = 1 no step is left to mine; lower it or name knots"
            )
        default = TargetConfig.model_fields["reference"].default
        asked = self.target.by_model or ohem.mines_target
        if self.target.reference != default and not asked:
            raise ValueError(
                f"target.reference = {self.target.reference} is the size of a model that neither "
                "target.score nor ohem.reference asks for"
            )
        if ohem.reference == "target" and self.target.stories is None:
            raise ValueError(
                "ohem.reference = target needs stories of the wanted kind: name them with --target"
            )
        if self.curriculum.filters and self.target.stories is not None:
            raise ValueError(
                "curriculum.pacing = filter and a target both choose stories: take one"
            )
        if ohem.pool_max_age and not ohem.pool_refresh_every and training.seconds is not None:
            raise ValueError(
                "ohem.pool_max_age needs pool_refresh_every, or a budget in tokens or steps"
            )
        if ohem.averages_model and training.seconds is not None:
            raise ValueError(
                "a running mean of the model (ohem.reference = ema) spans a share of the steps: it "
                "needs a budget in tokens, steps or minutes, not in seconds"
            )
        if ohem.hard_window_share and self.curriculum.orders:
            raise ValueError(
                "ohem.hard_window_share and a curriculum both choose windows: take one"
            )
        if ohem.hard_window_share and not 0 < self.hard_per_batch < training.batch_size:
            raise ValueError(
                f"ohem.hard_window_share = {ohem.hard_window_share:g} is {self.hard_per_batch} of "
                f"training.batch_size = {training.batch_size}: at least one of either kind"
            )
        most = _MOST_RANKED // training.tokens_per_step
        if ohem.queue_steps > most:
            raise ValueError(
                f"ohem.queue_steps = {ohem.queue_steps:,} is more than the {most:,} steps of "
                f"{training.tokens_per_step:,} tokens whose quantile torch finds"
            )
        return self

    def _check_phases(self) -> None:
        """Refuse what a plan of two phases, `target.when`, cannot be combined with."""
        when = self.target.when
        if when == "always":
            return
        if self.training.seconds is not None:
            raise ValueError(
                f"target.when = {when} needs a budget in tokens, steps or minutes, not in seconds: "
                "nothing fixes the step at which it changes"
            )
        for rival, on in (
            ("a curriculum", self.curriculum.enabled),
            ("ohem.hard_window_share", bool(self.ohem.hard_window_share)),
        ):
            if on:
                raise ValueError(f"target.when = {when} and {rival} both choose windows: take one")

    @property
    def keep_schedule(self) -> KeepSchedule:
        """The keep ratio over training, under `adaptive` its lower bound."""
        return self.ohem.keep_schedule(self.optim.decay_fraction)

    @property
    def hard_per_batch(self) -> int:
        """Sequences of a batch that come from the pool's hardest windows."""
        return round(self.ohem.hard_window_share * self.training.batch_size)


def has_biased_mean(record: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether an older run ranked tokens over a running mean that leant on its first step.

    Args:
        record: the config as the run wrote it.
        config: the same, validated.
    """
    return config.ohem.averages_model and "ema_decay" in record["ohem"]


def _with_fine_tuning(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Set the tokenizer and the defaults of a run that starts from a trained model."""
    model = tree.get("model")
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


def _with_sample_vocabulary(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Set a vocabulary that the built-in stories support, unless the user chose one."""
    data = tree.get("data")
    if not isinstance(data, Mapping) or data.get("dataset") != "sample":
        return tree
    tokenizer = tree.get("tokenizer", {})
    if tokenizer.get("name") is not None:
        return tree
    return {**tree, "tokenizer": {"vocab_size": SAMPLE_VOCABULARY, **tokenizer}}


# Keys that decide what a run writes down and what it leaves behind, and change no figure.
CHANGES_NO_FIGURE = frozenset(
    {
        "data.licence",
        "training.log_every",
        "training.samples",
        "training.save_every",
        "training.keep_last",
        "tracking.wandb",
        "tracking.project",
    }
)


def decides_figures(config: RunConfig) -> ConfigTree:
    """Return the sections and keys of a config without those that change no figure."""
    return {
        section: {k: v for k, v in keys.items() if f"{section}.{k}" not in CHANGES_NO_FIGURE}
        for section, keys in config.model_dump().items()
    }


# Keys that may change when a run resumes: they decide where it runs and what it leaves behind, not
# what it computes, apart from rounding by another device or compiler. A user may choose
# `on_nonfinite` anew after a step that was not finite.
RESUME_MAY_CHANGE = CHANGES_NO_FIGURE | {
    "training.device",
    "training.compile",
    "training.eval_every",
    "training.eval_tokens",
    "training.stop_at_step",
    "training.on_nonfinite",
}


def validate_config(tree: Any) -> RunConfig:
    """Return the config that a nested mapping describes; fill in `optim.lr` by the model's width.

    Raises:
        InputError: an unknown key or a bad value; it names the key, the value and the rule.
    """
    if not isinstance(tree, Mapping):
        raise InputError("a config is a table of sections", _SHOW)
    reject_unknown_keys(tree, quiet=True)
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
    """Return the hint for a refused value: its key's own, else where to look."""
    section, name, *_ = (*map(str, field), "", "")
    known = known_keys().get(section, {}).get(name)
    hint = words(known)["hint"] if known else ""
    return hint or f"{_SHOW}; --set section.key=value sets one"


def reject_unknown_keys(tree: Mapping[str, Any], *, quiet: bool = False) -> None:
    """Refuse a section or key that no config has, suggesting the nearest name.

    Args:
        quiet: the tree may be the record of an older run: do not warn of renamed keys, and accept
            the withdrawn ones.
    """
    known = known_keys()
    for section, values in tree.items():
        if section not in known:
            raise InputError(f"unknown section [{section}]{_section_guess(section, values)}", _SHOW)
        if not isinstance(values, Mapping):
            raise InputError(f"[{section}] is {repr(values)[:200]}, not a table of keys", _SHOW)
        for key in values:
            name = f"{section}.{key}"
            if quiet and name in WITHDRAWN:
                continue
            if current_name(section, key, quiet=quiet) not in known[section]:
                raise InputError(f"unknown key {name}{suggest_key(name, known)}", _SHOW)


def known_keys() -> dict[str, dict[str, FieldInfo]]:
    """Return the keys of each section with their fields."""
    sections = RunConfig.model_fields
    return {name: cast(type[Section], sections[name].annotation).model_fields for name in sections}


def _section_guess(section: str, values: Any) -> str:
    """Suggest a section for an unknown one: by its spelling, or by the keys in it."""
    known = known_keys()
    guess = nearest(section, known)
    for key in values if isinstance(values, Mapping) else ():
        if not any(f" {name}?" in guess and key in known[name] for name in known):
            guess = suggest_key(f"{section}.{key}", known) or guess
    return guess or f"; there are {', '.join(known)}"


_SHOW = "`tinyohem recipes show baseline` prints every section and key"
