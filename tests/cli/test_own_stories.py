"""A run without --dataset is scored, inspected and mined on its own stories, or not at all."""

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import tiny

from tinyohem.data.corpus import absolute_name
from tinyohem.data.sample.stories import sample_stories

SCORING = (("eval-perplexity",), ("inspect", "--story", "0"))


@pytest.fixture
def run(tinyohem: tiny.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of two files that were named relative to where it began."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tiny.write_stories(Path("train.jsonl"), islice(sample_stories("train"), 60))
    tiny.write_stories(Path("valid.jsonl"), islice(sample_stories("validation"), 8))
    given = {"data__valid": "valid.jsonl", "training__steps": 3}
    assert tinyohem("train", *tiny.flags(Path("train.jsonl"), **given), "--out", "run").code == 0
    return Path("run").absolute()


def _shrink(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("command", SCORING)
@pytest.mark.parametrize("of", ["", "checkpoints/latest"])
def test_changed_validation_stories_are_refused(
    tinyohem: tiny.Command, run: Path, command: tuple[str, ...], of: str
) -> None:
    _shrink(Path("valid.jsonl"))
    before = (run / "eval.json").read_bytes()
    outcome = tinyohem(command[0], run / of, *command[1:])
    assert outcome.code == 2
    assert f"the validation stories of {run / of} have changed since" in outcome.err
    assert "--dataset" in outcome.err
    assert (run / "eval.json").read_bytes() == before
    assert tinyohem(command[0], run / of, *command[1:], "--dataset", "valid.jsonl").code == 0


@pytest.mark.parametrize("command", SCORING)
def test_validation_stories_are_found_from_elsewhere_and_need_no_training_file(
    tinyohem: tiny.Command, run: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Another file of the same name there is not the run's."""
    expected = tinyohem(*command, run, "--json").out
    Path("train.jsonl").unlink()
    elsewhere = run.parent.with_name("elsewhere")
    elsewhere.mkdir()
    tiny.write_stories(elsewhere / "valid.jsonl", islice(sample_stories("validation"), 2))
    monkeypatch.chdir(elsewhere)
    outcome = tinyohem(*command, run, "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == json.loads(expected)


def test_held_out_stories_need_the_file_that_they_stand_in(
    tinyohem: tiny.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.write_stories(Path("all.jsonl"), islice(sample_stories("train"), 60))
    flags = tiny.flags(Path("all.jsonl"), training__steps=2)
    assert tinyohem("train", *flags, "--out", "run").code == 0
    assert tinyohem("eval-perplexity", "run").code == 0
    shutil.move("all.jsonl", "moved.jsonl")
    outcome = tinyohem("eval-perplexity", "run")
    assert outcome.code == 2
    assert f"there is no file or folder {tmp_path / 'all.jsonl'}" in outcome.err
    assert "--dataset" in outcome.err


def test_mine_refuses_training_stories_that_have_changed(
    tinyohem: tiny.Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)  # no stories here
    assert tinyohem("mine", run, "--out", "../pool").code == 0
    _shrink(run.parent / "train.jsonl")
    outcome = tinyohem("mine", run, "--out", "../other")
    assert outcome.code == 2
    assert f"the training stories of {run} have changed since" in outcome.err
    assert not (run.parent / "other").exists()


def test_a_run_goes_on_where_its_stories_have_moved(
    tinyohem: tiny.Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names may change, stories may not."""
    there = run.parent.with_name("there")
    shutil.move(run.parent, there)
    monkeypatch.chdir(there)
    given = {"data__valid": "valid.jsonl", "training__steps": 3}
    resume = ("train", *tiny.flags(Path("train.jsonl"), **given), "--out", "run", "--resume")
    assert tinyohem(*resume, "must").code == 0
    assert tinyohem("eval-perplexity", "run").code == 0
    _shrink(Path("valid.jsonl"))
    outcome = tinyohem(*resume, "must")
    assert outcome.code == 2
    assert "the valid split has changed" in outcome.err


def test_the_record_names_files_absolutely_and_nothing_else(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads((run / "config.json").read_text())["config"]["data"]
    assert data["dataset"] == str(run.parent / "train.jsonl")
    assert data["valid"] == str(run.parent / "valid.jsonl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("sample", "roneneldan/TinyStories", "s3://bucket/a.jsonl", "/etc/a.txt"):
        assert absolute_name(name) == name
    for name in ("folder", "part*.jsonl", "a/b/c", "./x", "gone.txt"):
        assert absolute_name(name) == f"{tmp_path}/{name}"
    assert absolute_name("~/a.txt") == str(Path.home() / "a.txt")
