"""Load any causal LM of transformers, and take it apart into trunk and head."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from tinyohem.data.hub_names import require_model
from tinyohem.data.tokenizer import foreign_files
from tinyohem.models.kept_attention import can_share_attention
from tinyohem.ohem.softmax_cache import SoftmaxCache

_MAX_LAYERS = 1_000
_PARAMETERS_PER_BYTE = 4  # quantized to two bits
_FREE_PARAMETERS = 1_000_000

_KINDS = "give a run folder, a checkpoint, a transformers folder, or a Hub id"


def trunk(model: Any) -> Any:
    """Return the part of a causal LM that maps ids (B, T) to hidden states (B, T, D)."""
    return model.get_decoder()


def head_weight(model: Any) -> Tensor:
    """Return the (V, D) matrix that maps hidden states to logits."""
    return model.get_output_embeddings().weight


@dataclass(frozen=True)
class Trunk:
    """A causal LM of transformers without its head."""

    module: Any
    shares_attention: bool  # whether it can run other plans than `full`
    run: Callable[..., Any]  # the module, compiled or not
    run_last: Callable[..., Tensor]  # its last layer and final norm, compiled or not
    # The token that begins a story, where a token attends to its own story only; None: to all
    # tokens before it.
    story_start: int | None = None

    @classmethod
    def of(cls, module: Any, *, story_start: int | None = None, compiled: bool = False) -> Self:
        """Wrap a trunk, on request with torch.compile."""

        def run_last(hidden: Tensor, **options: Any) -> Tensor:
            return module.norm(module.layers[-1](hidden, **options))

        shares = can_share_attention(module)
        if compiled:
            whole, last = torch.compile(module), torch.compile(run_last)
            return cls(module, shares, whole, last, story_start)
        return cls(module, shares, module, run_last, story_start)

    def stories(self, input_ids: Tensor) -> Tensor | None:
        """Number the stories of each sequence, int64 (B, T); None where tokens see across them."""
        return None if self.story_start is None else (input_ids == self.story_start).cumsum(1)


@dataclass(frozen=True)
class CausalLM:
    """The parts of a causal language model that a training step uses."""

    trunk: Trunk
    head_VD: Tensor  # output embedding
    autocast: AbstractContextManager[Any]  # of every forward pass; entered more than once
    cache: SoftmaxCache | None = None  # may keep the softmax for the gradient

    @classmethod
    def of(
        cls,
        model: Any,
        autocast: AbstractContextManager[Any] | None = None,
        cache: SoftmaxCache | None = None,
        *,
        story_start: int | None = None,
        compiled: bool = False,
    ) -> Self:
        """Take a transformers causal LM apart; the weights stay shared.

        Args:
            story_start: see `Trunk`.
        """
        whole = Trunk.of(trunk(model), story_start=story_start, compiled=compiled)
        return cls(whole, head_weight(model), autocast or nullcontext(), cache)


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of the names and bytes of a model's tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def context_length(model: Any) -> int | None:
    """Return the longest context of a causal LM in tokens, None where its config has none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def load_causal_lm(folder: str, dtype: torch.dtype | None = None) -> Any:
    """Load any causal LM from a folder or the Hub.

    Runs no code that comes with the model, and reads no pickled weights.

    Args:
        dtype: of the parameters; default: as saved.

    Raises:
        InputError: there is no such model, or its files are damaged or incomplete.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    silence_transformers()
    require_model(folder, _KINDS)
    with loading_errors(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_config(Path(folder), config)
        # Pickled weights are never read, even where there are no others.
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
    """Refuse a config that would make transformers fetch, run or allocate more than the weights.

    Raises:
        ValueError: it names code or another model on the Hub, or declares far more parameters than
            the folder's files can hold.
    """
    if "/" in str(config._attn_implementation):
        raise ValueError(f"its attention {config._attn_implementation!r} is code from the Hub")
    if (folder / "adapter_config.json").exists():
        raise ValueError("it is an adapter to another model")
    files = list(folder.glob("*.safetensors"))
    if not files:
        return  # on the Hub, or without weights, which `from_pretrained` reports
    stored = sum(file.stat().st_size for file in files)
    if getattr(config, "num_hidden_layers", 0) > _MAX_LAYERS:
        raise ValueError(f"it has {config.num_hidden_layers:,} layers")
    declared = declared_parameters(config)
    if declared > _PARAMETERS_PER_BYTE * stored + _FREE_PARAMETERS:
        raise ValueError(
            f"its config declares {declared:,} parameters, its files hold only {stored:,} bytes"
        )


def declared_parameters(config: Any) -> int:
    """Count the parameters of a transformers config without allocating them."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return int(
            AutoModelForCausalLM.from_config(config, trust_remote_code=False).num_parameters()
        )


def loading_errors(folder: str) -> AbstractContextManager[None]:
    """Turn whatever the files of a model raise into an `InputError`."""
    return foreign_files(f"cannot load a language model from {folder!r}", _KINDS)


def silence_transformers() -> None:
    """Turn off transformers' progress bars: the library prints nothing."""
    from transformers.utils import logging

    logging.disable_progress_bar()
