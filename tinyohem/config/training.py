"""Budget, batch, optimizer: the sections `[training]` and `[optim]`."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tinyohem.config.sections import MAX_COUNT, Section, parse_tokens

Precision = Literal["auto", "float32", "medium", "bfloat16"]


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
