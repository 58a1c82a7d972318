"""Records of the files that a report reads; another version may have written them."""

from pathlib import Path
from typing import TypeVar

from pydantic import AliasChoices, Field, field_validator

from tinyohem.config.sections import MAX_COUNT, ConfigTree
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, Figure, Record, check_record, read_record
from tinyohem.runs.record import StoreOfRun


class TextLossRecord(Record):
    """How many validation stories a tokenizer does not give back."""

    stories: Count
    lost_stories: Count


class ValidStore(StoreOfRun):
    """The token store of the validation stories, with what decides whether runs compare."""

    corpus: str
    tokenizer: str
    text_loss: TextLossRecord | None = None


class TrainingRecord(Record):
    """The shape of a step's batch."""

    batch_size: int = Field(ge=1, le=MAX_COUNT)
    seq_len: int = Field(ge=1, le=MAX_COUNT)


class EnvironmentRecord(Record):
    """Where a run ran."""

    packages: JsonObject | None = None


class RunFacts(Record):
    """What a run records before its first step, in `config.json` or in `result.json`."""

    config: dict[str, ConfigTree]  # of any version
    # A `result.json` knows the steps that were done.
    num_steps: Count | None = Field(None, validation_alias=AliasChoices("num_steps", "steps"))
    num_parameters: Count = 0
    train: StoreOfRun | None = None
    valid: ValidStore | None = None
    tokens_sha256: str = ""  # of both splits
    environment: EnvironmentRecord | None = None

    @field_validator("config")
    @classmethod
    def _has_training(cls, config: dict[str, ConfigTree]) -> dict[str, ConfigTree]:
        check_record(config.get("training"), TrainingRecord)
        return config

    @property
    def token_hashes(self) -> list[str]:
        """Return the hash of the tokens of each split."""
        return [store.ids_sha256 for store in (self.train, self.valid) if store]

    @property
    def split_tokens_sha256(self) -> str:
        """Return the hash of the tokens of both splits, as `compare` records it."""
        return hash_json(self.token_hashes) if self.valid else self.tokens_sha256

    @property
    def step_tokens(self) -> int:
        """Return the tokens of a step."""
        training = self.config["training"]
        return int(training["batch_size"] * training["seq_len"])


class RunFolderRecord(RunFacts):
    """The `config.json` of a run, which names both token stores."""

    train: StoreOfRun
    valid: ValidStore


class EvaluationRecord(Record):
    """What the report reads of an `eval.json`, or of the `result.json` in its place."""

    loss: Figure | None = None
    perplexity: Figure | None = None
    bits_per_byte: Figure | None = None
    stories: Count | None = None  # that were scored
    tokens_seen: Count | None = None
    tokens_selected: Count | None = None
    train_seconds: Figure | None = None


class MetricsRow(Record):
    """A row of `metrics.jsonl`."""

    __pydantic_extra__: dict[str, Figure | None]
    step: int = Field(ge=0, le=MAX_COUNT)

    def get(self, name: str) -> float | None:
        """Return a figure, None where this row has none."""
        return self.__pydantic_extra__.get(name)


R = TypeVar("R", bound=Record)


def read_or_refuse(path: Path, record: type[R]) -> R:
    """Read one of a run's JSON files.

    Raises:
        InputError: it is damaged.
    """
    try:
        return read_record(path, record)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}", "bring the run's own file back") from None
