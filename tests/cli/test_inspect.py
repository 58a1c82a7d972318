"""`tinyohem inspect`: what a person sees in a terminal and in a file, and what scripts read."""

import io
import json
import re
from pathlib import Path

import pytest
import tiny
from rich.console import Console

from tinyohem.data.corpus import open_corpus

ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")


@pytest.fixture
def story(corpus: Path) -> str:
    return [story.text for story in open_corpus(str(corpus), "validation").stories()][2]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Stand in for a terminal of 60 columns with every colour."""
    screen = io.StringIO()
    console = Console(
        file=screen, force_terminal=True, color_system="truecolor", width=60, highlight=False
    )
    monkeypatch.setattr("tinyohem_cli.console.out", console)
    return screen


def test_json_holds_the_story_and_marks_the_kept_tokens(
    tinyohem: tiny.Command, finished_run: Path, story: str
) -> None:
    result = tinyohem("inspect", finished_run, "--story", 2, "--ratio", 0.25, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert "".join(token["text"] for token in found["tokens"]) == story
    assert set(found["tokens"][0]) == {"text", "loss", "kept"}
    assert sum(token["kept"] for token in found["tokens"]) == found["num_kept"]
    assert found["num_kept"] == pytest.approx(found["num_tokens"] / 4, abs=1)


def test_a_file_holds_the_story_with_brackets(
    tinyohem: tiny.Command, finished_run: Path, story: str
) -> None:
    arguments = ("inspect", finished_run, "--text", story, "--ratio", 0.1)
    tokens = json.loads(tinyohem(*arguments, "--json").out)["tokens"]
    told = "".join(f"[{t['text']}]" if t["kept"] else t["text"] for t in tokens)
    result = tinyohem(*arguments)
    assert result.code == 0
    assert told in result.out
    assert "\x1b" not in result.out
    (kept,) = [line for line in result.out.splitlines() if line.startswith("kept at ratio 0.1: ")]
    assert kept.endswith("; [ ] = kept")


def test_a_terminal_shows_colours_and_underlines_what_is_kept(
    tinyohem: tiny.Command, finished_run: Path, story: str, terminal: io.StringIO
) -> None:
    assert tinyohem("inspect", finished_run, "--story", 2).code == 0
    shown = terminal.getvalue()
    plain = ESCAPE.sub("", shown)
    assert " ".join(story.split()) in " ".join(plain.split())
    assert max(map(len, plain[plain.index(story[:20]) :].splitlines())) <= 60
    body = shown[shown.index("\n\n") : shown.rindex("\n\n")]
    styles = [code for code in ESCAPE.findall(body) if code != "0"]
    assert styles
    # Both colours are always set, so that the terminal's own do not matter.
    assert all("38;2;0;0;0;48;2;" in code for code in styles)
    assert any(code.startswith("1;4;") for code in styles)
    assert any(not code.startswith("1;4;") for code in styles)
    assert "[ ] = kept" not in plain


def test_a_story_does_not_command_the_terminal(
    tinyohem: tiny.Command, finished_run: Path, terminal: io.StringIO
) -> None:
    assert tinyohem("inspect", finished_run, "--text", "One \x1b[2J[red]\x07 day").code == 0
    assert "\x1b[2J" not in terminal.getvalue()
    assert "One ␛[2J[red]␇ day" in ESCAPE.sub("", terminal.getvalue())


def test_a_second_model_is_compared_on_screen_in_json_and_on_the_page(
    tinyohem: tiny.Command, finished_run: Path, tmp_path: Path
) -> None:
    older = finished_run / "checkpoints" / "step_000015"
    page = tmp_path / "new" / "story.html"
    arguments = ("inspect", finished_run, "--story", 0, "--compare", older)
    result = tinyohem(*arguments, "--html", page)
    assert result.code == 0, result.err
    assert "step_000015 predicts better" in result.out
    assert "nats that step_000015 saves" in result.out
    assert re.search(r"┃ finished ┃ step_000015 ┃ token +┃", result.out)
    assert re.search(r"nats each .* under finished, against .* under step_000015", result.out)
    assert "nats that step_000015 saves" in page.read_text()
    assert f"{finished_run} against {older}, story 0 of " in page.read_text()
    found = json.loads(tinyohem(*arguments, "--json").out)
    total = sum(token["other_loss"] for token in found["tokens"])
    assert found["names"] == ["finished", "step_000015"]
    assert found["other_loss"] == pytest.approx(total / found["num_tokens"])


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ((), "inspect needs a story", "--text or --story"),
        (("--text", "x", "--story", 0), "--text and --story are two stories", "leave one out"),
        (("--story", 12), "holds no story 12", "count from 0"),
        (("--text", " \n"), "the text is empty", "at least one word"),
        (("--text", "x", "--ratio", 0), "--ratio 0 is no share", "above 0, at most 1"),
        (("--text", "x", "--ratio", 1.5), "--ratio 1.5 is no share", "above 0, at most 1"),
        (("--text", "x", "--ratio", "nan"), "--ratio nan is no share", "above 0, at most 1"),
        (("--story", 0, "--dataset", "gone.jsonl"), "no file or folder gone.jsonl", "path"),
        (("--text", "x", "--compare", "./gone"), "no file or folder ./gone", "run folder"),
    ],
)
def test_bad_usage_is_refused_with_a_hint(
    tinyohem: tiny.Command,
    finished_run: Path,
    arguments: tuple[object, ...],
    error: str,
    hint: str,
) -> None:
    result = tinyohem("inspect", finished_run, *arguments)
    assert (result.code, result.out) == (2, "")
    assert error in result.err
    assert re.search(rf"^hint: .*{re.escape(hint)}", result.err, re.MULTILINE)


def test_a_model_is_not_compared_with_itself(tinyohem: tiny.Command, finished_run: Path) -> None:
    result = tinyohem("inspect", finished_run, "--story", 0, "--compare", finished_run)
    assert (result.code, result.out) == (2, "")
    assert "is the same model" in result.err


def test_only_a_run_knows_its_stories(tinyohem: tiny.Command, finished_run: Path) -> None:
    result = tinyohem("inspect", finished_run / "model", "--story", 0)
    assert result.code == 2
    assert "no data set to score on" in result.err


def test_a_text_of_ones_own_comes_from_no_data_set(
    tinyohem: tiny.Command, finished_run: Path, corpus: Path
) -> None:
    result = tinyohem("inspect", finished_run, "--text", "Tom ran.", "--dataset", corpus)
    assert result.code == 2
    assert "leave out --dataset" in result.err
