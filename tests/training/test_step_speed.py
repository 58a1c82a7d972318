"""What keeps a step fast, counted rather than timed: no waiting for the device, few graphs."""

from contextlib import nullcontext
from typing import Any

import pytest
import tiny_step
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import CausalLM, Trunk, head_weight, trunk
from tinyohem.ohem.softmax_cache import SoftmaxCache
from tinyohem.ohem.step_tokens import Draw
from tinyohem.training.meter import Meter
from tinyohem.training.step import training_step
from tinyohem.training.strategy import choose_backward

META = torch.device("meta")
FROM_NUMBERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


class NoCopies(TorchFunctionMode):
    """Refuse to bring numbers of the host to the device, which a GPU's host would wait for."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        from_host = any(x.device.type == "cpu" for x in given) or function in FROM_NUMBERS
        assert not (from_host and any(x.device == META for x in made)), f"copied by {function}"
        return found


class TestWaits:
    """Tensors without numbers stand in for a GPU's: to ask for one is an error."""

    @pytest.fixture(autouse=True)
    def _there_is_no_autocast_without_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda _device: False)

    def step(self, ratio: float, **config: Any) -> None:
        model = tiny_step.model().to(META)
        ids = torch.zeros(4, 6, dtype=torch.long, device=META)
        meter = Meter(META, 0.0)
        with NoCopies():
            stats = training_step(
                CausalLM.of(model, cache=SoftmaxCache()),
                [Batch(ids, ids, ids.numel())],
                Draw(ratio, shares={"topk": 0.5, "random": 0.5}),
                tiny_step.miner(**config),
            )
            meter.add(0, stats, stats.loss)
        assert all(p.grad is not None for p in model.parameters())
        assert stats.num_kept == round(ratio * ids.numel())

    @pytest.mark.parametrize("backward", ["exact", "pruned"])
    @pytest.mark.parametrize("scope", tiny_step.SCOPES)
    @pytest.mark.parametrize("select", ["topk", "random", "stratified", "mixed"])
    def test_a_mined_step_asks_the_device_nothing(
        self, select: str, scope: str, backward: str
    ) -> None:
        config = {"mix": "topk=0.5,random=0.5"} if select == "mixed" else {}
        self.step(0.5, select=select, scope=scope, backward=backward, **config)

    def test_nor_does_a_plain_one(self) -> None:
        self.step(1.0)

    def test_asking_would_be_seen(self) -> None:
        with pytest.raises(NotImplementedError, match="no data"):
            self.step(0.5, select="importance")  # whose count only the device knows
        with pytest.raises(AssertionError, match="copied by"), NoCopies():
            torch.zeros(1, device=META).new_tensor([1.0])
        with pytest.raises(AssertionError, match="copied by"), NoCopies():
            torch.ones(1).to(META)


class Asked(TorchFunctionMode):
    """Count what would make a GPU's host wait for how many tokens are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function in (Tensor.tolist, Tensor.item, Tensor.nonzero, torch.nonzero)
        return function(*args, **(kwargs or {}))


def test_counts_that_only_the_device_knows_are_asked_once_a_step() -> None:
    model = tiny_step.model()
    ids, labels = tiny_step.tokens(ignored=True)
    batches = [
        Batch(*rows, int((rows[1] >= 0).sum()))
        for rows in zip(ids[:, None], labels[:, None], strict=True)
    ]
    with Asked() as asked:
        draw = Draw(0.5, torch.Generator())
        training_step(CausalLM.of(model), batches, draw, tiny_step.miner(select="importance"))
    assert len(batches) > 1
    assert asked.count == 1


@pytest.mark.parametrize(
    ("schedule", "backward"), [("recover", "exact"), ("recover", "pruned"), ("anneal", "exact")]
)
def test_a_schedule_compiles_a_handful_of_graphs(schedule: str, backward: str) -> None:
    """One for the plain step, one for the first pass of a mined one, three at most for its second.

    That one is compiled as it comes, then for any count of kept tokens, then for any count in the
    fullest sequence; not once a step.
    """
    graphs = []

    def count(module: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = tiny_step.model()
    whole = Trunk.of(trunk(model))
    run, run_last = (torch.compile(f, backend=count) for f in (whole.run, whole.run_last))
    compiled = Trunk(whole.module, whole.shares_attention, run, run_last)
    miner = tiny_step.miner(ratio=0.2, schedule=schedule, backward=backward)
    ids, labels = tiny_step.tokens(ignored=False)
    steps, mined = 60, set()
    for step in range(steps):
        ratio = miner.config.keep_schedule().keep_ratio((step + 0.5) / steps, step)
        stats = training_step(
            CausalLM(compiled, head_weight(model), nullcontext()),
            [Batch(ids, labels, labels.numel())],
            Draw(ratio, torch.Generator()),
            miner,
        )
        if choose_backward(miner.config, ratio, compiled) != "full":
            mined.add(stats.num_kept)
    assert len(mined) > 5
    assert 3 <= len(graphs) <= 5
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] == frames["total"] == len(graphs)  # whole, and nothing left uncompiled
