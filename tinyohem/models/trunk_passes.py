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

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import CausalLM, Trunk
from tinyohem.models.kept_attention import KeptTokens, KVCache, shared_attention, story_mask

BackwardPlan = Literal["full", "last_layer", "pruned"]


class TrunkPasses:
    """The passes of one optimizer step.

    Under `pruned` every micro-batch runs once, and its keys and values are stored. Under the other
    plans a single micro-batch runs once and is stored with its graph. Several are read without a
    graph and run again for their gradients.

    Attributes:
        lm: the model.
        batches: the micro-batches of the step.
    """

    def __init__(self, plan: BackwardPlan, lm: CausalLM, batches: Sequence[Batch]) -> None:
        self._plan, self.lm, self.batches = plan, lm, batches
        self._first: dict[int, tuple[Tensor, KVCache | None]] = {}

    def run_first(self) -> None:
        """Run and store the first passes that the gradient can build on."""
        reruns = self._plan != "pruned" and len(self.batches) > 1
        if not reruns:
            self._first = {i: self._run(i, self._plan) for i in range(len(self.batches))}

    def _run(self, index: int, plan: BackwardPlan) -> tuple[Tensor, KVCache | None]:
        with self.lm.autocast:
            return run_all(self.lm.trunk, self.batches[index].input_ids, plan)

    def read(self, index: int) -> Tensor:
        """Return the hidden states (B, T, D) of all tokens of a micro-batch, without a graph."""
        if index in self._first:
            return self._first[index][0].detach()
        with torch.no_grad():
            return self._run(index, "full")[0]

    def kept(self, index: int, places_K: Tensor | None, width: int | None = None) -> Tensor:
        """Return the hidden states (K, D) of a micro-batch's kept tokens, with their graph.

        Call it once: it drops the first pass.

        Args:
            places_K: places of the kept tokens among the B·T, rising; None keeps all.
            width: kept tokens of every sequence, where the host knows that all keep as many.
        """
        first = self._first.pop(index) if index in self._first else self._run(index, self._plan)
        hidden_BTD, cache = first
        hidden_ND = hidden_BTD.flatten(0, 1)
        if places_K is not None and len(places_K) == 0:
            return hidden_ND[:0]
        if cache is None:
            return hidden_ND if places_K is None else hidden_ND.index_select(0, places_K)
        if places_K is None:
            places_K = torch.arange(len(hidden_ND), device=hidden_ND.device)
            width = hidden_BTD.shape[1]
        input_ids = self.batches[index].input_ids
        stories_BT = self.lm.trunk.stories(input_ids)
        kept = KeptTokens.at(places_K, (input_ids.shape[0], input_ids.shape[1]), width, stories_BT)
        with self.lm.autocast:
            return run_kept(self.lm.trunk, input_ids, cache, kept)


def run_all(trunk: Trunk, input_ids: Tensor, plan: BackwardPlan) -> tuple[Tensor, KVCache | None]:
    """Return the hidden states (B, T, D) of all tokens, and what `run_kept` needs of the pass.

    Only those of `full` have a graph. `last_layer` stores the inputs of the last layer with their
    graph, `pruned` the keys and values of every layer without one.
    """
    cache = None
    if plan != "full":
        cache = KVCache(only_layer=len(trunk.module.layers) - 1 if plan == "last_layer" else None)
    options: dict[str, Any] = _within_stories(trunk, input_ids)
    if cache is not None:
        options["memory"] = cache
    attention = shared_attention(trunk.module) if trunk.shares_attention else nullcontext()
    # `KVCache.record` turns the graph off at the last layer; leaving this block restores it.
    with attention, torch.set_grad_enabled(torch.is_grad_enabled() and plan != "pruned"):
        output = trunk.run(input_ids=input_ids, use_cache=False, **options)
    return output.last_hidden_state, cache


def _within_stories(trunk: Trunk, input_ids: Tensor) -> dict[str, Tensor]:
    """Return what a trunk must be called with for its tokens to attend to their own story only.

    A Llama takes the mask. For any other model positions begin anew with every story, from which
    transformers builds the mask of most.
    """
    stories_BT = trunk.stories(input_ids)
    if stories_BT is None:
        return {}
    if trunk.shares_attention:
        return {"attention_mask": story_mask(stories_BT)[:, None]}
    places_T = torch.arange(input_ids.shape[1], device=input_ids.device)
    starts_BT = (places_T * (input_ids == trunk.story_start)).cummax(1).values
    return {"position_ids": places_T - starts_BT}


def run_kept(trunk: Trunk, input_ids: Tensor, cache: KVCache, kept: KeptTokens) -> Tensor:
    """Return the kept tokens' hidden states (K, D) with their graph, given a pass of `run_all`."""
    with shared_attention(trunk.module):
        if cache.last_input is not None:
            hidden_1KD = cache.last_input.flatten(0, 1).index_select(0, kept.places_K)[None]
            positions = trunk.module.rotary_emb(hidden_1KD, kept.position_ids)
            return trunk.run_last(
                hidden_1KD, position_embeddings=positions, memory=cache, kept=kept
            )[0]
        output = trunk.run(
            input_ids=input_ids.flatten().index_select(0, kept.places_K)[None],
            position_ids=kept.position_ids,
            use_cache=False,
            memory=cache,
            kept=kept,
        )
    return output.last_hidden_state[0]
