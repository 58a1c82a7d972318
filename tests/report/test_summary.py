"""The sentence at the top of a report: what came out, and no more than that."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from tinyohem.report.run_logs import read_input
from tinyohem.report.summary import what_came_out


def said(*folders: Path) -> str:
    return what_came_out(read_input(folders))


def test_a_comparison_has_its_verdicts(comparison: Path) -> None:
    assert said(comparison) == (
        "Against full, 1.0200 bits per byte: random (+0.0330) is worse; no difference is shown for "
        "ohem (+0.0003)."
    )


def test_two_seeds_have_no_verdict(comparison: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    table = parquet.read_table(comparison / "runs.parquet")
    (tmp_path / "two").mkdir()
    kept = table.filter(parquet.filters_to_expression([("seed", "<", 2)]))
    parquet.write_table(kept, tmp_path / "two" / "runs.parquet")
    assert said(tmp_path / "two") == (
        "Against full, 1.0250 bits per byte: too few seeds (below 3) to judge random (+0.0325) and "
        "ohem (-0.0005)."
    )


def test_several_comparisons_are_named(comparison: Path, tmp_path: Path) -> None:
    shutil.copytree(comparison, tmp_path / "again")
    told = said(comparison)
    assert said(comparison, tmp_path / "again") == " ".join(
        told.replace("Against", f"In {name}, against") for name in ("compared", "again")
    )


def test_one_run_is_summarised_finished_or_not(make_run, tmp_path: Path) -> None:
    done = make_run(tmp_path / "done")
    assert said(done) == "done ended at perplexity 22.20, 1.0333 bits per byte after 25,600 tokens."
    going = make_run(tmp_path / "going", finished=False)
    assert said(going) == "going is at step 200 of 200: perplexity 22.80 so far."
    early = make_run(tmp_path / "early", rows=[{"step": 3, "train/lr": 0.1}], finished=False)
    assert said(early) == "early is at step 3 of 200: not validated yet."
    assert said(done, going) == "1 of 2 runs have finished, so nothing is compared yet."
    assert said(early, going) == "None of the 2 runs has finished yet."


def test_runs_are_ranked_by_bits_where_those_compare(make_run, tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, level=level) for name, level in (("a", 0.3), ("b", 0))]
    told = "Bits per byte, the fewest first: b 1.0333 and a 1.1333; these runs are no comparison"
    assert said(*folders).startswith(told)
    other = make_run(tmp_path / "c", valid={"tokenizer": "u" * 64}, level=0.6)
    assert "and c 1.2333" in said(*folders, other)
    other = make_run(tmp_path / "d", valid={"corpus": "d" * 64})
    assert said(*folders, other) == "These 3 runs have finished; their figures do not compare."
    many = [make_run(tmp_path / f"m{i}", level=1 + 0.1 * i) for i in range(5)]
    assert "m1 1.4000 and 3 more;" in said(*folders, *many)
