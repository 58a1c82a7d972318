"""What a tokenizer and a model say of each story, as metrics of a score table."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from tinyohem.data.corpus import Corpus, open_corpus
from tinyohem.data.prepare import tokenize_corpus
from tinyohem.data.tokenizer import load_tokenizer
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import ScoreTable
from tinyohem.difficulty.shards import opening_of
from tinyohem.difficulty.text import words
from tinyohem.errors import InputError, RunError
from tinyohem.evaluation.story_metrics import (
    add_fertility,
    add_model_loss,
    story_losses,
)
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import read_json
from tinyohem.models.causal_lm import weights_hash
from tinyohem.models.source import load_source
from tinyohem.progress import SILENT
from tinyohem.runs.checkpoints import tokens_seen

TEXTS = ["Tom had a dog.", "", "🎉🎉", "The end. <|endoftext|>", "Lily was sad. " * 40, "Cat"]


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    return tiny.write_stories(tmp_path / "stories.jsonl", TEXTS)


@pytest.fixture
def scored(stories: Path, tmp_path: Path):
    corpus = open_corpus(str(stories))
    return score_corpus(corpus, tmp_path / "scores", workers=1), corpus


def fertility_of(name: Path, table: ScoreTable, corpus: Corpus) -> ScoreTable:
    return add_fertility(table, corpus, load_tokenizer(str(name)), str(name))


def loss_under(name: Path, table: ScoreTable, corpus: Corpus, progress=SILENT) -> ScoreTable:
    return add_model_loss(table, corpus, load_source(str(name), "cpu"), str(name), progress)


def test_fertility_is_tokens_over_words_counted_one_by_one(scored, finished_run: Path) -> None:
    table = fertility_of(finished_run, *scored)
    tokenizer = load_tokenizer(str(finished_run / "model")).backend_tokenizer
    tokenizer.encode_special_tokens = True  # the end marker in a story is text
    expected = [
        len(tokenizer.encode(text.strip()).ids) / len(words(text)) if words(text) else np.nan
        for text in TEXTS
    ]
    np.testing.assert_allclose(table.column("tokens_per_word"), expected, rtol=1e-15)
    np.testing.assert_array_equal(table.difficulty("fertility"), table.column("tokens_per_word"))
    described = table.manifest.metrics["fertility"]
    assert described.undefined == 2
    assert described.origin["tokenizer"] == str(finished_run)


def test_model_loss_is_the_perplexity_of_each_story_alone(
    scored, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyohem.evaluation.perplexity._STORIES_PER_BLOCK", 2)
    table = loss_under(finished_run, *scored)
    losses = table.column("nats_per_token")
    assert np.isnan(losses[1])
    for row in (0, 2, 3, 4, 5):  # row 4 is longer than the model's context
        alone = tiny.write_stories(tmp_path / f"{row}.jsonl", [TEXTS[row]])
        expected = tiny.evaluate(finished_run, dataset=str(alone)).loss
        assert losses[row] == pytest.approx(expected, rel=1e-5)
    assert table.manifest.metrics["model_loss"].undefined == 1
    examples = read_json(table.folder / "examples.json")["model_loss"]
    assert examples["hardest"][0]["row"] == int(np.nanargmax(losses))
    assert {story["row"]: story["opening"] for story in examples["easiest"]} == {
        row: opening_of(text.strip()) for row, text in enumerate(TEXTS) if text
    }


def test_the_weights_hash_and_age_are_recorded(scored, finished_run: Path) -> None:
    checkpoint = finished_run / "checkpoints" / "step_000015"
    table = loss_under(checkpoint, *scored)
    origin = table.manifest.metrics["model_loss"].origin
    assert origin["tokens_seen"] == 15 * 4 * 32
    assert origin["weights_sha256"] == weights_hash(load_source(str(checkpoint), "cpu").model)
    assert origin["weights_sha256"] != weights_hash(load_source(str(finished_run), "cpu").model)
    assert origin["seq_len"] == 32
    assert json.loads(json.dumps(origin)) == origin


def test_the_age_of_every_name_of_a_run(finished_run: Path, tmp_path: Path) -> None:
    checkpoints = finished_run / "checkpoints"
    for name in (finished_run, finished_run / "model", checkpoints / "latest"):
        assert tokens_seen(name) == 20 * 4 * 32
    assert tokens_seen(checkpoints / "step_000015" / "model") == 15 * 4 * 32
    for name in (tmp_path, tmp_path / "nowhere", Path("gpt2"), checkpoints):
        assert tokens_seen(name) is None


def test_what_is_there_is_reused_or_refused_and_never_lost(scored, finished_run: Path) -> None:
    table, corpus = scored
    table = loss_under(finished_run, table, corpus)
    table = fertility_of(finished_run, table, corpus)
    before = hash_file(table.folder / "scores.parquet")
    listener = tiny.Listener()
    again = loss_under(finished_run, table, corpus, listener)
    assert again is table
    assert listener.notes == [f"reusing model_loss in {table.folder}"]
    older = finished_run / "checkpoints" / "step_000015"
    with pytest.raises(InputError, match="holds model_loss of another model") as caught:
        loss_under(older, table, corpus)
    assert caught.value.hint == "choose another --out"
    assert hash_file(table.folder / "scores.parquet") == before
    np.testing.assert_array_equal(
        score_corpus(corpus, table.folder, workers=1).difficulty("model_loss"),
        table.difficulty("model_loss"),
    )


def test_broken_weights_are_a_failed_run(scored, finished_run: Path) -> None:
    source = load_source(str(finished_run), "cpu")
    with torch.no_grad():
        source.model.get_input_embeddings().weight[0] = np.nan
    store = tokenize_corpus(scored[1], source.tokenizer)
    with pytest.raises(RunError, match="not finite"):
        story_losses(source.model, store, 32)
