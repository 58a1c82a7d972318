"""Keep ratio and shares over training: hand-computed points, bounds, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.config.schedule import NAMED_SCHEDULES, KeepSchedule, parse_mix, parse_schedule
from tinyohem.errors import InputError

ratios = st.floats(1e-6, 1)
progresses = st.floats(0, 1)


@pytest.mark.parametrize(
    ("text", "ratio", "points"),
    [
        ("constant", 0.3, {0: 0.3, 0.5: 0.3, 1: 0.3}),
        (
            "anneal",
            0.5,
            {0: 1, 0.1: 1, 0.2: 1, 0.35: 0.875, 0.5: 0.75, 0.75: 0.625, 1: 0.5},
        ),
        (
            "anneal-quarter",
            0.9,  # its knots are fixed
            {0: 1, 0.1999999: 1, 0.2: 0.75, 0.35: 0.625, 0.5: 0.5, 0.75: 0.375, 1: 0.25},
        ),
        (
            "recover",
            0.5,
            {0: 1, 0.2: 1, 0.3: 0.75, 0.4: 0.5, 0.6: 0.5, 0.7: 0.5, 0.75: 0.75, 0.8: 1, 1: 1},
        ),
        ("0:1,0.5:0.2,1:0.6", 1.0, {0: 1, 0.25: 0.6, 0.5: 0.2, 0.75: 0.4, 1: 0.6}),
        ("0:0.5,0:1,1:1,1:0.1", 1.0, {0: 1, 0.5: 1, 0.999999: 1, 1: 0.1}),
        (" 0 : 1 , 1 : 0.5 ", 1.0, {0: 1, 0.5: 0.75, 1: 0.5}),
    ],
)
def test_a_schedule_passes_through_its_knots(
    text: str, ratio: float, points: dict[float, float]
) -> None:
    schedule = parse_schedule(text, ratio, decay_fraction=0.2)
    found = {t: schedule.keep_ratio(t) for t in points}
    assert found == pytest.approx(points, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "lowest", "ends_full"),
    [
        ("constant", 0.5, False),
        ("anneal", 0.5, False),
        ("anneal-quarter", 0.25, False),
        ("recover", 0.5, True),
        ("0:0.1,1:1", 0.1, True),
    ],
)
def test_lowest_and_ends_full_describe_the_knots(text: str, lowest: float, ends_full: bool) -> None:
    schedule = parse_schedule(text, 0.5)
    assert (schedule.lowest, schedule.ends_full) == (lowest, ends_full)


@given(st.sampled_from(NAMED_SCHEDULES), ratios, progresses)
def test_named_schedules_stay_within_their_bounds(name: str, ratio: float, t: float) -> None:
    schedule = parse_schedule(name, ratio)
    assert schedule.lowest - 1e-15 <= schedule.keep_ratio(t) <= 1.0


@given(ratios, progresses)
def test_constant_is_exactly_its_ratio(ratio: float, t: float) -> None:
    assert parse_schedule("constant", ratio).keep_ratio(t) == ratio


@given(st.sampled_from(["constant", "anneal", "recover"]), progresses)
def test_ratio_one_is_exactly_one_throughout(name: str, t: float) -> None:
    assert parse_schedule(name, 1.0).keep_ratio(t) == 1.0  # the loop's plain path asks for == 1.0


@given(ratios, st.floats(0.01, 0.99), st.floats(0, 1))
def test_recover_keeps_all_tokens_early_and_while_the_rate_falls(
    ratio: float, decay: float, t: float
) -> None:
    kept = parse_schedule("recover", ratio, decay_fraction=decay).keep_ratio(t)
    if t <= (1 - decay) / 4 or t >= 1 - decay:
        assert kept == 1.0
    else:
        knots = [(1 - decay) * share for share in (1 / 4, 1 / 2, 7 / 8, 1)]
        assert kept == pytest.approx(np.interp(t, knots, [1, ratio, ratio, 1]), abs=1e-6)


@given(st.lists(st.integers(1, 99), max_size=6, unique=True).map(sorted), st.data(), progresses)
def test_knots_are_joined_by_straight_lines(
    inner: list[int], data: st.DataObject, t: float
) -> None:
    times = [0.0, *(n / 100 for n in inner), 1.0]
    kept = [data.draw(ratios) for _ in times]
    text = ",".join(f"{a!r}:{b!r}" for a, b in zip(times, kept, strict=True))
    schedule = parse_schedule(text, 1.0)
    assert schedule == KeepSchedule(tuple(zip(times, kept, strict=True)))
    assert schedule.keep_ratio(t) == pytest.approx(np.interp(t, times, kept), abs=1e-9)
    assert [schedule.keep_ratio(knot) for knot in times] == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recovery", "neither a schedule's name nor a list of knots"),
        ("", "neither a schedule's name nor a list of knots"),
        ("0:1,0.5,1:1", "neither a schedule's name nor a list of knots"),
        ("0:1:2,1:1", "neither a schedule's name nor a list of knots"),
        ("0:one,1:1", "neither a schedule's name nor a list of knots"),
        ("0:1,0.6:0.5,0.4:0.5,1:1", "t falls back"),
        ("0:1,nan:0.5,1:1", "t falls back"),
        ("0.1:1,1:1", "must run from t = 0 to t = 1"),
        ("0:1,0.9:1", "must run from t = 0 to t = 1"),
        ("0:1,2:1", "must run from t = 0 to t = 1"),
        ("0:1", "must run from t = 0 to t = 1"),
        ("0:1,0.5:0,1:1", r"ratio 0 at t = 0.5 is outside \(0, 1\]"),
        ("0:1,0.5:1.5,1:1", r"ratio 1.5 at t = 0.5 is outside \(0, 1\]"),
        ("0:1,0.5:-0.5,1:1", r"ratio -0.5 at t = 0.5 is outside \(0, 1\]"),
        ("0:1,0.5:nan,1:1", r"ratio nan at t = 0.5 is outside \(0, 1\]"),
    ],
)
def test_bad_schedules_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_schedule(text, 0.5)
    assert "recover" in (caught.value.hint or "")


@pytest.mark.parametrize("every", [2, 3, 7])
def test_full_step_every_n_keeps_all_tokens_at_every_nth_step(every: int) -> None:
    schedule = parse_schedule("constant", 0.3, every)
    found = [schedule.keep_ratio(step / 21, step) for step in range(21)]
    assert found == [1.0 if step % every == every - 1 else 0.3 for step in range(21)]
    assert schedule.lowest == 0.3
    assert not schedule.ends_full  # a step of its own is not the end of mining
    plain = parse_schedule("constant", 0.3)
    assert [plain.keep_ratio(step / 21, step) for step in range(21)] == [0.3] * 21


@given(st.sampled_from(NAMED_SCHEDULES), ratios, progresses, st.integers(0, 10**6))
def test_full_step_every_leaves_other_steps_unchanged(
    name: str, ratio: float, t: float, step: int
) -> None:
    plain, interrupted = parse_schedule(name, ratio), parse_schedule(name, ratio, 5)
    expected = 1.0 if (step + 1) % 5 == 0 else plain.keep_ratio(t)
    assert interrupted.keep_ratio(t, step) == expected


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("topk=0.5,random=0.3,pool=0.2", {0: (0.5, 0.3, 0.2), 1: (0.5, 0.3, 0.2)}),
        (
            "0:random=1; 0.5:topk=0.5,random=0.5",
            {0: (0, 1, 0), 0.25: (0.25, 0.75, 0), 0.5: (0.5, 0.5, 0), 1: (0.5, 0.5, 0)},
        ),
        (
            " 0 : topk = 1 ;0.5:topk=1;0.5:pool=0.4,random=0.6;1:random=1",
            {0: (1, 0, 0), 0.4999: (1, 0, 0), 0.5: (0, 0.6, 0.4), 0.75: (0, 0.8, 0.2)},
        ),
    ],
)
def test_shares_pass_through_their_knots(text: str, points: dict[float, tuple[float, ...]]) -> None:
    mix = parse_mix(text)
    for t, expected in points.items():
        shares = mix.shares(t)
        found = tuple(shares.get(name, 0.0) for name in ("topk", "random", "pool"))
        assert found == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10), st.integers(0, 10)), max_size=5),
    progresses,
)
def test_shares_sum_to_one_at_any_time(knots: list[tuple[int, int, int]], t: float) -> None:
    """Every source has its own straight lines; together they are all of the kept tokens."""
    written = [(0.0, 0.5, 0.25), *((n / 100, a / 20, b / 20) for n, a, b in sorted(knots))]
    text = ";".join(f"{n}:topk={a},random={b},pool={1 - a - b}" for n, a, b in written)
    shares = parse_mix(text).shares(t)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
    assert min(shares.values()) >= -1e-12


def test_sources_keep_the_order_of_the_text() -> None:
    assert list(parse_mix("0:pool=1;0.5:random=0.5,topk=0.5").shares(0)) == [
        "pool",
        "random",
        "topk",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no source"),
        ("hardest=1", "'hardest' is no source"),
        ("topk=0.5,topk=0.5", "stands twice"),
        ("topk=", "is no share of topk"),
        ("topk=half,random=0.5", "'half' is no share of topk"),
        ("topk=0.5,random=0.4", "must sum to 1"),
        ("topk=1.5,random=-0.5", "must sum to 1"),
        ("topk=nan", "must sum to 1"),
        ("0:topk=1;0.5:topk=0.5", "must sum to 1"),
        ("topk=1;0.5:random=1", "write knots as t:shares"),
        ("0:topk=1;", "write knots as t:shares"),
        ("now:topk=1", "write knots as t:shares"),
        ("0.1:topk=1", "t must begin at 0"),
        ("0:topk=1;0.6:topk=1;0.5:topk=1", "rise"),
        ("0:topk=1;1.5:topk=1", "end by 1"),
        ("0:topk=1;nan:topk=1", "rise"),
    ],
)
def test_bad_shares_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mix(text)
