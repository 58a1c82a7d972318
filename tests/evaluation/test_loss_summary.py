"""Breakdowns against closed forms and the definition written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.evaluation.loss_summary import break_down, gini, mean_by_type


def test_tail_and_easy_half() -> None:
    losses = np.arange(20, dtype=np.float32)
    found = break_down(losses, np.zeros(20, dtype=np.int64))
    assert found.hardest_tenth == 18.5  # the mean of 18 and 19
    assert found.easiest_half == 4.5  # the mean of 0 .. 9


def test_gini_closed_forms() -> None:
    assert gini(np.ones(7)) == 0
    assert gini(np.array([0.0, 0.0, 0.0, 1.0])) == pytest.approx(3 / 4)  # (n − 1) / n
    assert gini(np.array([1.0, 3.0])) == pytest.approx(1 / 4)
    assert gini(np.zeros(3)) == 0


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=30).filter(lambda values: sum(values) > 1e-6)
)
def test_gini_is_the_mean_difference_over_twice_the_mean(values: list[float]) -> None:
    n = len(values)
    pairs = sum(abs(a - b) for a in values for b in values)
    expected = pairs / (2 * n * n * (sum(values) / n))
    assert gini(np.array(values)) == pytest.approx(expected, abs=1e-9)


def test_mean_by_type_skips_types_that_do_not_occur() -> None:
    losses = np.array([1, 2, 3, 5], dtype=np.float32)
    labels = np.array([4, 0, 4, 0], dtype=np.uint16)
    np.testing.assert_allclose(mean_by_type(losses, labels), [3.5, 2.0])
