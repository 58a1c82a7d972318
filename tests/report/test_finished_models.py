"""Scores of finished models: what they are, when they are kept, when they are made again."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from tinyohem.errors import InputError
from tinyohem.evaluation.diagnose import diagnose
from tinyohem.evaluation.open import open_evaluation
from tinyohem.io.json import write_json
from tinyohem.report import finished_models as report_scores
from tinyohem.report.finished_models import CACHE_FILE, score_runs
from tinyohem.report.run_logs import RunLog, read_input


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> RunLog:
    ignored = shutil.ignore_patterns("checkpoints", CACHE_FILE)
    shutil.copytree(finished_run, tmp_path / "run", ignore=ignored)
    return read_input([tmp_path / "run"]).runs[0]


def changed(run: RunLog, split: str) -> RunLog:
    """Return a run that says it was made with other stories."""
    path = run.folder / "config.json"
    record = json.loads(path.read_text())
    record[split]["ids_sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    return read_input([run.folder]).runs[0]


def test_groups_add_up_to_the_runs_own_evaluation(run: RunLog) -> None:
    scores = score_runs([run], tiny.Listener())
    assert run.evaluation is not None
    assert scores.missing == []
    assert set(scores.by) == {"loss", "frequency", "difficulty"}
    for of_run in scores.by.values():
        groups = of_run["run"]
        assert sum(group.tokens for group in groups) == run.evaluation.to_json()["tokens"]
        nats = sum(group.tokens * group.loss for group in groups)
        assert nats / run.evaluation.to_json()["tokens"] == pytest.approx(
            run.evaluation.loss, rel=1e-6
        )


def test_the_story_is_the_first_that_is_short_enough(run: RunLog, corpus: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(run.folder / "model"))
    texts = [json.loads(line)["text"] for line in (corpus / "valid.jsonl").open()]
    lengths = [len(tokenizer(text.strip())["input_ids"]) for text in texts]
    number = next((n for n, length in enumerate(lengths) if length <= 400), None)
    assert number is not None
    story = score_runs([run], tiny.Listener()).stories["run"]
    assert "".join(token.text for token in story.tokens) == texts[number].strip()
    assert story.title.startswith(f"Story {number} of ")
    assert story.num_tokens == lengths[number]
    assert story.ratio == 0.5  # the run keeps all


def test_a_second_report_reads_what_the_first_found(
    run: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score_runs([run], tiny.Listener())
    monkeypatch.setattr(report_scores, "open_evaluation", lambda *_, **__: pytest.fail("scored"))
    assert score_runs([run], tiny.Listener()) == first


def test_the_record_names_the_metric(run: RunLog) -> None:
    scores = score_runs([run], tiny.Listener())
    assert scores.metric == "flesch"
    assert json.loads((run.folder / CACHE_FILE).read_text())["difficulty_metric"] == "flesch"


@pytest.mark.parametrize("metric", ["mtld", "compression_ratio", "length"])
def test_groups_and_name_are_those_of_the_metric(
    run: RunLog, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier report kept by another metric is no longer read."""
    by_flesch = score_runs([run], tiny.Listener())
    monkeypatch.setattr(report_scores, "_METRIC", metric)
    scores = score_runs([run], tiny.Listener())
    assert scores.metric == metric
    evaluation = open_evaluation(str(run.folder))
    expected = diagnose(evaluation, by=["difficulty"], metric=metric).by["difficulty"]
    assert scores.by["difficulty"]["run"] == expected != by_flesch.by["difficulty"]["run"]
    assert scores.by["loss"] == by_flesch.by["loss"]


@pytest.mark.parametrize(
    "damage", ["other weights", "cut short", "other stories", "no metric", "older metrics"]
)
def test_outdated_scores_are_computed_again(
    run: RunLog, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    score_runs([run], tiny.Listener())
    cache = run.folder / CACHE_FILE
    if damage == "other weights":
        weights = run.folder / "model" / "model.safetensors"
        save_file({n: t + 0.01 for n, t in load_file(weights).items()}, weights, {"format": "pt"})
    elif damage == "no metric":  # as reports wrote before it was recorded
        kept = json.loads(cache.read_text())
        del kept["difficulty_metric"]
        write_json(cache, kept)
    elif damage == "older metrics":
        monkeypatch.setattr(report_scores, "METRIC_VERSION", 1)
    elif damage == "cut short":
        cache.write_bytes(cache.read_bytes()[:-9])
    else:
        run = changed(run, "train")
    opened = []

    def refuse(name: str, **_: object) -> None:
        opened.append(name)
        raise InputError("it would be scored now")

    monkeypatch.setattr(report_scores, "open_evaluation", refuse)
    score_runs([run], tiny.Listener())
    assert opened == [str(run.folder)]


def test_a_run_without_a_model_costs_only_its_own_lines(
    run: RunLog, make_run, tmp_path: Path
) -> None:
    going = read_input([make_run(tmp_path / "going", finished=False)]).runs[0]
    listener = tiny.Listener()
    scores = score_runs([going, run], listener)
    assert list(scores.by["loss"]) == ["run"]
    assert scores.missing == ["Without a finished model yet: going."]
    assert listener.warnings == []


def test_missing_or_changed_stories_are_reported(run: RunLog, tmp_path: Path) -> None:
    run = changed(run, "valid")
    listener = tiny.Listener()
    scores = score_runs([run], listener)
    assert scores.stories == {}
    assert scores.missing == listener.warnings
    told = f"run could not be scored: the validation stories of {run.folder} have changed"
    assert told in scores.missing[0]
    assert not (run.folder / CACHE_FILE).exists()


def test_a_read_only_folder_is_scored_without_keeping_the_scores(
    run: RunLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(report_scores, "write_json", refuse)
    listener = tiny.Listener()
    assert score_runs([run], listener).stories
    assert any("could not be written" in note for note in listener.notes)
