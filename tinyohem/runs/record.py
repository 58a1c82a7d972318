"""What a run says of itself in its `config.json`."""

from pathlib import Path

from tinyohem.config.run import RunConfig, validate_config
from tinyohem.errors import InputError
from tinyohem.io.manifest import Record, read_record
from tinyohem.runs.layout import run_of


def run_config(name: str) -> RunConfig | None:
    """Return the config of the run, or of a checkpoint's run, with this name; None for no run.

    Raises:
        InputError: its `config.json` is damaged.
    """
    path = run_of(Path(name)) / "config.json"
    try:
        record = read_record(path, Record).to_json() if path.exists() else {}
    except ValueError as error:
        if not (path.parent / "checkpoints").exists():
            return None  # a model's, in which transformers takes more than we would
        raise InputError(f"{path} is damaged: {error}", "bring the run's own file back") from None
    # A model's own config.json has no such key.
    return validate_config(record["config"]) if "config" in record else None


def trained_seq_len(name: str) -> int | None:
    """Return the sequence length that a run was trained with, None where it is no run.

    A run that began from another model may have been trained with less than that one's context.
    """
    config = run_config(name)
    return config.training.seq_len if config else None
