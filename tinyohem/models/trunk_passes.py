"""How a step's tokens run through the trunk: all of them to be read, the kept ones for a gradient.

`full`: one pass with a graph for all tokens; the kept ones' hidden states are picked from it.

`last_layer`, exact as well: unselected tokens matter to the last layer as keys and values alone, so
it runs again for the kept tokens, and only there its queries, output projection and MLP have a
graph.

`pruned`, approximate: a pass without a graph, then one with a graph for the kept tokens, which
attend to the keys and values of the first. What an unselected token would have learned as a key or
a value is dropped, in every layer; the kept tokens' losses are unchanged. The idea is that of
Centrifuge (arXiv 2502.00340) and TokenTune. Work, in forward passes over all tokens: 1 + 3r at
ratio r instead of 3.

Shape suffixes: B sequences, T tokens of one, K kept tokens, D hidden size.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import head_weight, trunk
from tinyohem.models.kept_attention import (
    KeptTokens,
    KVCache,
    can_share_attention,
    shared_attention,
)
from tinyohem.ohem.softmax_cache import SoftmaxCache

BackwardPlan = Literal["full", "last_layer", "pruned"]


@dataclass(frozen=True)
class Trunk:
    """A causal LM of transformers without its head, and what runs it, compiled or not."""

    module: Any
    shares_attention: bool  # whether it can run other plans than `full`
    run: Callable[..., Any]
    run_last: Callable[..., Tensor]  # the last layer and the norm behind it; unless `full`

    @classmethod
    def of(cls, module: Any, *, compiled: bool = False) -> Self:
        """Wrap a trunk; `compiled` runs it through torch.compile."""

        def run_last(hidden: Tensor, **options: Any) -> Tensor:
            return module.norm(module.layers[-1](hidden, **options))

        shares = can_share_attention(module)
        if compiled:
            return cls(module, shares, torch.compile(module), torch.compile(run_last))
        return cls(module, shares, module, run_last)


@dataclass(frozen=True)
class CausalLM:
    """A causal language model as a training step uses it."""

    trunk: Trunk
    head_VD: Tensor  # output embedding
    autocast: AbstractContextManager[Any]  # of every forward pass; entered more than once
    cache: SoftmaxCache | None = None  # where the softmax may wait for the gradient

    @classmethod
    def of(
        cls,
        model: Any,
        autocast: AbstractContextManager[Any] | None = None,
        cache: SoftmaxCache | None = None,
        *,
        compiled: bool = False,
    ) -> Self:
        """Take a transformers causal LM apart; its weights stay shared."""
        whole = Trunk.of(trunk(model), compiled=compiled)
        return cls(whole, head_weight(model), autocast or nullcontext(), cache)


class TrunkPasses:
    """The passes of one optimizer step.

    A first pass that the gradient can build on runs once and is remembered: the one of a single
    micro-batch, and all of `pruned`, which remembers keys and values only. Else a micro-batch is
    read without a graph and runs again when its gradient is due.
    """

    def __init__(
        self,
        plan: BackwardPlan,
        lm: CausalLM,
        batches: Sequence[Batch],
    ) -> None:
        self._plan, self._trunk, self._autocast, self._batches = (
            plan,
            lm.trunk,
            lm.autocast,
            batches,
        )
        again = plan != "pruned" and len(batches) > 1
        self._first = {} if again else {i: self._run(i) for i in range(len(batches))}

    def read(self, index: int) -> Tensor:
        """Return the hidden states (B, T, D) of all tokens of a micro-batch, to be read only."""
        if index in self._first:
            return self._first[index][0].detach()
        with torch.no_grad(), self._autocast:
            return _run_full(self._trunk, self._batches[index].input_ids)

    def kept(self, index: int, rows_K: Tensor | None, width: int | None = None) -> Tensor:
        """Return the hidden states (K, D) of a micro-batch's kept tokens, with their graph.

        To be called once: the first pass is forgotten.

        Args:
            rows_K: places of the kept tokens among its B·T, rising; None keeps all.
            width: how many every sequence keeps, where the host knows that all keep as many.
        """
        first = self._first.pop(index) if index in self._first else self._run(index)
        hidden_BTD, memory = first
        hidden_ND = hidden_BTD.flatten(0, 1)
        if rows_K is not None and len(rows_K) == 0:
            return hidden_ND[:0]
        if memory is None:
            return hidden_ND if rows_K is None else hidden_ND.index_select(0, rows_K)
        if rows_K is None:
            rows_K = torch.arange(len(hidden_ND), device=hidden_ND.device)
            width = hidden_BTD.shape[1]
        kept = KeptTokens.at(rows_K, (hidden_BTD.shape[0], hidden_BTD.shape[1]), width)
        with self._autocast:
            if self._plan == "last_layer":
                return run_last_layer(self._trunk, memory, kept)
            return run_pruned(self._trunk, self._batches[index].input_ids, memory, kept)

    def _run(self, index: int) -> tuple[Tensor, KVCache | None]:
        input_ids = self._batches[index].input_ids
        with self._autocast:
            match self._plan:
                case "full":
                    return _run_full(self._trunk, input_ids), None
                case "last_layer":
                    return read_last_layer(self._trunk, input_ids)
                case "pruned":
                    return read_all(self._trunk, input_ids)


def _run_full(trunk: Trunk, input_ids: Tensor) -> Tensor:
    with shared_attention(trunk.module) if trunk.shares_attention else nullcontext():
        return trunk.run(input_ids=input_ids, use_cache=False).last_hidden_state


def read_last_layer(trunk: Trunk, input_ids: Tensor) -> tuple[Tensor, KVCache]:
    """Return hidden states (B, T, D) without a graph, and the last layer's inputs with one."""
    memory = KVCache(only_layer=len(trunk.module.layers) - 1)
    # The recording attention turns the graph off on its way; leaving this block turns it on again.
    with shared_attention(trunk.module), torch.enable_grad():
        output = trunk.run(input_ids=input_ids, use_cache=False, memory=memory)
    return output.last_hidden_state, memory


def run_last_layer(trunk: Trunk, memory: KVCache, kept: KeptTokens) -> Tensor:
    """Return the kept tokens' hidden states (K, D) with the graph of all that they depend on."""
    assert memory.last_input is not None
    hidden_1KD = memory.last_input.flatten(0, 1).index_select(0, kept.rows_K)[None]
    with shared_attention(trunk.module):
        return trunk.run_last(
            hidden_1KD,
            position_embeddings=trunk.module.rotary_emb(hidden_1KD, kept.position_ids),
            memory=memory,
            kept=kept,
        )[0]


@torch.no_grad()
def read_all(trunk: Trunk, input_ids: Tensor) -> tuple[Tensor, KVCache]:
    """Return hidden states (B, T, D) and every layer's keys and values, without a graph."""
    memory = KVCache()
    with shared_attention(trunk.module):
        output = trunk.run(input_ids=input_ids, use_cache=False, memory=memory)
    return output.last_hidden_state, memory


def run_pruned(trunk: Trunk, input_ids: Tensor, memory: KVCache, kept: KeptTokens) -> Tensor:
    """Return the kept tokens' hidden states (K, D) with a graph through kept tokens only."""
    with shared_attention(trunk.module):
        output = trunk.run(
            input_ids=input_ids.flatten().index_select(0, kept.rows_K)[None],
            position_ids=kept.position_ids,
            use_cache=False,
            memory=memory,
            kept=kept,
        )
    return output.last_hidden_state[0]
