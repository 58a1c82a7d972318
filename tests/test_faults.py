"""What a machine does to a run: full disks, folders that cannot be written, a scheduler's signal.

Each ends in one line with the state before it intact, and the next start goes on from there.
"""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny

from tinyohem.errors import TinyohemError
from tinyohem.evaluation.perplexity import evaluate_perplexity
from tinyohem.io.atomic import atomic_file, atomic_folder
from tinyohem.io.json import read_json
from tinyohem.training import between_steps
from tinyohem.training.loop import train
from tinyohem_cli import console, main


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond `room` bytes: the kernel then refuses every library's write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fails(result: tiny.Outcome) -> str:
    """Check that a command ended in one error and one hint; return the error."""
    assert (result.code, result.out) == (2, "")
    error, hint = result.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint == "hint: check the path, its permissions and the free space"
    return error


class TestFullDisk:
    # The first is too small for config.json, the next for weights, moments, the export.
    @pytest.mark.parametrize("room", [100, 8_000, 40_000])
    def test_training(
        self,
        tinyohem: tiny.Command,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        room: int,
    ) -> None:
        run_dir = tmp_path / "run"
        arguments = ["train", *tiny.flags(corpus), "--out", run_dir, "--resume", "auto"]
        stopped = tiny.flags(corpus, training__stop_at_step=7)
        assert tinyohem("train", *stopped, "--out", run_dir).code == 0
        before = tiny.snapshot(run_dir / "checkpoints")
        with full_disk(room):
            assert "File too large" in fails(tinyohem(*arguments))
        assert tiny.snapshot(run_dir / "checkpoints") == before
        assert tinyohem(*arguments).code == 0
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)
        exported, whole = (tiny.snapshot(run / "model") for run in (run_dir, finished_run))
        assert exported.keys() == whole.keys()
        for files in (exported, whole):
            del files["README.md"]  # tells seconds
        assert exported == whole

    @pytest.mark.parametrize(
        ("command", "rooms"),
        [("prepare-data", (100, 2_000, 20_000)), ("mine", (10, 1_000)), ("score", (300, 10_000))],
    )
    def test_the_other_commands(
        self,
        tinyohem: tiny.Command,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        command: str,
        rooms: tuple[int, ...],
    ) -> None:
        def arguments(out: Path) -> list[Any]:
            if command == "prepare-data":
                monkeypatch.setenv("TINYOHEM_DATA", str(out))
                return [command, "--dataset", corpus, "--set", "tokenizer.vocab_size=320"]
            if command == "mine":
                return [command, finished_run, "--out", out]
            return ["score-difficulty", "--dataset", corpus, "--workers", 1, "--out", out]

        # It takes long. Patched where it is used: a late import would keep another patch.
        monkeypatch.setattr("tinyohem.report.score_difficulty.write_page", lambda *_: [])
        assert tinyohem(*arguments(tmp_path / "whole")).code == 0
        for room in rooms:
            with full_disk(room):
                assert "File too large" in fails(tinyohem(*arguments(tmp_path / "full")))
        assert tinyohem(*arguments(tmp_path / "full")).code == 0
        assert tiny.snapshot(tmp_path / "full") == tiny.snapshot(tmp_path / "whole")

    @pytest.mark.parametrize("write", [atomic_file, atomic_folder])
    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (OSError(28, "No space left on device"), "No space left on device"),
            (Exception("Error: I/O error: No space left (os error 28)"), "No space left on device"),
            (Exception("Read-only file system (os error 30)"), "Read-only file system"),
        ],
    )
    def test_the_file_is_named_whoever_tells(
        self, tmp_path: Path, write: Callable[[Path], Any], error: Exception, told: str
    ) -> None:
        with pytest.raises(OSError, match=told) as caught, write(tmp_path / "it"):
            raise error
        assert caught.value.filename == str(tmp_path / "it")
        assert list(tmp_path.iterdir()) == []
        for other in (Exception("os error"), OSError(2, "No such file", "corpus.jsonl")):
            with pytest.raises(type(other)) as caught, write(tmp_path / "it"):
                raise other
            assert caught.value is other


@pytest.mark.parametrize(
    "command", ["train", "mine", "score-difficulty", "compare", "prepare-data"]
)
def test_a_folder_that_cannot_be_written(
    tinyohem: tiny.Command,
    corpus: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    out = Path("/proc/tinyohem")  # where root may not write either
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o555)
        out = tmp_path / "closed" / "out"
    arguments: dict[str, list[Any]] = {
        "train": [*tiny.flags(corpus), "--out", out],
        "mine": [finished_run, "--out", out],
        "score-difficulty": ["--dataset", corpus, "--workers", 1, "--out", out],
        "compare": [*tiny.flags(corpus), "--arm=a:ohem.ratio=1", "--arm=b:ohem.ratio=.5"],
        "prepare-data": ["--dataset", corpus, "--set", "tokenizer.vocab_size=320"],
    }
    arguments["compare"] += ["--out", out]
    if command == "prepare-data":
        monkeypatch.setenv("TINYOHEM_DATA", str(out))
    assert str(out) in fails(tinyohem(command, *arguments[command]))
    assert not out.exists()


def validations(run_dir: Path) -> list[tuple[int, float]]:
    rows = tiny.read_metrics(run_dir)
    return [(row["step"], row["val/loss"]) for row in rows if "val/loss" in row]


class TestTenSecondsNotice:
    @pytest.mark.parametrize("step", [10, 20])
    def test_a_validation_waits_for_the_next_start(
        self,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: int,
    ) -> None:
        """It may take longer than the notice; the checkpoint may not."""
        passes = []

        def evaluate(model: Any, *args: Any, **kwargs: Any) -> Any:
            """Send the signal ahead of the first forward pass, and count those that follow."""
            if step == 10 or evaluated:
                os.kill(os.getpid(), signal.SIGTERM)
                hook = model.register_forward_hook(lambda *_: passes.append(1))
            evaluated.append(1)
            try:
                return evaluate_perplexity(model, *args, **kwargs)
            finally:
                hook.remove() if passes else None

        evaluated: list[int] = []
        run_dir = tmp_path / "run"
        monkeypatch.setattr(between_steps, "evaluate_perplexity", evaluate)
        run, perplexity = train(tiny.config(corpus), run_dir)
        assert (run.state.step, perplexity, len(passes)) == (step, None, 1)
        state = read_json(run_dir / "checkpoints" / f"step_{step:06d}" / "state.json")
        assert state["validation_due"] is True
        assert [at for at, _ in validations(run_dir)] == [10][: len(evaluated) - 1]

        monkeypatch.undo()
        monkeypatch.setattr(os, "fsync", lambda _: None)
        run, perplexity = train(tiny.config(corpus), run_dir, resume="must")
        assert run.finished
        assert perplexity is not None
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)
        assert validations(run_dir) == validations(finished_run)
        best = (finished_run / "checkpoints" / "best").read_text()
        assert (run_dir / "checkpoints" / "best").read_text() == best

    def test_outside_training_nothing_half_written_stays(
        self,
        corpus: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path))
        numbers = (signal.SIGTERM, signal.SIGINT)
        handlers = [signal.getsignal(number) for number in numbers]

        def told_to_end(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        def told_again(error: TinyohemError) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            print_error(error)

        print_error = console.print_error
        monkeypatch.setattr(console, "print_error", told_again)
        monkeypatch.setattr("tinyohem.data.token_store.count_words", told_to_end)
        arguments = ["--dataset", str(corpus), "--set", "tokenizer.vocab_size=320"]
        monkeypatch.setattr("sys.argv", ["tinyohem", "prepare-data", *arguments])
        try:
            with pytest.raises(SystemExit) as ended:
                main.run()
        finally:
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)
        assert ended.value.code == 130
        assert "error: interrupted\n" in capsys.readouterr().err
        assert not (tmp_path / "tokens").exists()
