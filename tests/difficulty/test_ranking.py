from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from tinyohem.difficulty.ranking import (
    lowest,
    percentiles_of,
    write_later_copies,
    write_percentiles,
)

block_rows = st.sampled_from([1, 3, 7, 1000])


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([-1.5, 0.0, 2.0, 2.5, np.nan]) | st.floats(), max_size=30), block_rows
)
def test_percentiles_are_middle_ranks_for_any_block(
    tmp_path_factory, numbers: list[float], rows: int
) -> None:
    column = tmp_path_factory.mktemp("ranks") / "numbers.column"
    values = np.array(numbers, np.float64)
    values.tofile(column)
    out = column.with_name("out")
    defined = ~np.isnan(values)
    assert write_percentiles(column, out, rows) == defined.sum()

    expected = np.full(len(values), np.nan)
    if defined.any():
        expected[defined] = 100 * (rankdata(values[defined]) - 0.5) / defined.sum()
    np.testing.assert_allclose(np.fromfile(out), expected, rtol=1e-12)
    np.testing.assert_array_equal(percentiles_of(values), np.fromfile(out))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5) | st.just(2**64 - 1), max_size=30), block_rows)
def test_later_copies_are_all_but_the_first(
    tmp_path_factory, numbers: list[int], rows: int
) -> None:
    column = tmp_path_factory.mktemp("copies") / "numbers.column"
    np.array(numbers, np.uint64).tofile(column)
    out: Path = column.with_name("out")
    write_later_copies(column, out, rows)
    expected = [number in numbers[:at] for at, number in enumerate(numbers)]
    np.testing.assert_array_equal(np.fromfile(out, np.uint8), expected)


@given(
    st.lists(st.sampled_from([-1.5, 0.0, 2.0, np.nan]) | st.floats(), max_size=30),
    st.integers(1, 5),
)
def test_lowest_are_the_first_of_a_stable_sort(numbers: list[float], count: int) -> None:
    values = np.array(numbers, np.float64)
    order = np.argsort(values, kind="stable")  # NaN last
    expected = [index for index in order if not np.isnan(values[index])][:count]
    assert lowest(values, count).tolist() == expected
