"""Models built as transformers Llamas, or loaded; how to find trunk and head in one."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinyohem.config import ModelConfig
from tinyohem.errors import InputError
from tinyohem.folders import model_folder
from tinyohem.shapes import Shape, model_shape

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def parameter_count(config: ModelConfig, vocab_size: int) -> int:
    """Return how many parameters a run's model has, without building it.

    Raises:
        InputError: there is no such shape, or no model to start from.
    """
    if config.init_from is None:
        return model_shape(config).num_parameters(vocab_size)
    from transformers import AutoConfig, AutoModelForCausalLM

    with _loading(config.init_from), torch.device("meta"):  # dimensions without memory
        described = AutoConfig.from_pretrained(
            model_folder(config.init_from), trust_remote_code=False
        )
        return int(
            AutoModelForCausalLM.from_config(described, trust_remote_code=False).num_parameters()
        )


def build_model(
    shape: Shape, vocab_size: int, seq_len: int, start_id: int, seed: int
) -> "LlamaForCausalLM":
    """Build a Llama with tied embeddings; the same seed gives the same weights.

    Args:
        start_id: the token that begins and ends a story; also pads batches of prompts.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    _silence_transformers()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=seq_len,
            # Unit-variance activations from the first step; transformers' 0.02 suits widths of
            # thousands and left these narrow models far behind (LOG.md).
            initializer_range=shape.hidden_size**-0.5,
            tie_word_embeddings=True,
            bos_token_id=start_id,
            eos_token_id=start_id,
            # No pad_token_id: transformers would give that row of the embedding, the start
            # token's, no gradient.
        )
    )
    model.generation_config.pad_token_id = start_id
    return model


def trunk(model: Any) -> Any:
    """Return the part of a causal LM that maps ids (B, T) to hidden states (B, T, D)."""
    return model.get_decoder()


def head_weight(model: Any) -> Tensor:
    """Return the (V, D) matrix that maps hidden states to logits."""
    return model.get_output_embeddings().weight


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's tensors, names and bytes in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def context_length(model: Any) -> int | None:
    """Return the tokens of context that a causal LM was made for, None where nothing says it."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if longest is None else int(longest)


def load_causal_lm(folder: str, dtype: torch.dtype | None = None) -> Any:
    """Load any causal LM from a folder or the Hub.

    Never runs code that comes with it, and reads no pickled weights.

    Args:
        dtype: of its parameters; default: as they are saved.

    Raises:
        InputError: there is no such model, or its files are damaged or do not hold all of it.
    """
    from transformers import AutoModelForCausalLM

    _silence_transformers()
    with _loading(folder):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if found["missing_keys"]:  # transformers fills them at random
            raise ValueError(f"its files lack {min(found['missing_keys'])}")
        return model


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turn what transformers raises over a model's files into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"cannot load a language model from {name!r}: {str(error).strip().splitlines()[0]}",
            "give a run folder, a checkpoint, a transformers folder with safetensors, or a Hub id",
        ) from None


def _silence_transformers() -> None:
    """Keep transformers' own progress bars off the terminal: the library prints nothing."""
    from transformers.utils import logging

    logging.disable_progress_bar()
