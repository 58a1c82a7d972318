"""The kills of `make chaos`: kill -9 at any moment, and what comes out is the same to the last bit.

CHAOS_KILLS (60) is how many kills there are in all, CHAOS_SEED (0) decides their moments.
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from tinyohem.artifacts import hash_files, read_json

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CHAOS_KILLS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
SHARES = {"train": 0.35, "score-difficulty": 0.2, "mine": 0.2, "compare": 0.25}
KILLS_IN_ONE_FOLDER = 4  # at most, before it is let finish
RECIPE = {"training__steps": 40, "ohem__ratio": 0.5, "ohem__score": "excess_loss"}


@dataclass(frozen=True)
class Target:
    """A command and what it has to leave.

    Attributes:
        arguments: of the command that writes into a folder; the same begins and resumes.
        left: what has to be the same, of that folder.
        data: prepared corpora that every attempt shares; None: each prepares its own.
    """

    arguments: Callable[[Path], list[str]]
    left: Callable[[Path], Mapping[str, Any]]
    data: Path | None


def run_files(folder: Path) -> dict[str, Any]:
    """Return the hashes of all that a run left but seconds."""
    timed = ("metrics.jsonl", "state.json", "config.json", "result.json")
    files = hash_files(folder)
    return {name: files[name] for name in files if not name.endswith(timed)} | {
        "validations": [row["val/loss"] for row in tiny.read_metrics(folder) if "val/loss" in row]
    }


def compared_files(folder: Path) -> dict[str, Any]:
    """Return the same of every run of a comparison, and its results but for seconds."""
    found: dict[str, Any] = {}
    for run in sorted(folder.glob("*-seed*")):
        result = read_json(run / "result.json")
        figures = ("arm", "seed", "loss", "bits_per_byte", "hardest_tenth", "tokens_selected")
        found[run.name] = run_files(run), [result[name] for name in figures]
    assert not list(folder.glob(".*"))
    return found


def score_files(folder: Path) -> dict[str, str]:
    """Return the hashes of a score folder's tables; the page is drawn from them."""
    return {name: sha for name, sha in hash_files(folder).items() if "report" not in name}


@pytest.fixture(scope="module")
def targets(
    corpus: Path, finished_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Target]:
    shared = tmp_path_factory.mktemp("shared")
    more = tiny.flags(corpus, **RECIPE)
    arms = ["--arm=full:ohem.ratio=1", "--arm=half:ohem.ratio=0.5", "--seeds=1", "--workers=2"]
    return {
        "train": Target(
            lambda out: ["train", *more, f"--out={out}", "--resume=auto"], run_files, None
        ),
        "score-difficulty": Target(
            lambda out: ["score-difficulty", f"--dataset={corpus}", "--workers=1", f"--out={out}"],
            score_files,
            None,
        ),
        "mine": Target(lambda out: ["mine", str(finished_run), f"--out={out}"], hash_files, None),
        "compare": Target(
            lambda out: ["compare", *tiny.flags(corpus), *arms, f"--out={out}"],
            compared_files,
            shared,
        ),
    }


class Attempt:
    """One folder and the commands that work on it."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.out = folder / "out"
        self._target, self._folder = target, folder
        self._data, self._log = target.data or folder / "data", folder / "log"

    def run(self, seconds: float | None = None) -> bool:
        """Run the command, to the end or until it is killed; return whether it ended."""
        from kills import start

        process = start(self._target.arguments(self.out), self._data, self._log)
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        assert process.exitcode in (0, -9), self._log.read_text()
        return process.exitcode == 0

    def left(self) -> Mapping[str, Any]:
        """Return what it left, and remove that."""
        found = self._target.left(self.out)
        shutil.rmtree(self._folder)
        return found


@pytest.mark.parametrize("name", SHARES)
def test_killed_at_any_moment_it_comes_out_the_same(
    targets: dict[str, Target],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    target, moments = targets[name], random.Random(f"{SEED} {name}")
    folder = tmp_path / "whole"
    folder.mkdir()
    Attempt(target, folder).run()  # begins the server, which takes its time, and fills caches
    shutil.rmtree(folder)
    folder.mkdir()
    began = time.monotonic()
    whole = Attempt(target, folder)
    assert whole.run()
    seconds = time.monotonic() - began
    expected = whole.left()
    assert expected

    wanted, kills, folders, began = max(1, round(SHARES[name] * KILLS)), 0, 0, time.monotonic()
    while kills < wanted:
        folder.mkdir()
        attempt = Attempt(target, folder)
        for _ in range(min(KILLS_IN_ONE_FOLDER, wanted - kills)):
            if attempt.run(moments.uniform(0, seconds)):
                break
            kills += 1
        assert attempt.run()
        assert attempt.left() == expected
        folders += 1
    with capsys.disabled():
        print(
            f"\n{name}: {kills} kills in {folders} folders, each resumed to the same files "
            f"({time.monotonic() - began:.0f} s; undisturbed {seconds:.1f} s)"
        )


def test_a_scheduler_that_tells_the_parent_alone(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM to `compare`: its runs save where they are, and the same command goes on."""
    from kills import start

    arms = ["--arm=full:ohem.ratio=1", "--arm=half:ohem.ratio=0.5", "--seeds=1", "--workers=2"]
    recipe = tiny.flags(
        corpus, training__steps=4000, training__save_every=9999, training__eval_every=9999
    )
    out, log = tmp_path / "out", tmp_path / "log"
    process = start(["compare", *recipe, *arms, f"--out={out}"], tmp_path / "data", log)
    runs = [out / "full-seed0", out / "half-seed0"]
    while not all((run / "metrics.jsonl").exists() for run in runs):
        assert process.is_alive(), log.read_text()
        time.sleep(0.05)
    began = time.monotonic()
    process.terminate()
    process.join()
    seconds = time.monotonic() - began
    assert process.exitcode == 130, log.read_text()
    assert log.read_text().splitlines()[-2] == "error: interrupted"
    for run in runs:
        (step,) = tiny.steps_kept(run)
        assert 0 < step < 4000
    assert not [path for path in out.rglob(".*") if path.exists()]
    with capsys.disabled():
        print(f"\nSIGTERM to compare: both runs saved and gone after {seconds:.1f} s")
