"""A tiny Llama for tests of its passes: tokens, weights, gradients, and stories run apart."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tinyohem.models.causal_lm import trunk
from tinyohem.models.kept_attention import KeptTokens

VOCAB, ROWS, LENGTH, LAYERS = 37, 4, 12, 3
LAYOUTS = ("even", "ragged", "spread")  # every row keeps as many; not; on a GPU, not either


def llama(**changes: Any) -> Any:
    """Build a tiny Llama whose every part matters: weights far from zero, norms far from one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": LENGTH,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
    }
    model = LlamaForCausalLM(LlamaConfig(**config | changes))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def tokens(seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=rng)
    return ids[:, :-1], ids[:, 1:]


def random_weights(count: int, layout: str = "ragged", seed: int = 2) -> Tensor:
    """Give `count` tokens a weight (as many in every row of the layout `even`), else zero."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.rand(ROWS, LENGTH, generator=rng)
    even = layout == "even"
    ranks = order.argsort(1).argsort(1) if even else order.flatten().argsort().argsort()
    kept = ranks.view(ROWS, LENGTH) < (count // ROWS if even else count)
    return kept * (0.5 + torch.rand(ROWS, LENGTH, generator=rng))


def places(kept_BT: Tensor, layout: str) -> KeptTokens:
    width = int(kept_BT.sum()) // len(kept_BT) if layout == "even" else None
    places_K = kept_BT.flatten().nonzero()[:, 0]
    return KeptTokens.at(places_K, tuple(kept_BT.shape), width, spread=layout == "spread")


def token_losses(model: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    logits = model.lm_head(hidden)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        assert scale > 1e-4, name
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * scale, msg=name)


def apart(model: Any, input_ids: Tensor, story_start: int) -> Tensor:
    """Return the hidden states of every story's part of a window, each run by itself."""
    rows = []
    for row in input_ids:
        starts = (row == story_start).nonzero()[:, 0].tolist()
        bounds = sorted({0, *starts, len(row)})
        rows.append(
            torch.cat(
                [
                    trunk(model)(input_ids=row[None, a:b], use_cache=False).last_hidden_state[0]
                    for a, b in pairwise(bounds)
                ]
            )
        )
    return torch.stack(rows)
