"""`train` on a folder laid out as a Hub repository is, through the real `datasets` calls."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tinyohem.data import corpus as corpora


def write_split(repository: Path, split: str, stories: list[str], shards: int) -> None:
    (repository / "data").mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        part = stories[shard * len(stories) // shards : (shard + 1) * len(stories) // shards]
        path = repository / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(pa.table({"text": part, "source": ["GPT-4"] * len(part)}), path)


@pytest.fixture
def repository(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, under the name that stands for it on this pretended Hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpora, "latest_commit", lambda name: "0123456789abcdef")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "someone" / "stories"
    for split, name, shards in (("train", "train", 2), ("validation", "valid", 1)):
        lines = (corpus / f"{name}.jsonl").read_text().splitlines()
        write_split(folder, split, [json.loads(line)["text"] for line in lines], shards)
    # A name without a local folder of that name: what `someone/stories` is anywhere else.
    hub_builder = corpora.hub_builder
    monkeypatch.setattr(
        corpora, "hub_builder", lambda name, commit: hub_builder(str(folder), commit)
    )
    monkeypatch.setattr(Path, "is_dir", lambda path: path.name != "stories" and path.exists())
    return folder


def test_training_on_the_hub_is_training_on_the_same_files(
    repository: Path,
    corpus: Path,
    finished_run: Path,
    tmp_path: Path,
    tinyohem: tiny.Command,
) -> None:
    recipe = [f for f in tiny.flags(corpus) if not f.startswith("--set=data.dataset")]
    run_dir = tmp_path / "run"
    name = "someone/stories"
    result = tinyohem("train", "--dataset", name, *recipe, "--out", run_dir, "--json")
    assert result.code == 0, result.err
    assert "someone/stories: streaming from the Hub, commit 01234567" in result.err
    record = json.loads((run_dir / "config.json").read_text())
    assert [record[part]["stories"] for part in ("train", "valid")] == [120, 12]
    assert record["train"]["name"] == "someone/stories"
    expected = json.loads((finished_run / "eval.json").read_text())
    assert json.loads((run_dir / "eval.json").read_text()) == expected
    weights = "model/model.safetensors"
    assert (run_dir / weights).read_bytes() == (finished_run / weights).read_bytes()

    # Its validation split is what the model is scored on.
    scored = tinyohem("eval-perplexity", run_dir / "model", "--dataset", name, "--json")
    assert json.loads(scored.out) == pytest.approx(expected, rel=1e-12)
