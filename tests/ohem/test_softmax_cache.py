"""What the read-only pass leaves for the gradient pass changes no gradient, and saves work."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_head import (
    TOLERANCE,
    VOCAB,
    coarse,
    example,
    gradients,
    kept_loss,
    reference_losses,
    set_chunk_rows,
)
from torch import Tensor

from tinyohem.config.ohem import OhemConfig
from tinyohem.ohem import losses
from tinyohem.ohem import softmax_cache as stores
from tinyohem.ohem.losses import kept_places, softmax_chunks
from tinyohem.ohem.softmax_cache import SoftmaxCache, SpeculativeGradients, choose_cache


def stored_loss(
    store: SoftmaxCache, hidden: Tensor, head: Tensor, labels: Tensor, weight: Tensor, parts: int
) -> tuple[Tensor, Tensor]:
    """Read all tokens, a few rows of the batch at a time, then take the kept ones' loss."""
    assert store.opened(labels.numel(), head) is store
    with torch.no_grad():
        for h, y in zip(hidden.chunk(parts), labels.chunk(parts), strict=True):
            for _ in softmax_chunks(h, head, y, store):
                pass
    rows = kept_places(weight.flatten())
    hidden, labels, weight = (x.flatten(0, 1)[rows] for x in (hidden, labels, weight))
    return losses.kept_loss(hidden, head, labels, weight, cached=(store, rows))


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_stored_softmax_gives_the_gradients_of_autograd_in_every_step(
    monkeypatch: pytest.MonkeyPatch, rows: int, parts: int, dtype: torch.dtype
) -> None:
    set_chunk_rows(monkeypatch, rows)
    store = SoftmaxCache()
    tolerance = {"rtol": 1e-5, "atol": TOLERANCE[dtype] * 10}
    for seed in (0, 1):  # the second step lies where the first one lay
        hidden, head, labels, weight = example(seed, dtype=dtype)
        total, kept = stored_loss(store, hidden, head, labels, weight, parts)
        every = reference_losses(hidden, head, labels)
        torch.testing.assert_close(kept, every[weight > 0].detach(), **tolerance)
        expected = gradients((every * weight).sum(), hidden, head)
        for mine, theirs in zip(gradients(total, hidden, head), expected, strict=True):
            torch.testing.assert_close(mine, theirs, **tolerance)


def test_a_stored_softmax_saves_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, labels, weight = example()
    made, logits = [], losses._logits

    def counted(hidden_CD: Tensor, *others: Tensor) -> Tensor:
        made.append(len(hidden_CD))
        return logits(hidden_CD, *others)

    monkeypatch.setattr(losses, "_logits", counted)
    stored_loss(SoftmaxCache(), hidden, head, labels, weight, 1)
    assert sum(made) == labels.numel()


def test_a_store_under_bfloat16_autocast_holds_what_is_computed_without_it() -> None:
    hidden, head, labels, weight = example(dtype=torch.float32)
    hidden, head = coarse(hidden, head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = stored_loss(SoftmaxCache(), hidden, head, labels, weight, 1)
        plain, _ = kept_loss(hidden, head, labels, weight)
    for mine, theirs in zip(
        gradients(total, hidden, head), gradients(plain, hidden, head), strict=True
    ):
        assert mine.dtype == torch.float32
        # Where a sum ends half-way between two bfloat16s its order decides which one it is.
        torch.testing.assert_close(mine, theirs, rtol=2**-7, atol=1e-6)
        assert torch.isclose(mine, theirs, rtol=0, atol=1e-6).float().mean() > 0.9


class TestSpeculativeGradients:
    @staticmethod
    def read(store: SpeculativeGradients, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            chunks = softmax_chunks(hidden[None], head, labels[None], store)
            return torch.cat([chunk.loss_C for chunk in chunks])

    @settings(max_examples=60, deadline=None)
    @given(
        num_tokens=st.integers(1, 40),
        rows=st.integers(1, 40),
        ratio=st.floats(0.01, 0.99),
        adversary=st.booleans(),
        seed=st.integers(0, 99),
        data=st.data(),
    )
    def test_it_is_exact_whatever_is_kept(
        self,
        num_tokens: int,
        rows: int,
        ratio: float,
        adversary: bool,
        seed: int,
        data: st.DataObject,
    ) -> None:
        """Against autograd: the hardest tokens, and any other set, which no guess could foresee."""
        hidden, head, labels, _ = example(seed, shape=(1, num_tokens))
        labels = labels[0].clamp(min=0)
        hidden = hidden.detach()[0].requires_grad_()
        with pytest.MonkeyPatch.context() as monkeypatch:
            set_chunk_rows(monkeypatch, rows)
            store = SpeculativeGradients(ratio)
            loss = self.read(store, hidden, head, labels)
            if adversary:
                any_set = st.sets(st.integers(0, num_tokens - 1), min_size=1)
                kept = torch.tensor(sorted(data.draw(any_set)))
            else:
                kept = loss.topk(max(1, int(ratio * num_tokens))).indices
            kept = kept.sort().values
            weight = torch.full((len(kept),), 1 / len(kept), dtype=hidden.dtype)
            total, found = losses.kept_loss(
                hidden[kept], head, labels[kept], weight, cached=(store, kept)
            )
        expected = torch.nn.functional.cross_entropy(hidden @ head.T, labels, reduction="none")
        torch.testing.assert_close(found, expected[kept].detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(total, expected[kept].mean(), rtol=1e-10, atol=1e-12)
        wanted = gradients(expected[kept].mean(), hidden, head)
        for mine, theirs in zip(gradients(total, hidden, head), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)

    def test_most_kept_tokens_are_predicted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hidden, head, labels, _ = example(shape=(1, 2000), dtype=torch.float32)
        hidden, labels = hidden.detach()[0], labels[0].clamp(min=0)
        set_chunk_rows(monkeypatch, 100)
        store = SpeculativeGradients(0.5)
        kept = self.read(store, hidden, head, labels).topk(1000).indices.sort().values
        made, logits = [], losses._logits

        def counted(hidden_CD: Tensor, *others: Tensor) -> Tensor:
            made.append(len(hidden_CD))
            return logits(hidden_CD, *others)

        monkeypatch.setattr(losses, "_logits", counted)
        weight = torch.full((1000,), 1e-3)
        losses.kept_loss(hidden[kept], head, labels[kept], weight, cached=(store, kept))
        assert 0 < sum(made) < 100  # of 2,000 tokens

    def test_nothing_kept_is_no_gradient(self) -> None:
        hidden, head, labels, _ = example(shape=(1, 9))
        store = SpeculativeGradients(0.5)
        self.read(store, hidden.detach()[0], head, labels[0].clamp(min=0))
        none = torch.zeros(0, dtype=torch.int64)
        loss, in_hidden, in_head = store.gradients(
            none, hidden[0, :0], head.detach(), none, hidden.new_zeros(0), 0.0
        )
        assert len(loss) == len(in_hidden) == 0
        assert in_head is not None
        assert not in_head.any()


class TestChooseCache:
    def opened(self, ratio: float = 0.5, whole: bool = True, size: int = 21, **config: object):
        head = example()[1]
        way = OhemConfig(**{"ratio": 0.5, **config})  # type: ignore[arg-type]
        return choose_cache(SoftmaxCache(), way, head, size, ratio, whole=whole)

    def test_top_k_by_loss_is_predicted(self) -> None:
        assert isinstance(self.opened(0.1), SpeculativeGradients)
        for other in (
            {"select": "random"},
            {"score": "entropy"},
            {"scope": "sequence"},
            {"weight": "focal"},
            {"dedup": "bigram"},
            {"whole": False},
        ):
            assert isinstance(self.opened(**other), SoftmaxCache), other

    def test_no_cache_where_it_does_not_fit_or_pay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head = example()[1]
        monkeypatch.setattr(stores, "_CPU_STORE_BYTES", 21 * VOCAB * head.itemsize)
        assert self.opened(select="random") is not None
        assert self.opened(select="random", size=22) is None
        assert self.opened(0.49, select="random") is None
