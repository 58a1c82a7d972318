"""Two processes on one machine do what one does, and neither waits for ever for the other."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_cases
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from tinyohem.config.training import TrainingConfig
from tinyohem.errors import InputError
from tinyohem.io.json import read_json
from tinyohem.training.mine_run import mine_run
from tinyohem.training.ranks import SINGLE_PROCESS, DistContext, init_ranks

SHORT = {
    "training.steps": 4,
    "training.log_every": 1,
    "training.eval_every": 2,
    "training.save_every": 2,
}
HALF = {"ohem.ratio": 0.5, "ohem.schedule": "constant"}
TOPK = {**HALF, "training.micro_batch_size": 1}
CLOCK = {
    "train/tokens_per_second",
    "train/seconds",
    "train/select_seconds",
    "train/pause_seconds",
}


def ways_to_train(pool: Path) -> dict[str, dict[str, Any]]:
    return {
        "full": SHORT,
        "topk": {**SHORT, **TOPK},
        "random": {**SHORT, **HALF, "ohem.select": "random"},
        "pool": {  # re-mined on the way
            **SHORT,
            **TOPK,
            "ohem.select": "mixed",
            "ohem.mix": "topk=0.5,pool=0.5",
            "ohem.reference": str(pool),
            "ohem.hard_window_share": 0.25,
            "ohem.pool_refresh_every": 2,
        },
    }


WAYS = ("full", "topk", "random", "pool")


@pytest.fixture(scope="module")
def pool(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pools") / "pool"
    mine_run(str(finished_run), folder, data={}, device="cpu")
    return folder


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def by_two(corpus: Path, pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two ranks found, case by case."""
    folder = tmp_path_factory.mktemp("ranks")

    def flags(batch_size: int) -> list[str]:
        changed = {"training.steps": 1, "training.batch_size": batch_size}
        return ["--json", *tiny.flags(corpus, **changed)]

    cases: dict[str, Any] = {
        "steps": {},
        **{name: {"overrides": values} for name, values in ways_to_train(pool).items()},
        "stop": {"overrides": {**SHORT, **TOPK}, "fault": "stop"},
        "nan": {"overrides": SHORT, "fault": "nan"},
        "clock": {"overrides": {**SHORT, "training.seconds": 0.3}, "fault": "clock"},
        "apart": {"overrides": {**SHORT, **TOPK}, "run_dirs": ["stop", "elsewhere"]},
        "command": {"command": ["train", *flags(batch_size=4), f"--out={folder / 'command'}"]},
        "refused": {"command": ["train", *flags(batch_size=5), f"--out={folder / 'refused'}"]},
        "death": {"overrides": SHORT, "fault": "death"},
    }
    work = {"corpus": str(corpus), "cases": cases, "ports": free_ports(len(cases))}
    (folder / "cases.json").write_text(json.dumps(work))
    script = Path(rank_cases.__file__)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env=os.environ
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=tiny.PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 3], "\n".join(told)
    return folder


@pytest.fixture(scope="module")
def by_one(
    corpus: Path, pool: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """Run a case by one process; return its run folder and what became of it."""
    done: dict[str, tuple[Path, dict[str, Any]]] = {}

    def run(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in done:
            run_dir = tmp_path_factory.mktemp("one") / name
            done[name] = (
                run_dir,
                rank_cases.run(corpus, run_dir, ways_to_train(pool)[name], SINGLE_PROCESS),
            )
        return done[name]

    return run


def found(folder: Path, case: str) -> list[dict[str, Any]]:
    return [read_json(folder / f"{case}.{rank}.json") for rank in range(2)]


def weights(run_dir: Path) -> dict[str, Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def assert_close(run_dir: Path, expected: Path) -> None:
    # AdamW divides by the gradient's size: where that is near 0, rounding moves a weight by more.
    for name, tensor in weights(expected).items():
        torch.testing.assert_close(weights(run_dir)[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def steps_of_one() -> dict[str, Tensor]:
    return rank_cases.steps(SINGLE_PROCESS, number=1)


@pytest.mark.parametrize("way", rank_cases.WAYS)
def test_a_step_of_two_ranks_is_that_of_one(
    by_two: Path, steps_of_one: dict[str, Tensor], way: str
) -> None:
    """Gradients and every figure, with unevenly ignored labels, two micro-batches a rank."""
    for rank in range(2):
        both = load_file(by_two / f"steps.{rank}.safetensors")
        torch.testing.assert_close(both[way], steps_of_one[way], rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_of_two_ranks_is_that_of_one(by_two: Path, by_one: Any, way: str) -> None:
    one, expected = by_one(way)
    lead, other = found(by_two, way)
    assert lead["kept"] == other["kept"] == expected["kept"]
    assert len(expected["kept"]) == (0 if way == "full" else 4)
    assert all(len(kept) == 4 * 32 // 2 for kept in expected["kept"])
    assert lead["weights"] == other["weights"]  # to the last bit: they never part
    assert (lead["step"], lead["perplexity"], other["perplexity"]) == (4, True, False)
    assert_close(by_two / way, one)
    rows, expected_rows = tiny.read_metrics(by_two / way), tiny.read_metrics(one)
    assert len(rows) == len(expected_rows) == 4 + 2
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row.keys() == expected_row.keys()
        for name in row.keys() - CLOCK:
            assert row[name] == pytest.approx(expected_row[name], rel=1e-5), name
    assert read_json(by_two / way / "eval.json") == pytest.approx(
        read_json(one / "eval.json"), rel=1e-5
    )
    assert sorted(tiny.snapshot(by_two / way)) == sorted(tiny.snapshot(one))


def test_a_signal_to_one_rank_stops_both_and_one_process_goes_on(
    by_two: Path, by_one: Any, corpus: Path, tmp_path: Path
) -> None:
    lead, other = found(by_two, "stop")
    assert lead == other
    assert (lead["step"], lead["finished"]) == (3, False)
    assert tiny.steps_kept(by_two / "stop") == [2, 3]
    whole, expected = by_one("topk")
    shutil.copytree(by_two / "stop", tmp_path / "run")
    rest = rank_cases.run(corpus, tmp_path / "run", {**SHORT, **TOPK}, SINGLE_PROCESS)
    assert rest["kept"] == expected["kept"][3:]
    assert_close(tmp_path / "run", whole)


def test_a_gradient_that_breaks_on_one_rank_ends_both_at_the_same_step(by_two: Path) -> None:
    lead, other = found(by_two, "nan")
    assert lead == other
    assert "not finite at step 3;" in lead["error"]
    assert lead["error"].endswith("step_000002")


def test_a_budget_of_seconds_follows_the_main_ranks_clock(by_two: Path) -> None:
    lead, other = found(by_two, "clock")
    assert (lead["step"], lead["finished"], other["finished"]) == (other["step"], True, True)
    assert lead["weights"] == other["weights"]


def test_ranks_that_see_other_files_are_refused(by_two: Path) -> None:
    for result in found(by_two, "apart"):
        assert result["exit_code"] == 2
        assert result["error"] == "the ranks do not begin alike: they differ in step, weights"
    assert not (by_two / "elsewhere").exists()


def test_a_rank_that_dies_ends_the_other(by_two: Path) -> None:
    result = read_json(by_two / "death.0.json")
    assert result["exit_code"] == 1
    assert result["error"].startswith("lost the other ranks: ")
    assert tiny.steps_kept(by_two / "death") == [2]


def test_one_rank_reports(by_two: Path) -> None:
    lead, other = found(by_two, "command")
    assert lead["code"] == other["code"] == 0
    summary = json.loads(lead["out"])
    assert (summary["steps"], summary["finished"], summary["tokens_seen"]) == (1, True, 4 * 32)
    assert summary["perplexity"] == read_json(by_two / "command" / "eval.json")["perplexity"]
    assert (other["out"], other["err"]) == ("", "")
    assert read_json(by_two / "command" / "config.json")["environment"]["ranks"] == 2


def test_a_refusal_of_all_ranks_writes_nothing(by_two: Path) -> None:
    for result in found(by_two, "refused"):
        assert (result["code"], result["out"]) == (2, "")
        assert result["err"].splitlines()[-2:] == [
            "error: training.batch_size = 5 does not divide by 2 ranks",
            "hint: it counts the sequences of all ranks together: choose a multiple of that",
        ]
    assert not (by_two / "refused").exists()


class TestOfOneRank:
    """What needs no other process."""

    @pytest.mark.parametrize(
        ("rank", "size", "batch", "micro", "passes", "rows"),
        [
            (0, 1, 8, None, 1, range(8)),
            (0, 1, 8, 2, 4, range(8)),
            (1, 2, 8, None, 1, range(4, 8)),
            (1, 2, 8, 2, 2, range(4, 8)),
            (3, 4, 8, 4, 1, range(6, 8)),  # a whole micro-batch is more than its share
        ],
    )
    def test_its_share_of_a_batch(
        self, rank: int, size: int, batch: int, micro: int | None, passes: int, rows: range
    ) -> None:
        ranks = DistContext(rank, size)
        training = TrainingConfig(batch_size=batch, micro_batch_size=micro)
        assert ranks.num_micro_batches(training) == passes
        assert ranks.local_rows(np.arange(batch)).tolist() == list(rows)

    @pytest.mark.parametrize(
        ("size", "batch", "micro", "told"),
        [
            (3, 8, None, "training.batch_size = 8 does not divide by 3 ranks"),
            (16, 8, None, "training.batch_size = 8 does not divide by 16 ranks"),
            (2, 12, 4, "training.micro_batch_size = 4 does not divide the 6 of 12 sequences"),
        ],
    )
    def test_a_batch_that_does_not_divide_is_refused(
        self, size: int, batch: int, micro: int | None, told: str
    ) -> None:
        training = TrainingConfig(batch_size=batch, micro_batch_size=micro)
        with pytest.raises(InputError, match=told) as caught:
            DistContext(0, size).num_micro_batches(training)
        assert caught.value.hint

    def test_an_incomplete_environment_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert init_ranks() is SINGLE_PROCESS
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(InputError, match="WORLD_SIZE = 2 is set without LOCAL_RANK"):
            init_ranks()
        monkeypatch.setenv("WORLD_SIZE", "1")
        assert init_ranks() is SINGLE_PROCESS

    def test_each_rank_of_a_machine_has_its_own_device(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
        second = DistContext(rank=3, size=4, local_rank=1, local_size=2)
        assert second.pick_device("auto") == second.pick_device("cuda") == torch.device("cuda:1")
        assert second.pick_device("cpu") == torch.device("cpu")
        with pytest.raises(InputError, match="cuda:0 is one device for 4 ranks"):
            second.pick_device("cuda:0")
        with pytest.raises(InputError, match=r"3 ranks on a machine of 2 CUDA device"):
            DistContext(rank=0, size=3, local_rank=0, local_size=3).pick_device("auto")
