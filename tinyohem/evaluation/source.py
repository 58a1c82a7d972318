"""A model by any name, ready to be scored or to write: run, checkpoint, folder, Hub id."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tinyohem.config import RunConfig, validate_config
from tinyohem.data.parts import Part
from tinyohem.data.prepare import evaluation_part, part_store, validation_part
from tinyohem.data.records import checked_text
from tinyohem.data.tokenizer import foreign_files, load_tokenizer, start_id, text_encoder
from tinyohem.data.tokens import TokenStore
from tinyohem.errors import InputError
from tinyohem.folders import follow, model_folder, run_of
from tinyohem.progress import SILENT, Progress
from tinyohem.record import Record, read_record
from tinyohem.runtime import pick_device
from tinyohem.training.checkpoint import require_sound
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


def load_source(name: str, device: str = "auto", dtype: torch.dtype | None = None) -> Source:
    """Load a model by the name of its run folder, checkpoint, transformers folder or Hub id.

    Args:
        dtype: of the parameters; default: as they are saved.

    Raises:
        InputError: there is no such model, or it is a run that has not finished, or a checkpoint
            that is damaged.
    """
    from transformers import GenerationConfig

    if (path := Path(name)).exists():
        name = str(follow(path))  # once: what is checked is what is loaded, wherever it moves
    if (Path(name) / "state.json").exists():
        require_sound(Path(name))
    model = load_causal_lm(model_folder(name), dtype).to(pick_device(device)).eval()
    tokenizer = load_tokenizer(name)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer of {name} has {len(tokenizer):,} tokens, its model only {rows:,}",
            "a model and its tokenizer come from one folder: fetch or export both again",
        )
    max_seq_len = context_length(model) or _UNBOUNDED_SEQ_LEN
    if not isinstance(max_seq_len, int) or max_seq_len < 2:
        raise InputError(
            f"{name} has no length of context: max_position_embeddings is {max_seq_len!r}",
            "mend its config.json",
        )
    # What ends a text comes with the model; how to search for one, which can take any amount of
    # time and memory, does not.
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends)
    return Source(model, tokenizer, max_seq_len)


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
    part, store = stories_of(name, source, dataset, text_field, progress)
    return Evaluation(name, source, part, store, seq_len, stride)


def stories_of(
    name: str, source: Source, dataset: str | None, text_field: str, progress: Progress
) -> tuple[Part, TokenStore]:
    """Return the validation stories of a data set, by default of the run with this name.

    Args:
        source: the model with this name.

    Raises:
        InputError: no data set is named, and the model is no run that would know one; or the
            run's own stories are gone or have changed since.
    """
    if dataset is not None:
        part = evaluation_part(dataset, text_field, progress)
        return part, part_store(part, source.tokenizer, progress)
    config = run_config(name)
    if config is None:
        raise InputError("no data set to score on", "add --dataset, for example --dataset sample")
    hint = "bring the old files back, or name the stories to score with --dataset"
    try:
        part = validation_part(config.data, progress)
    except InputError as error:
        what = f"the validation stories of {name} cannot be had: {error.message}"
        raise InputError(what, hint) from error
    store = part_store(part, source.tokenizer, progress)
    if store.manifest["ids_sha256"] != recorded_ids(name, "valid"):
        raise InputError(
            f"the validation stories of {name} have changed since it was trained", hint
        )
    return part, store


def run_config(name: str) -> RunConfig | None:
    """Return the config of the run, or of a checkpoint's run, with this name; None for no run.

    Raises:
        InputError: its `config.json` is damaged.
    """
    path = run_of(Path(name)) / "config.json"
    try:
        record = read_record(path, Record) if path.exists() else {}
    except ValueError as error:
        if not (path.parent / "checkpoints").exists():
            return None  # a model's, in which transformers takes more than we would
        raise InputError(f"{path} is damaged: {error}", "bring the run's own file back") from None
    # A model's own config.json has no such key.
    return validate_config(record["config"]) if "config" in record else None


def recorded_ids(name: str, split: Literal["train", "valid"]) -> str | None:
    """Return the hash of the tokens that a run says it was trained or validated on."""
    store = read_record(run_of(Path(name)) / "config.json", Record).get(split)
    return store.get("ids_sha256") if isinstance(store, dict) else None


def trained_seq_len(name: str) -> int | None:
    """Return the sequence length that a run was trained with, None where it is no run.

    A run that began from another model may have been trained with less than that one's context.
    """
    config = run_config(name)
    return config.training.seq_len if config else None


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
    start, encoder = start_id(source.tokenizer), text_encoder(source.tokenizer)
    for index, prompt in enumerate(prompts):
        checked_text(prompt, f"prompt {index + 1}")
        torch.manual_seed(seed + index)
        with foreign_files("this tokenizer cannot encode the prompt", "choose another model"):
            ids = [start, *encoder.encode(prompt, add_special_tokens=False).ids]
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
        with foreign_files("this model cannot continue a text", "check its generation_config.json"):
            output = source.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=min(max_new_tokens, room),
                pad_token_id=source.tokenizer.pad_token_id or start,
                **sampling,
            )
        stories.append(source.tokenizer.decode(output[0], skip_special_tokens=True))
    return stories
