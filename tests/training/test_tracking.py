"""The log: which names, at which steps, and that the figures say what their names promise."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from tinyohem.io.json import read_json
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
VAL_NAMES = {"val/loss", "val/ppl", "val/bpb", "val/tokens", "train/seconds"}
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


def test_the_last_step_is_always_logged(corpus: Path, tmp_path: Path) -> None:
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
        cosine = (1 + math.cos(math.pi * (at - 0.01) / 0.99)) / 2
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
    mined = {"ohem__ratio": 0.5, "ohem__schedule": "recover", "optim__decay_fraction": 0.4}
    config = tiny.config(corpus, **mined, training__log_every=1)
    train(config, tmp_path / "run")
    kept = [
        row["train/keep_ratio"] for row in of_kind(tiny.read_metrics(tmp_path / "run"), "train")
    ]
    assert kept[:3] == kept[12:15] == [1.0] * 3
    assert kept[15:] == [1.0] * 5
    assert kept[6:10] == [0.5] * 4
    assert kept[3:6] == sorted(kept[3:6], reverse=True)
    assert all(0.5 < ratio < 1 for ratio in [*kept[3:6], kept[11]])


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
    assert started["id"] == read_json(run_dir / "config.json")["wandb_id"]
    assert {key: started[key] for key in expected} == expected
    assert started["config"] == config.model_dump()
    assert wandb.finished == 1


def test_a_resumed_run_keeps_its_id_and_a_new_one_gets_its_own(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    run_dir = tmp_path / "run"
    short = {"training__steps": 4, "training__save_every": 2, "tracking__wandb": "offline"}
    train(tiny.config(corpus, training__stop_at_step=2, **short), run_dir)
    train(tiny.config(corpus, **short), run_dir, resume="must")
    shutil.rmtree(run_dir)
    train(tiny.config(corpus, **short), run_dir)  # at the old path
    shutil.rmtree(run_dir / "checkpoints")  # killed ahead of the first one: it begins anew
    train(tiny.config(corpus, **short), run_dir, resume="auto")
    first, resumed, other, anew = (started["id"] for started in wandb.started)
    assert first == resumed
    assert len({first, other, anew}) == 3
    assert re.fullmatch(r"[0-9a-f]{16}", first)


def test_a_run_tracked_from_its_middle_has_an_id_by_then(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    run_dir = tmp_path / "run"
    short = {"training__steps": 4, "training__save_every": 2}
    train(tiny.config(corpus, training__stop_at_step=2, **short), run_dir)
    before = read_json(run_dir / "config.json")["wandb_id"]
    train(tiny.config(corpus, tracking__wandb="offline", **short), run_dir, resume="must")
    assert [started["id"] for started in wandb.started] == [before]


def test_the_parts_of_an_offline_run_are_synced_together(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "the run"
    wandb = FakeWandb()

    def init(**given: Any) -> Any:
        number = len(wandb.started)
        (run_dir / "wandb" / f"offline-run-{number}-{given['id']}").mkdir(parents=True)
        return FakeWandb.init(wandb, **given)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    short = {"training__steps": 4, "training__save_every": 2, "tracking__wandb": "offline"}
    told = tiny.Listener()
    train(tiny.config(corpus, training__stop_at_step=2, **short), run_dir, progress=told)
    assert "wandb sync" not in " ".join(told.notes)
    (run_dir / "wandb" / "offline-run-0-another").mkdir()
    train(tiny.config(corpus, **short), run_dir, resume="must", progress=told)
    command = told.notes[-1].partition(": ")[2]
    run_id = wandb.started[0]["id"]
    parts = [str(run_dir / "wandb" / f"offline-run-{number}-{run_id}") for number in (0, 1)]
    assert shlex.split(command) == ["wandb", "sync", *parts]


@pytest.mark.parametrize(
    ("command", "key", "mode", "server", "told"),
    [
        ("train", None, None, "http://127.0.0.1:9", "wandb knows no account"),
        # WANDB_MODE: the flag wins
        ("train", "too-short", "offline", "http://127.0.0.1:9", "40+ characters"),
        ("compare", None, "offline", "http://127.0.0.1:9", "wandb knows no account"),
        ("train", None, None, "https://wandb.ai", "wandb does not start"),
    ],
)
def test_online_without_a_login_ends_before_there_is_a_folder(
    corpus: Path,
    tmp_path: Path,
    command: str,
    key: str | None,
    mode: str | None,
    server: str,
    told: str,
) -> None:
    """In a process of its own, since wandb remembers who logged in. It asks no server."""
    arguments = [*tiny.flags(corpus, training__steps=2), "--out", str(tmp_path / "run")]
    if command == "compare":
        arms = ["--arm", "a:ohem.ratio=1.0", "--arm", "random"]
        arguments = ["compare", *arms, *arguments, '--set=tracking.wandb="online"']
    else:
        arguments = ["train", *arguments, "--wandb", "online"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    given = {"WANDB_API_KEY": key, "WANDB_MODE": mode, "WANDB_BASE_URL": server}
    nowhere = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-m", "tinyohem_cli", *arguments],
        env=kept | nowhere | {name: value for name, value in given.items() if value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    message = " ".join(done.stderr.split())
    assert told in message
    assert "hint: " in message
    assert "--wandb offline" in message or "--wandb off or offline" in message
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_wandb_is_not_touched_unless_asked(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    Tracker(tmp_path, tiny.config(corpus), first_step=0).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
