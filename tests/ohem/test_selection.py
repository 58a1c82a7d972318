"""Which tokens are kept, against a naive sort; how many, against exact fractions."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.selection import selection_weights
from tinyohem.ohem.topk import keep_counts

decimal_ratios = st.integers(1, 10_000).map(lambda n: Fraction(n, 10_000))


def exact_count(num_valid: int, ratio: Fraction, min_kept: int) -> int:
    return min(num_valid, max(min_kept, math.ceil(ratio * num_valid)))


def reference_top_k(
    scores: Tensor, labels: Tensor, ratio: Fraction, scope: str, min_kept: int
) -> list[list[float]]:
    """Sort by (-score, position), slowly; scopes are lists of positions."""
    num_rows, length = labels.shape
    rows = [[(b, t) for t in range(length)] for b in range(num_rows)]
    weights = [[0.0] * length for _ in rows]
    for positions in rows if scope == "sequence" else [[p for row in rows for p in row]]:
        valid = [(b, t) for b, t in positions if labels[b, t] != IGNORE_INDEX]
        ranked = sorted(valid, key=lambda p: (-scores[p].item(), p))
        for b, t in ranked[: exact_count(len(valid), ratio, min_kept)]:
            weights[b][t] = 1.0
    return weights


def weights(
    method: str,
    scores: Tensor,
    labels: Tensor,
    ratio: float,
    generator: torch.Generator | None = None,
    **config: Any,
) -> Tensor:
    config = OhemConfig.model_validate({"select": method, **config})
    shares = config.mix_schedule().shares(0.0)
    return selection_weights(scores, labels, ratio, config, shares=shares, generator=generator)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 9)))
    size = shape[0] * shape[1]
    # Few distinct scores, so that ties are the rule.
    numbers = st.one_of(
        st.integers(-2, 3).map(float),
        st.floats(-(2.0**99), 2.0**99, width=32),
        st.sampled_from([-math.inf, math.inf]),
    )
    scores = draw(st.lists(numbers, min_size=size, max_size=size))
    ignored = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    labels = [IGNORE_INDEX if skip else 1 for skip in ignored]
    return torch.tensor(scores).view(shape), torch.tensor(labels).view(shape)


@settings(max_examples=300)
@given(batches(), decimal_ratios, st.sampled_from(["batch", "sequence"]), st.integers(1, 6))
def test_topk_equals_a_naive_sort(
    batch: tuple[Tensor, Tensor], ratio: Fraction, scope: str, min_kept: int
) -> None:
    scores, labels = batch
    found = weights("topk", scores, labels, float(ratio), scope=scope, min_kept=min_kept)
    assert found.tolist() == reference_top_k(scores, labels, ratio, scope, min_kept)
    assert found.dtype == torch.float32


@settings(max_examples=100)
@given(batches(), decimal_ratios, st.sampled_from(["batch", "sequence"]), st.integers(1, 6))
def test_random_keeps_as_many_as_topk_in_every_scope(
    batch: tuple[Tensor, Tensor], ratio: Fraction, scope: str, min_kept: int
) -> None:
    scores, labels = batch
    top, random = (
        weights(method, scores, labels, float(ratio), scope=scope, min_kept=min_kept)
        for method in ("topk", "random")
    )
    by_scope = (1, -1) if scope == "batch" else labels.shape
    assert random.view(by_scope).sum(1).tolist() == top.view(by_scope).sum(1).tolist()
    assert (random[labels == IGNORE_INDEX] == 0).all()
    assert set(random.unique().tolist()) <= {0.0, 1.0}


@settings(max_examples=500)
@given(st.integers(0, 2**20), decimal_ratios, st.integers(1, 1000))
def test_keep_counts_are_exact_for_decimal_ratios(
    num_valid: int, ratio: Fraction, min_kept: int
) -> None:
    found = keep_counts(torch.tensor(num_valid), float(ratio), min_kept)
    assert int(found) == exact_count(num_valid, ratio, min_kept)


@pytest.mark.parametrize(
    ("num_valid", "ratio", "kept"),
    [
        (30, 0.1, 3),  # 0.1 · 30 is 3.0000000000000004
        (100, 0.07, 7),  # 0.07 · 100 is 7.000000000000001
        (8192, 0.5, 4096),
        (3, 0.5, 2),
        (10, 1.0, 10),
        (10, 1e-12, 1),
        (0, 0.5, 0),
        (0, 1.0, 0),
    ],
)
def test_keep_counts_by_hand(num_valid: int, ratio: float, kept: int) -> None:
    assert int(keep_counts(torch.tensor(num_valid), ratio, 1)) == kept


def test_ties_go_to_the_first_positions() -> None:
    kept = weights("topk", torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.long), 0.4)
    assert kept.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


def test_the_scopes_pick_different_tokens() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0]])
    labels = torch.ones(2, 4, dtype=torch.long)
    assert weights("topk", scores, labels, 0.5).tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    by_row = weights("topk", scores, labels, 0.5, scope="sequence")
    assert by_row.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_an_ignored_label_is_not_kept_however_high_its_score() -> None:
    scores = torch.tensor([[1e9, 1.0, 2.0, torch.inf]])
    labels = torch.tensor([[IGNORE_INDEX, 5, 5, IGNORE_INDEX]])
    assert weights("topk", scores, labels, 0.5).tolist() == [[0, 0, 1, 0]]


def test_padding_is_not_counted_before_k_is_computed() -> None:
    labels = torch.full((1, 100), IGNORE_INDEX)
    labels[0, :10] = 1
    assert weights("topk", torch.rand(1, 100), labels, 0.5).sum() == 5


def test_min_kept_holds_in_each_scope() -> None:
    labels = torch.ones(3, 5, dtype=torch.long)
    labels[2, 1:] = IGNORE_INDEX
    scores = torch.rand(3, 5)
    assert weights("topk", scores, labels, 0.01, min_kept=3).sum() == 3
    by_row = weights("topk", scores, labels, 0.01, scope="sequence", min_kept=3)
    assert by_row.sum(1).tolist() == [3, 3, 1]


@pytest.mark.parametrize("method", ["topk", "random"])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_nothing_valid_keeps_nothing(method: str, scope: str) -> None:
    labels = torch.full((2, 3), IGNORE_INDEX)
    assert weights(method, torch.rand(2, 3), labels, 0.5, scope=scope).sum() == 0


def test_random_is_uniform_in_the_long_run() -> None:
    labels = torch.ones(4, 10, dtype=torch.long)
    labels[1, 3:7] = IGNORE_INDEX
    draws, ratio = 3000, 0.25
    generator = torch.Generator().manual_seed(0)
    counts = sum(
        weights("random", torch.zeros(4, 10), labels, ratio, generator=generator)
        for _ in range(draws)
    )
    valid = counts[labels != IGNORE_INDEX]
    expected = draws * ratio  # 36 valid tokens, 9 kept
    chi_square = float(((valid - expected) ** 2 / (expected * (1 - ratio))).sum())
    # 35 degrees of freedom (kept tokens exclude each other): 5 standard deviations around the mean.
    assert abs(chi_square * 35 / 36 - 35) < 5 * math.sqrt(2 * 35)
    assert valid.sum() == draws * 9


def test_random_follows_its_generator_and_not_the_scores() -> None:
    labels = torch.ones(4, 50, dtype=torch.long)

    def draw(seed: int, scores: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return weights("random", scores, labels, 0.3, generator=generator)

    zeros, ramp = torch.zeros(4, 50), torch.arange(200.0).view(4, 50)
    assert torch.equal(draw(1, zeros), draw(1, ramp))
    assert not torch.equal(draw(1, zeros), draw(2, zeros))


def scopes(scores: Tensor, labels: Tensor, scope: str) -> list[list[tuple[int, int]]]:
    """Return the valid positions of each scope, the hardest first, ties by position."""
    rows = [[(b, t) for t in range(labels.shape[1])] for b in range(labels.shape[0])]
    together = rows if scope == "sequence" else [[p for row in rows for p in row]]
    return [
        sorted(
            (p for p in cells if labels[p] != IGNORE_INDEX), key=lambda p: (-scores[p].item(), p)
        )
        for cells in together
    ]


def marked(kept: list[tuple[int, int]], like: Tensor) -> list[list[float]]:
    found = torch.zeros(like.shape)
    for position in kept:
        found[position] = 1
    return found.tolist()


both_scopes = st.sampled_from(["batch", "sequence"])
percents = st.integers(0, 99).map(lambda n: Fraction(n, 100))


@settings(max_examples=100)
@given(batches(), decimal_ratios, both_scopes, st.integers(1, 6), percents)
def test_band_is_topk_of_what_remains_without_the_highest(
    batch: tuple[Tensor, Tensor], ratio: Fraction, scope: str, min_kept: int, noise: Fraction
) -> None:
    scores, labels = batch
    kept = []
    for ranked in scopes(scores, labels, scope):
        dropped = math.floor(noise * len(ranked)) if ratio < 1 else 0
        kept += ranked[dropped:][: exact_count(len(ranked), ratio, min_kept)]
    options = {"scope": scope, "min_kept": min_kept, "noise_fraction": float(noise)}
    assert weights("band", scores, labels, float(ratio), **options).tolist() == marked(kept, scores)


@pytest.mark.parametrize(
    ("number", "noise", "dropped"), [(100, 0.29, 29), (50, 0.02, 1), (9, 0, 0)]
)
def test_band_drops_exactly_its_share(number: int, noise: float, dropped: int) -> None:
    """0.29 · 100 is 28.999999999999996."""
    scores, labels = torch.arange(number, 0, -1.0)[None], torch.ones(1, number, dtype=torch.long)
    (kept,) = weights("band", scores, labels, 0.5, noise_fraction=noise)
    assert kept.nonzero()[0].item() == dropped
    assert kept.sum() == math.ceil(number / 2)


@settings(max_examples=100)
@given(batches(), decimal_ratios, both_scopes, st.integers(1, 6), st.sampled_from([0.5, 1.0, 2.5]))
def test_threshold_keeps_what_is_above_it_or_else_the_k_highest(
    batch: tuple[Tensor, Tensor], ratio: Fraction, scope: str, min_kept: int, limit: float
) -> None:
    scores, labels = batch
    kept = []
    for ranked in scopes(scores, labels, scope):
        count = exact_count(len(ranked), ratio, min_kept)
        above = [p for p in ranked if scores[p] > limit]
        kept += above if len(above) >= count else ranked[:count]
    options = {"scope": scope, "min_kept": min_kept, "loss_threshold": limit}
    found = weights("threshold", scores, labels, float(ratio), **options)
    assert found.tolist() == marked(kept, scores)


def test_a_probability_limits_as_its_loss_does_and_the_looser_limit_counts() -> None:
    p = torch.tensor([[0.9, 0.6, 0.4, 0.2, 0.01]], dtype=torch.float64)
    labels = torch.ones(1, 5, dtype=torch.long)

    def kept(**limits: float) -> list[float]:
        return weights("threshold", -p.log(), labels, 0.1, **limits)[0].tolist()

    assert kept(prob_threshold=0.5) == [0, 0, 1, 1, 1]
    assert kept(prob_threshold=0.1) == [0, 0, 0, 0, 1]
    assert kept(loss_threshold=2.0) == [0, 0, 0, 0, 1]
    assert kept(loss_threshold=2.0, prob_threshold=0.5) == [0, 0, 1, 1, 1]
    assert kept(loss_threshold=0.05, prob_threshold=0.5) == [1, 1, 1, 1, 1]


shares = st.integers(0, 100).map(lambda n: Fraction(n, 100))


@settings(max_examples=100)
@given(batches(), decimal_ratios, both_scopes, st.integers(1, 6), shares, st.integers(0, 99))
def test_mixed_takes_each_sources_share_and_k_in_all(
    batch: tuple[Tensor, Tensor],
    ratio: Fraction,
    scope: str,
    min_kept: int,
    share: Fraction,
    seed: int,
) -> None:
    scores, labels = batch
    mix = f"topk={float(share)},random={float(1 - share)}"
    generator = torch.Generator().manual_seed(seed)
    options = {"scope": scope, "min_kept": min_kept, "mix": mix}
    kept = weights("mixed", scores, labels, float(ratio), generator, **options)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    for ranked in scopes(scores, labels, scope):
        count = exact_count(len(ranked), ratio, min_kept)
        assert sum(kept[p].item() for p in ranked) == count
        by_score = round(share * count)  # halves to the even number, as torch does
        assert all(kept[p] for p in ranked[:by_score])
    assert (kept[labels == IGNORE_INDEX] == 0).all()


@pytest.mark.parametrize("method", ["importance", "stratified"])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_samples_are_drawn_within_their_scope(method: str, scope: str) -> None:
    """A row of high scores takes from the others only where they are ranked together."""
    scores = torch.stack([torch.full((40,), 50.0), torch.linspace(0, 1, 40)])
    labels = torch.ones(2, 40, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    draws = [weights(method, scores, labels, 0.5, generator, scope=scope) for _ in range(50)]
    first, second = (torch.stack(draws) > 0).sum(dim=2).double().mean(dim=0).tolist()
    assert first + second == pytest.approx(40, abs=1.5)
    if scope == "sequence":
        assert (first, second) == (pytest.approx(20, abs=1), pytest.approx(20, abs=1))
    else:
        assert first > 30


def test_the_config_decides_how_importance_draws() -> None:
    scores = torch.rand(8, 50, generator=torch.Generator().manual_seed(0)).exp() ** 9
    labels = torch.ones(8, 50, dtype=torch.long)

    def draw(**options: Any) -> Tensor:
        generator = torch.Generator().manual_seed(4)
        config = OhemConfig(select="importance", **options)
        return selection_weights(scores, labels, 0.25, config, generator=generator)

    for floor in (0.05, 0.2):
        assert draw(floor=floor).max().item() <= 1 / floor * (1 + 1e-6)
    assert draw(floor=0.05).max() > 5
    number_kept = [
        (draw(schedule="adaptive", ratio=0.25, variance=variance) > 0).sum().item()
        for variance in (0.01, 0.1, 100.0)
    ]
    assert number_kept[0] > number_kept[1] > number_kept[2]
    assert number_kept[2] == pytest.approx(100, abs=15)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_duplicates_are_out_before_anything_is_ranked(scope: str) -> None:
    scores = torch.tensor([[9.0, 8.0, 1.0, 2.0, 7.0, 3.0]])
    labels = torch.tensor([[5, 6, 5, 6, 5, 6]])
    ids = torch.tensor([[1, 1, 1, 1, 2, 2]])

    def kept(**options: Any) -> list[float]:
        config = OhemConfig(scope=scope, **options)
        return selection_weights(scores, labels, 0.5, config, input_ids_BT=ids)[0].tolist()

    assert kept() == [1, 1, 0, 0, 1, 0]
    assert kept(dedup="position", dedup_window=1) == [1, 0, 1, 0, 1, 0]
    assert kept(dedup="position", dedup_window=3) == [1, 0, 0, 0, 1, 0]  # fewer than k are left
    assert kept(dedup="bigram") == [1, 1, 0, 0, 1, 0]
    assert kept(dedup="bigram", select="band", noise_fraction=0.3) == [0, 1, 0, 0, 1, 1]
    limits = {"select": "threshold", "loss_threshold": 1.5}
    assert kept(dedup="bigram", **limits) == [1, 1, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="needs input_ids"):
        selection_weights(scores, labels, 0.5, OhemConfig(dedup="bigram"))


class TestMixed:
    """Shares of k from several sources, each from what the ones before it left."""

    SHARES = ("topk=0.5,random=0.3,pool=0.2", "pool=0.6,topk=0.4", "random=0.25,pool=0.75")

    @given(
        batches(),
        st.integers(0, 2**31),
        decimal_ratios,
        st.sampled_from(SHARES),
        st.sampled_from(["batch", "sequence"]),
    )
    def test_it_equals_a_slow_walk(
        self,
        data: tuple[Tensor, Tensor],
        seed: int,
        ratio: Fraction,
        mix: str,
        scope: str,
    ) -> None:
        scores, labels = data
        pool = torch.randint(0, 3, scores.shape, generator=torch.Generator().manual_seed(seed))
        config = OhemConfig.model_validate(
            {"select": "mixed", "scope": scope, "mix": mix, "reference": "pool"}
        )
        shares = config.mix_schedule().shares(0.0)
        kept = selection_weights(
            scores,
            labels,
            float(ratio),
            config,
            shares=shares,
            pool_BT=pool.float(),
            generator=torch.Generator().manual_seed(seed),
        )
        rows = [[(b, t) for t in range(labels.shape[1])] for b in range(len(labels))]
        chance = torch.rand(
            labels.shape if scope == "sequence" else (1, labels.numel()),
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float64,
        ).view(labels.shape)
        of = {"topk": scores, "random": chance, "pool": pool}
        expected = torch.zeros(labels.shape)
        for cells in rows if scope == "sequence" else [[cell for row in rows for cell in row]]:
            left = [cell for cell in cells if labels[cell] != IGNORE_INDEX]
            count, total, taken = exact_count(len(left), ratio, 1), 0.0, 0
            for name, share in shares.items():
                total += share
                upto = round(total * count)
                left.sort(key=lambda cell, of=of[name]: (-of[cell].item(), cell))  # type: ignore[misc]
                for cell in left[: upto - taken]:
                    expected[cell] = 1
                left, taken = left[upto - taken :], upto
        assert torch.equal(kept, expected)

    def test_missing_shares_and_sources_are_refused(self) -> None:
        scores, labels = torch.ones(1, 4), torch.ones(1, 4, dtype=torch.long)
        config = OhemConfig(select="mixed")
        with pytest.raises(ValueError, match="shares"):
            selection_weights(scores, labels, 0.5, config)
        with pytest.raises(ValueError, match="'pool' was not given"):
            selection_weights(scores, labels, 0.5, config, shares={"pool": 1.0})
