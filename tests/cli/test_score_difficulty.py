import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tinyohem.errors import InputError
from tinyohem_cli.score_difficulty import score_difficulty

app = typer.Typer()
app.command()(score_difficulty)


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.jsonl"
    texts = [f"Tom saw {n} cats. [bold]He ran[/bold] home." * (n + 1) for n in range(30)]
    path.write_text("\n".join(json.dumps({"story": text}) for text in texts))
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_scores_and_shows_the_same_report(stories: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    scored = run(
        *("--dataset", stories, "--text-field", "story", "--out", out, "--workers", 1),
        *("--length-control", "prefix", "--mtld-min-segment", 10),
    )
    assert scored.exit_code == 0, scored.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stories"] == 30
    assert manifest["rules"]["compression"]["length_control"] == "prefix"
    assert manifest["rules"]["mtld"]["min_segment"] == 10
    assert "[bold]He ran[/bold]" in scored.stdout
    shown = run("--show", out)
    assert shown.exit_code == 0
    assert shown.stdout == scored.stdout
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--length-control", "none"),
        ("--mtld-closing", "at"),
        ("--mtld-threshold", "1.5"),
        ("--workers", "0"),
        ("--show", "nowhere"),
    ],
)
def test_wrong_options_are_input_errors(stories: Path, tmp_path: Path, wrong: tuple) -> None:
    result = run("--dataset", stories, "--text-field", "story", "--out", tmp_path / "s", *wrong)
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "s" / "manifest.json").exists()
