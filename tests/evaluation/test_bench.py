"""The benchmark as a command: every variant is timed, and none but ours has phases."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tinyohem.evaluation import bench, bench_steps
from tinyohem.runtime import DeviceTimer

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
    rows = json.loads(result.out)
    assert [row["name"] for row in rows] == OURS + OTHERS
    for row in rows:
        assert row["tokens_per_second"] == pytest.approx(4 * 32 / row["ms_per_step"] * 1000)
        assert row["ratio_to_full"] == pytest.approx(rows[0]["ms_per_step"] / row["ms_per_step"])
        assert 0 <= sum(row["ms_by_phase"].values()) <= row["ms_per_step"]
        mined = {"trunk", "read", "select", "gradient", "update"}
        expected = {"full": {"trunk", "gradient", "update"}} | dict.fromkeys(OURS[1:], mined)
        assert set(row["ms_by_phase"]) == expected.get(row["name"], set())


def test_the_tables_name_every_step(tinyohem: tiny.Command) -> None:
    result = tinyohem("bench", "--rounds", 1, *SMALL)
    assert result.code == 0, result.err
    for name in OURS + OTHERS:
        assert name in result.out


def test_every_step_updates_the_weights(corpus: Path) -> None:
    """Each variant takes a whole step: it moves weights and leaves no gradient behind."""
    config = tiny.config(corpus)
    models: list[torch.nn.Module] = []
    build = bench_steps.build_model

    def remembered(*args: Any) -> torch.nn.Module:
        models.append(build(*args))
        return models[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_steps, "build_model", remembered)
        steps = bench_steps.bench_steps(config, torch.device("cpu"))
    (model,) = models
    tokens = torch.randint(320, (4, 33))
    batch = bench.Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), 128)
    timers = {name: DeviceTimer(torch.device("cpu")) for name in bench_steps.PHASES}
    for name, step in steps.items():
        before = {key: value.clone() for key, value in model.named_parameters()}
        step(batch, timers)
        for key, value in model.named_parameters():
            assert value.grad is None, (name, key)
            assert not torch.equal(value, before[key]), (name, key)
