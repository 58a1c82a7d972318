"""Build new models as transformers Llamas, and count their parameters."""

from typing import TYPE_CHECKING

import torch

from tinyohem.config.model import ModelConfig, Shape, model_shape
from tinyohem.models.causal_lm import declared_parameters, loading_errors, silence_transformers
from tinyohem.runs.layout import model_folder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def parameter_count(config: ModelConfig, vocab_size: int) -> int:
    """Return the number of parameters of a run's model without allocating them.

    Raises:
        InputError: there is no such shape, or no such model to start from.
    """
    if config.init_from is None:
        return model_shape(config).num_parameters(vocab_size)
    from transformers import AutoConfig

    folder = model_folder(config.init_from)
    with loading_errors(folder):
        return declared_parameters(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def build_model(
    shape: Shape, vocab_size: int, seq_len: int, start_id: int, seed: int
) -> "LlamaForCausalLM":
    """Build a Llama with tied embeddings; the same seed gives the same weights.

    Every layer begins as the identity: the last matrices of its attention and of its MLP are zero.

    Args:
        start_id: the token that begins and ends a story; also pads batches of prompts.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    silence_transformers()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=seq_len,
            # Gives unit-variance activations from the first step. transformers' 0.02 suits widths
            # of thousands and makes these narrow models learn far worse (LOG.md).
            initializer_range=shape.hidden_size**-0.5,
            tie_word_embeddings=True,
            bos_token_id=start_id,
            eos_token_id=start_id,
            # No pad_token_id: transformers gives that row of the embedding no gradient, and here
            # it would be the start token's.
        )
    )
    for layer in model.model.layers:  # Fixup (Zhang et al. 2019); what it wins is in LOG.md
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    model.generation_config.pad_token_id = start_id
    return model
