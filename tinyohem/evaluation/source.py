"""A model by any name, ready to be scored or to write: run, checkpoint, folder, Hub id."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinyohem.artifacts import read_json
from tinyohem.config import validate_config
from tinyohem.data.prepare import Part, evaluation_part, part_store, validation_part
from tinyohem.data.tokenizer import load_tokenizer, start_id
from tinyohem.data.tokens import TokenStore
from tinyohem.errors import InputError
from tinyohem.folders import model_folder
from tinyohem.progress import SILENT, Progress
from tinyohem.runtime import pick_device
from tinyohem.training.model import context_length, load_causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_UNBOUNDED_SEQ_LEN = 2_048  # tokens, for models that name no longest context


@dataclass(frozen=True)
class Source:
    """A loaded model with its tokenizer."""

    model: Any  # a transformers causal LM, on its device, in eval mode
    tokenizer: "PreTrainedTokenizerFast"
    max_seq_len: int  # tokens of context the model was made for


def load_source(name: str, device: str = "auto") -> Source:
    """Load a model by the name of its run folder, checkpoint, transformers folder or Hub id.

    Raises:
        InputError: there is no such model, or it is a run that has not finished.
    """
    model = load_causal_lm(model_folder(name)).to(pick_device(device)).eval()
    max_seq_len = context_length(model) or _UNBOUNDED_SEQ_LEN
    return Source(model, load_tokenizer(name), max_seq_len)


@dataclass(frozen=True)
class Evaluation:
    """A model and the stories that it is to be scored on."""

    name: str
    source: Source
    part: Part
    store: TokenStore
    seq_len: int  # tokens of context that the model is given
    stride: int | None  # see `perplexity.story_token_losses`


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
    part = stories_of(name, dataset, text_field, progress)
    store = part_store(part, source.tokenizer, progress)
    return Evaluation(name, source, part, store, seq_len, stride)


def stories_of(name: str, dataset: str | None, text_field: str, progress: Progress) -> Part:
    """Return the validation stories of a data set, by default of the run with this name.

    Raises:
        InputError: no data set is named, and the model is no run that would know one.
    """
    if dataset is not None:
        return evaluation_part(dataset, text_field, progress)
    record = run_record(name)
    if record is None:
        raise InputError("no data set to score on", "add --dataset, for example --dataset sample")
    return validation_part(validate_config(record["config"]).data, progress)


def run_record(name: str) -> dict[str, Any] | None:
    """Return what `config.json` of the run with this name says, None where it is no run."""
    path = Path(name) / "config.json"
    record = read_json(path) if path.exists() else {}
    return record if "config" in record else None  # a model's own config.json has no such key


def trained_seq_len(name: str) -> int | None:
    """Return the sequence length that a run was trained with, None where it is no run.

    A run that began from another model may have been trained with less than that one's context.
    """
    record = run_record(name)
    return validate_config(record["config"]).training.seq_len if record else None


def generate(
    source: Source,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
) -> list[str]:
    """Continue each prompt until the end of text; temperature 0 takes the likeliest token.

    Args:
        max_new_tokens: tokens; cut where the model's context ends.
        top_k: sample from that many likeliest tokens (0: all).
        top_p: sample from the smallest set with that much probability.

    Returns:
        The prompts with their continuations.
    """
    stories = []
    start = start_id(source.tokenizer)
    for index, prompt in enumerate(prompts):
        torch.manual_seed(seed + index)
        ids = [start, *source.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        room = source.max_seq_len - len(ids)
        if room < 1:
            raise InputError(
                f"prompt {index + 1} has {len(ids)} tokens, the model's context "
                f"{source.max_seq_len}",
                "shorten it",
            )
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
            }
        inputs = torch.tensor([ids], device=source.model.device)
        output = source.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=min(max_new_tokens, room),
            pad_token_id=source.tokenizer.pad_token_id or start,
            **sampling,
        )
        stories.append(source.tokenizer.decode(output[0], skip_special_tokens=True))
    return stories
