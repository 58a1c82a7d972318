"""Names that are not UTF-8, in whole commands and on terminals of other encodings."""

import io
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pyarrow.parquet as pq
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from tinyohem.data.sample.stories import sample_stories
from tinyohem.experiments.folder import RunResult, write_runs
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import append_line, read_json, read_jsonl, write_json
from tinyohem.io.manifest import check_record
from tinyohem.io.names import shown, utf8_path
from tinyohem_cli import console, main

ODD = os.fsdecode(b"caf\xe9")


class Links(HTMLParser):
    """The addresses that a page links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and a finished run, all with names that are not UTF-8."""
    from tinyohem.training.loop import train

    folder = tmp_path_factory.mktemp("names") / ODD
    folder.mkdir()
    corpus = tiny.write_stories(folder / f"{ODD}.jsonl", islice(sample_stories("train"), 60))
    train(tiny.config(corpus, training__steps=2), folder / f"{ODD}-run")
    return folder


class TestNames:
    def train(self, tinyohem: tiny.Command, corpus: Path, out: Path, *flags: object) -> Any:
        """Train to the second step and return what is printed as JSON."""
        shape = [f for f in tiny.flags(corpus, training__steps=2) if "data.dataset" not in f]
        result = tinyohem("train", "--dataset", corpus, *shape, "--out", out, "--json", *flags)
        assert result.code == 0, result.err
        return json.loads(result.out)

    def test_the_record_of_a_run_keeps_a_name_that_is_not_utf8(self, folder: Path) -> None:
        run = folder / f"{ODD}-run"
        assert b"caf\\udce9.jsonl" in (run / "config.json").read_bytes()
        (run / "config.json").read_text(encoding="utf-8")
        assert read_json(run / "config.json")["config"]["data"]["dataset"].endswith(f"{ODD}.jsonl")

    def test_a_run_is_scored_continued_and_inspected(
        self, folder: Path, tinyohem: tiny.Command
    ) -> None:
        run, page = folder / f"{ODD}-run", folder / f"{ODD}.html"
        figures = json.loads((run / "eval.json").read_bytes())
        result = tinyohem("eval-perplexity", run, "--device", "cpu", "--json")
        assert json.loads(result.out)["loss"] == pytest.approx(figures["loss"], rel=1e-6)
        assert tinyohem("generate", run, "--prompt", "Once").out.startswith("Once")
        result = tinyohem("inspect", run, "--story", 0, "--html", page)
        assert result.code == 0, result.err
        page.read_text(encoding="utf-8")

    def test_a_run_is_resumed_and_tuned(self, folder: Path, tinyohem: tiny.Command) -> None:
        run, corpus = folder / f"{ODD}-two", folder / f"{ODD}.jsonl"
        stop = "--set=training.stop_at_step=1"
        assert self.train(tinyohem, corpus, run, stop)["steps"] == 1
        resumed = self.train(tinyohem, corpus, run, "--resume", "must")
        assert (resumed["steps"], resumed["run"]) == (2, str(run))
        tuning = ("--init-from", run, "--dataset", corpus, "--steps", 1, "--device", "cpu")
        out = folder / f"{ODD}-tuned"
        result = tinyohem("train", *tuning, "--set=training.seq_len=32", "--out", out)
        assert result.code == 0, result.err

    def test_scores_a_curriculum_and_a_pool_take_names_that_are_not_utf8(
        self, folder: Path, tinyohem: tiny.Command
    ) -> None:
        run, corpus, scores = (folder / f"{ODD}{end}" for end in ("-run", ".jsonl", "-scores"))
        how = ("--workers", 1, "--tokenizer", run)
        result = tinyohem("score-difficulty", "--dataset", corpus, "--out", scores, *how)
        assert result.code == 0, result.err
        assert read_json(scores / "manifest.json")["corpus"]["name"] == str(corpus)
        assert tinyohem("score-difficulty", "--show", scores).code == 0
        assign = f"--set=curriculum.scores={scores}"
        self.train(tinyohem, corpus, folder / f"{ODD}-easy", "--curriculum", assign)
        result = tinyohem("mine", run, "--out", folder / f"{ODD}-pool", "--device", "cpu")
        assert result.code == 0, result.err

    def test_a_table_of_runs_shows_the_name(self, tmp_path: Path) -> None:
        run = {"arm": "full", "loss": 1.5, "config": {"data": {"dataset": f"{ODD}.jsonl"}}}
        write_runs(tmp_path, [check_record({**run, "environment": {}}, RunResult)])
        [row] = pq.read_table(tmp_path / "runs.parquet").to_pylist()
        assert row == run | {"config": {"data": {"dataset": "caf\\xe9.jsonl"}}}

    def test_reports_are_utf8_and_their_links_lead_to_the_figures(
        self, folder: Path, tinyohem: tiny.Command
    ) -> None:
        page = folder / f"{ODD}-page.html"
        result = tinyohem("report", folder / f"{ODD}-run", "--out", page)
        assert result.code == 0, result.err
        targets = [unquote_to_bytes(link) for link in Links(page).found if link.endswith(".svg")]
        assert targets
        assert all(os.path.exists(os.fsencode(folder) + b"/" + target) for target in targets)

    def test_a_name_that_leads_nowhere_is_named(self, folder: Path, tinyohem: tiny.Command) -> None:
        result = tinyohem("prepare-data", "--dataset", folder / f"no-{ODD}.jsonl")
        assert result.code == 2
        assert "no-caf\\xe9.jsonl" in result.err

    def test_the_library_sees_a_link_that_is_utf8(self, folder: Path, tmp_path: Path) -> None:
        link = utf8_path(folder / "new")
        str(link).encode()
        link.write_text("written through it")
        assert (folder / "new").read_text() == "written through it"
        assert utf8_path(folder / "new") == link
        assert utf8_path(tmp_path) == tmp_path


@given(st.binary().map(os.fsdecode))
def test_json_gives_every_name_back(name: str) -> None:
    path = Path(os.environ["TINYOHEM_DATA"]) / "name.json"
    value = {"name": name, name: [name]}
    write_json(path, value)
    path.read_text(encoding="utf-8")
    assert read_json(path) == value
    with path.open("wb") as stream:
        append_line(stream, value)
    assert read_jsonl(path) == [value]
    assert len(hash_json(value)) == 64


@given(st.text(st.characters()))
def test_whatever_is_shown_can_be_written(text: str) -> None:
    shown(text).encode()
    assert shown(text) == text or any("\ud800" <= c <= "\udfff" for c in text)


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"a b'\xff0", b"$(x)\xe9\n;", "café".encode(), b"it's"]
)
def test_a_quoted_word_is_that_name_in_a_shell(name: bytes) -> None:
    command = f"printf %s {console.quote(os.fsdecode(name))}"
    assert subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout == name


class Screen:
    """A stand-in for stdout and stderr in another encoding."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._raw, self._encoding = io.BytesIO(), encoding
        for name in ("stdout", "stderr"):
            stream = io.TextIOWrapper(self._raw, encoding=encoding, write_through=True)
            monkeypatch.setattr(sys, name, stream)
        console.take_any_text()

    def read(self, encoding: str | None = None) -> str:
        return self._raw.getvalue().decode(encoding or self._encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
class TestTerminals:
    def test_every_text_and_table_comes_out(
        self, encoding: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        screen = Screen(encoding, monkeypatch)
        table = Table("a", title="Zoë …")
        table.add_row("日本 █ × – \udce9")
        console.out.print(table, "─")
        console.err.print("end")
        assert "\\xe9" in screen.read()
        assert screen.read().endswith("end\n")

    def test_every_sign_that_we_print_has_an_ascii_spelling(
        self, encoding: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        screen = Screen(encoding, monkeypatch)
        console.out.print("2 × 3 – 4…")
        spelled = screen.read().replace("×", "x").replace("–", "-").replace("…", "...")
        assert spelled == "2 x 3 - 4...\n"

    def test_json_is_json_in_utf8(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        screen, value = Screen(encoding, monkeypatch), {"story": "Zoë 🐈", "name": ODD}
        console.print_json(value)
        assert json.loads(screen.read("utf-8")) == value

    def test_a_progress_bar_is_drawn_in_every_encoding(
        self, encoding: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        screen = Screen(encoding, monkeypatch)
        monkeypatch.setattr(console.err, "_force_terminal", True)
        progress = console.ConsoleProgress()
        progress.start("read café", 2, "files")
        progress.advance(2, {"loss": 1.0})
        progress.finish()
        progress.warn(f"{ODD}: …")
        assert "2/2" in screen.read()
        assert "caf\\xe9: " in screen.read()

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["train", "--help"], 0),
            (["recipes", "list"], 0),
            (["train", "--dataset", f"{ODD}…/x.txt"], 2),
        ],
    )
    def test_commands_exit_with_their_code_in_every_encoding(
        self, encoding: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
    ) -> None:
        screen = Screen(encoding, monkeypatch)
        monkeypatch.setattr(sys, "argv", ["tinyohem", *arguments])
        assert main._run() == code
        assert "Traceback" not in screen.read()
        assert len(screen.read()) > 40
