"""A comparison is reported from whatever its runs left: tables, results, logs, or fewer of them."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

pytest.importorskip("matplotlib")

from tinyohem.errors import InputError
from tinyohem.report.run_logs import ReportInput, read_input
from tinyohem.report.run_page import write_report
from tinyohem.report.summary import what_came_out
from tinyohem_cli import main

RESULTS = Path(__file__).parents[2] / "results"


def verdicts(data: ReportInput) -> dict[str, tuple[float, str]]:
    """Return each arm's difference and verdict."""
    from tinyohem.experiments.table import verdict

    (table,) = data.comparisons
    return {
        row.arm: (row.difference.mean if row.difference else 0.0, verdict(row))
        for row in table.rows
    }


class TestShippedRecords:
    @pytest.mark.parametrize("folder", sorted(p.name for p in RESULTS.iterdir()))
    def test_every_folder_can_be_read(self, folder: str) -> None:
        data = read_input([RESULTS / folder])
        runs = sorted(path.parent.name for path in (RESULTS / folder).glob("*/result.json"))
        assert sorted(run.label for run in data.runs) == runs
        for run in data.runs:
            found = json.loads((RESULTS / folder / run.label / "result.json").read_text())
            assert run.evaluation is not None
            assert run.evaluation.bits_per_byte == found["bits_per_byte"]
            assert run.total("tokens_seen") == found["tokens_seen"]
            assert len(run.series("val/loss")[0]) > 5
        assert len(what_came_out(data)) > 40
        tabled = {row.arm for table in data.comparisons for row in table.rows}
        unclear = folder in ("batch-16", "curriculum")  # two plain arms, and none
        assert tabled == (set() if unclear else {group.name for group in data.groups})
        assert not any("its table does not hold them yet" in told for told in data.warnings)

    def test_the_table_says_what_the_readme_says(self) -> None:
        data = read_input([RESULTS / "table"])
        found = {arm: (round(mean, 4), said) for arm, (mean, said) in verdicts(data).items()}
        assert found == {
            "full": (0, "baseline"),
            "random": (0.0200, "worse"),
            "ohem": (0.0018, "no difference shown"),
            "adaptive": (0.0149, "worse"),
            "warmup": (0.0057, "no difference shown"),
            "ohem-warmup": (0.0085, "no difference shown"),
        }
        assert data.groups[0].name == "full"
        assert what_came_out(data) == (
            "Against full, 0.9124 bits per byte: adaptive (+0.0149) and random (+0.0200) are "
            "worse; no difference is shown for ohem (+0.0018), ohem-warmup (+0.0085) and warmup "
            "(+0.0057)."
        )
        (told,) = data.warnings
        assert told.startswith("In table the arm full counts as the baseline")

    def test_arms_of_one_seed_are_not_judged(self) -> None:
        data = read_input([RESULTS / "methods"])
        few = {arm for arm, (_, said) in verdicts(data).items() if said == "too few seeds"}
        assert few == {"ghm", "class-balanced", "stratified", "excess-ema"}
        assert any("do not all have the same seeds" in told for told in data.warnings)
        assert not any("not finished" in told for told in data.warnings)

    def test_the_command_writes_their_page(self, tinyohem: tiny.Command, tmp_path: Path) -> None:
        result = tinyohem("report", RESULTS / "batch-16", "--out", tmp_path / "page.html")
        assert result.code == 0, result.err
        html = (tmp_path / "page.html").read_text()
        assert "There is no table of batch-16: nothing says which of its arms is" in html
        assert "Finished, but without a model to score in their folders: lr16-seed0, lr24" in html
        assert "Tokens kept: no run has recorded train/keep_ratio." in html
        assert "No run has left a token out" not in html  # nobody knows

    def test_a_single_shipped_run_can_be_reported(self) -> None:
        runs = read_input([RESULTS / "table" / "ohem-seed0", RESULTS / "table" / "full-seed0"])
        assert [group.name for group in runs.groups] == ["ohem-seed0", "full-seed0"]
        assert runs.incomparable is None
        assert what_came_out(runs).startswith("Bits per byte, the fewest first: ohem-seed0 0.9067")
        other = read_input([RESULTS / "table" / "ohem-seed0", RESULTS / "fine-tuning"])
        assert "do not say that they have stories and tokenizer" in (other.incomparable or "")


@pytest.fixture(scope="module")
def compared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that the command has just made. Only read it."""
    out = tmp_path_factory.mktemp("made") / "compared"
    command = ["compare", "--arm", "full:ohem.ratio=1.0", "--arm", "random", "--seeds", 2]
    flags = tiny.flags(corpus, training__steps=4, training__eval_every=2)
    arguments = [*command, "--workers", 1, "--out", out, *flags]
    with tiny.one_process(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tinyohem", *map(str, arguments)])
        assert main._run() == 0
    return out


def drop(*patterns: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for pattern in patterns:
            found = list(folder.glob(pattern))
            assert found, pattern
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


class TestFreshComparison:
    @pytest.mark.parametrize(
        "lose",
        [
            drop(),
            drop("*/model"),
            drop("*/metrics.jsonl", "*/model"),
            drop("*/config.json"),
            drop("runs.parquet", "table.*"),
            drop("runs.parquet", "*/config.json", "*/eval.json", "*/checkpoints", "*/model"),
            drop("*/"),
        ],
        ids=["nothing", "models", "logs", "configs", "the table", "all but records", "all runs"],
    )
    def test_its_table_is_the_same_whatever_is_lost(
        self, compared: Path, tmp_path: Path, lose: Callable[[Path], None]
    ) -> None:
        folder = tmp_path / "compared"
        shutil.copytree(compared, folder)
        lose(folder)
        (table,) = read_input([folder]).comparisons
        (whole,) = read_input([compared]).comparisons
        assert table.rows == whole.rows

    def test_without_logs_and_table_only_the_milestones_are_gone(
        self, compared: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "compared"
        shutil.copytree(compared, folder)
        drop("*/metrics.jsonl", "runs.parquet", "*/config.json", "*/model")(folder)
        data = read_input([folder])
        (table,), (whole,) = data.comparisons, read_input([compared]).comparisons
        for row, expected in zip(table.rows, whole.rows, strict=True):
            assert (row.baseline, row.halfway) == (None, None)
            assert expected.baseline is not None
            assert (row.bits_per_byte, row.difference) == (
                expected.bits_per_byte,
                expected.difference,
            )
        runs = "full-seed0, full-seed1, random-seed0, random-seed1"
        assert f"Without a log, so in no chart over training: {runs}." in data.warnings
        write_report([folder], tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text()
        assert "Validation loss by tokens: no run has recorded val/loss." in html
        assert "too few seeds" in html
        for word in ("better", "worse", "no difference", "not adjusted", "crosses zero"):
            assert word not in html

    def test_the_table_alone_is_a_page(
        self, compared: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        (tmp_path / "compared").mkdir()
        shutil.copy(compared / "runs.parquet", tmp_path / "compared")
        page = tmp_path / "page.html"
        result = tinyohem("report", tmp_path / "compared", "--out", page)
        assert result.code == 0, result.err
        assert "The folders of the runs of compared are gone" in result.err
        assert "paired-differences" in page.read_text()

    def test_an_unfinished_run_holds_the_table_back(self, compared: Path, tmp_path: Path) -> None:
        """Whoever looks at half of the seeds sees a verdict that the rest may take back."""
        folder = tmp_path / "compared"
        shutil.copytree(compared, folder)
        drop("runs.parquet", "random-seed1/result.json", "random-seed1/eval.json")(folder)
        data = read_input([folder])
        assert data.comparisons == []
        assert "3 of 4 runs are. Missing: random-seed1." in data.warnings[0]
        assert what_came_out(data) == ("3 of 4 runs have finished, so nothing is compared yet.")

    @pytest.mark.parametrize("content", ["{", "[]", '{"config": 3}', '{"arm": "x"}'])
    def test_a_damaged_record_is_refused(
        self, compared: Path, tmp_path: Path, content: str
    ) -> None:
        folder = tmp_path / "compared"
        shutil.copytree(compared, folder)
        drop("runs.parquet", "*/config.json")(folder)
        (folder / "full-seed0" / "result.json").write_text(content)
        with pytest.raises(InputError, match=r"full-seed0/result\.json is damaged"):
            read_input([folder])

    def test_an_arm_without_a_seed_in_common_is_left_out(
        self, compared: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "compared"
        shutil.copytree(compared, folder)
        drop("runs.parquet", "comparison.json")(folder)
        (folder / "random-seed0").rename(folder / "other-seed7")
        data = read_input([folder])
        assert list(verdicts(data)) == ["full", "random"]
        assert "Without a seed in common with full: other." in data.warnings
