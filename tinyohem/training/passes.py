"""Two forward passes of one micro-batch: all tokens read, then the kept ones run for a gradient.

`below` is exact: unselected tokens matter to the last layer as keys and values alone, so its
queries, output projection and MLP, and the head, need a graph for the kept tokens only.

`pruned` is approximate: the kept tokens run again through every layer and attend to the keys and
values of the first pass, which carry no graph. What an unselected token would have learned as a key
or a value is dropped, in every layer; the kept tokens' losses are unchanged. The idea is that of
Centrifuge (arXiv 2502.00340) and TokenTune. Work, in forward passes over all tokens: 1 + 3r at
ratio r instead of 3.

Shape suffixes: B sequences, T tokens of one, K kept tokens, D hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from tinyohem.training.attention import Kept, Memory, shared_attention


@dataclass(frozen=True)
class Trunk:
    """A transformers Llama without its head, and what runs it, compiled or not."""

    module: Any
    run: Callable[..., Any]
    run_last: Callable[..., Tensor]  # the last layer and the norm behind it

    @classmethod
    def of(cls, module: Any, *, compiled: bool = False) -> Self:
        """Wrap a trunk; `compiled` runs it through torch.compile."""

        def run_last(hidden: Tensor, **options: Any) -> Tensor:
            return module.norm(module.layers[-1](hidden, **options))

        if compiled:
            return cls(module, torch.compile(module), torch.compile(run_last))
        return cls(module, module, run_last)


def read_below(trunk: Trunk, input_ids: Tensor) -> tuple[Tensor, Memory]:
    """Return hidden states (B, T, D) without a graph, and the last layer's inputs with one."""
    memory = Memory(only_layer=len(trunk.module.layers) - 1)
    # The recording attention turns the graph off on its way; leaving this block turns it on again.
    with shared_attention(trunk.module), torch.enable_grad():
        output = trunk.run(input_ids=input_ids, use_cache=False, memory=memory)
    return output.last_hidden_state, memory


def run_below(trunk: Trunk, memory: Memory, kept: Kept) -> Tensor:
    """Return the kept tokens' hidden states (K, D) with the graph of all that they depend on."""
    assert memory.last_input is not None
    hidden_1KD = memory.last_input.flatten(0, 1).index_select(0, kept.rows_K)[None]
    with shared_attention(trunk.module):
        return trunk.run_last(
            hidden_1KD,
            attention_mask=kept.mask_B1MT,
            position_embeddings=trunk.module.rotary_emb(hidden_1KD, kept.position_ids),
            memory=memory,
            kept=kept,
        )[0]


@torch.no_grad()
def read_all(trunk: Trunk, input_ids: Tensor) -> tuple[Tensor, Memory]:
    """Return hidden states (B, T, D) and every layer's keys and values, without a graph."""
    memory = Memory()
    with shared_attention(trunk.module):
        output = trunk.run(input_ids=input_ids, use_cache=False, memory=memory)
    return output.last_hidden_state, memory


def run_pruned(trunk: Trunk, input_ids: Tensor, memory: Memory, kept: Kept) -> Tensor:
    """Return the kept tokens' hidden states (K, D) with a graph through kept tokens only."""
    with shared_attention(trunk.module):
        output = trunk.run(
            input_ids=input_ids.flatten().index_select(0, kept.rows_K)[None],
            position_ids=kept.position_ids,
            attention_mask=kept.mask_B1MT,
            use_cache=False,
            memory=memory,
            kept=kept,
        )
    return output.last_hidden_state[0]
