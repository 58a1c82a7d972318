"""Every way of mining in one optimizer step: gradients and figures against slow formulas."""

import copy
import math
from itertools import permutations, product
from typing import Any

import pytest
import tiny_step
import torch
from tiny_step import LENGTH, ROWS, SCOPES, SELECTS, WEIGHTS
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.models.causal_lm import head_weight, trunk
from tinyohem.ohem import sampling
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.sampling import inclusion
from tinyohem.ohem.scores import read_tokens
from tinyohem.ohem.softmax_cache import SoftmaxCache


@pytest.fixture(scope="module")
def _built() -> Any:
    return tiny_step.model()


@pytest.fixture
def built(_built: Any) -> Any:
    """A model without gradients, whose weights no test changes."""
    _built.zero_grad(set_to_none=True)
    return _built


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that each step of the test gave its tokens."""
    original, given = TokenMiner.token_weights, []

    def weigh(self: TokenMiner, *args: Any, **kwargs: Any) -> Tensor:
        given.append(original(self, *args, **kwargs))
        return given[-1]

    monkeypatch.setattr(TokenMiner, "token_weights", weigh)
    return given


def reads(built: Any, score: str, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Return the scores of all tokens, (B, T)."""
    with torch.no_grad():
        hidden = trunk(built)(input_ids=input_ids).last_hidden_state
        return read_tokens(score, hidden, head_weight(built), labels)[1]


@pytest.mark.parametrize("select", SELECTS)
def test_micro_batches_keep_the_same_tokens_and_give_the_same_gradient(
    built: Any, weighed: list[Tensor], select: str
) -> None:
    """For every score, weight and scope; where a step remembers the last one, also the second.

    The parts take their softmax from a store, which no score may spoil.
    """
    reference, cache = tiny_step.references(), SoftmaxCache()
    ways = [way for way in tiny_step.every_way() if way["select"] == select]
    assert len(ways) == 7 * 4 * 2
    for way in ways:
        ignored = way["weight"] in ("none", "ghm")  # else the host knows some of the counts
        found = []
        for number in (1, 2):
            mining = tiny_step.miner(**way)
            for seed in (3, 4) if way["weight"] == "ghm" else (3,):
                batch = tiny_step.tokens(ignored=ignored, seed=seed)
                stats = tiny_step.step(
                    built,
                    *batch,
                    0.5,
                    mining,
                    number=number,
                    reference=reference,
                    seed=seed,
                    cache=cache if number > 1 else None,
                )
            found.append((stats, weighed[-1], tiny_step.gradient(built)))
        (whole, kept, expected), (parts, kept_by_parts, gradient) = found
        assert torch.equal(kept > 0, kept_by_parts > 0), way
        assert 0 < whole.num_kept == parts.num_kept <= 24, way
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7, msg=str(way))
        assert expected.abs().max() > 0.01, way
        for name in ("loss", "loss_selected", "smallest_kept_loss", "effective_sample_size"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


@pytest.mark.parametrize(
    "config",
    [
        {"select": "threshold", "queue_steps": 2},
        {"dedup": "position", "dedup_window": 2},  # leaves fewer than k
        {"dedup": "bigram"},
        {"schedule": "adaptive", "ratio": 0.3},
    ],
    ids=["queue", "position", "bigram", "adaptive"],
)
@pytest.mark.parametrize("ignored", [False, True])
def test_micro_batches_agree_with_a_queue_dedup_and_adaptive_counts(
    built: Any, weighed: list[Tensor], config: dict[str, Any], ignored: bool
) -> None:
    found = []
    for number in (1, 2, 4):
        mining = tiny_step.miner(**config)
        for seed in (3, 4, 5):
            data = tiny_step.tokens(ignored=ignored, seed=seed)
            tiny_step.step(built, *data, 0.4, mining, number=number)
        found.append((weighed[-1], tiny_step.gradient(built)))
    for kept, gradient in found[1:]:
        assert torch.equal(kept, found[0][0])
        torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("denominator", ["kept", "all"])
@pytest.mark.parametrize("select", ["topk", "importance"])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_the_gradient_is_that_of_the_weighted_sum(
    built: Any, weighed: list[Tensor], weight: str, denominator: str, select: str, ratio: float
) -> None:
    """Σ w·f(ℓ) / Z by autograd over the whole logits."""
    input_ids, labels = tiny_step.tokens()
    mining = tiny_step.miner(select=select, weight=weight, denominator=denominator, gamma=2.0)
    tiny_step.step(built, input_ids, labels, ratio, mining)
    found = tiny_step.gradient(built)

    valid = labels != IGNORE_INDEX
    if ratio < 1 or weight == "ghm":
        w = weighed[0].double()
    else:
        w = torch.ones(labels.shape, dtype=torch.float64).masked_fill(~valid, 0)
        if weight == "class_balanced":
            w = w * mining.class_weight_V[labels.clamp(min=0)]  # type: ignore[index]
    loss = tiny_step.losses(built, input_ids, labels)
    f = (1 - (-loss).exp()) ** 2 * loss if weight == "focal" else loss
    ((w * f).sum() / (w.sum() if denominator == "kept" else valid.sum())).backward()
    expected = tiny_step.gradient(built)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


class TestUnbiased:
    """The gradient of a sampled step is, in the mean over all draws, that of the full step."""

    def full(self, built: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
        loss = tiny_step.losses(built, input_ids, labels)
        (loss.sum() / (labels != IGNORE_INDEX).sum()).backward()
        return tiny_step.gradient(built)

    def five_tokens(self) -> tuple[Tensor, Tensor]:
        input_ids, labels = tiny_step.tokens(ignored=False)
        labels = labels.clone()
        labels[:, 1:] = IGNORE_INDEX
        labels[0, :2] = torch.tensor([4, 7])
        return input_ids, labels

    @pytest.mark.parametrize("score", ["gradnorm", "entropy"])
    def test_importance_over_every_set_that_can_be_kept(
        self, built: Any, monkeypatch: pytest.MonkeyPatch, score: str
    ) -> None:
        input_ids, labels = self.five_tokens()
        valid, mining = labels != IGNORE_INDEX, tiny_step.miner(select="importance", score=score)
        scores = reads(built, score, input_ids, labels)
        count = torch.tensor([2])
        chance = inclusion(scores.view(1, -1), valid.view(1, -1), count, 0.1).view(labels.shape)
        mean, total = 0.0, 0.0
        for kept in product([True, False], repeat=5):
            mask = torch.zeros(labels.shape, dtype=torch.bool)
            mask[valid] = torch.tensor(kept)
            number = torch.where(mask, 0.0, 1 - 1e-15).double()
            monkeypatch.setattr(sampling, "uniform", lambda like, _, n=number: n.view(like.shape))
            stats = tiny_step.step(built, input_ids, labels, 0.4, mining)
            assert stats.num_kept == sum(kept)
            probability = torch.where(mask, chance, 1 - chance)[valid].prod()
            mean += probability * tiny_step.gradient(built)
            total += probability
        assert total == pytest.approx(1)
        full = self.full(built, input_ids, labels)
        assert full.abs().max() > 0.1
        torch.testing.assert_close(mean, full, rtol=0, atol=1e-6)  # weights are float32

    def test_stratified_over_every_order_of_drawing(
        self, built: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        input_ids, labels = self.five_tokens()
        valid, mining = labels != IGNORE_INDEX, tiny_step.miner(select="stratified")
        orders = list(permutations(range(5)))
        mean = torch.zeros(sum(p.numel() for p in built.parameters()), dtype=torch.float64)
        for order in orders:
            number = torch.zeros(labels.shape, dtype=torch.float64)
            number[valid] = torch.tensor(order, dtype=torch.float64)
            monkeypatch.setattr(sampling, "uniform", lambda like, _, n=number: n.view(like.shape))
            assert tiny_step.step(built, input_ids, labels, 0.6, mining).num_kept == 3
            mean += tiny_step.gradient(built) / len(orders)
        full = self.full(built, input_ids, labels)
        assert full.abs().max() > 0.1
        torch.testing.assert_close(mean, full, rtol=0, atol=1e-6)  # weights are float32

    @pytest.mark.parametrize(
        "config",
        [
            {"select": "importance"},
            {"select": "importance", "scope": "sequence", "floor": 0.3},
            {"select": "stratified", "random_share": 0.3},
            {"select": "stratified", "scope": "sequence", "score": "excess_loss"},
            {"schedule": "adaptive", "ratio": 0.3, "variance": 1.0},
        ],
        ids=["importance", "by-sequence", "stratified", "stratified-excess", "adaptive"],
    )
    def test_the_mean_over_many_draws_is_the_full_gradient(
        self, built: Any, config: dict[str, Any]
    ) -> None:
        """Along sixteen fixed directions, within its own standard error."""
        input_ids, labels = tiny_step.tokens()
        mining, full = tiny_step.miner(**config), self.full(built, input_ids, labels)
        directions = torch.randn(
            len(full), 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        draws = []
        for seed in range(100):
            tiny_step.step(
                built, input_ids, labels, 0.4, mining, reference=tiny_step.references(), seed=seed
            )
            draws.append(tiny_step.gradient(built) @ directions)
        drawn = torch.stack(draws)
        error = drawn.std(dim=0) / math.sqrt(len(draws))
        off = (drawn.mean(dim=0) - full @ directions) / error
        # Far enough out that no seed trips; a bias of a tenth of the gradient lies beyond it.
        assert off.abs().max() < 4.5
        assert (error < 0.3 * (full @ directions).abs().max()).all()


@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("number", [1, 2])
def test_figures_of_a_step(built: Any, weighed: list[Tensor], select: str, number: int) -> None:
    input_ids, labels = tiny_step.tokens()
    mining = tiny_step.miner(select=select, weight="class_balanced", **SELECTS[select])
    reference = tiny_step.references()
    stats = tiny_step.step(
        built, input_ids, labels, 0.8, mining, number=number, reference=reference
    )
    every = tiny_step.losses(built, input_ids, labels).detach()[labels != IGNORE_INDEX].tolist()
    weights = weighed[0][labels != IGNORE_INDEX].tolist()
    kept = [loss for loss, w in zip(every, weights, strict=True) if w > 0]
    buckets = [
        sum(low <= loss < high for loss in kept) / len(kept)
        for low, high in ((0, 1), (1, 3), (3, 5), (5, math.inf))
    ]
    assert max(buckets) < 1
    assert stats.num_kept == len(kept)
    assert stats.loss.item() == pytest.approx(sum(every) / len(every))
    assert stats.loss_selected.item() == pytest.approx(sum(kept) / len(kept))
    assert stats.smallest_kept_loss.item() == pytest.approx(min(kept))
    assert stats.kept_loss_share.item() == pytest.approx(sum(kept) / sum(every))
    assert stats.kept_by_bucket.tolist() == pytest.approx(buckets)
    effective = sum(weights) ** 2 / sum(w * w for w in weights) / len(every)
    assert stats.effective_sample_size.item() == pytest.approx(effective, rel=1e-5)
    assert stats.finite


def test_a_full_step_keeps_all_of_the_loss_and_all_samples(built: Any) -> None:
    stats = tiny_step.step(built, *tiny_step.tokens(), 1.0, tiny_step.miner())
    assert stats.kept_loss_share == 1
    assert stats.effective_sample_size == pytest.approx(1)
    assert stats.kept_by_bucket.sum() == pytest.approx(1)


@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("number", [1, 2])
def test_at_ratio_one_every_method_is_the_full_step_of_its_weight(
    built: Any, select: str, weight: str, number: int
) -> None:
    """Also where mining has to read first, and without the references it then does not need."""
    data = tiny_step.tokens()
    options = {"weight": weight, "denominator": "all"}
    tiny_step.step(built, *data, 1.0, tiny_step.miner(**options))
    expected = tiny_step.gradient(built)
    config = {**options, "select": select, "score": "excess_loss", **SELECTS[select]}
    if select == "topk":
        config["dedup"] = "bigram"
    mining = tiny_step.miner(**config)
    stats = [tiny_step.step(built, *data, 1.0, mining, number=number) for _ in range(2)]
    assert [s.num_kept for s in stats] == [18, 18]
    torch.testing.assert_close(tiny_step.gradient(built), 2 * expected, rtol=0, atol=1e-7)


def awkward(name: str) -> Tensor:
    labels = tiny_step.tokens()[1].clone()
    if name == "nothing valid":
        labels[:] = IGNORE_INDEX
    elif name == "one valid token":
        labels[:] = IGNORE_INDEX
        labels[2, 3] = 7
    elif name == "rows without any":
        labels[1:3] = IGNORE_INDEX
    return labels


@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("case", ["nothing valid", "one valid token", "rows without any"])
def test_batches_with_few_valid_tokens_give_finite_gradients(
    built: Any, weighed: list[Tensor], select: str, scope: str, number: int, case: str
) -> None:
    for weight in ("none", "ghm"):
        labels = awkward(case)
        mining = tiny_step.miner(select=select, scope=scope, weight=weight, **SELECTS[select])
        stats = tiny_step.step(
            built,
            tiny_step.tokens()[0],
            labels,
            0.5,
            mining,
            number=number,
            reference=tiny_step.references(),
        )
        gradient, kept = tiny_step.gradient(built), weighed[-1] > 0
        assert gradient.isfinite().all()
        assert stats.finite
        assert not kept[labels == IGNORE_INDEX].any()
        assert stats.num_kept == kept.sum()
        if case == "nothing valid":
            assert stats.num_kept == stats.loss == stats.kept_loss_share == 0
            assert gradient.abs().max() == 0
        elif case == "one valid token":
            # Poisson sampling keeps one of one for certain, as all others do.
            assert stats.num_kept == 1
            assert stats.loss.item() > 0
            assert stats.loss_selected.item() == pytest.approx(stats.loss.item())
            assert stats.smallest_kept_loss.item() == pytest.approx(stats.loss.item())
            assert gradient.abs().max() > 0
        else:
            assert stats.num_kept > 0


class TestNotFinite:
    """A score that is not finite decides something, or nothing, silently: the step must tell."""

    @pytest.mark.parametrize("select", SELECTS)
    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_bad_reference_loss_shows(
        self, built: Any, select: str, scope: str, bad: float
    ) -> None:
        input_ids, labels = tiny_step.tokens(ignored=False)
        config = {"select": select, "scope": scope, "score": "excess_loss", **SELECTS[select]}
        reference = tiny_step.references()
        for place, finite in (((1, 1), False), ((0, 3), True)):
            labels = labels.clone()
            labels[0, 3] = IGNORE_INDEX  # what stands there does not matter
            broken = reference.clone()
            broken[place] = bad
            for number in (1, 2):
                stats = tiny_step.step(
                    built,
                    input_ids,
                    labels,
                    0.5,
                    tiny_step.miner(**config),
                    number=number,
                    reference=broken,
                )
                gradient = tiny_step.gradient(built)
                assert bool(stats.finite) is finite
                assert gradient.isfinite().all() or not finite

    @pytest.mark.parametrize("select", SELECTS)
    @pytest.mark.parametrize("weight", WEIGHTS)
    @pytest.mark.parametrize("ratio", [0.5, 1.0])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_bad_weight_of_the_model_shows(
        self, built: Any, select: str, weight: str, ratio: float, bad: float
    ) -> None:
        """Without tripping over itself, so that the loop can name the step."""
        broken = copy.deepcopy(built)
        with torch.no_grad():
            head_weight(broken)[5] = bad
        stats = tiny_step.step(
            broken,
            *tiny_step.tokens(ignored=False),
            ratio,
            tiny_step.miner(select=select, weight=weight, **SELECTS[select]),
            reference=tiny_step.references(),
        )
        assert not stats.loss.isfinite()


def test_each_row_keeps_as_many_under_the_scope_sequence(built: Any, weighed: list[Tensor]) -> None:
    data = tiny_step.tokens(ignored=False)
    for select in ("topk", "band", "random", "stratified", "mixed"):
        mining = tiny_step.miner(select=select, scope="sequence", **SELECTS[select])
        tiny_step.step(built, *data, 0.5, mining, reference=tiny_step.references())
        assert (weighed[-1] > 0).sum(dim=1).tolist() == [LENGTH // 2] * ROWS
