"""Any causal LM of transformers: load it, find its trunk and head."""

import hashlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyohem.data.hub_names import require_model
from tinyohem.data.tokenizer import foreign_files

_MAX_LAYERS = 1_000


_PARAMETERS_PER_BYTE = 4  # quantized to two bits


_FREE_PARAMETERS = 1_000_000


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
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def load_causal_lm(folder: str, dtype: torch.dtype | None = None) -> Any:
    """Load any causal LM from a folder or the Hub.

    Never runs code that comes with it, and reads no pickled weights.

    Args:
        dtype: of its parameters; default: as they are saved.

    Raises:
        InputError: there is no such model, or its files are damaged or do not hold all of it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    _silence_transformers()
    require_model(folder, _KINDS)
    with _loading(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_config(Path(folder), config)
        # Pickled weights are left alone, even where they are the only ones.
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype or "auto",
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


_KINDS = "give a run folder, a checkpoint, a transformers folder, or a Hub id"


def _loading(folder: str) -> AbstractContextManager[None]:
    return foreign_files(f"cannot load a language model from {folder!r}", _KINDS)


def _silence_transformers() -> None:
    """Keep transformers' own progress bars off the terminal: the library prints nothing."""
    from transformers.utils import logging

    logging.disable_progress_bar()
