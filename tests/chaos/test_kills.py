"""The kills of `make chaos`: signals at any moment, and what comes out is the same to the last bit.

CHAOS_KILLS (60) is how many there are in all, each of kill -9 and of SIGTERM and SIGINT; CHAOS_SEED
(0) decides their moments.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from tinyohem.io.hashing import hash_files
from tinyohem.io.json import read_json

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CHAOS_KILLS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
SHARES = {"train": 0.35, "score-difficulty": 0.2, "mine": 0.2, "compare": 0.25}
KILLS_IN_ONE_FOLDER = 4  # at most, before it is let finish
SECONDS_TO_END = 300
End = tuple[tuple[signal.Signals, bool], ...]  # signals to send, and whether to the whole group
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
    """Return the hashes of all that a run left but seconds and checkpoints on the way."""
    timed = ("metrics.jsonl", "state.json", "config.json", "result.json")
    kept = [(folder / "checkpoints" / name).read_text().strip() for name in ("latest", "best")]
    files = hash_files(folder)
    for name in list(files):  # where a signal came, a run saves at other steps
        _, _, step = name.rpartition("checkpoints/")
        if name.endswith(timed) or (step.startswith("step_") and step.split("/")[0] not in kept):
            del files[name]
    return files | {
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
    # Three runs by two workers: at the end one is idle while the other trains.
    arms = [f"--arm=r{n}:ohem.ratio={n / 4}" for n in (4, 2, 1)] + ["--seeds=1", "--workers=2"]
    return {
        "train": Target(
            lambda out: ["train", *more, f"--out={out}", "--resume=auto"], run_files, None
        ),
        "score-difficulty": Target(
            lambda out: ["score-difficulty", f"--dataset={corpus}", "--workers=2", f"--out={out}"],
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

    def run(self, seconds: float | None = None, end: End = ((signal.SIGKILL, False),)) -> bool:
        """Run the command, to its end or until it gets signals; return whether exit code 0."""
        from kills import start

        self._log.unlink(missing_ok=True)
        process = start(self._target.arguments(self.out), self._data, self._log)
        assert process.pid is not None
        process.join(seconds)
        while process.is_alive() and not self._log.exists():
            time.sleep(0.01)  # then it hears signals
        if seconds is not None:
            for number, to_group in end:
                with suppress(ProcessLookupError):
                    (os.killpg if to_group else os.kill)(process.pid, number)
        process.join(None if seconds is None else SECONDS_TO_END)
        told = self._log.read_text()
        assert not process.is_alive(), f"it hangs: {told}"
        assert process.exitcode in (0, -9, 130), told
        assert "Traceback" not in told, told
        if process.exitcode != -9:  # whose workers may need a moment to notice
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)  # no worker stays behind
        return process.exitcode == 0

    def left(self) -> Mapping[str, Any]:
        """Return what it left, and remove that."""
        found = self._target.left(self.out)
        shutil.rmtree(self._folder)
        return found


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM or SIGINT"])
@pytest.mark.parametrize("name", SHARES)
def test_killed_at_any_moment_it_comes_out_the_same(
    targets: dict[str, Target],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    how: str,
) -> None:
    """By kill -9, or by one or two signals to the command alone or to its whole group."""
    target, moments = targets[name], random.Random(f"{SEED} {name} {how}")

    def end() -> End:
        if how == "kill -9":
            return ((signal.SIGKILL, False),)
        to_group = moments.random() < 0.5
        numbers = moments.choices([signal.SIGTERM, signal.SIGINT], k=moments.choice([1, 2]))
        return tuple((number, to_group) for number in numbers)

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
            if attempt.run(moments.uniform(0, seconds), end()):
                break
            kills += 1
        assert attempt.run()
        assert attempt.left() == expected
        folders += 1
    with capsys.disabled():
        print(
            f"\n{name}, {how}: {kills} kills in {folders} folders, each resumed to the same files "
            f"({time.monotonic() - began:.0f} s; undisturbed {seconds:.1f} s)"
        )
