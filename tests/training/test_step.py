"""One step's gradients, against a masked loss written the straightforward way."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_step import random_model
from torch import Tensor

from tinyohem.config.model import Shape
from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import IGNORE_INDEX, Batch
from tinyohem.models.causal_lm import CausalLM, Trunk, trunk
from tinyohem.ohem import softmax_cache as stores
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.selection import selection_weights
from tinyohem.ohem.softmax_cache import SoftmaxCache
from tinyohem.ohem.step_tokens import Draw
from tinyohem.system import timing
from tinyohem.system.timing import PhaseTimer
from tinyohem.training.step import StepStats, training_step
from tinyohem.training.strategy import choose_backward

VOCAB, ROWS, LENGTH = 37, 4, 10


def tiny_llama() -> Any:
    """Return a model in float64: what a sum's order changes is far below any tolerance here."""
    shape = Shape(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24)
    return random_model(shape, VOCAB, LENGTH).double()


def tokens(ignored: bool) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=rng)
    labels = ids[:, 1:].clone()
    if ignored:  # unevenly: a mean of per-micro-batch means would show
        labels[0, 2:] = IGNORE_INDEX
        labels[3, ::3] = IGNORE_INDEX
    return ids[:, :-1], labels


def micro_batches(input_ids: Tensor, labels: Tensor, number: int) -> list[Batch]:
    return [
        Batch(i, y, int((y != IGNORE_INDEX).sum()))
        for i, y in zip(input_ids.chunk(number), labels.chunk(number), strict=True)
    ]


def step(
    model: Any,
    batches: list[Batch],
    ratio: float,
    *,
    seed: int = 0,
    precision: Any = None,
    cache: SoftmaxCache | None = None,
    **config: Any,
) -> StepStats:
    lm = CausalLM.of(model, precision, cache)
    draw = Draw(ratio, torch.Generator().manual_seed(seed))
    return training_step(lm, batches, draw, TokenMiner(OhemConfig(**config)))


def reference_losses(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
    logits = model(input_ids=input_ids, use_cache=False).logits
    return F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE_INDEX
    ).view(labels.shape)


def hardest(losses: Tensor, labels: Tensor, ratio: float, scope: str) -> Tensor:
    """Mark ceil(ratio · valid) tokens of each scope, by a slow sort."""
    kept = torch.zeros(labels.shape)
    cells = [[(b, t) for t in range(LENGTH)] for b in range(ROWS)]
    for scope_cells in cells if scope == "sequence" else [[c for row in cells for c in row]]:
        valid = [c for c in scope_cells if labels[c] != IGNORE_INDEX]
        count = -int(-ratio * len(valid) // 1)
        for cell in sorted(valid, key=lambda c: (-losses[c].item(), c))[:count]:
            kept[cell] = 1
    return kept


def gradients(model: Any) -> dict[str, Tensor]:
    """Take every parameter's gradient off the model."""
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def masked_gradients(losses: Tensor, kept: Tensor, divisor: float, model: Any) -> dict[str, Tensor]:
    ((losses * kept).sum() / divisor).backward()
    return gradients(model)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    assert len(found) == 2 + 2 * 9
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-4, name
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("denominator", ["kept", "all"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_topk_gradients_equal_the_masked_loss(
    ratio: float, scope: str, denominator: str, ignored: bool, number: int
) -> None:
    model = tiny_llama()
    input_ids, labels = tokens(ignored)
    stats = step(
        model,
        micro_batches(input_ids, labels, number),
        ratio,
        scope=scope,
        denominator=denominator,
    )
    found = gradients(model)

    losses = reference_losses(model, input_ids, labels)
    kept = hardest(losses, labels, ratio, scope)
    num_valid, num_kept = int((labels != IGNORE_INDEX).sum()), int(kept.sum())
    divisor = num_kept if denominator == "kept" else num_valid
    assert_same(found, masked_gradients(losses, kept, divisor, model))

    chosen = losses.detach()[kept > 0]
    assert stats.num_kept == num_kept
    assert stats.loss.item() == pytest.approx(losses.sum().item() / num_valid, abs=1e-6)
    assert stats.loss_selected.item() == pytest.approx(chosen.mean().item(), abs=1e-6)
    assert stats.smallest_kept_loss.item() == pytest.approx(chosen.min().item(), abs=1e-6)


@pytest.mark.parametrize("ratio", [0.5, 0.9])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_a_softmax_store_changes_no_gradient(
    ratio: float, scope: str, ignored: bool, number: int
) -> None:
    model, cache = tiny_llama(), SoftmaxCache()
    input_ids, labels = tokens(ignored)
    losses = reference_losses(model, input_ids, labels)
    kept = hardest(losses, labels, ratio, scope)
    expected = masked_gradients(losses, kept, int(kept.sum()), model)
    for _ in range(2):
        batches = micro_batches(input_ids, labels, number)
        step(model, batches, ratio, scope=scope, cache=cache)
        assert_same(gradients(model), expected)


@contextmanager
def unselected_keys_and_values_detached(model: Any, kept: Tensor) -> Iterator[None]:
    """Cut the graph of every layer's key and value projections where a token is not kept."""

    def cut(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return torch.where(kept[..., None] > 0, output, output.detach())

    attentions = [layer.self_attn for layer in trunk(model).layers]
    hooks = [p.register_forward_hook(cut) for a in attentions for p in (a.k_proj, a.v_proj)]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("denominator", ["kept", "all"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_pruned_gradients_lack_what_unselected_keys_and_values_learn(
    ratio: float, scope: str, denominator: str, ignored: bool, number: int
) -> None:
    model = tiny_llama()
    input_ids, labels = tokens(ignored)
    stats = step(
        model,
        micro_batches(input_ids, labels, number),
        ratio,
        scope=scope,
        denominator=denominator,
        backward="pruned",
        cache=SoftmaxCache(),
    )
    found = gradients(model)
    kept = hardest(reference_losses(model, input_ids, labels), labels, ratio, scope)
    with unselected_keys_and_values_detached(model, kept):
        losses = reference_losses(model, input_ids, labels)
    num_valid, num_kept = int((labels != IGNORE_INDEX).sum()), int(kept.sum())
    divisor = num_kept if denominator == "kept" else num_valid
    assert_same(found, masked_gradients(losses, kept, divisor, model))
    assert stats.num_kept == num_kept
    assert stats.loss.item() == pytest.approx(losses.sum().item() / num_valid, abs=1e-6)


@pytest.mark.parametrize("number", [1, 2])
def test_pruned_is_exact_where_pruning_would_cost_more(number: int) -> None:
    model = tiny_llama()
    batches = micro_batches(*tokens(ignored=True), number)
    for ratio in (0.9, 1.0):
        step(model, batches, ratio)
        expected = gradients(model)
        step(model, batches, ratio, backward="pruned")
        assert_same(gradients(model), expected)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("backward", ["exact", "pruned"])
def test_keeping_all_by_min_kept_is_the_plain_step(scope: str, backward: str) -> None:
    model = tiny_llama()
    batches = micro_batches(*tokens(ignored=False), 1)
    step(model, batches, 1.0)
    expected = gradients(model)
    stats = step(model, batches, 0.1, scope=scope, backward=backward, min_kept=1000)
    assert stats.num_kept == ROWS * LENGTH
    assert_same(gradients(model), expected)


@pytest.mark.parametrize(
    ("ratio", "config", "way"),
    [
        (0.25, {}, "last_layer"),
        (0.9, {}, "full"),
        (0.25, {"backward": "pruned"}, "pruned"),
        (0.9, {"backward": "pruned"}, "full"),
        (0.25, {"schedule": "adaptive", "ratio": 0.25}, "full"),
        (0.25, {"ratio": 0.25, "select": "threshold", "loss_threshold": 2.0}, "full"),
        (0.25, {"ratio": 0.25, "select": "threshold", "queue_steps": 2}, "last_layer"),
        (0.25, {"schedule": "adaptive", "ratio": 0.25, "backward": "pruned"}, "pruned"),
    ],
)
def test_the_backward_plan_follows_ratio_and_config(
    ratio: float, config: dict[str, Any], way: str
) -> None:
    for shares, expected in ((True, way), (False, "full")):
        parts = Trunk(None, shares, lambda: None, lambda: None)
        assert choose_backward(OhemConfig(**config), ratio, parts) == expected


@pytest.mark.parametrize(
    ("number", "backward", "ratio", "with_graph", "without"),
    [
        (1, "exact", 1.0, 1, 0),
        (1, "exact", 0.5, 1, 0),
        (2, "exact", 1.0, 2, 0),
        (2, "exact", 0.5, 2, 2),
        (1, "pruned", 0.5, 1, 1),
        (2, "pruned", 0.5, 2, 2),
    ],
)
def test_how_often_the_trunk_runs(
    number: int, backward: str, ratio: float, with_graph: int, without: int
) -> None:
    model, runs = tiny_llama(), []
    trunk(model).register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    step(model, micro_batches(*tokens(ignored=False), number), ratio, backward=backward)
    assert (runs.count(True), runs.count(False)) == (with_graph, without)


@pytest.mark.parametrize("select_method", ["topk", "random"])
@pytest.mark.parametrize("ignored", [False, True])
def test_ratio_one_is_plain_mean_cross_entropy(select_method: str, ignored: bool) -> None:
    model = tiny_llama()
    input_ids, labels = tokens(ignored)
    stats = step(model, micro_batches(input_ids, labels, 1), 1.0, select=select_method)
    found = gradients(model)
    logits = model(input_ids=input_ids, use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
    loss.backward()
    assert_same(found, gradients(model))
    assert stats.loss.item() == pytest.approx(loss.item(), abs=1e-6)
    assert stats.loss_selected.item() == stats.loss.item()


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("method", ["topk", "random"])
@pytest.mark.parametrize("ignored", [False, True])
def test_micro_batches_equal_one_batch(scope: str, method: str, ignored: bool) -> None:
    model = tiny_llama()
    data = tokens(ignored)
    config = {"scope": scope, "select": method, "seed": 5}
    whole = step(model, micro_batches(*data, 1), 0.4, **config)
    expected = gradients(model)
    for number in (2, 4):
        parts = step(model, micro_batches(*data, number), 0.4, **config)
        assert_same(gradients(model), expected)
        assert parts.num_kept == whole.num_kept
        for name in ("loss", "loss_selected", "smallest_kept_loss"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_random_gradients_equal_the_masked_loss_of_the_same_draw() -> None:
    model = tiny_llama()
    input_ids, labels = tokens(ignored=True)
    step(model, micro_batches(input_ids, labels, 2), 0.5, select="random", seed=11)
    found = gradients(model)
    losses = reference_losses(model, input_ids, labels)
    config = OhemConfig(select="random")
    rng = torch.Generator().manual_seed(11)
    kept = selection_weights(losses.detach(), labels, 0.5, config, generator=rng)
    assert_same(found, masked_gradients(losses, kept, kept.sum().item(), model))


def test_min_kept_reaches_the_selection() -> None:
    model = tiny_llama()
    data = tokens(ignored=False)
    for number in (1, 2):
        for scope, kept in (("batch", 3), ("sequence", 3 * ROWS)):
            batches = micro_batches(*data, number)
            assert step(model, batches, 0.01, scope=scope, min_kept=3).num_kept == kept


def test_gradients_add_to_what_is_there() -> None:
    model = tiny_llama()
    batches = micro_batches(*tokens(ignored=False), 1)
    step(model, batches, 0.5)
    once = gradients(model)
    step(model, batches, 0.5)
    step(model, batches, 0.5)
    assert_same(gradients(model), {name: 2 * gradient for name, gradient in once.items()})


@pytest.mark.parametrize("backward", ["exact", "pruned"])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_an_all_ignored_batch_gives_zero_not_nan(
    ratio: float, number: int, scope: str, backward: str
) -> None:
    model = tiny_llama()
    input_ids, labels = tokens(ignored=False)
    labels = torch.full_like(labels, IGNORE_INDEX)
    stats = step(
        model, micro_batches(input_ids, labels, number), ratio, scope=scope, backward=backward
    )
    assert stats.num_kept == 0
    assert stats.loss.item() == stats.loss_selected.item() == stats.smallest_kept_loss.item() == 0.0
    for name, gradient in gradients(model).items():
        assert gradient is None or gradient.abs().max().item() == 0.0, name


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("ratio", "backward"), [(1.0, "exact"), (0.5, "exact"), (0.5, "pruned")])
def test_bfloat16_gradients_point_the_same_way(number: int, ratio: float, backward: str) -> None:
    model = tiny_llama().float()
    batches = micro_batches(*tokens(ignored=True), number)
    config = {"select": "random", "backward": backward}
    step(model, batches, ratio, **config)
    exact = torch.cat([g.flatten() for g in gradients(model).values()])
    step(model, batches, ratio, precision=torch.autocast("cpu", dtype=torch.bfloat16), **config)
    rounded = gradients(model)
    assert {g.dtype for g in rounded.values()} == {torch.float32}
    joined = torch.cat([g.flatten() for g in rounded.values()])
    assert F.cosine_similarity(joined, exact, dim=0) > 0.99


def test_gradient_formed_while_reading_is_not_timed_as_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`select_seconds` is what plain training does not do."""
    timer, add_gradient_ = PhaseTimer(torch.device("cpu")), stores.add_gradient_
    clock = count()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    formed = []

    def watched(*args: Any) -> Tensor:
        formed.append(None)
        return add_gradient_(*args)

    monkeypatch.setattr(stores, "add_gradient_", watched)
    batches = micro_batches(*tokens(ignored=False), 1)
    with timer.listening():
        step(tiny_llama(), batches, 0.5, cache=SoftmaxCache())
    # A tick is the way from one boundary to the next: reading is cut in two by each forming.
    assert timer.seconds("read") == len(formed) + 1 > 1
    assert timer.seconds("gradient") == len(formed) + 1
    assert timer.seconds("trunk") == timer.seconds("select") == 1
