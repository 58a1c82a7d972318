"""`training.precision = "medium"`: products are rounded where they pay, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_step
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations import sdpa_attention

from tinyohem.models.causal_lm import trunk
from tinyohem.models.kept_attention import _attend_exactly
from tinyohem.system.device import product_precision
from tinyohem.training import between_steps, take_step
from tinyohem.training.loop import train


@pytest.mark.parametrize("fixed", [None, 0, 1, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_exact_under_rounded_products(masked: bool, fixed: int | None) -> None:
    """To the last bit, in both directions, whichever of its inputs needs no gradient."""
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 8, 4, generator=rng) for _ in range(3)]
    mask = torch.zeros(2, 1, 8, 8).masked_fill_(torch.rand(8, 8, generator=rng) < 0.3, -9.0)
    grad = torch.randn(2, 3, 8, 4, generator=rng)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, mask if masked else None)

    def run(function: Any) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(i != fixed) for i, x in enumerate(inputs)]
        out = function(*leaves)
        out.backward(grad)
        return [out.detach(), *(x.grad for x in leaves if x.requires_grad)]

    expected = run(attend)
    with product_precision("medium"):
        found = run(lambda *given: _attend_exactly(attend, *given))
        with torch.no_grad():
            read = _attend_exactly(attend, *inputs)
    assert len(found) == len(expected) == (4 if fixed is None else 3)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(read, expected[0])


@contextmanager
def seen_precisions(model: nn.Module) -> Iterator[dict[str, set[str]]]:
    """Note the setting under which every linear layer and every attention runs, both ways."""
    seen: dict[str, set[str]] = {}

    def note(where: str) -> None:
        seen.setdefault(where, set()).add(torch.get_float32_matmul_precision())

    original = sdpa_attention.sdpa_attention_forward

    def attention(*args: Any, **kwargs: Any) -> Any:
        note("attention")
        out, weights = original(*args, **kwargs)
        if out.requires_grad:
            out.register_hook(lambda _grad: note("attention backward"))
        return out, weights

    hooks = []
    for layer in trunk(model).modules():
        if isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_hook(lambda *_: note("linear")))
            hooks.append(layer.register_full_backward_hook(lambda *_: note("linear backward")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sdpa_attention, "sdpa_attention_forward", attention)
        yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("backward", ["exact", "pruned"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_step_rounds_its_layers_products_and_not_attentions(ratio: float, backward: str) -> None:
    model, (ids, labels) = tiny_step.model(), tiny_step.tokens()
    way = tiny_step.miner(backward=backward)
    with seen_precisions(model) as seen, product_precision("medium"):
        tiny_step.step(model, ids, labels, ratio, way)
    rounded, exact = {"medium"}, {"highest"}
    assert seen == {
        "linear": rounded,
        "linear backward": rounded,
        "attention": exact,
        "attention backward": exact,
    }


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_rounded_gradients_point_the_same_way(ratio: float) -> None:
    model, (ids, labels) = tiny_step.model().float(), tiny_step.tokens()
    found = []
    for precision in ("float32", "medium"):
        with product_precision(precision):
            tiny_step.step(model, ids, labels, ratio, tiny_step.miner())
        found.append(tiny_step.gradient(model))
    exact, rounded = found
    assert F.cosine_similarity(exact, rounded, dim=0) > 0.999


def test_a_run_rounds_in_its_steps_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}

    def noting(name: str, original: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add(torch.get_float32_matmul_precision())
            return original(*args, **kwargs)

        return noted

    for module, name in ((take_step, "training_step"), (take_step, "update")):
        monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    patched = noting("evaluate", between_steps.evaluate_perplexity)
    monkeypatch.setattr(between_steps, "evaluate_perplexity", patched)
    train(tiny.config(corpus, training__precision="medium"), tmp_path / "run")
    assert seen == {"training_step": {"medium"}, "update": {"highest"}, "evaluate": {"highest"}}
    assert torch.get_float32_matmul_precision() == "highest"
