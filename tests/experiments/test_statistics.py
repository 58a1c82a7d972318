"""Paired differences against scipy's own arithmetic, a hand-made table and a simulated null."""

import math

import numpy as np
import pytest
from scipy import stats

from tinyohem.experiments.statistics import mean_sd, paired_difference

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
