"""The five calls do what the commands do, with the same files."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import tinyohem
from tinyohem.api import TrainedRun
from tinyohem.errors import InputError
from tinyohem.io.json import read_json

SETTINGS = {**tiny.RECIPE, "ohem.ratio": 0.5}


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return tinyohem.train(str(corpus), SETTINGS, out=tmp_path_factory.mktemp("api") / "run")


def test_train_leaves_what_the_command_leaves(
    run: TrainedRun,
    corpus: Path,
    tmp_path: Path,
    tinyohem: tiny.Command,
) -> None:
    done = tinyohem(
        *("train", *tiny.flags(corpus, ohem__ratio=0.5)),
        *("--set", "ohem.ratio=0.5", "--out", tmp_path / "typed"),
    )
    assert done.code == 0
    typed = tmp_path / "typed"
    assert run.evaluation == read_json(typed / "eval.json")
    weights = "model/model.safetensors"
    assert (run.folder / weights).read_bytes() == (typed / weights).read_bytes()


def test_a_run_is_read_back_whole(run: TrainedRun) -> None:
    again = tinyohem.load_run(run.folder)
    assert again == run
    assert again.record.config["ohem"]["ratio"] == 0.5
    assert [row["step"] for row in again.log if "train/loss" in row] == list(range(2, 21, 2))
    assert again.load("cpu").model.num_parameters() == again.record.num_parameters


def test_evaluate_gives_the_figures_of_the_run(run: TrainedRun) -> None:
    perplexity = tinyohem.evaluate(run.folder)
    assert perplexity.to_json() == run.evaluation


def test_score_difficulty_gives_the_table(corpus: Path, tmp_path: Path) -> None:
    table = tinyohem.score_difficulty(str(corpus), tmp_path / "scores")
    assert (tmp_path / "scores" / "scores.parquet").exists()
    assert table.difficulty("flesch").shape == (table.stories,)


@pytest.mark.usefixtures("one_process")
def test_compare_gives_a_row_an_arm(corpus: Path, tmp_path: Path) -> None:
    arms = {"full": {"ohem.ratio": 1.0}, "half": {"ohem.ratio": 0.5}}
    rows = tinyohem.compare(arms, str(corpus), tiny.RECIPE, seeds=[3, 5], out=tmp_path, workers=1)
    assert [row.arm for row in rows] == ["full", "half"]
    assert sorted(path.name for path in tmp_path.glob("*-*")) == [
        *("full-seed3", "full-seed5", "half-seed3", "half-seed5")
    ]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        tinyohem.load_run(tmp_path)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, tinyohem; print('torch' in sys.modules, *dir(tinyohem))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    names = "OhemLoss __version__ compare evaluate load_run score_difficulty train"
    assert printed.split() == ["False", *names.split()]
    assert tinyohem.OhemLoss.__name__ == "OhemLoss"
    with pytest.raises(AttributeError):
        tinyohem.no_such_name  # noqa: B018
