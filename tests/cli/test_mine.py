"""`tinyohem mine` through the command line, and the two commands that docs/mining.md names."""

import json
import shutil
from pathlib import Path

import tiny

from tinyohem.io.json import read_json


def test_train_reads_the_pool_that_mine_wrote(
    finished_run: Path, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    pool, run = tmp_path / "pool", tmp_path / "run"
    mined = tinyohem("mine", finished_run, "--dataset", corpus, "--out", pool, "--json")
    assert mined.code == 0, mined.err
    figures = json.loads(mined.out)
    manifest = read_json(pool / "manifest.json")
    assert figures.pop("loss") > 1
    assert figures == {
        "pool": str(pool),
        "tokens": manifest["tokens"] - 1,
        "new_tokens": manifest["tokens"] - 1,
        "shards": 1,
        "seq_len": 32,
        "tokens_seen": 2560,
        "weights_sha256": manifest["weights_sha256"],
    }
    assert f"mine: {figures['tokens']:,}/{figures['tokens']:,} tokens  tok/s " in mined.err

    again = tinyohem("mine", finished_run, "--dataset", corpus, "--out", pool)
    assert again.code == 0
    assert "of them mined now            │ 0 " in again.out
    assert "training tokens of the model │ 2,560 " in again.out

    flags = tiny.flags(corpus, optim__decay_fraction=0.2)
    arguments = ["train", *flags, "--out", run, "--ohem-ratio=0.5"]
    arguments += ["--ohem-score=excess_loss", "--ohem-reference", pool, "--pool-max-age=10k"]
    assert tinyohem(*arguments, "--dry-run").code == 0
    assert not run.exists()
    trained = tinyohem(*arguments, "--pool-refresh-every=11")
    assert trained.code == 0, trained.err
    record = read_json(run / "config.json")
    assert record["config"]["ohem"]["reference"] == str(pool)
    assert record["config"]["ohem"]["pool_max_age"] == 10_000
    assert [path.name for path in (run / "pools").iterdir()] == ["step_000011"]
    stages = [line.partition(":")[0] for line in trained.err.splitlines()]
    assert [s for s in stages if s in ("train", "mine")] == ["train", "mine", "train"]


def test_a_model_of_unknown_age_is_shown_as_unknown(
    finished_run: Path, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    model, out = tmp_path / "exported", tmp_path / "pool"
    shutil.copytree(finished_run / "model", model)
    mined = tinyohem("mine", model, "--dataset", corpus, "--out", out)
    assert mined.code == 0
    assert "training tokens of the model │ unknown " in mined.out
