"""Open a model and the stories to score it on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyohem.data.parts import Part
from tinyohem.data.prepare import part_store
from tinyohem.data.sources import evaluation_part, validation_part
from tinyohem.data.token_store import TokenStore
from tinyohem.errors import InputError
from tinyohem.models.source import Source, load_source
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.layout import CHECKPOINTS
from tinyohem.runs.record import run_config, run_record, trained_seq_len


@dataclass(frozen=True)
class Evaluation:
    """A model, the stories to score it on, and its context."""

    name: str
    source: Source
    part: Part
    store: TokenStore
    seq_len: int  # tokens of context that the model is given
    stride: int | None  # see `perplexity.story_token_losses`
    run_dir: Path | None  # of a run that is scored just as at the end of its training


def open_evaluation(
    name: str,
    *,
    dataset: str | None = None,
    text_field: str = "text",
    seq_len: int | None = None,
    stride: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Evaluation:
    """Load a model and a data set's validation split (all of it where there are no splits).

    Args:
        dataset: default: what the run was validated on.
        seq_len: context in tokens; default: what the run was trained with, else the model's own.

    Raises:
        InputError: `seq_len` is beyond the model's, or no data set is named or known.
    """
    source = load_source(name, device)
    as_trained = dataset is None and seq_len is None and stride is None
    is_run = (Path(name) / CHECKPOINTS).is_dir()
    seq_len = seq_len or trained_seq_len(name) or source.max_seq_len
    if seq_len > source.max_seq_len:
        raise InputError(
            f"a context of {seq_len:,} tokens is beyond the model's {source.max_seq_len:,}",
            f"use --seq-len {source.max_seq_len} or less",
        )
    if stride is not None and stride > seq_len:
        raise InputError(
            f"a stride of {stride:,} tokens is beyond the context of {seq_len:,}",
            "use a stride of at most the context",
        )
    part, store = stories_of(name, source, dataset, text_field, progress)
    run_dir = Path(name) if as_trained and is_run else None
    return Evaluation(name, source, part, store, seq_len, stride, run_dir)


def stories_of(
    name: str, source: Source, dataset: str | None, text_field: str, progress: Progress
) -> tuple[Part, TokenStore]:
    """Return the validation stories of a data set; default: those of the run with this name.

    Args:
        source: the model with this name.

    Raises:
        InputError: no data set is named and the model is no run; or the run's stories are gone or
            have changed.
    """
    if dataset is not None:
        part = evaluation_part(dataset, text_field, progress)
        return part, part_store(part, source.tokenizer, progress)
    config = run_config(name)
    if config is None:
        raise InputError("no data set to score on", "add --dataset, for example --dataset sample")
    hint = "bring the old files back, or name the stories to score with --dataset"
    try:
        part = validation_part(config.data, progress, config.target)
    except InputError as error:
        what = f"the validation stories of {name} cannot be had: {error.message}"
        raise InputError(what, hint) from error
    store = part_store(part, source.tokenizer, progress)
    if store.manifest.ids_sha256 != recorded_ids(name, "valid"):
        raise InputError(
            f"the validation stories of {name} have changed since it was trained", hint
        )
    return part, store


def recorded_ids(name: str, split: Literal["train", "valid"]) -> str | None:
    """Return the recorded hash of the tokens that a run was trained or validated on."""
    record = run_record(name)
    return {"train": record.train, "valid": record.valid}[split].ids_sha256 if record else None
