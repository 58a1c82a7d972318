"""Means with error bars, and paired differences: the arithmetic behind every table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANCE = 0.05
MIN_SEEDS = 3  # for a test: two seeds leave one degree of freedom


@dataclass(frozen=True)
class Difference:
    """A paired difference to the baseline: arm minus baseline, seed by seed."""

    mean: float
    low: float  # of the 95 % interval; NaN below MIN_SEEDS
    high: float
    p_value: float  # two-sided, paired t-test; NaN below MIN_SEEDS
    seeds: int

    @property
    def tested(self) -> bool:
        """Whether there were enough seeds for a test."""
        return self.seeds >= MIN_SEEDS

    @property
    def shown(self) -> bool | None:
        """Whether the difference is significant; None with too few seeds for a test."""
        return self.p_value < SIGNIFICANCE if self.tested else None


@dataclass(frozen=True)
class Equivalence:
    """Whether a paired difference, arm minus baseline, lies within ±margin."""

    margin: float
    low: float  # of the 90 % interval; NaN below MIN_SEEDS
    high: float
    p_value: float  # the larger of two one-sided paired t-tests; NaN below MIN_SEEDS
    seeds: int

    @property
    def shown(self) -> bool | None:
        """Whether the difference is within the margin; None with too few seeds for a test."""
        return self.p_value < SIGNIFICANCE if self.seeds >= MIN_SEEDS else None


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Compare two arms whose runs share seeds, windows and initial weights.

    The interval is the mean difference ± t(0.975, n − 1) standard errors (Student's paired test).
    Below `MIN_SEEDS` there is no interval and no p-value.

    Args:
        arm: one figure a seed.
        baseline: the baseline's figures for the same seeds, in the same order.
    """
    from scipy import stats

    differences = [a - b for a, b in zip(arm, baseline, strict=True)]
    mean = sum(differences) / len(differences)
    if len(differences) < MIN_SEEDS:
        return Difference(mean, math.nan, math.nan, math.nan, len(differences))
    if all(d == differences[0] for d in differences):
        # Without any spread the t-test is undefined.
        p_value = 1.0 if mean == 0 else 0.0
        return Difference(mean, mean, mean, p_value, len(differences))
    test = stats.ttest_rel(arm, baseline)
    interval = test.confidence_interval(0.95)
    return Difference(
        mean, float(interval.low), float(interval.high), float(test.pvalue), len(differences)
    )


def paired_equivalence(
    arm: Sequence[float], baseline: Sequence[float], margin: float
) -> Equivalence:
    """Test whether two arms differ by less than `margin`, by two one-sided t-tests (TOST).

    One test refuses a difference of −margin or less, the other one of +margin or more; both must,
    so the larger p-value counts (Schuirmann 1987). That it is below 0.05 and that the 90 % interval
    lies within ±margin is the same. Below `MIN_SEEDS` there is no interval and no p-value.

    Args:
        arm: one figure a seed.
        baseline: the baseline's figures for the same seeds, in the same order.
        margin: the largest difference that would not matter, above 0, in the figures' unit.
    """
    from scipy import stats

    differences = [a - b for a, b in zip(arm, baseline, strict=True)]
    if len(differences) < MIN_SEEDS:
        return Equivalence(margin, math.nan, math.nan, math.nan, len(differences))
    if all(d == differences[0] for d in differences):
        # Without any spread the t-test is undefined.
        p_value = 0.0 if abs(differences[0]) < margin else 1.0
        return Equivalence(margin, differences[0], differences[0], p_value, len(differences))
    above = stats.ttest_1samp(differences, -margin, alternative="greater")
    below = stats.ttest_1samp(differences, margin, alternative="less")
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.90)
    p_value = max(float(above.pvalue), float(below.pvalue))
    return Equivalence(margin, float(interval.low), float(interval.high), p_value, len(differences))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (NaN for one value)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    # A product overflows to infinity; `**` would raise an error.
    return mean, math.sqrt(sum((v - mean) * (v - mean) for v in values) / (len(values) - 1))
