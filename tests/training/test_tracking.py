"""The log: which names, at which steps, and that the figures say what their names promise."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from tinyohem.training.loop import train
from tinyohem.training.run import Budget, Run
from tinyohem.training.tracking import Tracker

TRAIN_NAMES = {
    "train/loss",
    "train/loss_selected",
    "train/keep_ratio",
    "train/loss_threshold",
    "train/grad_norm",
    "train/kept_loss_share",
    "train/kept_below_1",
    "train/kept_1_to_3",
    "train/kept_3_to_5",
    "train/kept_above_5",
    "train/effective_sample_size",
    "train/lr",
    "train/tokens_seen",
    "train/tokens_selected",
    "train/tokens_per_second",
    "train/seconds",
    "train/select_seconds",
    "train/pause_seconds",
}
VAL_NAMES = {"val/loss", "val/ppl", "val/bpb", "train/seconds"}
CLOCK = {
    "train/tokens_per_second",
    "train/seconds",
    "train/select_seconds",
    "train/pause_seconds",
}


def of_kind(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if f"{kind}/loss" in row]


def test_names_and_steps(finished_run: Path) -> None:
    rows = tiny.read_metrics(finished_run)
    train_rows, val_rows = of_kind(rows, "train"), of_kind(rows, "val")
    assert len(train_rows) + len(val_rows) == len(rows)
    assert {frozenset(row) for row in train_rows} == {frozenset({"step", *TRAIN_NAMES})}
    assert {frozenset(row) for row in val_rows} == {frozenset({"step", *VAL_NAMES})}
    assert [row["step"] for row in train_rows] == list(range(2, 21, 2))
    assert [row["step"] for row in val_rows] == [10, 20]


def test_a_long_run_logs_more_rarely() -> None:
    def every(steps: int, seconds: float | None = None, log_every: int = 10) -> int:
        config = SimpleNamespace(training=SimpleNamespace(log_every=log_every))
        return Run.log_every.fget(  # type: ignore[attr-defined]
            SimpleNamespace(config=config, budget=Budget(steps, seconds))
        )

    assert every(200_000) == every(1) == 10
    assert every(200_001) == 11
    assert every(10**9) == 50_000
    assert every(10**9, log_every=60_000) == 60_000
    assert every(10**9, seconds=5.0) == 10


def test_the_last_step_is_logged_whatever_the_rhythm(corpus: Path, tmp_path: Path) -> None:
    every = {"training__log_every": 3, "training__eval_every": 4, "training__save_every": 7}
    train(tiny.config(corpus, training__steps=5, **every), tmp_path / "run")
    rows = tiny.read_metrics(tmp_path / "run")
    assert [row["step"] for row in of_kind(rows, "train")] == [3, 5]
    assert [row["step"] for row in of_kind(rows, "val")] == [4, 5]


def test_figures_of_plain_training(finished_run: Path) -> None:
    rows = tiny.read_metrics(finished_run)
    for row in of_kind(rows, "train"):
        assert row["train/loss_selected"] == pytest.approx(row["train/loss"], rel=1e-5)
        assert row["train/keep_ratio"] == 1
        assert row["train/tokens_selected"] == row["train/tokens_seen"] == 128 * row["step"]
        assert 0 < row["train/loss_threshold"] < row["train/loss"]
        assert row["train/kept_loss_share"] == pytest.approx(1, rel=1e-5)
        assert row["train/effective_sample_size"] == pytest.approx(1, rel=1e-5)
        buckets = ("below_1", "1_to_3", "3_to_5", "above_5")
        assert sum(row[f"train/kept_{name}"] for name in buckets) == pytest.approx(1, rel=1e-5)
        at = (row["step"] - 0.5) / 20
        cosine = (1 + math.cos(math.pi * (at - 0.05) / 0.95)) / 2
        assert row["train/lr"] == pytest.approx(4e-3 * cosine)
    for row in of_kind(rows, "val"):
        assert row["val/ppl"] == pytest.approx(math.exp(row["val/loss"]))


def test_figures_of_mining(corpus: Path, tmp_path: Path) -> None:
    ohem = {"ohem__ratio": 0.25, "ohem__schedule": "constant", "training__log_every": 1}
    for name, select in (("topk", "topk"), ("random", "random")):
        train(tiny.config(corpus, ohem__select=select, **ohem), tmp_path / name)
    topk, random = (
        of_kind(tiny.read_metrics(tmp_path / name), "train") for name in ("topk", "random")
    )
    # Before the first update both saw the same model and the same batch.
    assert topk[0]["train/loss"] == pytest.approx(random[0]["train/loss"], rel=1e-5)
    for row in topk + random:
        assert row["train/keep_ratio"] == 0.25
        assert row["train/tokens_selected"] == 32 * row["step"] == row["train/tokens_seen"] / 4
    for row in topk:
        assert row["train/loss"] < row["train/loss_threshold"] < row["train/loss_selected"]
    gaps = [abs(row["train/loss_selected"] - row["train/loss"]) for row in random]
    assert max(gaps) < min(row["train/loss_selected"] - row["train/loss"] for row in topk)


def test_the_schedule_shows_in_the_log(corpus: Path, tmp_path: Path) -> None:
    config = tiny.config(corpus, ohem__ratio=0.5, ohem__schedule="recover", training__log_every=1)
    train(config, tmp_path / "run")
    kept = [
        row["train/keep_ratio"] for row in of_kind(tiny.read_metrics(tmp_path / "run"), "train")
    ]
    assert kept[:4] == [1.0] * 4
    assert kept[8:14] == [0.5] * 6
    assert kept[16:] == [1.0] * 4
    assert kept[4:8] == sorted(kept[4:8], reverse=True)
    assert all(0.5 < ratio < 1 for ratio in kept[4:8])


def test_a_resumed_log_has_every_step_once(
    finished_run: Path, corpus: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    train(tiny.config(corpus, training__stop_at_step=10), run_dir)
    # Rows of a lost stretch, the last one cut short by a kill.
    lost = [json.dumps({"step": step, "train/loss": 0.0}) + "\n" for step in (12, 14)]
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.writelines([*lost, '{"step": 16, "tr'])
    train(tiny.config(corpus), run_dir, resume="must")

    def without_clock(path: Path) -> list[dict[str, Any]]:
        rows = tiny.read_metrics(path)
        return [{key: row[key] for key in row if key not in CLOCK} for row in rows]

    assert without_clock(run_dir) == without_clock(finished_run)
    seconds = [row["train/seconds"] for row in of_kind(tiny.read_metrics(run_dir), "train")]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


class FakeWandb:
    """Stands in for the module: remembers its calls."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **given: Any) -> Any:
        self.started.append(given)
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.rows.append({"step": step, **metrics})

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_the_same_rows(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    run_dir = tmp_path / "run"
    config = tiny.config(corpus, tracking__wandb="offline", tracking__project="mine")
    train(config, run_dir)
    assert wandb.rows == tiny.read_metrics(run_dir)
    (started,) = wandb.started
    expected = {"project": "mine", "mode": "offline", "dir": str(run_dir), "resume": "allow"}
    assert {key: started[key] for key in expected} == expected
    assert started["config"] == config.model_dump()
    assert wandb.finished == 1


def test_wandb_is_not_touched_unless_asked(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    Tracker(tmp_path, tiny.config(corpus), first_step=0).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
