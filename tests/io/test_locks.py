"""One writer per folder: a second one is refused, and no lock outlives a kill."""

import errno
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

from tinyohem.config.data import DataConfig, TokenizerConfig
from tinyohem.config.difficulty import Metric
from tinyohem.data.corpus import open_corpus
from tinyohem.data.prepare import prepare_data
from tinyohem.difficulty.add_metric import add_metric
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.errors import InputError
from tinyohem.io import locks
from tinyohem.io.locks import LOCK_FILE, sole_writer

HOLD = """
import sys
from pathlib import Path
from tinyohem.io.locks import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
Hold = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Let another process hold a folder until it is killed or gets a line."""
    holders = []

    def start(folder: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLD, str(folder)]
        pipe = subprocess.PIPE
        holders.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        assert holders[-1].stdout is not None
        assert holders[-1].stdout.readline() == "held\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def is_free(folder: Path) -> bool:
    """Tell whether another process could write there."""
    code = HOLD.replace('print("held", flush=True)', "sys.exit(0)")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 or "is writing here" in done.stderr
    return done.returncode == 0


class TestTheSecondIsRefused:
    @pytest.mark.parametrize("command", ["train", "mine", "compare", "score-difficulty"])
    def test_a_second_writer_is_refused_and_touches_nothing(
        self,
        tinyohem: tiny.Command,
        hold: Hold,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        command: str,
    ) -> None:
        out = tmp_path / "out"
        arguments = {
            "train": tiny.flags(corpus),
            "mine": [str(finished_run)],
            "compare": [*tiny.flags(corpus), "--arm=full:ohem.ratio=1", "--arm=half:ohem.ratio=.5"],
            "score-difficulty": ["--dataset", str(corpus), "--workers=1"],
        }[command]
        holder = hold(out)
        before = tiny.snapshot(out)
        result = tinyohem(command, *arguments, "--out", out)
        assert (result.code, result.out) == (2, "")
        *_, error, hint = result.err.splitlines()
        assert error.startswith(f"error: {out}: another process (pid {holder.pid} on ")
        assert error.endswith(") is writing here")
        assert hint == "hint: wait until it has ended, or choose another folder"
        assert tiny.snapshot(out) == before

    def test_a_writer_may_follow_a_killed_one(self, hold: Hold, tmp_path: Path) -> None:
        holder = hold(tmp_path)
        with pytest.raises(InputError, match=rf"pid {holder.pid} on .* is writing here"):
            sole_writer(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        assert (tmp_path / LOCK_FILE).exists()  # nobody could tidy up
        with sole_writer(tmp_path):
            assert not is_free(tmp_path)
        assert is_free(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_run_begins_where_one_was_killed_at_its_start(
        self, hold: Hold, tinyohem: tiny.Command, corpus: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        holder = hold(out)
        holder.kill()
        holder.wait()
        short = tiny.flags(corpus, training__steps=1)
        assert tinyohem("train", *short, "--out", out).code == 0
        assert not (out / LOCK_FILE).exists()

    @pytest.mark.parametrize("signed", ["", "{", "[]", '{"pid": "x"}', "\ud800"])
    def test_a_writer_that_has_not_signed_still_refuses_the_second(
        self, hold: Hold, tmp_path: Path, signed: str
    ) -> None:
        hold(tmp_path)
        (tmp_path / LOCK_FILE).write_bytes(signed.encode("utf-8", "surrogatepass"))
        with pytest.raises(InputError, match=": another process is writing here"):
            sole_writer(tmp_path).__enter__()


class TestTheFolder:
    def test_a_folder_made_for_the_lock_that_stays_empty_is_removed(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / "a" / "b"):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "mine").mkdir()
        with sole_writer(tmp_path / "mine"):
            pass
        with sole_writer(tmp_path / "a" / "b"):
            (tmp_path / "a" / "b" / "file").touch()
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "file", "mine"]

    def test_a_file_in_place_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="file is a file"):
            sole_writer(tmp_path / "file").__enter__()

    def test_blocks_may_be_nested(self, tmp_path: Path) -> None:
        with sole_writer(tmp_path):
            with sole_writer(tmp_path / ".." / tmp_path.name):
                pass
            assert not is_free(tmp_path)
        assert is_free(tmp_path)

    def test_two_threads_are_two_writers(self, tmp_path: Path) -> None:
        found = []

        def enter() -> None:
            try:
                with sole_writer(tmp_path):
                    found.append("in")
            except InputError:
                found.append("refused")

        with sole_writer(tmp_path):
            thread = threading.Thread(target=enter)
            thread.start()
            thread.join()
        assert found == ["refused"]

    def test_a_file_system_without_locks_gives_a_warning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(*_: object) -> None:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr("fcntl.flock", flock)
        listener = tiny.Listener()
        with sole_writer(tmp_path, progress=listener):
            pass
        assert listener.warnings == [
            f"{tmp_path} knows no locks: see that no other process writes there"
        ]

    def test_a_replaced_folder_stays_locked(self, corpus: Path, tmp_path: Path) -> None:
        folder = tmp_path / "scores"
        table = score_corpus(open_corpus(str(corpus)), folder, workers=1)
        rows = table.column("row")
        with sole_writer(folder):
            values = np.arange(len(rows), dtype=np.float64)
            add_metric(table, "rank", Metric("at", "higher"), rows, values, {}, lambda _: "")
            assert not is_free(folder)
        assert not (folder / LOCK_FILE).exists()


class TestWaiting:
    """Prepared data is shared: a second process waits instead of failing."""

    def test_waiting_ends_once_the_other_process_has_finished(
        self, hold: Hold, tmp_path: Path
    ) -> None:
        holder = hold(tmp_path)
        assert holder.stdin is not None

        class Release(tiny.Listener):
            def note(self, text: str) -> None:
                super().note(text)
                print("go", file=holder.stdin, flush=True)

        listener = Release()
        with sole_writer(tmp_path, patience=math.inf, progress=listener):
            assert not is_free(tmp_path)
        (note,) = listener.notes
        assert f"pid {holder.pid} on " in note
        assert note.endswith("is writing here; waiting until it has ended")

    def test_waiting_ends_when_patience_ends(self, hold: Hold, tmp_path: Path) -> None:
        hold(tmp_path)
        with pytest.raises(InputError, match="is writing here"):
            sole_writer(tmp_path, patience=0.1).__enter__()

    def test_two_processes_prepare_one_store_once(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second waits and finds what the first has made. Two threads count as two writers."""
        monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path))
        second, waiting = tiny.Listener(), threading.Event()
        made = []

        def prepare(listener: tiny.Listener) -> None:
            config = DataConfig(dataset=str(corpus)), TokenizerConfig(vocab_size=320)
            made.append(prepare_data(*config, listener))

        thread = threading.Thread(target=prepare, args=(second,))

        class First(tiny.Listener):
            def start(self, stage: str, total: int | None, unit: str, **_: object) -> None:
                super().start(stage, total, unit)
                if stage.startswith("train a vocabulary"):
                    second.note = lambda text: waiting.set() if "waiting" in text else None  # type: ignore[method-assign]
                    thread.start()
                    assert waiting.wait(60)

        first = First()
        prepare(first)
        thread.join()
        stages = first.stages + second.stages
        assert sum(stage.startswith("train a vocabulary") for stage in stages) == 1
        assert stages.count("tokenize") == 2
        assert made[0].train.manifest == made[1].train.manifest
        assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizers", "tokens"]
        assert list(tmp_path.rglob(".*")) == []

    def test_whoever_waited_removes_the_folder_that_its_maker_had_to_leave(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The maker finds the next one's lock in it when it wants to remove it."""
        folder = tmp_path / "making"
        waits, entered, left = threading.Event(), threading.Event(), threading.Event()
        original, listener = locks._remove_empty, tiny.Listener()
        listener.note = lambda _: waits.set()  # type: ignore[method-assign]

        def remove_empty(folders: list[Path]) -> None:
            if threading.current_thread() is threading.main_thread():
                assert entered.wait(60)
            original(folders)

        def second() -> None:
            with sole_writer(folder, patience=60, progress=listener):
                entered.set()
                assert left.wait(60)

        monkeypatch.setattr(locks, "_remove_empty", remove_empty)
        thread = threading.Thread(target=second)
        with sole_writer(folder):
            thread.start()
            assert waits.wait(60)
        assert folder.exists()
        left.set()
        thread.join()
        assert not folder.exists()

    def test_a_finished_store_needs_no_lock(
        self, corpus: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Prepared data may be on a read-only disk."""
        monkeypatch.setattr("tinyohem.data.prepare.sole_writer", None)
        prepare_data(DataConfig(dataset=str(corpus)), TokenizerConfig(vocab_size=320))
        assert finished_run.exists()  # what it was trained on is what is there
