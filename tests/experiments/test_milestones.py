"""When a run first had a loss: against a fine walk along the curve, and by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.experiments.milestones import ValidationRow, time_to_milestones
from tinyohem.io.manifest import check_record


def curve(*points: tuple[int, float]) -> list[ValidationRow]:
    rows = [{"step": s, "val/loss": loss, "train/seconds": s / 2} for s, loss in points]
    return [check_record(row, ValidationRow) for row in rows]


FULL = curve((10, 6), (40, 3), (100, 2), (120, 1))  # at step 60: 3 - 1/3


def test_milestones_equal_those_computed_by_hand() -> None:
    slower = curve((10, 7), (60, 4), (120, 1))
    assert time_to_milestones(slower, FULL) == pytest.approx(
        {
            "steps_to_baseline": 120,
            "seconds_to_baseline": 60,
            "steps_to_halfway": 60 + 60 * (4 - 8 / 3) / 3,
            "seconds_to_halfway": 30 + 30 * (4 - 8 / 3) / 3,
        }
    )


def test_a_baseline_reaches_its_own_losses_at_half_and_at_the_end() -> None:
    found = time_to_milestones(FULL, FULL)
    assert (found["steps_to_halfway"], found["steps_to_baseline"]) == pytest.approx((60, 120))


def test_a_loss_that_is_never_reached_has_no_milestone() -> None:
    found = time_to_milestones(curve((10, 9), (120, 2)), FULL)
    assert found["steps_to_baseline"] is found["seconds_to_baseline"] is None
    assert found["steps_to_halfway"] is not None


def test_a_run_that_starts_below_reaches_it_at_its_first_validation() -> None:
    assert time_to_milestones(curve((10, 0.5), (120, 2)), FULL)["steps_to_baseline"] == 10


@given(st.lists(st.integers(1, 90), min_size=2, max_size=12), st.integers(1, 90))
def test_the_crossing_is_the_first_on_a_fine_grid(losses: list[int], end: int) -> None:
    """With losses in whole numbers, so that the walk needs no allowance for rounding."""
    run = curve(*((100 * n, loss) for n, loss in enumerate(losses, 1)))
    found = time_to_milestones(run, curve((100, 9), (200, end)))["steps_to_baseline"]
    walk = (
        (100 * n + i / 10, losses[n - 1] * (1000 - i) + losses[n] * i)
        for n in range(1, len(losses))
        for i in range(1001)
    )
    first = next((step for step, loss in walk if loss <= 1000 * end), None)
    if first is None:
        assert found is None
    else:
        assert first - 0.1 < found <= first + 1e-9
