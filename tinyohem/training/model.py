"""Presets by parameter count, built as transformers Llama models."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tinyohem.config import ModelConfig
from tinyohem.data.tokenizer import foreign_files
from tinyohem.errors import InputError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Shape:
    """The dimensions that decide a model's size."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int

    def num_parameters(self, vocab_size: int) -> int:
        """Count: the tied embedding; per layer 4 attention and 3 MLP matrices, 2 norms."""
        layer = self.hidden_size * (4 * self.hidden_size + 3 * self.intermediate_size + 2)
        return self.hidden_size * (vocab_size + 1) + self.num_layers * layer


# Named after their parameter count at the default vocabulary of 4,096.
PRESETS = {
    "260k": Shape(hidden_size=48, num_layers=2, num_heads=3, intermediate_size=144),
    "0.5m": Shape(hidden_size=80, num_layers=3, num_heads=5, intermediate_size=160),
    "1m": Shape(hidden_size=112, num_layers=4, num_heads=7, intermediate_size=288),
    "2m": Shape(hidden_size=160, num_layers=4, num_heads=5, intermediate_size=448),
    "5m": Shape(hidden_size=224, num_layers=7, num_heads=7, intermediate_size=576),
    "15m": Shape(hidden_size=384, num_layers=8, num_heads=6, intermediate_size=960),
}


def model_shape(config: ModelConfig) -> Shape:
    """Return the preset's shape with the config's own dimensions laid over it.

    Raises:
        InputError: the hidden size does not divide into heads of an even size.
    """
    own = config.model_dump(exclude={"preset"}, exclude_none=True)
    shape = replace(PRESETS[config.preset], **own)
    if shape.hidden_size % (2 * shape.num_heads):
        raise InputError(
            f"model.hidden_size = {shape.hidden_size} does not divide into {shape.num_heads} heads "
            "of an even size",
            "choose a hidden size that is a multiple of 2 × model.num_heads",
        )
    return shape


_MAX_LAYERS = 1_000
_PARAMETERS_PER_BYTE = 4  # quantized to two bits
_FREE_PARAMETERS = 1_000_000


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


def load_causal_lm(folder: str) -> Any:
    """Load any causal LM from a folder or the Hub; never runs code that comes with it.

    Raises:
        InputError: there is no such model, or its files are damaged.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    _silence_transformers()
    hint = "give a run folder, a checkpoint, a transformers folder, or a Hub id"
    with foreign_files(f"cannot load a language model from {folder!r}", hint):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_config(Path(folder), config)
        # Pickled weights are left alone, even where they are the only ones.
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        if report["missing_keys"]:  # they would be random
            raise ValueError(f"its files lack {sorted(report['missing_keys'])[0]}")
        return model


def _check_config(folder: Path, config: Any) -> None:
    """Refuse what a config could make transformers fetch, run or allocate beyond its weights.

    Raises:
        ValueError: it names code or another model on the Hub, or declares far more parameters than
            the folder's files can hold.
    """
    from transformers import AutoModelForCausalLM

    if "/" in str(config._attn_implementation):
        raise ValueError(f"its attention {config._attn_implementation!r} is code from the Hub")
    if (folder / "adapter_config.json").exists():
        raise ValueError("it is an adapter to another model")
    files = list(folder.glob("*.safetensors"))
    if not files:
        return  # on the Hub, or without weights: `from_pretrained` tells
    stored = sum(file.stat().st_size for file in files)
    if getattr(config, "num_hidden_layers", 0) > _MAX_LAYERS:
        raise ValueError(f"it has {config.num_hidden_layers:,} layers")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if model.num_parameters() > _PARAMETERS_PER_BYTE * stored + _FREE_PARAMETERS:
        raise ValueError(
            f"its config declares {model.num_parameters():,} parameters, its files hold only "
            f"{stored:,} bytes"
        )


def _silence_transformers() -> None:
    """Keep transformers' own progress bars off the terminal: the library prints nothing."""
    from transformers.utils import logging

    logging.disable_progress_bar()
