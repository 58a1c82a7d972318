"""Unbiased samples: chances by a root finder, weights in expectation, counts by brute force."""

import math
from fractions import Fraction
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from tinyohem.ohem import sampling
from tinyohem.ohem.sampling import adaptive_counts, importance, inclusion, stratified

floors = st.sampled_from([0.0, 0.1, 0.5, 1.0])
# Few distinct values, so that ties are the rule; the smallest is not far from the largest.
scores = st.lists(
    st.one_of(st.integers(1, 3).map(float), st.floats(0.01, 10)), min_size=1, max_size=12
)


def solved(values: list[float], count: int, floor: float) -> NDArray[np.float64]:
    """Return π = min(1, floor + c·score) with Σπ = count, c found as a root."""
    score = np.array(values)
    if count >= len(score):
        return np.ones(len(score))
    floor = min(floor, count / len(score))

    def chances(slope: float) -> NDArray[np.float64]:
        return np.minimum(1, floor + slope * score)

    if chances(0).sum() >= count - 1e-12:
        return chances(0)
    slope = brentq(lambda c: chances(c).sum() - count, 0, 1 / score.min(), xtol=1e-15)
    return chances(slope)


def one_scope(values: list[float], **changes: Any) -> tuple[Tensor, Tensor]:
    found = torch.tensor([values], **changes)
    return found, torch.ones_like(found, dtype=torch.bool)


def test_uniform_numbers_do_not_tie() -> None:
    """Of float32's 2²⁴ steps, 100,000 draws meet about 300 twice."""
    number = sampling.uniform(torch.empty(10, 10_000), torch.Generator().manual_seed(0))
    assert len(number.unique()) == 100_000
    assert 0 <= number.min() < number.max() < 1


class TestInclusion:
    @settings(max_examples=120)
    @given(scores, st.integers(1, 12), floors)
    def test_it_equals_a_root_finder(self, values: list[float], count: int, floor: float) -> None:
        count = min(count, len(values))
        found = inclusion(*one_scope(values), torch.tensor([count]), floor)
        # Scores are raised by a billionth of the largest, so that every chance is positive.
        np.testing.assert_allclose(found[0], solved(values, count, floor), rtol=1e-6)

    @settings(max_examples=150)
    @given(
        st.lists(
            st.lists(
                st.one_of(
                    st.just(0.0), st.floats(-1, 1), st.floats(0, 1e-12), st.floats(1e9, 1e12)
                ),
                min_size=9,
                max_size=9,
            ),
            min_size=1,
            max_size=3,
        ),
        st.lists(st.booleans(), min_size=27, max_size=27),
        st.floats(0.01, 1),
        floors,
    )
    def test_probabilities_sum_to_k_for_any_scores(
        self, values: list[list[float]], valid: list[bool], share: float, floor: float
    ) -> None:
        score_SM = torch.tensor(values)
        valid_SM = torch.tensor(valid[: score_SM.numel()]).view_as(score_SM)
        counts_S = (share * valid_SM.sum(dim=1)).ceil().long()
        found_SM = inclusion(score_SM, valid_SM, counts_S, floor)
        torch.testing.assert_close(found_SM.sum(dim=1), counts_S.double(), rtol=0, atol=1e-9)
        assert (found_SM[~valid_SM] == 0).all()
        assert ((found_SM[valid_SM] > 0) & (found_SM[valid_SM] <= 1)).all()
        # Never below the floor, and a higher score is never less likely.
        number_S1 = valid_SM.sum(dim=1, keepdim=True).clamp(min=1)
        floor_SM = (counts_S[:, None] / number_S1.double()).clamp(max=floor).expand_as(found_SM)
        assert (found_SM >= floor_SM - 1e-12)[valid_SM].all()
        for score_M, chance_M, valid_M in zip(score_SM, found_SM, valid_SM, strict=True):
            order = score_M[valid_M].argsort()
            assert (chance_M[valid_M][order].diff() >= -1e-12).all()

    def test_probabilities_of_many_tokens_sum_to_k(self) -> None:
        score = torch.rand(2, 30_000, generator=torch.Generator().manual_seed(0)) ** 9
        valid, counts = torch.ones_like(score, dtype=torch.bool), torch.tensor([13_001, 29_999])
        for floor in (0.0, 0.1, 1.0):
            found = inclusion(score, valid, counts, floor)
            torch.testing.assert_close(found.sum(1), counts.double(), rtol=0, atol=1e-8)

    def test_by_hand(self) -> None:
        """One token is certain; the rest share 1.5 - 1 above the floor of 0.1 as 1 : 2 : 2."""
        found = inclusion(*one_scope([2.0, 1.0, 100.0, 2.0]), torch.tensor([2]), 0.1)
        np.testing.assert_allclose(found[0], [0.38, 0.24, 1.0, 0.38], rtol=1e-6)

    def test_equal_scores_have_equal_probabilities(self) -> None:
        for value in (0.0, 3.0, -1.0):
            found = inclusion(*one_scope([value] * 8), torch.tensor([3]), 0.1)
            torch.testing.assert_close(found, torch.full((1, 8), 3 / 8, dtype=torch.float64))

    def test_all_tokens_are_certain_where_k_is_their_number(self) -> None:
        found = inclusion(*one_scope([0.0, 1.0, 5.0]), torch.tensor([3]), 0.0)
        assert found.tolist() == [[1.0, 1.0, 1.0]]


class TestImportance:
    VALUES: tuple[float, ...] = (0.0, 0.5, 1.0, 1.0, 2.0, 30.0, 4.0)

    def test_each_weight_is_one_in_expectation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The mean over a grid of uniform numbers is the integral over all of them."""
        score, valid = one_scope(list(self.VALUES))
        valid[0, 6] = False
        count, points = torch.tensor([3]), 4000
        total = torch.zeros(1, 7, dtype=torch.float64)
        for point in range(points):
            number = torch.full((1, 7), (point + 0.5) / points, dtype=torch.float64)
            monkeypatch.setattr(sampling, "uniform", lambda *_, number=number: number)
            total += importance(score, valid, count, 0.1, None)
        chance = inclusion(score, valid, count, 0.1)[0, :6]
        # The grid tells a chance to within one point.
        off = (total[0, :6] / points - 1).abs()
        assert (off <= 1 / (points * chance)).all()
        assert total[0, 6] == 0

    def test_tokens_are_drawn_independently_with_their_probabilities(self) -> None:
        score, valid = one_scope(list(self.VALUES))
        generator, draws = torch.Generator().manual_seed(2), 4000
        chance = inclusion(score, valid, torch.tensor([3]), 0.1)[0]
        kept = torch.cat(
            [importance(score, valid, torch.tensor([3]), 0.1, generator) for _ in range(draws)]
        )
        torch.testing.assert_close(kept[kept > 0], (1 / chance).float().expand_as(kept)[kept > 0])
        frequency = (kept > 0).double().mean(dim=0)
        spread = (chance * (1 - chance) / draws).sqrt()
        assert ((frequency - chance).abs() <= 4.5 * spread).all()
        number = (kept > 0).sum(dim=1).double()
        assert number.mean().item() == pytest.approx(3, abs=0.1)
        variance = (chance * (1 - chance)).sum().item()  # of independent draws
        assert number.var().item() == pytest.approx(variance, rel=0.1)


class TestStratified:
    def test_each_weight_is_one_in_expectation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Over every order in which the rest can be drawn, exactly."""
        score, valid = one_scope([1.0, 9.0, 3.0, 8.0, 4.0, 7.0])
        valid[0, 5] = False
        total, orders = torch.zeros(1, 6, dtype=torch.float64), list(permutations(range(6)))
        for order in orders:
            number = torch.tensor([order], dtype=torch.float64)
            monkeypatch.setattr(sampling, "uniform", lambda *_, number=number: number)
            weight = stratified(score, valid, torch.tensor([3]), 0.5, None)
            assert (weight > 0).sum() == 3
            total += weight
        # 3 of 5 with q = 1/2: the hardest is certain, 2 of the other 4 are drawn.
        assert (total / len(orders)).tolist() == [[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]]

    @settings(max_examples=120)
    @given(
        st.lists(st.integers(0, 3).map(float), min_size=1, max_size=20),
        st.data(),
        st.integers(1, 99),
    )
    def test_the_hardest_are_certain_and_drawn_tokens_weigh_for_the_rest(
        self, values: list[float], data: st.DataObject, percent: int
    ) -> None:
        number, share = len(values), Fraction(percent, 100)
        count = data.draw(st.integers(1, number))
        score, valid = one_scope(values)
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
        (weight,) = stratified(score, valid, torch.tensor([count]), float(share), generator)
        hardest = max(0, min(count - 1, math.floor((count - share * number) / (1 - share))))
        if count == number:
            hardest = number
        first = sorted(range(number), key=lambda i: (-values[i], i))
        assert (weight[first[:hardest]] == 1).all()
        drawn = weight[first[hardest:]]
        drawn = drawn[drawn > 0]
        assert len(drawn) == count - hardest
        expected = torch.full_like(drawn, (number - hardest) / max(1, count - hardest))
        torch.testing.assert_close(drawn, expected)
        assert weight.sum().item() == pytest.approx(number)

    @pytest.mark.parametrize(
        ("number", "count", "share", "hardest"),
        [
            (20, 17, 0.7, 10),  # (17 - 0.7 · 20) / 0.3 gives 9.999999999999998
            (10, 5, 1e-12, 4),  # one is left to be drawn, or the rest would have no chance
            (10, 5, 0.5, 0),
            (10, 10, 0.5, 10),
        ],
    )
    def test_the_number_of_certain_tokens(
        self, number: int, count: int, share: float, hardest: int
    ) -> None:
        score, valid = one_scope([float(number - i) for i in range(number)])
        (weight,) = stratified(score, valid, torch.tensor([count]), share, torch.Generator())
        assert (weight[:hardest] == 1).all()
        drawn = weight[hardest:][weight[hardest:] > 0]
        assert len(drawn) == count - hardest
        assert drawn.tolist() == pytest.approx(
            [(number - hardest) / max(1, count - hardest)] * (count - hardest)
        )

    def test_which_are_drawn_does_not_depend_on_the_score(self) -> None:
        score, valid = one_scope([9.0, 8.0, *[1.0] * 5, *[0.0] * 5])
        generator, draws = torch.Generator().manual_seed(0), 3000
        kept = sum(
            stratified(score, valid, torch.tensor([5]), 0.3, generator) > 0 for _ in range(draws)
        )
        assert kept[0, :2].tolist() == [draws, draws]
        share = 3 / 10  # of the other ten
        spread = math.sqrt(draws * share * (1 - share))
        assert ((kept[0, 2:] - draws * share).abs() <= 4.5 * spread).all()


def added(values: list[float], count: int, floor: float) -> float:
    """Return the variance that sampling adds, as a share of the gradient's energy."""
    energy = np.square(values)
    return float((energy * (1 / solved(values, count, floor) - 1)).sum() / energy.sum())


class TestAdaptiveCounts:
    @settings(max_examples=100)
    @given(scores, st.integers(1, 12), st.floats(0.01, 2), floors)
    def test_it_is_the_first_count_that_brute_force_finds(
        self, values: list[float], least: int, variance: float, floor: float
    ) -> None:
        number = len(values)
        least = min(least, number)
        every = {count: added(values, count, floor) for count in range(least, number + 1)}
        # A tie up to rounding could fall either way.
        assume(all(abs(share - variance) > 1e-6 for share in every.values()))
        expected = min(count for count, share in every.items() if share <= variance)
        norms, valid = one_scope(values)
        found = adaptive_counts(norms, valid, torch.tensor([least]), variance, floor)
        assert found.tolist() == [expected]
        assert found.dtype == torch.int64

    @pytest.mark.parametrize(
        ("number", "variance", "count"),
        [(100, 0.25, 80), (100, 1.0, 50), (64, 3.0, 16), (100, 0.1, 91), (7, 1e-6, 7)],
    )
    def test_equal_norms_need_one_in_one_plus_variance(
        self, number: int, variance: float, count: int
    ) -> None:
        """N/(1 + v) rounded up, and not one more where it is whole."""
        for value in (0.0, 0.3, 1e6):
            norms, valid = one_scope([value] * number)
            assert adaptive_counts(norms, valid, torch.tensor([1]), variance, 0.1) == count

    def test_each_scope_counts_its_valid_tokens_alone(self) -> None:
        alone = torch.tensor([[8.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0] * 6])
        padded = torch.tensor([[8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0], [1.0] * 6 + [9.0], [9.0] * 7])
        valid = torch.ones_like(padded, dtype=torch.bool)
        valid[:, 6] = False
        valid[2] = False
        expected = adaptive_counts(
            alone, torch.ones_like(alone, dtype=torch.bool), torch.tensor([1, 1]), 0.5, 0.1
        )
        found = adaptive_counts(padded, valid, torch.tensor([1, 1, 0]), 0.5, 0.1)
        assert found.tolist() == [*expected.tolist(), 0]
        assert expected[0] < expected[1] == 4

    def test_no_fewer_than_the_minimum_are_kept(self) -> None:
        norms, valid = one_scope([50.0, *[0.001] * 9])
        counts = [adaptive_counts(norms, valid, torch.tensor([n]), 0.1, 0.0) for n in (1, 6, 10)]
        assert [int(c) for c in counts] == [1, 6, 10]
