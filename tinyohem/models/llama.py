"""Models built as transformers Llamas."""

from typing import TYPE_CHECKING

import torch

from tinyohem.config.model import ModelConfig, Shape, model_shape
from tinyohem.runs.layout import model_folder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM
from tinyohem.models.causal_lm import _loading, _silence_transformers


def parameter_count(config: ModelConfig, vocab_size: int) -> int:
    """Return how many parameters a run's model has, without building it.

    Raises:
        InputError: there is no such shape, or no model to start from.
    """
    if config.init_from is None:
        return model_shape(config).num_parameters(vocab_size)
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = model_folder(config.init_from)
    with _loading(folder), torch.device("meta"):  # dimensions without memory
        described = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(described, trust_remote_code=False)
        return int(model.num_parameters())


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
