"""Reading run folders and comparisons: what they hold, what is refused, what does not compare."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tinyohem.errors import InputError
from tinyohem.report.run_logs import read_input

STEP_TOKENS = 4 * 32


def test_series_by_tokens_and_by_seconds(make_run, tmp_path: Path) -> None:
    (run,) = read_input([make_run(tmp_path / "a")]).runs
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").open()]
    rows = [row for row in rows if "val/loss" in row]
    tokens, losses = run.series("val/loss")
    np.testing.assert_array_equal(tokens, [row["step"] * STEP_TOKENS for row in rows])
    np.testing.assert_array_equal(losses, [row["val/loss"] for row in rows])
    seconds, again = run.series("val/loss", by="seconds")
    np.testing.assert_array_equal(seconds, [row["train/seconds"] for row in rows])
    np.testing.assert_array_equal(again, losses)
    assert run.series("nothing")[0].shape == (0,)
    assert run.last("train/tokens_seen") == 200 * STEP_TOKENS == run.series("train/loss")[0][-1]


def test_tokens_are_those_the_loop_counted(finished_run: Path) -> None:
    (run,) = read_input([finished_run]).runs
    tokens, counted = run.series("train/tokens_seen")
    np.testing.assert_array_equal(tokens, counted)
    assert run.label == "finished"
    assert run.model_folder == finished_run / "model"


def test_a_figure_too_large_for_json_leaves_a_gap(make_run, tmp_path: Path) -> None:
    rows = [{"step": 1, "val/ppl": None, "train/seconds": 1.0}, {"step": 2, "val/ppl": 7.0}]
    (run,) = read_input([make_run(tmp_path / "a", rows=rows)]).runs
    assert [values.tolist() for values in run.series("val/ppl")] == [[2 * STEP_TOKENS], [7.0]]
    assert run.last("val/ppl") == 7.0


def test_an_unfinished_run_is_read_up_to_its_last_whole_line(make_run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", finished=False)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 210, "train/lo')  # the writer is in the middle of a line
    (run,) = read_input([folder]).runs
    assert (run.step, run.evaluation, run.model_folder) == (200, None, None)


def test_names_are_told_apart_by_their_parents(make_run, tmp_path: Path) -> None:
    folders = [make_run(tmp_path / parent / "run") for parent in "ab"]
    assert [group.name for group in read_input(folders).groups] == ["a/run", "b/run"]


def test_unprintable_characters_of_a_name_are_replaced(make_run, tmp_path: Path) -> None:
    (group,) = read_input([make_run(tmp_path / "a\x01b")]).groups
    assert group.name == "a�b"


class TestComparison:
    def test_arms_in_the_tables_order_seeds_within(self, comparison: Path) -> None:
        data = read_input([comparison])
        names = {group.name: [run.label for run in group.runs] for group in data.groups}
        assert list(names) == ["full", "random", "ohem"]
        assert names["random"] == ["random-seed0", "random-seed1", "random-seed2"]
        (table,) = data.comparisons
        assert [row.arm for row in table.rows] == list(names)
        difference = table.rows[1].difference
        assert difference is not None
        assert difference.mean == pytest.approx(((1.05 + 1.065 + 1.044) - (1.02 + 1.03 + 1.01)) / 3)

    def test_its_arms_bear_its_name_beside_another_run(
        self, comparison: Path, make_run, tmp_path: Path
    ) -> None:
        groups = read_input([make_run(tmp_path / "mine"), comparison]).groups
        assert [group.name for group in groups] == [
            "mine",
            "compared/full",
            "compared/random",
            "compared/ohem",
        ]

    def test_an_unfinished_comparison_has_runs_but_no_table(
        self, comparison: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "going-on"
        shutil.copytree(comparison, folder)
        (folder / "runs.parquet").unlink()
        (folder / "table.json").unlink()
        for name in ("metrics.jsonl", "eval.json"):
            (folder / "random-seed2" / name).unlink()  # waits for its turn
        data = read_input([folder])
        assert data.comparisons == []
        assert {group.name: len(group.runs) for group in data.groups} == {
            "full": 3,
            "ohem": 3,
            "random": 2,
        }

    def test_the_warning_names_the_missing_runs(self, comparison: Path, tmp_path: Path) -> None:
        assert read_input([comparison]).warnings == []
        folder = tmp_path / "c"
        shutil.copytree(comparison, folder)
        table = parquet.read_table(folder / "runs.parquet")
        (folder / "runs.parquet").unlink()
        (warning,) = read_input([folder]).warnings
        assert warning.startswith("All 9 runs of c are finished, but its table")
        (folder / "ohem-seed1" / "eval.json").unlink()
        (folder / "ohem-seed1" / "metrics.jsonl").unlink()
        shutil.rmtree(folder / "random-seed2")
        (warning,) = read_input([folder]).warnings
        assert warning == (
            "The comparison c is not finished: 7 of 9 runs are. Missing: ohem-seed1, random-seed2; "
            "arms that have not begun are not counted."
        )
        # The table of an earlier command, which the folder has outgrown.
        parquet.write_table(table.slice(0, 6), folder / "runs.parquet")
        (warning,) = read_input([folder]).warnings
        assert "8 of 9 runs are. Missing: ohem-seed1;" in warning

    def test_arms_and_seeds_that_have_not_begun_are_missing_too(
        self, comparison: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "c"
        shutil.copytree(comparison, folder)
        (folder / "runs.parquet").unlink()
        plan = {"arms": ["full", "later", "ohem"], "seeds": [0, 3]}
        (folder / "comparison.json").write_text(json.dumps(plan))
        data = read_input([folder])
        # What an earlier command left counts as well.
        assert data.warnings == [
            "The comparison c is not finished: 9 of 13 runs are. "
            "Missing: full-seed3, later-seed0, later-seed3, ohem-seed3."
        ]
        assert [group.name for group in data.groups] == ["full", "ohem", "random"]

    @pytest.mark.parametrize(
        "plan", ["[]", '{"arms": [1], "seeds": [0]}', '{"arms": ["a"], "seeds": [-1]}', "{"]
    )
    def test_a_damaged_plan_is_an_input_error(
        self, comparison: Path, tmp_path: Path, plan: str
    ) -> None:
        shutil.copytree(comparison, tmp_path / "c")
        (tmp_path / "c" / "comparison.json").write_text(plan)
        with pytest.raises(InputError, match=r"comparison\.json"):
            read_input([tmp_path / "c"])

    def test_a_plan_of_too_many_runs_is_refused(self, comparison: Path, tmp_path: Path) -> None:
        shutil.copytree(comparison, tmp_path / "c")
        plan = {"arms": [f"a{i}" for i in range(200)], "seeds": list(range(200))}
        (tmp_path / "c" / "comparison.json").write_text(json.dumps(plan))
        with pytest.raises(InputError, match="more than 10,000 runs"):
            read_input([tmp_path / "c"])

    def test_a_table_whose_runs_were_deleted_is_whole(
        self, comparison: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(comparison, tmp_path / "c")
        shutil.rmtree(tmp_path / "c" / "ohem-seed1")
        assert read_input([tmp_path / "c"]).warnings == []

    def test_a_table_of_another_version_is_left_out_its_runs_are_not(
        self, comparison: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(comparison, tmp_path / "old")
        path = tmp_path / "old" / "runs.parquet"
        parquet.write_table(parquet.read_table(path).drop_columns(["gini"]), path)
        data = read_input([tmp_path / "old"])
        assert data.comparisons == []
        assert [group.name for group in data.groups] == ["full", "random", "ohem"]
        (warning,) = data.warnings
        assert warning.startswith("The table of old is left out: another version made it, without")
        assert "gini" in warning


class TestRefused:
    @pytest.mark.parametrize("column", ["arm", "seed"])
    def test_a_table_that_does_not_name_its_runs_is_refused(
        self, comparison: Path, tmp_path: Path, column: str
    ) -> None:
        shutil.copytree(comparison, tmp_path / "c")
        path = tmp_path / "c" / "runs.parquet"
        parquet.write_table(parquet.read_table(path).drop_columns([column]), path)
        with pytest.raises(InputError, match=rf"runs\.parquet is damaged: it names no {column}s"):
            read_input([tmp_path / "c"])

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(InputError, match="neither a run folder nor the folder of a comp"):
                read_input([folder])

    def test_a_model_folder_of_transformers_is_refused(self, finished_run: Path) -> None:
        with pytest.raises(InputError, match=r"config\.json is no run's"):
            read_input([finished_run / "model"])

    def test_a_run_without_metrics_is_refused(self, make_run, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "a", rows=[], finished=False)
        with pytest.raises(InputError, match="a has no metrics yet"):
            read_input([folder])
        (folder / "metrics.jsonl").unlink()
        with pytest.raises(InputError, match="a has no metrics yet"):
            read_input([folder])

    @pytest.mark.parametrize("line", ['{"step": 1, "trai', "[1]", "\x00\x00", "17"])
    def test_a_damaged_line_is_refused(self, make_run, tmp_path: Path, line: str) -> None:
        folder = make_run(tmp_path / "a")
        lines = (folder / "metrics.jsonl").read_text().split("\n")
        (folder / "metrics.jsonl").write_text("\n".join([*lines[:3], line, *lines[3:]]))
        with pytest.raises(InputError, match=r"metrics\.jsonl: line 4 is damaged"):
            read_input([folder])

    @pytest.mark.parametrize(
        "row", [{"step": 1, "train/loss": "low"}, {"train/loss": 1.0}, {"step": None}]
    )
    def test_a_row_without_figures_is_refused(self, make_run, tmp_path: Path, row: dict) -> None:
        with pytest.raises(InputError, match="line 1 is not a row of figures"):
            read_input([make_run(tmp_path / "a", rows=[row])])

    @pytest.mark.parametrize("name", ["config.json", "eval.json"])
    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_damaged_json_is_refused(
        self, make_run, tmp_path: Path, name: str, content: str
    ) -> None:
        folder = make_run(tmp_path / "a")
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=f"{name} is damaged"):
            read_input([folder])

    def test_an_evaluation_without_figures_is_refused(self, make_run, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "a")
        (folder / "eval.json").write_text('{"loss": "low"}')
        with pytest.raises(InputError, match=r"eval\.json is damaged"):
            read_input([folder])

    def test_a_record_without_its_training_split_is_refused(self, make_run, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "a")
        record = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**record, "train": "x"}))
        with pytest.raises(InputError, match=r"config\.json is no run's"):
            read_input([folder])

    @pytest.mark.parametrize("change", [{"bits_per_byte": None}, {"seed": 9}])
    def test_a_table_without_a_difference_is_refused(
        self, comparison: Path, tmp_path: Path, change: dict
    ) -> None:
        """A figure is missing, or an arm shares no seed with the baseline."""
        shutil.copytree(comparison, tmp_path / "c")
        path = tmp_path / "c" / "runs.parquet"
        rows = [
            {**row, **change} if row["arm"] == "ohem" else row
            for row in parquet.read_table(path).to_pylist()
        ]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        with pytest.raises(InputError, match=r"runs\.parquet is damaged"):
            read_input([tmp_path / "c"])

    def test_a_damaged_table_is_refused(self, comparison: Path, tmp_path: Path) -> None:
        shutil.copytree(comparison, tmp_path / "c")
        (tmp_path / "c" / "runs.parquet").write_bytes(b"PAR1")
        with pytest.raises(InputError, match=r"runs\.parquet is damaged"):
            read_input([tmp_path / "c"])

    def test_naming_a_run_twice_is_refused(self, make_run, tmp_path: Path) -> None:
        folder = make_run(tmp_path / "a")
        with pytest.raises(InputError, match="is named twice"):
            read_input([folder, tmp_path / "." / "a"])


@pytest.mark.parametrize(
    ("valid", "training", "warning"),
    [
        ({}, {}, ""),
        ({"corpus": "d" * 64}, {}, "different stories"),
        ({"part": "held out"}, {}, "different stories"),
        ({"tokenizer": "u" * 64}, {}, "different tokenizers"),
        ({}, {"eval_tokens": 5_000}, "heads of different length"),
    ],
)
def test_figures_that_do_not_compare_give_a_warning(
    make_run, tmp_path: Path, valid: dict, training: dict, warning: str
) -> None:
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b", valid=valid, training=training)]
    said = read_input(folders).incomparable
    assert (said is not None) == bool(warning)
    assert warning in (said or "")


def test_models_scored_on_different_numbers_of_stories_are_not_ranked(
    make_run, tmp_path: Path
) -> None:
    folders = [make_run(tmp_path / name, valid={"stories": 60}) for name in ("a b", "c", "d")]
    for folder, stories in zip(folders, (50, 60, 40), strict=True):
        path = folder / "eval.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "stories": stories}))
    data = read_input(folders)
    assert data.incomparable == (
        "The finished models were scored on different numbers of stories, so their figures do not "
        f"compare. To score all stories: tinyohem eval-perplexity '{folders[0]}' && "
        f"tinyohem eval-perplexity {folders[2]}"
    )
    assert not data.bits_compare


def test_curves_on_heads_that_the_runs_chose_themselves_are_told_apart(
    make_run, tmp_path: Path
) -> None:
    """Their configs say nothing of the heads."""
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b")]
    for folder, tokens in zip(folders, (10_000, 20_000), strict=True):
        with (folder / "metrics.jsonl").open("a") as log:
            log.write(json.dumps({"step": 10**6, "val/loss": 2.0, "val/tokens": tokens}) + "\n")
    data = read_input(folders)
    assert "heads of different length" in (data.incomparable or "")
    assert data.bits_compare
