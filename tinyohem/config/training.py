"""Budget, batch, optimizer: the sections `[training]` and `[optim]`."""

from typing import Literal, Self

from pydantic import field_validator, model_validator

from tinyohem.config.schedule import DECAY_FRACTION
from tinyohem.config.sections import MAX_COUNT, Section, parse_tokens, setting

Precision = Literal["auto", "float32", "medium", "bfloat16"]
Attention = Literal["story", "window"]


class TrainingConfig(Section):
    """Budget, batch, and how often things happen (in optimizer steps)."""

    tokens: str = setting(
        "20x",
        "Budget in tokens (4M, 1e6, 1G), times the parameters (20x, 192x) or the corpus (1epoch)",
        flag="--tokens",
        unit="tokens",
    )
    steps: int | None = setting(
        None,
        "Budget in optimizer steps (of 8 × 256 tokens by default)",
        flag="--steps",
        default_is="by --tokens",
        ge=1,
        le=MAX_COUNT,
        unit="optimizer steps",
    )
    seconds: float | None = setting(
        None,
        "Budget in seconds of training, which overrides both; not repeatable",
        default_is="none",
        gt=0,
        unit="seconds",
    )
    minutes: float | None = setting(
        None,
        "Budget in minutes of training: a few timed steps fix the number of steps",
        flag="--minutes",
        default_is="none",
        gt=0,
        unit="minutes",
    )
    free_selection: bool = setting(False, "Leave what selection costs out of `seconds`")
    batch_size: int = setting(
        8,
        "Sequences of an optimizer step, of all GPUs",
        flag="--batch-size",
        ge=1,
        le=2**20,
        unit="sequences",
    )
    micro_batch_size: int | None = setting(
        None,
        "Sequences of one forward pass",
        default_is="all of the step's",
        ge=1,
        unit="sequences",
    )
    seq_len: int = setting(
        256, "Tokens of a training window", flag="--seq-len", ge=2, le=2**24, unit="tokens"
    )
    attention: Attention = setting(
        "story",
        "What a token may look at: its own story, as in the evaluation, or its whole window, which "
        "runs across stories",
    )
    seed: int = setting(
        0,
        "Seed of the run: of its weights, the order of its data and random selection",
        flag="--seed",
        ge=0,
        lt=2**32,
    )
    device: str = setting(
        "auto",
        "Where to compute: auto, cpu, cuda or cuda:N",
        flag="--device",
        default_is="auto (CUDA if there is one)",
    )
    precision: Precision = setting(
        "auto",
        "auto, float32, medium (float32, the factors of its products rounded) or bfloat16",
        default_is="auto: bfloat16 on CUDA; on a CPU that multiplies it too, where a trial before "
        "a run of over 2 minutes (and 1,000 steps) finds it faster; else float32",
    )
    compile: bool | None = setting(
        None,
        "torch.compile the trunk",
        flag="--compile/--no-compile",
        default_is="in long runs, where a trial finds it faster: of over 15 minutes and 1,000 "
        "steps",
    )
    log_every: int = setting(
        10,
        "Optimizer steps between two rows of the log",
        default_is="10, more where that made over 20,000 rows",
        ge=1,
        le=MAX_COUNT,
        unit="optimizer steps",
    )
    eval_every: int | None = setting(
        None,
        "Optimizer steps between two validations",
        flag="--eval-every",
        default_is="ten of them in a run, fewer where they took over 5 % of it",
        ge=1,
        le=MAX_COUNT,
        unit="optimizer steps",
    )
    eval_tokens: int | None = setting(
        None,
        "Tokens of the validation split that are scored while training",
        default_is="10,000 to 100,000, by what the run can afford",
        ge=1,
        le=MAX_COUNT,
        unit="tokens",
    )
    samples: bool = setting(
        False,
        "Write the beginning of a story at every validation, shown and kept in samples.jsonl",
    )
    save_every: int | None = setting(
        None,
        "Optimizer steps between two checkpoints",
        default_is="ten of them in a run, fewer where they took over 1 % of it, and each best",
        ge=1,
        le=MAX_COUNT,
        unit="optimizer steps",
    )
    keep_last: int = setting(
        2, "Checkpoints to keep, beside `best`", ge=1, le=MAX_COUNT, unit="checkpoints"
    )
    stop_at_step: int | None = setting(
        None,
        "Optimizer step to stop at ahead of the end, resumable",
        default_is="none",
        ge=1,
        le=MAX_COUNT,
        unit="optimizer steps",
    )
    on_nonfinite: Literal["stop", "skip"] = setting(
        "stop",
        "At a loss that is not finite, or such a gradient: stop, or skip the step, which leaves "
        "weights and optimizer as they were, is counted, ends the run after 10 in a row, and makes "
        "a GPU wait at every step",
        flag="--on-nonfinite",
    )

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

    @model_validator(mode="after")
    def _minutes_are_the_only_budget(self) -> Self:
        if self.minutes is not None and (self.steps is not None or self.seconds is not None):
            raise ValueError("minutes, seconds and steps are budgets: give one of them")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that an optimizer step sees."""
        return self.batch_size * self.seq_len

    @property
    def micro_batch_sequences(self) -> int:
        """Sequences of a forward pass: a micro-batch or the whole batch."""
        return self.micro_batch_size or self.batch_size


class OptimConfig(Section):
    """The optimizer and its learning-rate schedule."""

    optimizer: Literal["adamw", "muon"] = setting(
        "muon",
        "adamw, or muon for the trunk's matrices with AdamW for the rest",
        default_is="muon, adamw with model.init_from",
    )
    lr: float | None = setting(
        None,
        "Highest learning rate",
        flag="--lr",
        default_is="5.7e-3 for `2m`, for others by their width; 5e-5 with --init-from",
        gt=0,
    )
    schedule: Literal["cosine", "wsd"] = setting(
        "wsd", "Of the learning rate: cosine, or wsd (warm up, stay, decay)"
    )
    warmup_fraction: float = setting(
        0.01, "Share of all steps in which the rate rises", ge=0, lt=1, unit="share of the steps"
    )
    decay_fraction: float = setting(
        DECAY_FRACTION,
        "Share of all steps in which the rate falls, under wsd; schedule recover keeps all tokens "
        "in it",
        gt=0,
        le=1,
        unit="share of the steps",
    )
    min_lr_ratio: float = setting(
        0.0, "Learning rate at the end, as a share of lr", ge=0, le=1, unit="share of lr"
    )
    weight_decay: float = setting(
        0.1, "Share of the weights taken off a step, times the learning rate", ge=0
    )
    beta1: float = setting(0.9, "Decay of AdamW's mean of the gradient", ge=0, lt=1)
    beta2: float = setting(0.99, "Decay of AdamW's mean of its square", ge=0, lt=1)
    max_grad_norm: float = setting(
        1.0, "Norm to which a larger gradient is clipped", gt=0, unit="norm of the gradient"
    )

    @property
    def peak_lr(self) -> float:
        """The highest learning rate; `validate_config` fills it in unless the user set it."""
        assert self.lr is not None
        return self.lr
