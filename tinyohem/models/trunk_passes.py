"""The passes of a step through the trunk: one over all tokens, one over the kept tokens.

`full`: one pass over all tokens with a graph. The hidden states of the kept tokens are picked from
it.

`last_layer`, also exact: the last layer needs unselected tokens only as keys and values. It runs
again for the kept tokens, and only this second run has a graph for its queries, output projection
and MLP.

`pruned`, approximate: a pass without a graph, then one with a graph for the kept tokens, which
attend to the keys and values of the first. The gradient through the keys and values of unselected
tokens is dropped in every layer; the losses of the kept tokens are unchanged. The idea is that of
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
    """A causal LM of transformers without its head."""

    module: Any
    shares_attention: bool  # whether it can run other plans than `full`
    run: Callable[..., Any]  # the module, compiled or not
    run_last: Callable[..., Tensor]  # its last layer and final norm, compiled or not

    @classmethod
    def of(cls, module: Any, *, compiled: bool = False) -> Self:
        """Wrap a trunk, on request with torch.compile."""

        def run_last(hidden: Tensor, **options: Any) -> Tensor:
            return module.norm(module.layers[-1](hidden, **options))

        shares = can_share_attention(module)
        if compiled:
            return cls(module, shares, torch.compile(module), torch.compile(run_last))
        return cls(module, shares, module, run_last)


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
        compiled: bool = False,
    ) -> Self:
        """Take a transformers causal LM apart; the weights stay shared."""
        whole = Trunk.of(trunk(model), compiled=compiled)
        return cls(whole, head_weight(model), autocast or nullcontext(), cache)


class TrunkPasses:
    """The passes of one optimizer step.

    A first pass that the gradient can build on runs once and is stored: that of a single
    micro-batch, and every one of `pruned`, which stores only keys and values. Otherwise a
    micro-batch is read without a graph and runs again for its gradient.

    Attributes:
        lm: the model.
        batches: the micro-batches of the step.
    """

    def __init__(self, plan: BackwardPlan, lm: CausalLM, batches: Sequence[Batch]) -> None:
        self._plan, self.lm, self.batches = plan, lm, batches
        runs_again = plan != "pruned" and len(batches) > 1
        self._first = {} if runs_again else {i: self._run(i, plan) for i in range(len(batches))}

    def _run(self, index: int, plan: BackwardPlan) -> tuple[Tensor, KVCache | None]:
        with self.lm.autocast:
            return run_all(self.lm.trunk, self.batches[index].input_ids, plan)

    def read(self, index: int) -> Tensor:
        """Return the hidden states (B, T, D) of all tokens of a micro-batch, without a graph."""
        if index in self._first:
            return self._first[index][0].detach()
        with torch.no_grad():
            return self._run(index, "full")[0]

    def kept(self, index: int, rows_K: Tensor | None, width: int | None = None) -> Tensor:
        """Return the hidden states (K, D) of a micro-batch's kept tokens, with their graph.

        Call it once: it drops the first pass.

        Args:
            rows_K: places of the kept tokens among the B·T, rising; None keeps all.
            width: kept tokens of every sequence, where the host knows that all keep as many.
        """
        first = self._first.pop(index) if index in self._first else self._run(index, self._plan)
        hidden_BTD, cache = first
        hidden_ND = hidden_BTD.flatten(0, 1)
        if rows_K is not None and len(rows_K) == 0:
            return hidden_ND[:0]
        if cache is None:
            return hidden_ND if rows_K is None else hidden_ND.index_select(0, rows_K)
        if rows_K is None:
            rows_K = torch.arange(len(hidden_ND), device=hidden_ND.device)
            width = hidden_BTD.shape[1]
        kept = KeptTokens.at(rows_K, (hidden_BTD.shape[0], hidden_BTD.shape[1]), width)
        with self.lm.autocast:
            return run_kept(self.lm.trunk, self.batches[index].input_ids, cache, kept)


def run_all(trunk: Trunk, input_ids: Tensor, plan: BackwardPlan) -> tuple[Tensor, KVCache | None]:
    """Return the hidden states (B, T, D) of all tokens, and what `run_kept` needs of the pass.

    Only those of `full` have a graph. `last_layer` stores the inputs of the last layer with their
    graph, `pruned` the keys and values of every layer without one.
    """
    cache = None
    if plan != "full":
        cache = KVCache(only_layer=len(trunk.module.layers) - 1 if plan == "last_layer" else None)
    options = {} if cache is None else {"memory": cache}
    attention = shared_attention(trunk.module) if trunk.shares_attention else nullcontext()
    # Recording the last layer turns the graph off; leaving this block turns it on again.
    with attention, torch.set_grad_enabled(torch.is_grad_enabled() and plan != "pruned"):
        output = trunk.run(input_ids=input_ids, use_cache=False, **options)
    return output.last_hidden_state, cache


def run_kept(trunk: Trunk, input_ids: Tensor, cache: KVCache, kept: KeptTokens) -> Tensor:
    """Return the kept tokens' hidden states (K, D) with their graph, given a pass of `run_all`."""
    with shared_attention(trunk.module):
        if cache.last_input is not None:
            hidden_1KD = cache.last_input.flatten(0, 1).index_select(0, kept.rows_K)[None]
            positions = trunk.module.rotary_emb(hidden_1KD, kept.position_ids)
            return trunk.run_last(
                hidden_1KD, position_embeddings=positions, memory=cache, kept=kept
            )[0]
        output = trunk.run(
            input_ids=input_ids.flatten().index_select(0, kept.rows_K)[None],
            position_ids=kept.position_ids,
            use_cache=False,
            memory=cache,
            kept=kept,
        )
    return output.last_hidden_state[0]
