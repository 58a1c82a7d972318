"""Paired differences against scipy's own arithmetic, a hand-made table and a simulated null."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tinyohem.experiments.statistics import mean_sd, paired_difference, paired_equivalence

BASELINE = [1.00, 1.10, 0.90, 1.05, 0.95]
ARM = [1.02, 1.16, 0.91, 1.08, 1.00]


def test_a_hand_made_table() -> None:
    # Differences 0.02 0.06 0.01 0.03 0.05: mean 0.034, sd √(0.00172 / 4), standard error sd / √5,
    # and t(0.975, 4) = 2.7764451.
    found = paired_difference(ARM, BASELINE)
    error = math.sqrt(0.00172 / 4) / math.sqrt(5)
    assert found.mean == pytest.approx(0.034)
    assert found.low == pytest.approx(0.034 - 2.7764451 * error)
    assert found.high == pytest.approx(0.034 + 2.7764451 * error)
    assert found.p_value == pytest.approx(
        stats.ttest_1samp([0.02, 0.06, 0.01, 0.03, 0.05], 0).pvalue
    )
    assert found.shown
    assert found.seeds == 5


def test_the_sign_is_arm_minus_baseline() -> None:
    assert paired_difference(BASELINE, ARM).mean == pytest.approx(-0.034)


@pytest.mark.parametrize(
    ("arm", "baseline"), [([1.0], [2.0]), ([1.0, 1.5], [2.0, 2.5001]), ([1.0, 1.5], [2.0, 2.5])]
)
def test_below_three_seeds_there_is_no_test(arm: list[float], baseline: list[float]) -> None:
    """Also where two differences lie so close together that Student's test is sure of itself."""
    found = paired_difference(arm, baseline)
    assert found.mean == pytest.approx(-1.0, abs=1e-4)
    assert not found.tested
    assert np.isnan([found.low, found.high, found.p_value]).all()
    assert found.shown is None


def test_identical_runs_show_no_difference() -> None:
    found = paired_difference(BASELINE, BASELINE)
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert not found.shown


def test_differences_without_a_spread_are_told_from_none_at_all() -> None:
    found = paired_difference([2.0, 3.0, 5.0], [1.0, 2.0, 4.0])
    assert (found.mean, found.low, found.high, found.p_value) == (1, 1, 1, 0)
    assert found.shown


def test_a_simulated_null_is_called_a_difference_in_5_percent_of_1000_draws() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(1000, 2, 5)) + rng.normal(size=(1000, 1, 5))  # shared seed effect
    false_alarms = sum(paired_difference(arm, base).shown for arm, base in draws)
    # A binomial with p = 0.05 lies within 50 ± 21 in 99.8 % of all cases.
    assert 29 <= false_alarms <= 71


def test_a_true_effect_is_found() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(200, 5))
    arms = base - 1 + 0.2 * rng.normal(size=(200, 5))
    assert sum(paired_difference(a, b).shown for a, b in zip(arms, base, strict=True)) > 195


def test_mean_sd_is_the_sample_standard_deviation() -> None:
    assert mean_sd([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert math.isnan(mean_sd([1.0])[1])


def one_sided_p(differences: list[float], margin: float) -> float:
    """Return the larger p of both tests, from the distribution of t and the textbook's formula."""
    mean, error = np.mean(differences), np.std(differences, ddof=1) / math.sqrt(len(differences))
    freedom = len(differences) - 1
    above = stats.t.sf((mean + margin) / error, freedom)
    below = stats.t.cdf((mean - margin) / error, freedom)
    return max(above, below)


SOME = st.lists(st.integers(-30, 30), min_size=3, max_size=8).filter(lambda d: len(set(d)) > 1)


class TestEquivalence:
    def test_a_hand_made_table(self) -> None:
        # Mean 0.034 and standard error √0.000086 from above; t(0.95, 4) = 2.1318468.
        found = paired_equivalence(ARM, BASELINE, 0.05)
        error = math.sqrt(0.000086)
        assert found.low == pytest.approx(0.034 - 2.1318468 * error)
        assert found.high == pytest.approx(0.034 + 2.1318468 * error)
        # (0.034 − 0.05) / error = −1.725300, of which P(T < t) with 4 degrees is 0.0797706.
        assert found.p_value == pytest.approx(one_sided_p([0.02, 0.06, 0.01, 0.03, 0.05], 0.05))
        assert (found.shown, found.seeds, found.margin) == (False, 5, 0.05)
        assert paired_equivalence(ARM, BASELINE, 0.06).shown

    @given(thousandths=SOME, margin=st.integers(1, 60))
    def test_p_is_that_of_two_tests_and_agrees_with_the_90_percent_interval(
        self, thousandths: list[int], margin: int
    ) -> None:
        differences = [d / 1000 for d in thousandths]
        found = paired_equivalence(differences, [0.0] * len(differences), margin / 1000)
        assert found.p_value == pytest.approx(one_sided_p(differences, margin / 1000), abs=1e-12)
        nearest = min(found.low + margin / 1000, margin / 1000 - found.high)
        if abs(nearest) > 1e-9:
            assert found.shown is bool(nearest > 0)

    @given(thousandths=SOME, margin=st.floats(0.001, 0.1))
    def test_the_sign_of_the_difference_does_not_matter(
        self, thousandths: list[int], margin: float
    ) -> None:
        arm, zeros = [d / 1000 for d in thousandths], [0.0] * len(thousandths)
        one, other = paired_equivalence(arm, zeros, margin), paired_equivalence(zeros, arm, margin)
        assert one.p_value == pytest.approx(other.p_value, abs=1e-12)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)

    @pytest.mark.parametrize("seeds", [1, 2])
    def test_below_three_seeds_there_is_no_test(self, seeds: int) -> None:
        found = paired_equivalence(ARM[:seeds], BASELINE[:seeds], 1.0)
        assert np.isnan([found.low, found.high, found.p_value]).all()
        assert found.shown is None

    def test_differences_without_a_spread_are_within_the_margin_or_not(self) -> None:
        assert paired_equivalence(BASELINE, BASELINE, 1e-9).shown
        for arm in ([2.0, 3.0, 5.0], [0.0, 1.0, 3.0]):
            assert paired_equivalence(arm, [1.0, 2.0, 4.0], 1.5).shown
            assert not paired_equivalence(arm, [1.0, 2.0, 4.0], 1.0).shown

    def test_a_difference_as_large_as_the_margin_is_called_equivalent_in_5_percent(self) -> None:
        rng = np.random.default_rng(2)
        draws = 1 + 0.1 * rng.normal(size=(1000, 5))
        called = sum(bool(paired_equivalence(d, [0.0] * 5, 1.0).shown) for d in draws.tolist())
        assert 29 <= called <= 71  # as above
