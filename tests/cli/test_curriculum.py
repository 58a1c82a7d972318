"""From scores to a run in their order, through the real command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from tinyohem.data.corpus import open_corpus
from tinyohem.data.prepare import prepare_data
from tinyohem.data.windows import plan_windows
from tinyohem.difficulty.curriculum import load_plan
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import open_scores
from tinyohem.evaluation.story_metrics import add_model_loss
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import read_json, write_json
from tinyohem.io.manifest import read_sealed
from tinyohem.models.source import load_source


@pytest.fixture(scope="module")
def scores(corpus: Path, finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of the training split, with a model's loss. Read them, do not write there."""
    opened = open_corpus(str(corpus))
    table = score_corpus(opened, tmp_path_factory.mktemp("scores") / "scores", workers=1)
    source = load_source(str(finished_run), "cpu")
    return add_model_loss(table, opened, source, str(finished_run)).folder


def by_model_loss(
    corpus: Path,
    scores: Path,
    *more: object,
    metric: str = "model_loss",
    pacing: str = "sorted",
) -> list[object]:
    """Return the arguments of a run in the order of the model's loss."""
    recipe = tiny.flags(corpus, curriculum__enabled=True, curriculum__scores=str(scores))
    return ["train", *recipe, "--curriculum-metric", metric, "--pacing", pacing, *more]


def test_a_run_goes_from_what_a_model_finds_easy_to_what_it_finds_hard(
    corpus: Path, scores: Path, tinyohem: tiny.Command
) -> None:
    outlined = tinyohem(*by_model_loss(corpus, scores, "--dry-run", "--json"))
    assert outlined.code == 0
    outline = json.loads(outlined.out)
    assert f"curriculum: sorted by model_loss, plan {outline['plan_hash'][:16]}" in outlined.err

    config = tiny.config(corpus)
    data = prepare_data(config.data, config.tokenizer)
    percentile = open_scores(scores).percentile("model_loss")
    of_token = np.repeat(percentile[data.train.rows], np.diff(data.train.offsets))
    windows = len(of_token) // 32
    mean = of_token[: windows * 32].reshape(windows, 32).mean(axis=1)
    texts = [data.tokenizer.decode(ids) for ids in data.train.ids[: windows * 32].reshape(-1, 32)]
    shown = [*outline["first_windows"], *outline["last_windows"]]
    difficulty = [mean[texts.index(text)] for text in shown]
    assert difficulty == sorted(difficulty)
    assert difficulty[0] == min(mean[texts.index(text)] for text in shown)

    printed = tinyohem(*by_model_loss(corpus, scores, "--dry-run"))
    assert outline["curriculum"] == "sorted by model_loss: easiest first"
    assert f"curriculum: {outline['curriculum']}\n" in printed.out
    assert f"curriculum plan {outline['plan_hash']}" in printed.out
    assert "tokens kept" not in printed.out  # where it is all of them throughout
    first = " ".join(outline["first_windows"][0].split())[:50]
    assert f"first: {first}" in printed.out


def test_a_warmup_is_outlined_with_its_limit_and_its_last_step(
    corpus: Path, scores: Path, tinyohem: tiny.Command
) -> None:
    recipe = by_model_loss(corpus, scores, "--ohem-ratio=0.5", "--dry-run", pacing="warmup")
    outline = json.loads(tinyohem(*recipe, "--json").out)
    config = tiny.config(corpus)
    data = prepare_data(config.data, config.tokenizer)
    percentile = open_scores(scores).percentile("model_loss")
    of_token = np.repeat(percentile[data.train.rows], np.diff(data.train.offsets))
    drawn = plan_windows(data.train, 32, seed=0).windows(0, 20 * 4)
    difficulty = np.sort([of_token[w * 32 : w * 32 + 32].mean() for w in drawn])
    assert outline["curriculum"] == (
        f"warmup by model_loss: the easiest 20% of windows (difficulty up to {difficulty[15]:.1f} "
        "of 100) until step 4, then the others"
    )
    assert "tokens kept" in tinyohem(*recipe).out


def test_the_plan_is_saved_and_resumed_and_a_replaced_table_is_refused(
    corpus: Path, scores: Path, finished_run: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    folder, run_dir = tmp_path / "scores", tmp_path / "run"
    shutil.copytree(scores, folder)
    command = by_model_loss(corpus, folder, "--out", run_dir, "--resume", "auto")
    assert tinyohem(*command, "--set", "training.stop_at_step=5").code == 0
    saved = tiny.snapshot(run_dir / "plan")
    plan = load_plan(run_dir / "plan")
    assert read_json(run_dir / "config.json")["plan"] == plan.hash
    assert plan.origin.weights == {"model_loss": 1.0}

    shutil.rmtree(folder)
    table = score_corpus(open_corpus(str(corpus)), folder, workers=1)
    older = load_source(str(finished_run / "checkpoints" / "step_000015"), "cpu")
    add_model_loss(table, open_corpus(str(corpus)), older, "older")
    refused = tinyohem(*command)
    assert refused.code == 2
    assert f"holds the plan {plan.hash[:16]}, this config gives" in refused.err

    shutil.rmtree(folder)
    shutil.copytree(scores, folder)
    assert tinyohem(*command).code == 0
    assert tiny.snapshot(run_dir / "plan") == saved


class TestScoresThatDoNotFit:
    def refused(self, tinyohem: tiny.Command, *command: object) -> str:
        result = tinyohem(*command, "--dry-run")
        assert (result.code, result.out) == (2, "")
        assert "Traceback" not in result.err
        return result.err

    def test_of_another_corpus(
        self, corpus: Path, tmp_path: Path, scores: Path, tinyohem: tiny.Command
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(corpus, other)
        with (other / "train.jsonl").open("a") as stream:
            stream.write('{"text": "One more."}\n')
        error = self.refused(tinyohem, *by_model_loss(other, scores))
        assert f"error: {scores} holds scores of another corpus, {corpus} (train)" in error
        assert "hint: score the corpus again, into another folder" in error

    def test_with_missing_rows(
        self, corpus: Path, tmp_path: Path, scores: Path, tinyohem: tiny.Command
    ) -> None:
        folder = tmp_path / "scores"
        shutil.copytree(scores, folder)
        path = folder / "scores.parquet"
        pq.write_table(pq.read_table(path).slice(0, 117), path)
        changed = {"stories": 117, "scores_sha256": hash_file(path)}
        write_json(folder / "manifest.json", read_sealed(folder / "manifest.json") | changed)
        error = self.refused(tinyohem, *by_model_loss(corpus, folder))
        assert f"error: {folder} lacks scores of 3 stories, the first at row 117" in error

    def test_without_the_metric(self, corpus: Path, scores: Path, tinyohem: tiny.Command) -> None:
        command = by_model_loss(corpus, scores, metric="fertility")
        error = self.refused(tinyohem, *command)
        assert "error: the score table has no metric 'fertility'" in error
        assert "hint: it has compression_ratio, mtld, flesch, length, model_loss;" in error

    def test_a_metric_that_scoring_on_the_way_cannot_yield(
        self, corpus: Path, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tinyohem.difficulty.score_corpus.score_corpus", lambda *_, **__: 1 / 0)
        recipe = tiny.flags(corpus, curriculum__enabled=True)
        error = self.refused(tinyohem, "train", *recipe, "--curriculum-metric", "mtld,model_loss")
        assert "error: scoring the corpus yields no metric 'model_loss'" in error
        assert "--set curriculum.scores=FOLDER" in error
