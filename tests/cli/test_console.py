"""What a person sees on a terminal, and what a log keeps of it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import terminal
import tiny
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from tinyohem.evaluation import perplexity
from tinyohem.training import between_steps
from tinyohem_cli import console
from tinyohem_cli.console import Table

_VALIDATION = re.compile(r"step ([\d,]+): validation loss ([\d.]+), perplexity ([\d.]+)")


def told(text: str) -> list[tuple[int, str]]:
    """Return step and loss of every validation that a person was told of."""
    found = (_VALIDATION.match(line) for line in text.splitlines())
    return [(int(match[1]), match[2]) for match in found if match]


def logged(run_dir: Path) -> list[tuple[int, str]]:
    """Return step and loss of every validation in a run's log."""
    rows = tiny.read_metrics(run_dir)
    return [(row["step"], f"{row['val/loss']:.4f}") for row in rows if "val/loss" in row]


class TestValidations:
    def test_without_a_terminal_each_validation_prints_a_line(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        every_third = tiny.flags(corpus, training__eval_every=3)
        result = tinyohem("train", *every_third, "--out", tmp_path / "run")
        assert told(result.err) == logged(tmp_path / "run")
        assert [step for step, _ in told(result.err)] == [3, 6, 9, 12, 15, 18, 20]

    def test_on_a_terminal_each_validation_prints_a_line_above_the_bar(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        every_third = tiny.flags(corpus, training__eval_every=3)
        seen = terminal.on_a_terminal(["train", *every_third, "--out", tmp_path / "run"])
        assert (seen.code, seen.cursor_shown) == (0, True)
        assert told(seen.text) == logged(tmp_path / "run")
        assert len(told(seen.text)) == 7
        (bar,) = (line for line in seen.lines if line.startswith("  train "))
        assert re.search(r" 20/20 steps \d:\d\d:\d\d loss [\d.]+  ppl .* tok/s [\d,]+$", bar)
        assert seen.lines.index(bar) > seen.lines.index(
            seen.text[: seen.text.index(bar)].split("\n")[-2]
        )
        assert "fingerprint" not in seen.text

    def test_one_that_a_stop_put_off_is_made_up_for_in_the_open_stage(
        self,
        corpus: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        tinyohem: tiny.Command,
    ) -> None:
        def stopped(model: Any, *args: Any, **kwargs: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return perplexity.evaluate_perplexity(model, *args, **kwargs)

        command = ["train", *tiny.flags(corpus), "--out", tmp_path / "run"]
        with monkeypatch.context() as patch:
            patch.setattr(between_steps, "evaluate_perplexity", stopped)
            before = tinyohem(*command)
        assert told(before.err) == []
        assert "stopped at step 10" in before.out

        monkeypatch.setattr(console, "_PLAIN_LINE_SECONDS", 0.0)  # whatever may be shown is
        after = tinyohem(*command, "--resume", "must")
        assert told(after.err) == logged(tmp_path / "run")
        assert [step for step, _ in told(after.err)] == [10, 20]
        assert [line for line in after.err.splitlines() if line.startswith(":")] == []


@dataclass
class Stage:
    """What a stage was told."""

    name: str
    total: int | None
    done: list[int]
    transient: bool
    over: bool = False


@dataclass
class Strict(tiny.Listener):
    """A listener that refuses what `Progress` does not allow."""

    told: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def start(
        self, stage: str, total: int | None, unit: str, *, done: int = 0, transient: bool = False
    ) -> None:
        self.finish()
        self.told.append(Stage(stage, total, [done], transient))

    def advance(self, done: int, fields: Mapping[str, float] | None = None) -> None:
        stage = self.told[-1]
        assert not stage.over, f"{stage.name} is over"
        assert done >= stage.done[-1], f"{stage.name} went back"
        assert stage.total is None or done <= stage.total, stage
        stage.done.append(done)

    def finish(self) -> None:
        if self.told:
            self.told[-1].over = True

    def named(self, name: str) -> Stage:
        """Return the one stage of this name."""
        (found,) = (stage for stage in self.told if stage.name == name)
        return found


class TestStages:
    @pytest.fixture
    def progress(self, monkeypatch: pytest.MonkeyPatch) -> Strict:
        strict = Strict()
        monkeypatch.setattr(console, "ConsoleProgress", lambda: strict)
        monkeypatch.setattr(console.ConsoleProgress, "close", lambda: None, raising=False)
        return strict

    def test_all_end_where_they_said_they_would(
        self,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        tinyohem: tiny.Command,
        progress: Strict,
    ) -> None:
        monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "data"))
        scores = ["--dataset", corpus, "--out", tmp_path / "scores", "--workers", 1]
        for command in (
            ["prepare-data", "--dataset", corpus, "--set", "tokenizer.vocab_size=320"],
            ["train", *tiny.flags(corpus), "--out", tmp_path / "run"],
            ["train", *tiny.flags(corpus), "--out", tmp_path / "run", "--resume", "must"],
            ["eval-perplexity", finished_run, "--by", "difficulty", "--calibration"],
            ["inspect", finished_run, "--story", 0],
            ["mine", finished_run, "--out", tmp_path / "pool"],
            ["score-difficulty", *scores, "--model", finished_run],
        ):
            result = tinyohem(*command)
            assert result.code == 0, result.err
        progress.finish()
        stages = {stage.name for stage in progress.told}
        assert stages >= {"train", "evaluate", "mine", "scoring", "ranking", "model loss"}
        for stage in progress.told:
            assert stage.done[-1] == (stage.total or stage.done[-1]), stage
            assert stage.done[-1] > 0, stage

    def test_a_finished_run_has_all_its_steps(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        command = ["train", *tiny.flags(corpus), "--out", tmp_path / "run"]
        assert tinyohem(*command).code == 0
        again = tinyohem(*command, "--resume", "must")
        assert "train: 20/20 steps" in again.err.splitlines()
        assert told(again.err) == []

    def test_a_resumed_run_begins_where_it_stood(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command, progress: Strict
    ) -> None:
        for more in ({"training__stop_at_step": 8}, {}):
            command = ["train", *tiny.flags(corpus, **more), "--out", tmp_path / "run"]
            assert tinyohem(*command, "--resume", "auto").code == 0
        first, second = (stage for stage in progress.told if stage.name == "train")
        assert (first.done[0], first.done[-1]) == (0, 8)
        assert (second.done[0], second.done[-1]) == (8, 20)

    @pytest.mark.parametrize("command", ["eval-perplexity", "score-difficulty"])
    def test_the_bar_of_an_evaluation_moves_with_every_pass(
        self,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        tinyohem: tiny.Command,
        progress: Strict,
        command: str,
    ) -> None:
        passes = []
        window_logits = perplexity._window_logits

        def counted(*args: Any) -> Any:
            for item in window_logits(*args):
                passes.append(sum(window.end - window.score_from for window in item[0]))
                yield item

        monkeypatch.setattr(perplexity, "_window_logits", counted)
        monkeypatch.setattr(perplexity, "_LOGIT_ELEMENTS", 40_000)
        if command == "eval-perplexity":
            assert tinyohem(command, finished_run).code == 0
        else:
            scores = ["--dataset", corpus, "--out", tmp_path / "scores", "--workers", 1]
            assert tinyohem(command, *scores, "--model", finished_run).code == 0
        stage = progress.named("evaluate" if command == "eval-perplexity" else "model loss")
        assert len(passes) > 10
        assert stage.done == [sum(passes[:n]) for n in range(len(passes) + 1)]
        assert stage.done[-1] == stage.total

    def test_transient_stages_print_no_line(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tinyohem: tiny.Command
    ) -> None:
        monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path))
        small = ["--dataset", corpus, "--set", "tokenizer.vocab_size=320"]
        _, _, *lines = tinyohem("prepare-data", *small).err.splitlines()  # which files are which
        assert lines == [
            "train a vocabulary of 320: 120 stories",
            "tokenize: 120 stories",
            "tokenize: 12 stories",
        ]

    def test_a_failed_stage_shows_the_cursor_again(self, tmp_path: Path) -> None:
        """Rich hides the cursor while a bar is drawn."""
        lines = [*(json.dumps({"text": f"Tom has {n} cats."}) for n in range(200)), "{"]
        (tmp_path / "stories.jsonl").write_text("\n".join(lines))
        seen = terminal.on_a_terminal(["prepare-data", "--dataset", tmp_path / "stories.jsonl"])
        assert seen.code == 2
        assert seen.cursor_shown
        bar, error, hint = seen.lines[-4:-1]
        assert "train a vocabulary of 4,096" in bar
        assert error.startswith("error: ")
        assert hint.startswith("hint: ")


def printed(table: Table, width: int) -> list[str]:
    """Return the lines of a table on a console of some width."""
    stream = io.StringIO()
    Console(file=stream, width=width, soft_wrap=True).print(table)
    return stream.getvalue().splitlines()


def columns_of(lines: list[str]) -> list[str]:
    """Return the text of each column, all lines of it joined, without white space."""
    rows = [re.split("[│┃]", line)[1:-1] for line in lines if line[0] in "│┃"]
    return ["".join("".join(column).split()) for column in zip(*rows, strict=True)]


_words = st.text("abc0.-", min_size=1, max_size=14)
_cells = st.lists(_words, max_size=5).map(" ".join)


class TestTables:
    @given(
        rows=st.integers(1, 6).flatmap(
            lambda n: st.lists(st.lists(_cells, min_size=n, max_size=n), min_size=2, max_size=4)
        ),
        width=st.integers(40, 100),
    )
    @example(
        rows=[["arm", "bits per byte"], ["a-longer-name-of-an-arm" * 9, "0.9 ± 0.1"]], width=40
    )
    def test_nothing_is_cut_off_and_words_break_only_where_they_must(
        self, rows: list[list[str]], width: int
    ) -> None:
        heads, *body = rows
        table = Table(*heads)
        for row in body:
            table.add_row(*map(Text, row))
        lines = printed(table, width)
        assert max(map(len, lines)) <= width
        columns = list(zip(*rows, strict=True))
        assert columns_of(lines) == ["".join("".join(column).split()) for column in columns]
        longest = [max((len(w) for cell in c for w in cell.split()), default=0) for c in columns]
        if sum(longest) + 3 * len(columns) + 1 <= width:
            shown = {word for line in lines for word in re.split(r"[│┃\s]+", line)}
            assert {word for row in rows for cell in row for word in cell.split()} <= shown

    def test_a_table_is_no_wider_than_it_has_to_be(self) -> None:
        table = Table("a", "b")
        table.add_row("one", "two three")
        assert {len(line) for line in printed(table, 100)} == {len("│ one │ two three │")}

    @pytest.mark.parametrize(
        ("columns", "least", "most"),
        [(None, 60, 80), ("0", 60, 80), ("wide", 60, 80), ("120", 81, 120), ("50", 30, 50)],
    )
    def test_in_a_pipe_they_are_80_columns_wide_unless_told(
        self, columns: str | None, least: int, most: int
    ) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
        environment |= {"COLUMNS": columns} if columns is not None else {}
        done = subprocess.run(
            [sys.executable, "-m", "tinyohem_cli", "recipes", "list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert least <= max(map(len, done.stdout.splitlines())) <= most
        assert "…" not in done.stdout
        assert "label the less it weighs" in " ".join(done.stdout.split())

    def test_all_commands_keep_to_the_width(
        self,
        corpus: Path,
        finished_run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        tinyohem: tiny.Command,
    ) -> None:
        monkeypatch.setattr(console.out, "width", 80)
        monkeypatch.chdir(finished_run.parent)
        name = finished_run.name
        scores = ["--dataset", corpus, "--out", tmp_path / "scores", "--workers", 1]
        for command in (
            ["eval-perplexity", name, "--by", "loss,difficulty", "--calibration"],
            ["mine", name, "--out", tmp_path / "pool"],
            ["score-difficulty", *scores, "--model", name, "--tokenizer", name],
            ["prepare-data", "--dataset", corpus, "--set", "tokenizer.vocab_size=320"],
            ["recipes", "list"],
        ):
            result = tinyohem(*command)
            assert result.code == 0, result.err
            rows = [line for line in result.out.splitlines() if line[:1] in "┏┃┡│└"]
            assert {len(line) for line in rows if len(line) > 80} == set(), result.out
            openings = "opening" in result.out
            assert ("…" in result.out) == openings, result.out
