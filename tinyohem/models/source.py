"""Load a model by any name: run, checkpoint, folder, Hub id."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinyohem.data.tokenizer import load_tokenizer
from tinyohem.errors import InputError
from tinyohem.models.causal_lm import context_length, load_causal_lm
from tinyohem.runs.checkpoints import STATE_FILE, require_sound
from tinyohem.runs.layout import follow, model_folder
from tinyohem.system.device import pick_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_UNBOUNDED_SEQ_LEN = 2_048  # tokens, for models that name no longest context


@dataclass(frozen=True)
class Source:
    """A loaded model with its tokenizer."""

    model: Any  # a transformers causal LM, on its device, in eval mode
    tokenizer: "PreTrainedTokenizerFast"
    max_seq_len: int  # tokens, the model's longest context


def load_source(name: str, device: str = "auto", dtype: torch.dtype | None = None) -> Source:
    """Load a model by the name of its run folder, checkpoint, transformers folder or Hub id.

    Args:
        dtype: of the parameters; default: as saved.

    Raises:
        InputError: there is no such model, the run is unfinished, or the checkpoint is damaged.
    """
    from transformers import GenerationConfig

    if (path := Path(name)).exists():
        name = str(follow(path))  # resolved once, so that the checked folder is the loaded one
    if (Path(name) / STATE_FILE).exists():
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
    # Keep the model's end token, but not its search settings, which may cost any amount of time and
    # memory.
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends)
    return Source(model, tokenizer, max_seq_len)
