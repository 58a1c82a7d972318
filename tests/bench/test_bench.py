"""The benchmark: every variant is timed, none but ours has phases; operations and memory."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_step import without_zeros
from torch.utils.flop_counter import FlopCounterMode

from tinyohem.bench import memory as bench_memory
from tinyohem.bench import run as bench
from tinyohem.bench import steps as bench_steps
from tinyohem.bench.flops import step_flops, trunk_products
from tinyohem.config.model import PRESETS
from tinyohem.data.windows import Batch
from tinyohem.models.llama import build_model
from tinyohem.ohem.step_tokens import Draw
from tinyohem.progress import SILENT
from tinyohem.training.strategy import choose_backward

OURS = ["full", "topk-0.75", "topk-0.5", "topk-0.25", "pruned-0.75", "pruned-0.5", "pruned-0.25"]
OTHERS = ["bare", "mask-0.5", *(["trainer"] if find_spec("accelerate") else [])]
SMALL = [
    f"--set={key}={value}"
    for key, value in tiny.RECIPE.items()
    if key.startswith(("model.", "tokenizer.", "training.batch", "training.seq", "training.dev"))
]


def test_json_has_one_object_a_variant(tinyohem: tiny.Command) -> None:
    result = tinyohem("bench", "--rounds", 1, "--json", *SMALL)
    assert result.code == 0, result.err
    told = json.loads(result.out)
    rows = told["steps"]
    assert told["environment"]["device"] == "cpu"
    assert told["config"]["training"]["seq_len"] == 32
    assert [row["name"] for row in rows] == OURS + OTHERS
    for row in rows:
        assert row["tokens_per_second"] == pytest.approx(4 * 32 / row["ms_per_step"] * 1000)
        assert row["ratio_to_full"] == pytest.approx(rows[0]["ms_per_step"] / row["ms_per_step"])
        assert row["model_flop_utilization"] / rows[0]["model_flop_utilization"] == pytest.approx(
            row["ratio_to_full"]
        )
        assert row["peak_memory_bytes"] is None
        assert 0 <= sum(row["ms_by_phase"].values()) <= row["ms_per_step"]
        mined = {"trunk", "read", "select", "gradient", "update"}
        expected = {"full": {"trunk", "gradient", "update"}} | dict.fromkeys(OURS[1:], mined)
        assert set(row["ms_by_phase"]) == expected.get(row["name"], set())


def test_without_accelerate_it_says_what_brings_the_trainers_row(
    tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "no row for transformers' Trainer, which needs accelerate: pip install accelerate"
    for there in (True, False):
        monkeypatch.setattr("transformers.utils.is_accelerate_available", lambda: there)  # noqa: B023
        monkeypatch.setattr(bench_steps, "_trainer", lambda *_: lambda *_: None)
        result = tinyohem("bench", "--rounds", 1, "--json", *SMALL)
        assert result.code == 0, result.err
        assert (told in result.err.splitlines()) == (not there)
        names = [row["name"] for row in json.loads(result.out)["steps"]]
        assert ("trainer" in names) == there


def test_the_flags_set_the_steps(tinyohem: tiny.Command) -> None:
    flags = ["--batch-size", 2, "--seq-len", 16]
    rest = [argument for argument in SMALL if "training.batch" not in argument]
    rest = [argument for argument in rest if "training.seq" not in argument]
    assert "2 × 16 tokens a step" in tinyohem("bench", "--rounds", 1, *rest, *flags).out


def test_the_tables_name_every_step(tinyohem: tiny.Command) -> None:
    result = tinyohem("bench", "--rounds", 1, *SMALL, "--set=ohem.select=importance")
    assert result.code == 0, result.err
    assert "4 × 32 tokens a step" in result.out
    assert "it ignores ohem.score, ohem.select, ohem.denominator" in " ".join(result.err.split())
    for name in OURS + OTHERS:
        assert name in result.out
    assert "peak MiB" not in result.out


def test_every_step_updates_the_weights(corpus: Path) -> None:
    """Each variant takes a whole step: it moves weights and leaves no gradient behind."""
    config = tiny.config(corpus)
    models: list[torch.nn.Module] = []
    build = bench_steps.build_model

    def remembered(*args: Any) -> torch.nn.Module:
        models.append(without_zeros(build(*args)))  # else a step would not move every weight
        return models[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_steps, "build_model", remembered)
        steps = bench_steps.bench_steps(config, torch.device("cpu"))
    (model,) = models
    tokens = torch.randint(320, (4, 33))
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), 128)
    for name, step in steps.items():
        before = {key: value.clone() for key, value in model.named_parameters()}
        step(batch)
        for key, value in model.named_parameters():
            assert value.grad is None, (name, key)
            assert not torch.equal(value, before[key]), (name, key)


def test_every_step_does_what_its_name_says(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept tokens, passes, and the type that every linear layer multiplies in."""
    config = tiny.config(corpus, ohem__select="importance", training__precision="bfloat16")
    batch = bench_steps.random_batch(config, torch.Generator(), torch.device("cpu"))
    seen: list[tuple[str, int, int]] = []
    step = bench_steps.training_step
    kinds: set[torch.dtype] = set()

    def remembered(lm: Any, batches: Any, draw: Draw, miner: Any) -> Any:
        stats = step(lm, batches, draw, miner)
        plan = choose_backward(miner.config, draw.keep_ratio, lm.trunk)
        seen.append((plan, stats.num_kept, len(batches)))
        return stats

    def linear(*args: Any) -> torch.Tensor:
        out: torch.Tensor = multiply(*args)
        kinds.add(out.dtype)
        return out

    multiply = torch.nn.functional.linear
    monkeypatch.setattr(bench_steps, "training_step", remembered)
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(torch, "compile", lambda module: module)
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"compile": True})}
    )
    steps = bench_steps.bench_steps(config, torch.device("cpu"))
    compiled = [f"{name}-compiled" for name in [*OURS, "bare"]]
    assert list(steps) == [*OURS, *compiled, *OTHERS, "trainer-compiled"]
    for name, work in steps.items():
        kinds.clear()
        work(batch)
        assert kinds == {torch.bfloat16}, name
    expected = [("full", 128, 1), ("full", 96, 1), ("last_layer", 64, 1), ("last_layer", 32, 1)]
    expected += [("full", 96, 1), ("pruned", 64, 1), ("pruned", 32, 1)]
    assert seen == expected * 2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("training.micro_batch_size=2", "training.micro_batch_size has no place here"),
        ("model.init_from=sshleifer/tiny-gpt2", "model.init_from has no place here"),
    ],
)
def test_what_it_cannot_time_is_refused(tinyohem: tiny.Command, flag: str, message: str) -> None:
    result = tinyohem("bench", "--rounds", 1, "--set", flag, "--set=training.device=cpu")
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def counted_flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_steps_operations_are_those_that_torch_counts() -> None:
    """Torch counts the whole square of attention, so that is taken off, and half of it put back."""
    shape, vocab_size, seq_len, rows = PRESETS["260k"], 320, 32, 2
    model = build_model(shape, vocab_size, seq_len, 0, 0)
    model.set_attn_implementation("eager")
    ids = torch.zeros(rows, seq_len, dtype=torch.long)
    counted = counted_flops(lambda: model(input_ids=ids, use_cache=False).logits.sum().backward())
    per_key = 3 * 2 * rows * seq_len * shape.num_layers * 2 * shape.hidden_size
    expected = counted - per_key * seq_len + per_key * (seq_len + 1) // 2
    assert step_flops(shape, vocab_size, seq_len, rows * seq_len) == expected


def test_bare_products_are_those_of_a_layer() -> None:
    shape, tokens = PRESETS["260k"], 64
    multiply, flops = trunk_products(shape, tokens, torch.device("cpu"), "float32")
    assert counted_flops(multiply) == flops
    matrices = 4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size
    assert flops == 6 * tokens * matrices


def test_utilisation_is_the_share_of_the_bare_products_rate() -> None:
    samples = tuple(bench.Sample(ms, dict.fromkeys(bench.PHASES, 0.0)) for ms in (30.0, 20.0, 10.0))
    half = bench.Timing("topk-0.5", (samples[-1],))
    found = bench.Bench((bench.Timing("full", samples), half), 2048, 4_000_000, 1e9, {"full": 7})
    full, mined = found.rows()
    assert full["model_flops_per_second"] == pytest.approx(2e8)  # 4 million in 20 ms
    assert full["model_flop_utilization"] == pytest.approx(0.2)
    assert mined["model_flop_utilization"] == pytest.approx(0.4)
    assert (mined["ratio_to_full"], mined["tokens_per_second"]) == (2.0, 204_800)
    assert (full["peak_memory_bytes"], mined["peak_memory_bytes"]) == (7, None)


def test_peak_memory_holds_the_logits_of_the_bare_step(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps them, their softmax's logarithm, and what autograd makes of the two, at once."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")  # freed memory does not count then
    config = tiny.config(corpus, training__batch_size=256, tokenizer__vocab_size=4096)
    found = bench_memory.peak_memory(config, ["bare"], SILENT)["bare"]
    logits = 256 * 32 * 4096 * 4  # bytes
    assert found is not None
    assert 3 * logits < found < 6 * logits
