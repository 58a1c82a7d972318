"""`runs list` tells of every run what its small files say."""

import json
import re
import shlex
import shutil
from itertools import islice
from pathlib import Path

import pytest
import tiny

from tinyohem.data.sample.stories import sample_stories
from tinyohem.io.locks import sole_writer
from tinyohem.runs.settings import labels
from tinyohem.training.loop import train


@pytest.fixture(scope="module")
def folder(finished_run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, one that stopped and mines, one whose record is damaged, and a comparison's
    run in a folder below."""
    folder = tmp_path_factory.mktemp("listed")
    shutil.copytree(finished_run, folder / "finished")
    shutil.copytree(finished_run, folder / "comparison" / "full-seed0")
    shutil.copytree(finished_run, folder / "damaged")
    (folder / "damaged" / "config.json").write_text("{")
    mined = tiny.config(corpus, ohem__ratio=0.5, training__stop_at_step=7)
    train(mined, folder / "stopped")
    return folder


def listed(tinyohem: tiny.Command, folder: Path) -> dict[str, dict[str, object]]:
    done = tinyohem("runs", "list", folder, "--json")
    assert done.code == 0
    runs = json.loads(done.out)["runs"]
    return {str(Path(run["folder"]).relative_to(folder)): run for run in runs}


def test_every_run_is_listed_with_its_state(tinyohem: tiny.Command, folder: Path) -> None:
    runs = listed(tinyohem, folder)
    assert {name: run["state"] for name, run in runs.items()} == {
        "comparison/full-seed0": "finished",
        "damaged": "damaged",
        "finished": "finished",
        "stopped": "stopped",
    }
    evaluation = json.loads((folder / "finished" / "eval.json").read_text())
    assert runs["finished"]["bits_per_byte"] == evaluation["bits_per_byte"]
    assert (runs["finished"]["steps"], runs["finished"]["tokens"]) == (20, 20 * 4 * 32)
    stopped = runs["stopped"]
    assert (stopped["steps"], stopped["num_steps"]) == (7, 20)
    assert stopped["settings"]["ohem.ratio"] == 0.5
    assert runs["damaged"]["settings"] is None
    assert stopped["bits_per_byte"] is None


def test_a_run_that_another_process_writes_is_running(tinyohem: tiny.Command, folder: Path) -> None:
    with sole_writer(folder / "stopped"):
        assert listed(tinyohem, folder)["stopped"]["state"] == "running"
    assert listed(tinyohem, folder)["stopped"]["state"] == "stopped"


def test_the_table_names_every_run(tinyohem: tiny.Command, folder: Path) -> None:
    shown = tinyohem("runs", "list", folder).out
    assert all(name in shown for name in ("finished", "damaged", "stopped", "7 of 20"))


def test_an_empty_folder_and_none(tinyohem: tiny.Command, tmp_path: Path) -> None:
    assert tinyohem("runs", "list", tmp_path).code == 0
    done = tinyohem("runs", "list", tmp_path / "none")
    assert done.code == 2
    assert "there is no folder" in done.err


def test_figures_of_a_part_are_marked_until_all_stories_are_scored(
    tinyohem: tiny.Command, corpus: Path, tmp_path: Path
) -> None:
    """A short run scores the head of its validation stories; the list and the report say what to
    run."""
    valid = tiny.write_stories(tmp_path / "valid.jsonl", islice(sample_stories("validation"), 60))
    out = tmp_path / "runs"
    for name in ("one", "two"):
        flags = tiny.flags(corpus / "train.jsonl", data__valid=str(valid))
        assert tinyohem("train", *flags, "--out", out / name).code == 0
    assert tinyohem("eval-perplexity", out / "two").code == 0
    runs = listed(tinyohem, out)
    assert [runs[name]["scored_in_part"] for name in ("one", "two")] == [True, False]
    scored = runs["one"]["scored_stories"]
    assert scored == json.loads((out / "one" / "eval.json").read_text())["stories"]
    assert 0 < scored < runs["one"]["validation_stories"] == 60
    assert runs["two"]["scored_stories"] == 60

    command = f"tinyohem eval-perplexity {out / 'one'}"
    done = tinyohem("runs", "list", out)
    assert f"{scored} of 60" in done.out
    assert "all 60" in done.out
    assert done.err.strip().endswith(f"all stories: {command}")
    report = ("report", out / "one", out / "two", "--out", tmp_path / "report.html")
    assert f"To score all stories: {command}" in tinyohem(*report).err

    assert tinyohem(*shlex.split(command)[1:]).code == 0
    assert not listed(tinyohem, out)["one"]["scored_in_part"]
    assert "eval-perplexity" not in tinyohem("runs", "list", out).err
    assert "eval-perplexity" not in tinyohem(*report).err


def test_runs_validated_on_other_stories_are_told_apart(
    tinyohem: tiny.Command, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    other = tiny.write_stories(tmp_path / "other.jsonl", islice(sample_stories("validation"), 5))
    valid = {"b": str(other), "a": str(corpus / "valid.jsonl"), "c": str(other)}
    for name, stories in valid.items():
        flags = tiny.flags(corpus / "train.jsonl", data__valid=stories, training__steps=2)
        assert tinyohem("train", *flags, "--out", out / name).code == 0
        if name == "b":
            alone = tinyohem("runs", "list", out)
            assert "validated on" not in alone.out + alone.err
    done = tinyohem("runs", "list", out)
    assert re.findall(r"/([abc]) .* set (\d)", done.out) == [("a", "1"), ("b", "2"), ("c", "2")]
    assert "figures compare only among runs that were validated on the same set" in done.err
    same = {name: run["validated_on"] for name, run in listed(tinyohem, out).items()}
    assert same["b"] == same["c"] != same["a"]


def test_a_path_in_a_label_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = (f"{tmp_path}/a.jsonl", "/elsewhere/b.jsonl")
    assert labels({"data.dataset": name} for name in names) == [
        "data.dataset=a.jsonl",
        "data.dataset=/elsewhere/b.jsonl",
    ]


def test_runs_that_were_made_in_different_ways_are_told_apart(
    tinyohem: tiny.Command, corpus: Path, tmp_path: Path
) -> None:
    """Two selections at one ratio look the same by their ratio; licence and log change nothing."""
    out = tmp_path / "runs"
    ways: dict[str, dict[str, object]] = {
        "full": {},
        "topk": {"ohem__ratio": 0.5},
        "random": {"ohem__ratio": 0.5, "ohem__select": "random"},
        "again": {"ohem__ratio": 0.5, "training__seed": 3, "data__licence": "mit"},
    }
    for name, way in ways.items():
        train(tiny.config(corpus, training__stop_at_step=1, **way), out / name)
    done = tinyohem("runs", "list", out)
    _, _, apart = done.out.partition("settings that differ")
    rows = [line.split(None, 1) for line in apart.split("\n")[1:5]]
    assert {Path(folder).name: way.strip() for folder, way in rows} == {
        "full": "–",
        "topk": "ohem.ratio=0.5",
        "random": "ohem.ratio=0.5 ohem.select=random",
        "again": "training.seed=3 ohem.ratio=0.5",
    }
    shutil.rmtree(out / "again")
    shutil.rmtree(out / "random")
    shutil.rmtree(out / "topk")
    assert "settings that differ" not in tinyohem("runs", "list", out).out
