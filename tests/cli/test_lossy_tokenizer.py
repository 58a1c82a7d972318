"""Runs and models whose tokenizer loses text: what every command says of them, and leaves out."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny
import tokenizers_of_others as others

from tinyohem.data.sample.stories import sample_stories
from tinyohem.report.run_logs import read_input
from tinyohem.report.tables import runs_table

PER_TEXT = ("word_perplexity", "byte_perplexity", "bits_per_byte")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both splits, whose text every kind of tokenizer loses something of."""
    folder = tmp_path_factory.mktemp("stories")
    train, valid = (
        [f"{text} A café\u0301 \ufb01t  in." for text in islice(sample_stories(split), count)]
        for split, count in (("train", 60), ("validation", 10))
    )
    tiny.write_stories(folder / "train.jsonl", train)
    tiny.write_stories(folder / "valid.jsonl", valid)
    return folder


def tokenizer(kind: str, folder: Path) -> Path:
    texts = list(islice(sample_stories("train"), 60))
    build = others.byte_level if kind == "byte level" else others.LOSSY[kind]
    return others.save(build(texts), folder / "tokenizer")


def trained(command: tiny.Command, stories: Path, folder: Path, kind: str) -> tiny.Outcome:
    flags = [flag for flag in tiny.flags(stories, training__steps=4) if "vocab_size" not in flag]
    flags += ["--tokenizer", str(tokenizer(kind, folder)), "--out", str(folder / "run")]
    return command("train", *flags, "--set=training.eval_every=2", "--json")


def check_left_out(figures: dict[str, Any]) -> None:
    assert {name: figures[name] for name in PER_TEXT} == dict.fromkeys(PER_TEXT)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    assert figures["lost_story_share"] == 1.0


@pytest.mark.parametrize("kind", others.LOSSY)
def test_a_run_is_told_and_has_no_figures_per_byte(
    kind: str, stories: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    result = trained(tinyohem, stories, tmp_path, kind)
    assert result.code == 0, result.err
    told = " ".join(result.err.split())
    assert "warning: the tokenizer loses text: 10 of 10 stories do not come back" in told
    run = tmp_path / "run"
    for figures in (json.loads(result.out), json.loads((run / "eval.json").read_text())):
        check_left_out(figures)
        assert (figures["unknown_token_share"] > 0) == (kind == "unknown")
    validations = [row for row in tiny.read_metrics(run) if "val/loss" in row]
    assert [row["val/bpb"] for row in validations] == [None, None]

    for name in (run, run / "model"):
        scored = tinyohem("eval-perplexity", name, "--dataset", stories, "--json")
        assert scored.code == 0, scored.err
        check_left_out(json.loads(scored.out))
        assert "the tokenizer loses text" in scored.err
    refused = tinyohem("eval-perplexity", run, "--by", "role")
    assert (refused.code, refused.out) == (2, "")
    assert "roles are read from the text, but the tokenizer loses text" in refused.err
    shown = tinyohem("eval-perplexity", run).out
    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip()
        for line in shown.splitlines()
        if line.startswith("│")
    }
    assert rows["bits per byte"] == rows["perplexity per word"] == "–"
    assert rows["perplexity per byte"] == "–"
    assert rows["stories that the tokenizer loses"] == "100.0%"
    assert ("unknown tokens" in rows) == (kind == "unknown")

    material = read_input([run])
    table = runs_table(material.groups)
    assert dict(zip(table.head, table.rows[0], strict=True))["bits per byte"] == "–"
    assert any("10 of its 10 validation stories" in warning for warning in material.warnings)

    seen = tinyohem("inspect", run, "--story", "0", "--json")
    assert seen.code == 0, seen.err
    story = json.loads(seen.out)
    assert story["text_lost"]
    assert (story["num_unknown"] > 0) == (kind == "unknown")
    assert "the tokenizer loses text" in tinyohem("inspect", run, "--story", "0").out


def test_a_tokenizer_that_loses_nothing_has_all_figures(
    stories: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    result = trained(tinyohem, stories, tmp_path, "byte level")
    assert result.code == 0, result.err
    assert "loses text" not in result.err
    found = json.loads(result.out)
    bits = found["loss"] * found["tokens"] / found["bytes"] / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-12)
    assert (found["lost_story_share"], found["unknown_token_share"]) == (0, 0)
    rows = tiny.read_metrics(tmp_path / "run")
    assert all(row["val/bpb"] > 0 for row in rows if "val/loss" in row)
    assert read_input([tmp_path / "run"]).warnings == []


def test_tuning_a_model_brings_its_tokenizers_loss(
    stories: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    assert trained(tinyohem, stories, tmp_path, "lower").code == 0
    model = tmp_path / "run" / "model"
    given = ("--init-from", model, "--dataset", stories, "--steps", "2", "--device", "cpu")
    small = ("--set=training.batch_size=2", "--set=training.seq_len=32")
    result = tinyohem("train", *given, *small, "--out", tmp_path / "tuned", "--json")
    assert result.code == 0, result.err
    check_left_out(json.loads(result.out))


@pytest.mark.parametrize("kind", ["unknown", "lower"])
def test_compare_refuses_before_any_run(
    kind: str, stories: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    name = tokenizer(kind, tmp_path)
    result = tinyohem(
        "compare",
        "--dataset",
        stories,
        "--arm",
        "baseline",
        "--arm",
        "random",
        "--tokens",
        "1k",
        f"--set=tokenizer.name={name}",
        "--out",
        tmp_path / "compared",
    )
    assert (result.code, result.out) == (2, "")
    told = " ".join(result.err.split())
    assert "error: arms are compared by bits per byte, but the tokenizer loses text" in told
    assert "hint: use a tokenizer that gives the text back" in told
    assert not list((tmp_path / "compared").glob("*/config.json"))
