from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.config.curriculum import CurriculumConfig, Pacing
from tinyohem.difficulty.pacing import describe, order_draws

COMPETENCE = {
    "linear": lambda t: t,
    "quadratic": lambda t: t**2,
    "inverse_quadratic": lambda t: 1 - (1 - t) ** 2,
    "root": np.sqrt,
}
EVERY = [pacing for pacing in get_args(Pacing) if pacing != "filter"]  # which orders nothing


def paced(pacing: Pacing = "warmup", **how: Any) -> CurriculumConfig:
    return CurriculumConfig(pacing=pacing, **how)


@st.composite
def runs(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw windows as shuffled training visits them, over some epochs, and difficulties."""
    windows = draw(st.integers(1, 40))
    epochs = [draw(st.permutations(range(windows))) for _ in range(draw(st.integers(1, 3)))]
    drawn = np.array([w for epoch in epochs for w in epoch])[: draw(st.integers(1, 100))]
    difficulty = draw(
        st.lists(
            st.sampled_from([1.0, 2.0, np.nan]) | st.floats(-1e6, 1e6),
            min_size=windows,
            max_size=windows,
        )
    )
    return drawn, np.array(difficulty)


curricula = st.builds(
    CurriculumConfig,
    pacing=st.sampled_from(EVERY),
    fraction=st.sampled_from([None, 0.2, 0.5, 1.0]),
    initial_competence=st.sampled_from([0.01, 0.3, 1.0]),
    layers=st.integers(1, 12),
    jitter_window=st.sampled_from([0, 1, 3, 10]),
)


@pytest.mark.parametrize(
    ("curriculum", "told"),
    [
        # 40 windows of difficulty 0, 2, … 78; ten steps of four.
        (paced(), "the easiest 20% of windows (difficulty up to 14.0 of 100) until step 2, "),
        (paced(fraction=0.5), "the easiest 50% of windows (difficulty up to 38.0 of 100)"),
        (paced("sorted"), "easiest first"),
        (paced("reverse"), "hardest first"),
        (paced("by_length"), "shortest first"),
        (paced("shuffled"), "every window at random"),
        (paced("interleaved", layers=3), "3 passes from easy to hard"),
        (paced("zigzag", layers=3), "3 passes, from easy to hard and back"),
        (paced("linear"), "any of the easiest 1% of windows at first, of all from step 10 on"),
        (paced("root", fraction=0.5, initial_competence=0.3), "any of the easiest 30% of "),
        (paced("sorted", jitter_window=8), "easiest first; shuffled over 8 windows at a time"),
    ],
)
def test_describe_names_what_the_order_does(curriculum: CurriculumConfig, told: str) -> None:
    drawn, difficulty = np.random.default_rng(0).permutation(40), np.arange(0, 80, 2.0)
    order = order_draws(drawn, difficulty, curriculum, 0)
    assert describe(order, difficulty, curriculum, 10).startswith(told)


@settings(deadline=None)
@given(runs(), curricula)
def test_describe_takes_every_rule_and_run(run, curriculum: CurriculumConfig) -> None:
    drawn, difficulty = run
    told = describe(
        order_draws(drawn, difficulty, curriculum, 0), difficulty, curriculum, len(drawn)
    )
    assert "nan" not in told
    assert "inf" not in told


@settings(deadline=None)
@given(runs(), curricula, st.integers(0, 3))
def test_every_rule_permutes_the_draws_and_repeats_by_seed(
    run, curriculum: CurriculumConfig, seed: int
) -> None:
    drawn, difficulty = run
    untouched = drawn.copy()
    order = order_draws(drawn, difficulty, curriculum, seed)
    np.testing.assert_array_equal(np.sort(order), np.sort(drawn))
    np.testing.assert_array_equal(order, order_draws(drawn, difficulty, curriculum, seed))
    np.testing.assert_array_equal(drawn, untouched)


@settings(deadline=None)
@given(runs(), st.integers(0, 10))
def test_reverse_is_the_exact_reverse(run, jitter: int) -> None:
    forwards = order_draws(*run, paced("sorted", jitter_window=jitter), 0)
    backwards = order_draws(*run, paced("reverse", jitter_window=jitter), 0)
    np.testing.assert_array_equal(forwards, backwards[::-1])


def shuffled_run(windows: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.permutation(windows), rng.permutation(windows).astype(float)


def test_shuffled_is_the_run_without_a_curriculum() -> None:
    drawn, difficulty = shuffled_run()
    np.testing.assert_array_equal(order_draws(drawn, difficulty, paced("shuffled"), 0), drawn)


def test_sorted_breaks_ties_by_row_and_puts_the_unscored_last() -> None:
    drawn = np.array([4, 2, 0, 3, 1])
    difficulty = np.array([5.0, np.nan, 1.0, 5.0, 1.0])
    order = order_draws(drawn, difficulty, paced("sorted"), 0)
    assert order.tolist() == [2, 4, 0, 3, 1]


def test_warmup_draws_the_easiest_fifth_first_then_all_others_both_shuffled() -> None:
    drawn, difficulty = shuffled_run()
    order = order_draws(drawn, difficulty, paced(), 1)
    first, rest = difficulty[order[:200]], difficulty[order[200:]]
    assert sorted(first) == list(range(200))
    for part in (first, rest):
        assert abs(np.corrcoef(part, np.arange(len(part)))[0, 1]) < 0.2
    other = order_draws(drawn, difficulty, paced(), 2)
    assert set(other[:200]) == set(order[:200])
    assert other.tolist() != order.tolist()


@pytest.mark.parametrize("pacing", COMPETENCE)
@pytest.mark.parametrize("fraction", [None, 0.5])
def test_a_draw_is_never_harder_than_the_competence_allows(
    pacing: Pacing, fraction: float | None
) -> None:
    drawn, difficulty = shuffled_run()
    curriculum = paced(pacing, fraction=fraction, initial_competence=0.1)
    ranks = difficulty[order_draws(drawn, difficulty, curriculum, 0)]
    t = np.minimum(1, np.arange(1000) / 1000 / (fraction or 1))
    available = np.ceil((0.1 + 0.9 * COMPETENCE[pacing](t)) * 1000)
    # Without replacement the easiest `draws so far` may be used up before the competence grows.
    allowed = np.maximum(available, np.arange(1000) + 1)
    assert (ranks < allowed).all()
    assert (ranks[:50] > 25).any()  # and it is no sort: all that is available is drawn from


def test_competence_draws_are_uniform_over_what_is_available() -> None:
    drawn = np.arange(4)
    counts = np.zeros(4)
    for seed in range(2000):
        curriculum = paced("linear", initial_competence=1.0)
        counts[order_draws(drawn, drawn.astype(float), curriculum, seed)[0]] += 1
    assert abs(counts / 2000 - 0.25).max() < 0.04


def test_layers_and_zigzag() -> None:
    drawn, difficulty = np.arange(7), np.arange(7.0)
    assert order_draws(drawn, difficulty, paced("interleaved", layers=3), 0).tolist() == [
        *(0, 3, 6),
        *(1, 4),
        *(2, 5),
    ]
    assert order_draws(drawn, difficulty, paced("zigzag", layers=3), 0).tolist() == [
        *(0, 3, 6),
        *(4, 1),
        *(2, 5),
    ]


def test_jitter_shuffles_inside_stretches_only() -> None:
    drawn, difficulty = shuffled_run()
    plain = order_draws(drawn, difficulty, paced("sorted"), 0)
    order = order_draws(drawn, difficulty, paced("sorted", jitter_window=30), 0)
    assert order.tolist() != plain.tolist()
    for at in range(0, 1000, 30):
        assert set(order[at : at + 30]) == set(plain[at : at + 30])
