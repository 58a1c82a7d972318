"""The comparison table: what it says, and when it declines to say more."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tinyohem.experiments.folder import RunResult
from tinyohem.experiments.table import (
    Reached,
    cells,
    lay_out,
    num_verdict_cells,
    summarise,
    to_json,
    to_markdown,
    write_tables,
)
from tinyohem.io.manifest import check_record


def result(arm: str, seed: int, bpb: float, steps: int | None = 10, **changed: float) -> RunResult:
    figures = {
        "arm": arm, "seed": seed, "bits_per_byte": bpb, "perplexity": 10 * bpb,
        "hardest_tenth": 6.0, "easiest_half": 0.5, "gini": 0.4, "tokens_seen": 100,
        "tokens_selected": 50 if arm != "full" else 100, "train_seconds": 60.0,
        "select_seconds": 6.0,
        "steps_to_baseline": steps, "seconds_to_baseline": steps and 2.0 * steps,
        "steps_to_halfway": steps and 0.4 * steps, "seconds_to_halfway": steps and 0.8 * steps,
        "environment": {"device": "cpu"}, **changed,
    }  # fmt: skip
    return check_record(figures, RunResult)


BITS = st.floats(0.5, 2)
FULL = [result("full", seed, bpb) for seed, bpb in enumerate([1.00, 1.10, 0.90])]


def test_the_first_arm_is_the_baseline_and_the_rest_are_paired_by_seed() -> None:
    shuffled = [result("topk", seed, FULL[seed].bits_per_byte + 0.1 + 0.001 * seed)
                for seed in (2, 0, 1)]  # fmt: skip
    full, topk = summarise(FULL + shuffled)
    assert full.difference is None
    assert full.bits_per_byte == pytest.approx((1.0, 0.1))
    assert topk.difference is not None
    assert topk.difference.mean == pytest.approx(0.101)  # unpaired seeds would spread it by ±0.14
    assert topk.difference.high - topk.difference.low < 0.01
    assert topk.kept == 0.5
    assert "worse" in cells(topk).values()


def test_every_cell_says_its_own_figure() -> None:
    arm = [
        result("topk", 0, 1.25, steps=1000, hardest_tenth=8.0, easiest_half=0.25,
         gini=0.5, tokens_selected=25, train_seconds=80.0, select_seconds=8.0),
        result("topk", 1, 1.30, steps=2000, hardest_tenth=9.0, easiest_half=0.75,
         gini=0.7, tokens_selected=50, train_seconds=90.0, select_seconds=10.0),
        result("topk", 2, 1.20, steps=3000, hardest_tenth=8.5, easiest_half=0.5,
         gini=0.6, tokens_selected=75, train_seconds=85.0, select_seconds=9.0),
    ]  # fmt: skip
    row = summarise([*FULL, *arm])[1]
    # Differences 0.25, 0.20 and 0.30: sd 0.05, standard error 0.05 / √3, t(0.975, 2) = 4.30265.
    assert cells(row) == {
        "arm": "topk",
        "bits per byte": "1.2500 ± 0.0500",
        "difference": "+0.2500",
        "95 % interval": "+0.1258 to +0.3742",
        "p": "0.013",
        "verdict": "worse",
        "perplexity": "12.50 ± 0.50",
        "kept": "50.0%",
        "hardest tenth": "8.500 ± 0.500",
        "easiest half": "0.500 ± 0.250",
        "Gini": "0.600 ± 0.100",
        "steps to half-way": "800",
        "steps to baseline": "2,000",
        "s to baseline": "4,000",
        "train s": "85 ± 5",
        "of it selection": "9 ± 1",
        "choosing s": "",
    }


def test_only_seeds_that_both_have_are_paired() -> None:
    arm = [result("topk", s, 0.8 + 0.1 * s) for s in (3, 2, 0)]
    row = summarise([*FULL, *arm])[1]
    assert row.difference is not None
    assert row.difference.seeds == 2
    assert row.difference.mean == pytest.approx(((0.8 - 1.0) + (1.0 - 0.9)) / 2)
    assert row.bits_per_byte[0] == pytest.approx((1.1 + 1.0 + 0.8) / 3)


def test_the_verdict_names_the_direction_of_a_difference() -> None:
    lower = [result("topk", s, r.bits_per_byte - 0.1 - 0.001 * s) for s, r in enumerate(FULL)]
    assert "better" in cells(summarise(FULL + lower)[1]).values()


def test_an_arm_that_leaves_few_tokens_out_is_told_from_one_that_leaves_none() -> None:
    arm = [result("topk", s, 1.0, tokens_seen=1000, tokens_selected=996) for s in (0, 1)]
    full, topk = map(cells, summarise(FULL + arm))
    assert (full["kept"], topk["kept"]) == ("100.0%", "99.6%")


def test_the_verdict_says_when_no_difference_is_shown() -> None:
    noise = [result("topk", s, r.bits_per_byte + d) for s, (r, d) in
             enumerate(zip(FULL, [0.1, -0.1, 0.02], strict=True))]  # fmt: skip
    assert "no difference shown" in cells(summarise(FULL + noise)[1]).values()


@given(st.lists(st.tuples(BITS, BITS), min_size=1, max_size=4), st.integers(0, 2))
def test_below_three_shared_seeds_no_arm_gets_a_verdict(
    pairs: list[tuple[float, float]], alone: int
) -> None:
    """Whatever the figures, and however many seeds an arm has that the baseline lacks."""
    full = [result("full", seed, base) for seed, (base, _) in enumerate(pairs)]
    topk = [result("topk", seed, bits) for seed, (_, bits) in enumerate(pairs)]
    topk += [result("topk", 90 + more, 1.0) for more in range(alone)]
    rows = summarise(full + topk)
    told = cells(rows[1])
    figures = to_json(rows)[1]
    tested = ("95 % interval", "p")
    judged = ("better", "worse", "no difference shown", "not adjusted")
    difference = figures["difference"]
    null = [difference[name] is None for name in ("low", "high", "p_value", "shown")]
    if len(pairs) < 3:
        assert [told[name] for name in tested] == ["", ""]
        assert told["verdict"] == figures["verdict"] == "too few seeds"
        assert not any(word in to_markdown(rows) for word in judged)
        assert "no test below 3 seeds" in to_markdown(rows)
        assert all(null)
    else:
        assert all(told[name] for name in tested)
        assert figures["verdict"] in judged
        assert "no test" not in to_markdown(rows)
        assert not any(null)
    assert difference["mean"] == pytest.approx(np.mean([b - a for a, b in pairs]), abs=1e-12)
    assert told["difference"]


def shifted(arm: str, *by: float) -> list[RunResult]:
    """Return an arm that is so many bits per byte from the baseline, seed by seed."""
    return [result(arm, run.seed, run.bits_per_byte + d) for run, d in zip(FULL, by, strict=True)]


class TestEquivalence:
    NEAR = tuple(shifted("near", 0.001, -0.001, 0.002))
    FAR = tuple(shifted("far", 0.1, -0.1, 0.02))

    def test_it_stands_beside_the_verdict_where_a_margin_is_given(self) -> None:
        rows = summarise([*FULL, *self.NEAR, *self.FAR, result("few", 0, 1.0)], margin=0.005)
        told = [cells(row) for row in rows]
        names = list(told[0])
        at = names.index("verdict")
        assert names[at + 1 : at + 3] == ["within ±0.005, p", "within ±0.005"]
        assert num_verdict_cells(rows[0]) == at + 3
        words = [line["within ±0.005"] for line in told]
        assert words == ["", "shown", "not shown", "too few seeds"]
        # Mean 0.002/3, standard error 0.00088192: (0.002/3 − 0.005) / error = −4.9135 on 2 degrees;
        # far, mean 0.02/3 and standard error 0.0581187, is beyond the margin: p is above a half.
        assert [line["within ±0.005, p"] for line in told] == ["", "0.02", "0.51", ""]
        assert "two one-sided paired t-tests" in to_markdown(rows)

    def test_json_has_it_with_a_margin_alone(self) -> None:
        full, near, few = to_json(
            summarise([*FULL, *self.NEAR, result("few", 0, 1.0)], margin=0.005)
        )
        assert full["equivalence"] is None
        assert near["equivalence"]["shown"] is True
        assert near["equivalence"]["margin"] == near["margin"] == 0.005
        assert few["equivalence"] == {
            "margin": 0.005, "low": None, "high": None, "p_value": None, "seeds": 1, "shown": None
        }  # fmt: skip
        rows = summarise([*FULL, *self.NEAR])
        assert not any("within" in name for name in cells(rows[1]))
        assert to_json(rows)[1]["equivalence"] is None
        assert "one-sided" not in to_markdown(rows)


def test_a_single_run_has_no_spread() -> None:
    assert "±" not in " ".join(cells(summarise([FULL[0], result("topk", 0, 1.5)])[1]).values())


def test_a_baseline_that_is_never_reached_is_shown_as_never() -> None:
    never = [result("topk", s, 2.0 + 0.1 * s, steps=None) for s in range(3)]
    assert list(cells(summarise(FULL + never)[1]).values()).count("never") == 3
    late = [result("topk", s, 2.0 + 0.1 * s, steps=None if s == 1 else 5 + s) for s in range(3)]
    row = summarise(FULL + late)[1]
    assert row.baseline == Reached(seeds=2, steps=6, seconds=12)
    assert "6 (2 of 3)" in cells(row).values()


def test_markdown_json_and_parquet_hold_the_same_runs(tmp_path: Path) -> None:
    rows = summarise([FULL[0], result("topk", 0, 1.5)])
    lines = to_markdown(rows).splitlines()
    assert [len(line.split("|")) - 2 for line in lines[:4]] == [len(lay_out(rows)[0])] * 4
    assert (
        json.loads(json.dumps(to_json(rows), allow_nan=False))[1]["difference"]["p_value"] is None
    )
    write_tables(tmp_path, FULL)
    assert parquet.read_table(tmp_path / "runs.parquet")["bits_per_byte"].to_pylist() == [
        1,
        1.1,
        0.9,
    ]


def test_the_footnote_counts_the_comparisons_that_p_is_not_adjusted_for() -> None:
    results = [result(arm, seed, 1.0 + seed) for arm in ("a", "b", "c") for seed in range(3)]
    assert "not adjusted for 2 comparisons" in to_markdown(summarise(results))
    assert "adjusted" not in to_markdown(summarise(results[:6]))
    single = result("d", 0, 1.0)  # is not tested, so it does not count
    told = to_markdown(summarise([*results, single]))
    assert "mean ± sd over 1 to 3 seeds" in told
    assert "not adjusted for 2 comparisons" in told


def test_a_milestone_that_is_not_known_is_not_called_never() -> None:
    known = [{k: v for k, v in run.to_json().items() if "_to_" not in k} for run in FULL]
    row = summarise([check_record(figures, RunResult) for figures in known])[0]
    assert (row.halfway, row.baseline) == (None, None)
    assert "never" not in cells(row).values()
    assert to_json([row])[0]["baseline"] is None


def test_the_seconds_of_choosing_are_a_column_where_an_arm_chooses() -> None:
    rows = summarise([FULL[0], result("chosen", 0, 1.5, choose_seconds=2.5)])
    assert [line["choosing s"] for line in lay_out(rows)] == ["", "2.5"]
    assert "choosing s" in to_markdown(rows)
    assert "choosing s" not in lay_out(summarise([FULL[0], result("topk", 0, 1.5)]))[0]
