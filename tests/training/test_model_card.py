"""The exported model tells the Hub and a person what it is, and needs nothing of ours."""

import json
import re
import subprocess
import sys
import tomllib
from itertools import islice
from pathlib import Path

import pytest
import tiny
import torch
from huggingface_hub import ModelCard

from tinyohem.config.recipes import load_config
from tinyohem.data.sample.stories import sample_stories
from tinyohem.models.source import load_source
from tinyohem.training.loop import train
from tinyohem.training.model_card import public_name


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that mines, on stories in a folder that is nobody's business."""
    private = tmp_path_factory.mktemp("private")
    tiny.write_stories(private / "tales.jsonl", islice(sample_stories("train"), 120))
    config = tiny.config(
        private / "tales.jsonl",
        ohem__ratio=0.5,
        ohem__schedule="constant",
        data__licence="cc-by-4.0",
    )
    train(config, private / "run")
    return private / "run"


def alone(code: str, *arguments: object) -> str:
    """Run Python where tinyohem cannot be imported, and return what it prints."""
    block = "import sys\nsys.modules['tinyohem'] = None\n"
    command = [sys.executable, "-c", block + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hub_reads_the_figures_of_the_run(mined: Path) -> None:
    card = ModelCard.load(mined / "model" / "README.md")
    evaluation = json.loads((mined / "eval.json").read_text())
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: evaluation[name] for name in ("perplexity", "bits_per_byte")}
    assert card.data.eval_results[0].dataset_name == "tales.jsonl"
    told = card.data.to_dict()
    assert told["license"] == "cc-by-4.0"
    assert (told["library_name"], told["pipeline_tag"]) == ("transformers", "text-generation")
    assert "hard-example-mining" in told["tags"]
    assert {"language", "datasets", "base_model"} & set(told) == set()  # not known, or none


def test_the_text_holds_the_figures_and_no_path(mined: Path) -> None:
    text = (mined / "model" / "README.md").read_text()
    evaluation = json.loads((mined / "eval.json").read_text())
    rows = {
        match[1]: float(match[2]) for match in re.finditer(r"\| ([a-z ]+) \| ([\d.]+) \|", text)
    }
    assert rows == pytest.approx(
        {
            "perplexity per token": evaluation["perplexity"],
            "bits per byte": evaluation["bits_per_byte"],
            "nats per token": evaluation["loss"],
        },
        abs=1e-4,
    )
    state = json.loads((mined / "checkpoints" / "step_000020" / "state.json").read_text())
    assert f"- tokens: {state['tokens_seen']:,} in 20 steps of 4 × 32" in text
    assert f"gradient: {state['tokens_selected'] / state['tokens_seen']:.1%}\n" in text
    assert "licence of the data, as its user gave it: cc-by-4.0" in text
    assert "private" not in text


def test_its_settings_are_a_recipe_that_gives_the_same_run(mined: Path, tmp_path: Path) -> None:
    text = (mined / "model" / "README.md").read_text()
    settings = re.search(r"```toml\n(.*?)```", text, re.S)[1]
    (tmp_path / "again.toml").write_text(settings)
    recorded = json.loads((mined / "config.json").read_text())["config"]
    again = load_config(str(tmp_path / "again.toml")).model_dump()
    assert tomllib.loads(settings)["data"]["dataset"] == "tales.jsonl"
    recorded["data"].pop("dataset")
    again["data"].pop("dataset")
    assert again == recorded


def test_transformers_alone_gives_the_same_logits(mined: Path) -> None:
    source = load_source(str(mined), "cpu")
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        expected = source.model(ids).logits
    code = (
        "import torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "logits = model(torch.arange(24).view(2, 12)).logits\n"
        "print(logits.flatten().tolist())"
    )
    found = torch.tensor(json.loads(alone(code, mined / "model")))
    assert torch.equal(found.view_as(expected), expected)


def test_the_four_lines_of_the_card_write_a_story(mined: Path) -> None:
    text = (mined / "model" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    assert len(code.splitlines()) == 4
    shorter = code.replace("max_new_tokens=200", "max_new_tokens=5")
    told = alone(shorter.replace("PATH", str(mined / "model")))
    assert told.startswith("<|endoftext|>Once upon a time")


def test_a_folder_to_start_from_is_named_and_is_no_model_of_the_hub(
    finished_run: Path, corpus: Path, tmp_path: Path
) -> None:
    tuned = {"model.init_from": str(finished_run), "data.dataset": str(corpus)}
    quick = {"training.steps": 2, "training.seq_len": 32, "training.device": "cpu"}
    train(load_config(overrides={**tuned, **quick}), tmp_path / "run")
    card = ModelCard.load(tmp_path / "run" / "model" / "README.md")
    assert "- started from: finished\n" in card.text
    assert card.data.base_model is None


def test_a_file_of_the_working_folder_is_no_data_set_of_the_hub(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    config = tiny.config("train.jsonl", training__steps=1, data__licence="mine\n# all mine")
    train(config, tmp_path / "run")
    card = ModelCard.load(tmp_path / "run" / "model" / "README.md")
    assert card.data.datasets is None
    assert card.data.model_name == "own-shape-train"  # no preset has this shape
    assert "as its user gave it: mine # all mine\n" in card.text


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("roneneldan/TinyStories", "roneneldan/TinyStories"),
        ("sample", "sample"),
        ("/home/me/secret/tales.jsonl", "tales.jsonl"),
        ("./pool", "pool"),
        ("s3://bucket/of/mine/tales.parquet", "tales.parquet"),
        ("https://host/tales.txt?token=abc", "tales.txt"),
        ("/data/b\udcffd.txt", "b\\xffd.txt"),
    ],
)
def test_a_public_name_has_no_path(name: str, public: str) -> None:
    assert public_name(name) == public
