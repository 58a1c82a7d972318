"""Read a run's `config.json`: its config, data, size and environment."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from tinyohem.config.run import RunConfig, validate_config
from tinyohem.config.training import Precision
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, Record, read_record
from tinyohem.runs.layout import CHECKPOINTS, RECORD_FILE, run_of


def complete_config(config: dict[str, Any]) -> dict[str, Any]:
    """Set the keys that a recorded config of an older version lacks and whose default is another.

    Args:
        config: sections of keys.
    """
    training = config.get("training")
    if isinstance(training, dict) and "attention" not in training:
        return config | {"training": training | {"attention": "window"}}
    return config


class StoreOfRun(Record):
    """A token store of a run; the other keys of its manifest are kept too."""

    name: str = ""  # of the data set
    split: str = ""
    stories: Count = 0
    tokens: Count = 0
    ids_sha256: str
    corpus: str | None = None  # fingerprint; early versions recorded none
    part: Any = None
    clean: Any = None

    @property
    def which_stories(self) -> str | None:
        """Return a text that runs on the same stories share, None where it was not recorded."""
        return self.corpus and hash_json([self.corpus, self.part, self.clean])


class Arithmetic(Record):
    """What the steps of a run compute in; it changes rounding and speed."""

    precision: Precision  # never `auto`
    compiled: bool  # whether the trunk runs through torch.compile


class RunRecord(Record):
    """A run's `config.json`: what is needed to repeat it, from any working directory."""

    config: Annotated[JsonObject, AfterValidator(complete_config)]  # of any version
    num_parameters: Count = 0
    num_steps: Count | None = None  # None under a budget of seconds
    arithmetic: Arithmetic | None = None  # None before it was recorded
    train: StoreOfRun
    valid: StoreOfRun
    plan: str | None = None  # hash of the plan of a curriculum or of two phases
    choice: str | None = None  # hash of the stories that were chosen of the pool
    pool: str | None = None  # hash of the pool at the beginning
    init_sha256: str | None = None  # of the weights in model.init_from
    environment: JsonObject | None = None
    wandb_id: str | None = None


def run_record(name: str) -> RunRecord | None:
    """Return the record of a run or a checkpoint's run, None if `name` is neither.

    Raises:
        InputError: its `config.json` is damaged.
    """
    path = run_of(Path(name)) / RECORD_FILE
    try:
        return read_record(path, RunRecord) if path.exists() else None
    except ValueError as error:
        if not (path.parent / CHECKPOINTS).exists():
            return None  # the config.json of a model
        raise InputError(f"{path} is damaged: {error}", "bring the run's own file back") from None


def run_config(name: str) -> RunConfig | None:
    """Return the config of a run or a checkpoint's run, None if `name` is neither.

    Raises:
        InputError: its `config.json` is damaged.
    """
    record = run_record(name)
    return validate_config(record.config) if record else None


def trained_seq_len(name: str) -> int | None:
    """Return the sequence length that a run was trained with, None if `name` is no run.

    With model.init_from it may be shorter than the model's context.
    """
    config = run_config(name)
    return config.training.seq_len if config else None
