"""Kept tokens' losses and gradients, against the whole model run the ordinary way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llama import (
    LAYERS,
    LAYOUTS,
    LENGTH,
    ROWS,
    assert_same,
    gradients,
    llama,
    places,
    random_weights,
    token_losses,
    tokens,
)
from torch import Tensor

from tinyohem.models.causal_lm import Trunk, trunk
from tinyohem.models.kept_attention import KeptTokens, KVCache
from tinyohem.models.trunk_passes import BackwardPlan, run_all, run_kept

Run = Callable[[Trunk, Tensor, Tensor, str], tuple[Tensor, Tensor]]


def passes(
    plan: BackwardPlan, whole: Trunk, input_ids: Tensor, kept_BT: Tensor, layout: str
) -> tuple[Tensor, Tensor]:
    hidden, cache = run_all(whole, input_ids, plan)
    assert cache is not None
    return hidden, run_kept(whole, input_ids, cache, places(kept_BT, layout))


last_layer: Run = partial(passes, "last_layer")
pruned: Run = partial(passes, "pruned")


def kept_gradients(
    model: Any, run: Run, weight: Tensor, layout: str = "ragged", parts: Trunk | None = None
) -> dict[str, Tensor]:
    input_ids, labels = tokens()
    _, hidden = run(parts or Trunk.of(trunk(model)), input_ids, weight > 0, layout)
    (token_losses(model, hidden, labels[weight > 0]) * weight[weight > 0]).sum().backward()
    return gradients(model)


def masked_gradients(model: Any, weight: Tensor) -> dict[str, Tensor]:
    input_ids, labels = tokens()
    hidden = trunk(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    (token_losses(model, hidden, labels) * weight.flatten()).sum().backward()
    return gradients(model)


@contextmanager
def unselected_keys_and_values_detached(model: Any, kept_BT: Tensor) -> Iterator[None]:
    """Cut the graph of every layer's key and value projections where a token is not kept."""

    def cut(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return torch.where(kept_BT[..., None], output, output.detach())

    layers = trunk(model).layers
    projections = [p for layer in layers for p in (layer.self_attn.k_proj, layer.self_attn.v_proj)]
    hooks = [projection.register_forward_hook(cut) for projection in projections]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [4, 12, 24, 48])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_last_layer_gives_the_gradients_of_the_masked_loss(
    layout: str, count: int, key_value_heads: int
) -> None:
    model = llama(num_key_value_heads=key_value_heads)
    weight = random_weights(count, layout)
    assert_same(kept_gradients(model, last_layer, weight, layout), masked_gradients(model, weight))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [4, 12, 24, 48])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_pruned_drops_the_gradients_of_unselected_keys_and_values_and_no_other(
    layout: str, count: int, key_value_heads: int
) -> None:
    model = llama(num_key_value_heads=key_value_heads)
    weight = random_weights(count, layout)
    found = kept_gradients(model, pruned, weight, layout)
    with unselected_keys_and_values_detached(model, weight > 0):
        expected = masked_gradients(model, weight)
    assert_same(found, expected)
    if count < ROWS * LENGTH:  # the reference is not the plain gradient
        plain = masked_gradients(model, weight)
        assert any((expected[n] - g).abs().max() > 0.01 * g.abs().max() for n, g in plain.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pruned_at_ratio_one_is_the_ordinary_backward(layout: str) -> None:
    model = llama()
    weight = random_weights(ROWS * LENGTH, layout)
    assert_same(kept_gradients(model, pruned, weight, layout), masked_gradients(model, weight))


@pytest.mark.parametrize("run", [last_layer, pruned])
@settings(deadline=None, max_examples=20)
@given(marks=st.lists(st.booleans(), min_size=ROWS * LENGTH, max_size=ROWS * LENGTH))
def test_kept_tokens_have_the_losses_of_the_whole_forward(run: Run, marks: list[bool]) -> None:
    marks[0] = True
    kept = torch.tensor(marks).view(ROWS, LENGTH)
    # In float64 only the norms round to float32, the same numbers in both: none of it adds up.
    model, (input_ids, labels) = llama().double(), tokens()
    read, hidden = run(Trunk.of(trunk(model)), input_ids, kept, "ragged")
    whole = trunk(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    expected = token_losses(model, whole, labels).view(labels.shape)
    found = token_losses(model, hidden, labels[kept])
    torch.testing.assert_close(found, expected[kept], rtol=0, atol=1e-6)
    torch.testing.assert_close(read, whole, rtol=0, atol=1e-6)
    assert not read.requires_grad
    assert hidden.requires_grad


def test_pruned_gives_an_unselected_token_no_gradient() -> None:
    model = llama(tie_word_embeddings=False)
    input_ids = torch.arange(LENGTH)[None]
    kept = torch.zeros(1, LENGTH, dtype=torch.bool)
    kept[0, [3, 7, 8]] = True
    for run, teaches in ((pruned, [3, 7, 8]), (last_layer, list(range(9)))):
        _, hidden = run(Trunk.of(trunk(model)), input_ids, kept, "ragged")
        token_losses(model, hidden, input_ids[kept]).sum().backward()
        touched = gradients(model)["model.embed_tokens.weight"].abs().amax(dim=1) > 0
        assert touched.nonzero().flatten().tolist() == teaches


@pytest.mark.parametrize("run", [last_layer, pruned])
def test_the_passes_restore_the_model_and_the_gradient_mode(run: Run) -> None:
    model = llama()
    weight = random_weights(12)
    before = masked_gradients(model, weight)
    kept_gradients(model, run, weight)
    assert torch.is_grad_enabled()
    assert model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in trunk(model).layers)
    after = masked_gradients(model, weight)
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


def test_the_graph_of_last_layer_ends_at_its_attention() -> None:
    model = llama()
    _, memory = run_all(Trunk.of(trunk(model)), tokens()[0], "last_layer")
    assert memory is not None
    assert memory.layers.keys() == {LAYERS - 1}
    assert all(x.requires_grad for x in memory.layers[LAYERS - 1])
    _, memory = run_all(Trunk.of(trunk(model)), tokens()[0], "pruned")
    assert memory is not None
    assert memory.layers.keys() == set(range(LAYERS))
    assert not any(x.requires_grad for pair in memory.layers.values() for x in pair)


@pytest.mark.parametrize("run", [last_layer, pruned])
def test_the_second_pass_computes_kept_tokens_alone(run: Run) -> None:
    """No padding and no unselected token goes through the MLPs, whatever the rows keep."""
    model, sizes = llama(), []
    weight = random_weights(10)
    for layer in trunk(model).layers:
        layer.mlp.register_forward_hook(lambda _m, inputs, _o: sizes.append(inputs[0].shape[:2]))
    run(Trunk.of(trunk(model)), tokens()[0], weight > 0, "ragged")
    first = [(ROWS, LENGTH)] * LAYERS
    assert sizes == first + [(1, 10)] * (1 if run is last_layer else LAYERS)


@pytest.mark.parametrize("run", [last_layer, pruned])
def test_bfloat16_gradients_point_the_same_way(run: Run) -> None:
    model = llama(initializer_range=0.1)
    weight = random_weights(24)
    exact = torch.cat([g.flatten() for g in kept_gradients(model, run, weight, "ragged").values()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = kept_gradients(model, run, weight, "ragged")
    assert {g.dtype for g in rounded.values()} == {torch.float32}
    joined = torch.cat([g.flatten() for g in rounded.values()])
    assert F.cosine_similarity(joined, exact, dim=0) > 0.99


def test_places_and_mask_of_kept_tokens_by_hand() -> None:
    kept = KeptTokens.at(torch.tensor([1, 3, 10]), (3, 4))
    assert kept.position_ids.tolist() == [[1, 3, 2]]
    assert kept.slots_K is not None
    assert kept.mask_B1QT is not None
    assert kept.slots_K.tolist() == [0, 1, 4]
    sees = kept.mask_B1QT[:, 0].int().tolist()
    first = [1, 0, 0, 0]
    assert sees == [[[1, 1, 0, 0], [1, 1, 1, 1]], [first, first], [[1, 1, 1, 0], first]]


def test_the_cache_records_all_layers_or_the_one_that_it_names() -> None:
    pair = torch.zeros(1), torch.ones(1)
    every, one = KVCache(), KVCache(only_layer=1)
    every.record(0, *pair)
    one.record(0, *pair)
    assert torch.is_grad_enabled()
    with torch.enable_grad():
        one.record(1, *pair)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert every.layers == {0: pair}
    assert one.layers == {1: pair}


@pytest.mark.parametrize("run", [last_layer, pruned])
def test_a_compiled_trunk_gives_the_same_gradients(run: Run) -> None:
    model = llama(num_hidden_layers=1)
    whole = Trunk.of(trunk(model))
    compiled = Trunk(
        whole.module,
        whole.shares_attention,
        torch.compile(whole.run, backend="aot_eager"),
        torch.compile(whole.run_last, backend="aot_eager"),
    )
    for layout in LAYOUTS:
        weight = random_weights(12, layout)
        expected = kept_gradients(model, run, weight, layout)
        assert_same(kept_gradients(model, run, weight, layout, compiled), expected)


def test_a_run_prunes_where_it_mines(corpus: Path, tmp_path: Path, tinyohem: tiny.Command) -> None:
    def trained(name: str, *options: object) -> list[str]:
        common = tiny.flags(corpus, training__steps=5, model__num_layers=2)
        run_dir = tmp_path / name
        result = tinyohem("train", *common, *options, "--out", run_dir)
        assert result.code == 0, result.err
        return tiny.saved_hashes(run_dir, step=5)

    mined = ["--ohem-ratio", 0.5, "--ohem-schedule", "constant"]
    pruned = trained("pruned", *mined, "--ohem-backward", "pruned")
    assert trained("exact", *mined) != pruned
    assert trained("plain", "--ohem-backward", "pruned") == trained("plainly")
