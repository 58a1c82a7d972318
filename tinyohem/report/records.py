"""What the report relies on in the files that it reads, which may be another version's."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tinyohem.config.sections import MAX_COUNT
from tinyohem.errors import InputError
from tinyohem.experiments.table import RunResult
from tinyohem.io.manifest import Count, Figure, Record, read_record


class StoreOfRun(Record):
    """What a run's record says of a token store."""

    name: str = ""
    split: str = ""
    stories: Count = 0
    tokens: Count = 0
    ids_sha256: str


class TextLossRecord(Record):
    """What a tokenizer lost of stories that are scored."""

    stories: Count
    lost_stories: Count


class ValidStore(StoreOfRun):
    """Of its validation stories there is more to compare."""

    corpus: str
    tokenizer: str
    text_loss: TextLossRecord | None = None


class TrainingRecord(Record):
    """What turns steps into tokens."""

    batch_size: int = Field(ge=1, le=MAX_COUNT)
    seq_len: int = Field(ge=1, le=MAX_COUNT)


class SectionsRecord(Record):
    """A run's config, of any version."""

    __pydantic_extra__: dict[str, dict[str, Any]]
    training: TrainingRecord


class EnvironmentRecord(Record):
    """Where a run ran."""

    packages: dict[str, Any] | None = None


class RunFolderRecord(Record):
    """What the report reads of a `config.json`."""

    config: SectionsRecord
    num_steps: Count | None = None
    num_parameters: Count = 0
    train: StoreOfRun
    valid: ValidStore
    environment: EnvironmentRecord | None = None


class ResultRecord(RunResult):
    """What the report reads of a `result.json`: it stands in for the other files of its run."""

    config: SectionsRecord
    steps: Count = 0
    loss: Figure | None = None
    tokens: Count = 0
    stories: Count = 0
    tokens_sha256: str = ""
    environment: EnvironmentRecord | None = None


class PlanRecord(Record):
    """What `compare` sets out to do."""

    arms: list[Annotated[str, Field(max_length=200)]] = Field(min_length=1, max_length=1_000)
    seeds: list[Count] = Field(min_length=1, max_length=1_000)


class EvaluationRecord(Record):
    """What the report reads of an `eval.json`."""

    loss: Figure | None = None
    perplexity: Figure | None = None
    bits_per_byte: Figure | None = None


class MetricsRow(Record):
    """A row of `metrics.jsonl`."""

    __pydantic_extra__: dict[str, Figure | None]
    step: int = Field(ge=0, le=MAX_COUNT)


class GroupRecord(Record):
    """A `Group` as it is kept."""

    name: str
    tokens: Count
    loss: Figure
    share_of_loss: Figure


class GroupsRecord(Record):
    """The groups of each way to make them."""

    loss: list[GroupRecord]
    frequency: list[GroupRecord]
    difficulty: list[GroupRecord]


class TokenRecord(BaseModel):
    """An `InspectedToken` as it is kept."""

    model_config = ConfigDict(strict=True, extra="forbid")
    text: str
    loss: Figure
    kept: bool


class StoryRecord(BaseModel):
    """An `InspectedStory` as it is kept."""

    model_config = ConfigDict(strict=True, extra="forbid")
    title: str
    loss: Figure
    perplexity: Figure | None
    ratio: Figure
    num_tokens: int = Field(ge=1)
    num_kept: int = Field(ge=1)
    threshold: Figure
    kept_loss: Figure
    text_lost: bool = False
    num_unknown: Count = 0
    tokens: list[TokenRecord] = Field(min_length=1)


class KeptRecord(Record):
    """What an earlier report found; anything else is found again."""

    identity: str
    difficulty_metric: str
    by: GroupsRecord
    story: StoryRecord


def read_or_refuse(path: Path, record: type[Record] = Record) -> dict[str, Any]:
    """Read one of a run's JSON files.

    Raises:
        InputError: it is damaged.
    """
    try:
        return read_record(path, record).to_json()
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}", "bring the run's own file back") from None
