"""The report's tables: nothing that all runs share, nothing that differs left out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tinyohem.config.run import validate_config
from tinyohem.errors import InputError
from tinyohem.experiments.table import lay_out, num_verdict_cells
from tinyohem.io.json import write_json
from tinyohem.report.run_logs import read_input
from tinyohem.report.tables import (
    comparison_tables,
    environment_table,
    runs_table,
    settings_table,
)


def test_only_settings_that_differ_are_listed(make_run, tmp_path: Path) -> None:
    folders = [
        make_run(
            tmp_path / "a",
            ohem={"ratio": 0.5},
            optim={"lr": 0.004},
            training={"precision": "float32"},
        ),
        make_run(tmp_path / "b", ohem={"ratio": 0.5, "select": "random"}, optim={"lr": 0.004}),
        make_run(tmp_path / "c", ohem={"ratio": 0.5}, optim={"lr": 0.001}),
    ]
    table = settings_table(read_input(folders).groups)
    assert table.head == ["setting", "a", "b", "c"]
    assert {row[0]: row[1:] for row in table.rows} == {
        "training.precision": ["float32", "auto", "auto"],
        "optim.lr": ["0.004", "0.004", "0.001"],
        "ohem.select": ["topk", "random", "topk"],
    }


def test_seeds_of_an_arm_share_a_column(comparison: Path) -> None:
    rows = {row[0]: row[1:] for row in settings_table(read_input([comparison]).groups).rows}
    assert rows["training.seed"] == ["0, 1, 2"] * 3
    assert rows["ohem.ratio"] == ["1.0", "0.5", "0.5"]


def test_one_run_is_compared_with_the_defaults(make_run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", ohem={"ratio": 0.25}, data={"dataset": "sample"})
    table = settings_table(read_input([folder]).groups)
    assert table.head == ["setting", "default", "a"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert set(rows) == {
        "ohem.ratio",
        "data.dataset",
        "tokenizer.vocab_size",
        "training.batch_size",
        "training.seq_len",
    }
    assert rows["ohem.ratio"] == ["1.0", "0.25"]


@pytest.mark.parametrize("model", [None, {"preset": "0.5m", "of_another_version": 1}])
def test_a_model_that_this_version_does_not_know_has_the_usual_defaults(
    make_run, tmp_path: Path, model: dict[str, Any] | None
) -> None:
    folder = make_run(tmp_path / "a")
    record = json.loads((folder / "config.json").read_text())
    record["config"].pop("model")
    record["config"] |= {"model": model} if model else {}
    (folder / "config.json").write_text(json.dumps(record))
    rows = {row[0]: row[1:] for row in settings_table(read_input([folder]).groups).rows}
    assert "optim.lr" not in rows


def test_a_models_own_default_rate_is_no_difference(make_run, tmp_path: Path) -> None:
    config = validate_config({"model": {"preset": "0.5m"}}).model_dump()
    assert config["optim"]["lr"] != validate_config({}).optim.lr
    folder = make_run(tmp_path / "a", **config)
    rows = {row[0]: row[1:] for row in settings_table(read_input([folder]).groups).rows}
    assert rows == {"model.preset": ["2m", "0.5m"]}


def test_a_setting_that_an_older_run_lacks_is_marked(make_run, tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "ab"]
    text = (folders[0] / "config.json").read_text()
    assert '"min_kept": 1, ' in text
    (folders[0] / "config.json").write_text(text.replace('"min_kept": 1, ', ""))
    rows = settings_table(read_input(folders).groups).rows
    assert rows == [["ohem.min_kept", "(not recorded)", "1"]]


def test_finished_and_unfinished_runs_show_scores_and_progress(make_run, tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "done", keep=0.5), make_run(tmp_path / "going", finished=False)]
    path = folders[0] / "eval.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stories": 4}))
    table = runs_table(read_input(folders).groups)
    done, going = (dict(zip(table.head, row, strict=True)) for row in table.rows)
    scores = ["perplexity", "bits per byte", "nats per token"]
    assert table.head[:4] == ["run", *scores]  # a phone shows no more
    assert (done["state"], done["stories scored"]) == ("finished", "4 of 10")
    assert done["tokens seen"] == f"{200 * 128:,}"
    assert (done["nats per token"], done["bits per byte"]) == ("3.1000", "1.0333")
    assert done["training time"] == "100.0 s"
    assert going["state"] == "at step 200 of 200"
    assert going["nats per token"] == "3.1270 so far"  # 3 + 4 e^-5 + 0.1
    assert table.colours == [0, 1]


def test_before_the_first_evaluation_there_are_no_scores(make_run, tmp_path: Path) -> None:
    rows = [{"step": 10, "train/loss": 5.0}]
    folder = make_run(tmp_path / "a", rows=rows, finished=False)
    table = runs_table(read_input([folder]).groups)
    assert table.head == ["run", "state", "parameters"]  # no column without a figure
    assert table.rows == [["a", "at step 10 of 200", "158,448"]]


def test_where_machines_differ_each_lists_its_runs(make_run, tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in "abc"]
    text = (folders[1] / "config.json").read_text()
    (folders[1] / "config.json").write_text(text.replace('"cores": 2', '"cores": 64'))
    rows = dict(environment_table(read_input(folders).runs).rows)
    assert rows["device"] == "cpu"
    assert rows["cores"] == "2 (a, c); 64 (b)"
    assert rows["torch"] == "2.13.0"
    assert rows["valid data"].startswith("stories (validation): 10 stories, 1,000 tokens")


def test_the_table_of_a_comparison_has_the_colours_of_its_runs(
    comparison: Path, make_run, tmp_path: Path
) -> None:
    data = read_input([make_run(tmp_path / "mine"), comparison])
    verdicts, details = comparison_tables(data.comparisons[0])
    assert [row[0] for row in verdicts.rows] == ["full", "random", "ohem"]
    assert verdicts.head == ["arm", "verdict", "bits per byte", "difference", "95 % interval", "p"]
    assert [row[1] for row in verdicts.rows] == ["baseline", "worse", "no difference shown"]
    assert verdicts.colours == [1, 2, 3]
    assert details.head == ["measure", "full", "random", "ohem"]
    rows = data.comparisons[0].rows
    for number, (row, laid_out) in enumerate(zip(rows, lay_out(rows), strict=True), 1):
        shown = [(line[0], line[number]) for line in details.rows]
        assert shown == list(laid_out.items())[num_verdict_cells(row) :]


def test_a_comparison_with_a_margin_shows_its_equivalence_test(
    comparison: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(comparison, tmp_path / "compared")
    plan = {"arms": ["full", "random", "ohem"], "seeds": [0, 1, 2], "margin": 0.005}
    write_json(folder / "comparison.json", plan)
    verdicts, _ = comparison_tables(read_input([folder]).comparisons[0])
    assert verdicts.head[-2:] == ["within ±0.005, p", "within ±0.005"]
    assert [row[-1] for row in verdicts.rows] == ["", "not shown", "shown"]
    write_json(folder / "comparison.json", plan | {"margin": -1})
    with pytest.raises(InputError, match=r"comparison\.json is damaged"):
        read_input([folder])


def test_a_file_is_named_without_a_split(make_run, tmp_path: Path) -> None:
    """A single file counts as `train`, even where it is what a run is validated on."""
    for name, told in (
        ("valid.jsonl", "valid.jsonl: "),
        ("data/stories.jsonl.zst", "data/stories.jsonl.zst: "),
        ("data/*.jsonl", "data/*.jsonl (train): "),
        ("roneneldan/TinyStories", "roneneldan/TinyStories (train): "),
    ):
        folder = make_run(tmp_path / name.replace("*", "x"), valid={"name": name, "split": "train"})
        rows = dict(environment_table(read_input([folder]).runs).rows)
        assert rows["valid data"].startswith(told)
