"""Attention of some tokens to the keys and values of all, through transformers' interface.

Shape suffixes: B sequences, T tokens of one, N = B·T tokens, K kept tokens of all sequences in
batch order, Q places for queries in one sequence, H heads, E size of one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from tinyohem.system.device import product_precision

_NAME = "tinyohem"


@dataclass(frozen=True)
class KeptTokens:
    """The tokens of a micro-batch that run again, packed into one row (1, K) without padding.

    Only attention needs them by sequence, (B, Q).
    """

    places_K: Tensor  # int64, places among the N tokens, rising
    position_ids: Tensor  # int64 (1, K), places in their sequences
    shape: tuple[int, int]  # (B, Q)
    slots_K: Tensor | None  # int64, places among B·Q; None where nothing is padded
    mask_B1QT: Tensor | None  # bool, where a query may look; None: causal, Q = T

    @classmethod
    def at(
        cls,
        places_K: Tensor,
        shape: tuple[int, int],
        width: int | None = None,
        stories_BT: Tensor | None = None,
        *,
        spread: bool | None = None,
    ) -> Self:
        """Take the tokens at the places `places_K`, rising, of a micro-batch of `shape` (B, T).

        Args:
            width: kept tokens of every sequence, where all keep as many.
            stories_BT: the story of every token, where a query sees its own only.
            spread: leave the queries at their places, Q = T, which needs no mask and no wait for
                the device; default: on a GPU, whose causal kernels lose little on empty places.
                Else the queries of a sequence are packed, which saves a CPU most of their work.
        """
        num_sequences, seq_len = shape
        position_K, sequence_K = places_K % seq_len, places_K // seq_len
        if places_K.device.type != "cpu" if spread is None else spread:
            mask = None if stories_BT is None else story_mask(stories_BT)[:, None]
            return cls(places_K, position_K[None], shape, places_K, mask)
        if width is not None:
            slots_K, position_BQ = None, position_K.view(num_sequences, width)
        else:
            counts_B = torch.bincount(sequence_K, minlength=num_sequences)
            width = int(counts_B.max())
            before_B = counts_B.cumsum(0) - counts_B
            rank_K = torch.arange(len(places_K), device=places_K.device) - before_B[sequence_K]
            slots_K = sequence_K * width + rank_K
            # Padding attends to the first key alone: an empty softmax would be NaN.
            position_BQ = position_K.new_zeros(num_sequences * width).index_copy(
                0, slots_K, position_K
            )
            position_BQ = position_BQ.view(num_sequences, width)
        mask_BQT = torch.arange(seq_len, device=places_K.device) <= position_BQ[..., None]
        if stories_BT is not None:
            story_BQ = stories_BT.gather(1, position_BQ)
            mask_BQT &= story_BQ[..., None] == stories_BT[:, None]
        return cls(places_K, position_K[None], (num_sequences, width), slots_K, mask_BQT[:, None])

    def by_sequence(self, packed: Tensor) -> Tensor:
        """Turn (1, H, K, E) into (B, H, Q, E)."""
        packed_KHE = packed.transpose(1, 2).squeeze(0)
        if self.slots_K is not None:
            padded = packed_KHE.new_zeros(math.prod(self.shape), *packed_KHE.shape[1:])
            packed_KHE = padded.index_copy(0, self.slots_K, packed_KHE)
        return packed_KHE.unflatten(0, self.shape).transpose(1, 2)

    def pack(self, out_BQHE: Tensor) -> Tensor:
        """Turn (B, Q, H, E) into (1, K, H, E)."""
        out_KHE = out_BQHE.flatten(0, 1)
        if self.slots_K is not None:
            out_KHE = out_KHE.index_select(0, self.slots_K)
        return out_KHE[None]

    def overlay(self, fresh: Tensor, stored: Tensor) -> Tensor:
        """Lay (1, H, K, E) over the kept tokens' places in (B, H, T, E)."""
        stored_BTHE = stored.transpose(1, 2)
        spliced_NHE = stored_BTHE.flatten(0, 1).index_copy(
            0, self.places_K, fresh.transpose(1, 2).squeeze(0)
        )
        return spliced_NHE.view(stored_BTHE.shape).transpose(1, 2)


def story_mask(stories_BT: Tensor) -> Tensor:
    """Return where each token may look, bool (B, T, T): its own story up to itself."""
    places_T = torch.arange(stories_BT.shape[1], device=stories_BT.device)
    same_BTT = stories_BT[:, :, None] == stories_BT[:, None, :]
    return same_BTT & (places_T[:, None] >= places_T)


@dataclass
class KVCache:
    """Keys, rotary positions applied, and values of all tokens by layer; (B, H, T, E) each."""

    # Record this layer alone, with its graph; its queries and all that follows get no graph.
    only_layer: int | None = None
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    last_input: Tensor | None = None  # with `only_layer`: the input of the last layer, (B, T, D)

    def record(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Record the keys and values of a layer; at `only_layer` turn the graph off."""
        if self.only_layer in (None, layer):
            self.layers[layer] = key, value
        if self.only_layer == layer:
            # What follows needs no graph: this layer runs again for the kept tokens. The caller,
            # `run_all`, restores the mode.
            torch.set_grad_enabled(False)

    def lookup(
        self, layer: int, key: Tensor, value: Tensor, kept: KeptTokens
    ) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer; fresh ones replace those without a graph."""
        key_all, value_all = self.layers[layer]
        if key_all.requires_grad:
            return key_all, value_all
        return kept.overlay(key, key_all), kept.overlay(value, value_all)


def can_share_attention(trunk: Any) -> bool:
    """Whether `shared_attention` works with a trunk: a Llama that encodes each position by itself.

    Some rotary encodings depend on the last position of a call, which a pass over kept tokens may
    lack.
    """
    from transformers import LlamaModel

    varying = ("dynamic", "longrope")
    return type(trunk) is LlamaModel and trunk.rotary_emb.rope_type not in varying


@contextmanager
def shared_attention(trunk: Any) -> Iterator[None]:
    """Let calls of `trunk`, a transformers Llama, take `memory` and `kept` inside the block.

    With neither, a call attends as usual; unlike transformers' own attention it never asks the
    device whether its positions are packed sequences, and it compiles without a mask. With `memory`
    alone a call also fills it. With both, the input tokens are the kept ones, and they attend to
    the recorded keys and values.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    before = trunk.config._attn_implementation
    trunk.config._attn_implementation = _NAME
    hook = trunk.layers[-1].register_forward_pre_hook(_remember_input, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        trunk.config._attn_implementation = before


def _remember_input(_layer: Any, inputs: tuple[Tensor, ...], options: Mapping[str, Any]) -> None:
    memory = options.get("memory")
    if memory is not None and memory.only_layer is not None and options.get("kept") is None:
        memory.last_input = inputs[0]


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    memory: KVCache | None = None,
    kept: KeptTokens | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Serve as transformers' attention function: q (B, H, T, E) to output (B, T, H, E)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask = attention_mask
    if kept is not None:
        assert memory is not None
        key, value = memory.lookup(module.layer_idx, key, value, kept)
        query = kept.by_sequence(query)
        mask = kept.mask_B1QT
    elif memory is not None:
        memory.record(module.layer_idx, key, value)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]

    out_BQHE = _attend_exactly(attend, query, key, value)
    return out_BQHE if kept is None else kept.pack(out_BQHE), None


def _attend_exactly(attend: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Attend with exact products, whatever the step's precision; see `device.product_precision`.

    torch's attention on CPUs multiplies tiles so small that rounding them takes longer than it
    saves: with rounded products attention takes twice as long.
    """
    if torch.compiler.is_compiling() or torch.get_float32_matmul_precision() == "highest":
        return attend(*inputs)
    if not torch.is_grad_enabled():
        with product_precision("float32"):
            return attend(*inputs)
    return _ExactAttention.apply(attend, *inputs)


class _ExactAttention(Function):
    """Attention whose forward and backward pass both run with exact products."""

    @staticmethod
    def forward(ctx: Any, attend: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        own = [x.detach() for x in inputs]
        wanted = [x for x, n in zip(own, ctx.needs_input_grad[1:], strict=True) if n]
        with product_precision("float32"), torch.enable_grad():
            for x in wanted:
                x.requires_grad_()
            out = attend(*own)
        ctx.graph = out, wanted
        return out.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        out, wanted = ctx.graph
        with product_precision("float32"):
            found = iter(torch.autograd.grad([out], wanted, [grad_out]))
        return None, *(next(found) if n else None for n in ctx.needs_input_grad[1:])
