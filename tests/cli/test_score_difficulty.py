import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import typer
from typer.testing import CliRunner

from tinyohem.data.sample.stories import sample_stories
from tinyohem.difficulty.score_table import open_scores
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
    assert re.search(r"^compression_ratio,", scored.stdout, re.MULTILINE)
    assert re.search(r"^of the first", scored.stdout, re.MULTILINE)
    assert len(scored.stdout.splitlines()) <= 50
    shown = run("--show", out)
    assert shown.exit_code == 0
    assert shown.stdout == scored.stdout
    assert (out / "report.html").exists()


def only_json(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_one_object_with_every_figure(
    stories: Path, tmp_path: Path, finished_run: Path, tinyohem: tiny.Command
) -> None:
    out = tmp_path / "scores"
    stories.write_text(stories.read_text() + '\n{"story": ""}\n{"story": "🎉"}')
    command = ("score-difficulty", "--dataset", stories, "--text-field", "story", "--out", out)
    scored = tinyohem(*command, "--workers", 1, "--json")
    assert scored.code == 0
    found = only_json(scored.out)
    assert found["stories"] == 32
    assert found["stories_per_second"] > 0
    assert found["corpus"]["name"] == str(stories)
    assert (found["flags"]["empty"], found["flags"]["no_words"]) == (1, 1)
    assert list(found["metrics"]) == ["compression_ratio", "mtld", "flesch", "length"]
    assert [Path(path).exists() for path in found["files"]] == [True] * 4
    table = open_scores(out)
    quantiles = found["metrics"]["flesch"]["quantiles"]
    ease = table.column("flesch_reading_ease")
    assert (quantiles["0"], quantiles["100"]) == (np.nanmax(ease), np.nanmin(ease))
    assert found["metrics"]["mtld"]["undefined"] == 2

    added = tinyohem(*command, "--tokenizer", finished_run, "--model", finished_run, "--json")
    assert added.code == 0
    assert f"reusing the scores in {out}" in added.err
    more = only_json(added.out)
    assert more["stories_per_second"] is None  # nothing was scored
    origin = more["metrics"]["model_loss"]["origin"]
    assert (origin["model"], origin["tokens_seen"]) == (str(finished_run), 20 * 4 * 32)
    assert more["correlations"]["fertility"]["fertility"] == pytest.approx(1)
    for metric, described in found["metrics"].items():
        assert more["metrics"][metric] == described
    assert only_json(tinyohem("score-difficulty", "--show", out, "--json").out) == more
    shown = tinyohem("score-difficulty", "--show", out).out
    assert re.search(r"model_loss +│ \d+ \(", shown)
    ends = more["examples"]["model_loss"]
    assert ends["easiest"][0]["value"] == more["metrics"]["model_loss"]["quantiles"]["0"]
    assert ends["hardest"][0]["value"] == more["metrics"]["model_loss"]["quantiles"]["100"]
    page = (out / "report.html").read_text()
    assert "Easiest and hardest by fertility" in page


def test_undefined_figures_are_null(tmp_path: Path, tinyohem: tiny.Command) -> None:
    path = tiny.write_stories(tmp_path / "a.jsonl", ["🎉", "..."])
    result = tinyohem("score-difficulty", "--dataset", path, "--out", tmp_path / "s", "--json")
    found = only_json(result.out)
    assert found["metrics"]["mtld"]["quantiles"]["50"] is None
    assert found["correlations"]["mtld"]["length"] is None


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Return a target: stories of the sample's own kind."""
    return tiny.write_stories(tmp_path / "good.jsonl", islice(sample_stories("validation"), 60))


def test_a_target_draws_its_line_and_shows_the_stories_beside_it(
    good: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    pool, out = tmp_path / "pool.jsonl", tmp_path / "scores"
    junk = [f"Returns item {n} of the array, see the notes on broadcasting." for n in range(40)]
    tiny.write_stories(pool, [*islice(sample_stories("train"), 200), *junk])
    command = ("score-difficulty", "--dataset", pool, "--target", good, "--out", out)
    scored = tinyohem(*command, "--workers", 1, "--json")
    assert scored.code == 0, scored.err
    found = only_json(scored.out)["target"]
    assert (found["name"], len(found["calibration"])) == (str(good), 9)  # 12 validate, 39 fit
    scores = open_scores(out).column("target_ngram")
    assert (scores[200:] > found["line"]).all()
    assert np.median(scores[:200]) < found["line"]
    assert len(found["passing"]) == len(found["failing"]) == 10
    assert max(story["value"] for story in found["passing"]) <= found["line"]
    assert min(story["value"] for story in found["failing"]) > found["line"]

    again = tinyohem(*command)
    assert f"reusing the scores in {out}" in again.err
    assert again.out == tinyohem("score-difficulty", "--show", out).out
    assert f"score up to {found['line']:.4g} nats per word" in " ".join(again.out.split())
    first, second = found["lines"]
    assert second == {"line": found["line"], "passed": int((scores <= found["line"]).sum())}
    told = f"{first['passed']:,} the first (line at {first['line']:.4g}), {second['passed']:,} the"
    assert told in " ".join(again.out.split())
    beside = again.out.partition("Beside the line of the target")[2]
    assert len(re.findall(r"^│ \d+ \(", beside, re.MULTILINE)) == 4
    assert len(again.out.splitlines()) <= 50
    page = (out / "report.html").read_text()
    assert "Stories beside the line of the target" in page
    assert f"line at {found['line']:.4g}: stories left of it pass" in page


def test_wrong_targets_are_input_errors(
    good: Path, stories: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    out = tmp_path / "scores"
    command = ("score-difficulty", "--dataset", "sample", "--out", out, "--workers", 1)
    few = tiny.write_stories(tmp_path / "few.jsonl", islice(sample_stories("validation"), 49))
    dots = tiny.write_stories(tmp_path / "dots.jsonl", ["." * n for n in range(1, 60)])
    for target, error in ((few, "49 distinct stories"), (dots, "0 distinct words")):
        found = tinyohem(*command, "--target", target)
        assert (found.code, error in found.err) == (2, True), found.err
        assert not (out / "manifest.json").exists()
    russian = tiny.write_stories(tmp_path / "ru.jsonl", [f"Жил кот {n}." for n in range(60)])
    command = ("score-difficulty", "--dataset", good, "--out", out, "--workers", 1)
    found = tinyohem(*command, "--target", russian)
    assert (found.code, "CYRILLIC letters" in found.err) == (2, True), found.err
    found = tinyohem(*command, "--target", good)
    assert (found.code, "scores by another target" in found.err) == (2, True), found.err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--length-control", "none"),
        ("--mtld-closing", "at"),
        ("--mtld-threshold", "1.5"),
        ("--workers", "0"),
        ("--show", "nowhere"),
        ("--tokenizer", "./nowhere"),
        ("--model", "./nowhere"),
    ],
)
def test_wrong_options_are_input_errors(stories: Path, tmp_path: Path, wrong: tuple) -> None:
    result = run("--dataset", stories, "--text-field", "story", "--out", tmp_path / "s", *wrong)
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "s" / "manifest.json").exists()
