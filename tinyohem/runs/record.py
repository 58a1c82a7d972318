"""What a run says of itself in its `config.json`."""

from pathlib import Path

from tinyohem.config.run import RunConfig, validate_config
from tinyohem.errors import InputError
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, Record, read_record
from tinyohem.runs.layout import run_of

RECORD_FILE = "config.json"


class StoreOfRun(Record):
    """A token store of a run; whatever else its manifest holds stands here too."""

    name: str = ""  # of the data set
    split: str = ""
    stories: Count = 0
    tokens: Count = 0
    ids_sha256: str


class RunRecord(Record):
    """A run's `config.json`: what a reader needs to repeat it, from whatever working directory."""

    config: JsonObject  # of any version
    num_parameters: Count = 0
    num_steps: Count | None = None  # None under a budget of seconds
    train: StoreOfRun
    valid: StoreOfRun
    plan: str | None = None  # hash of a curriculum's
    pool: str | None = None  # hash of the one that the run began with
    init_sha256: str | None = None  # of the weights that it began from, if it was no new model
    environment: JsonObject | None = None
    wandb_id: str | None = None


def run_record(name: str) -> RunRecord | None:
    """Return the record of the run, or of a checkpoint's run, with this name; None for no run.

    Raises:
        InputError: its `config.json` is damaged.
    """
    path = run_of(Path(name)) / RECORD_FILE
    try:
        return read_record(path, RunRecord) if path.exists() else None
    except ValueError as error:
        if not (path.parent / "checkpoints").exists():
            return None  # a model's, which lacks these keys
        raise InputError(f"{path} is damaged: {error}", "bring the run's own file back") from None


def run_config(name: str) -> RunConfig | None:
    """Return the config of the run, or of a checkpoint's run, with this name; None for no run.

    Raises:
        InputError: its `config.json` is damaged.
    """
    record = run_record(name)
    return validate_config(record.config) if record else None


def trained_seq_len(name: str) -> int | None:
    """Return the sequence length that a run was trained with, None where it is no run.

    A run that began from another model may have been trained with less than that one's context.
    """
    config = run_config(name)
    return config.training.seq_len if config else None
