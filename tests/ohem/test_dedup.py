"""De-duplication against the walk from the hardest token down, one token at a time."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.dedup import first_of_bigram, first_of_neighbours


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores with many ties, input ids and labels with few values, some ignored."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 12)))
    size = shape[0] * shape[1]

    def of(values: st.SearchStrategy[int]) -> Tensor:
        return torch.tensor(draw(st.lists(values, min_size=size, max_size=size))).view(shape)

    labels = of(st.integers(-1, 3))
    return (
        of(st.integers(-2, 4)).float(),
        of(st.integers(0, 2)),
        labels.masked_fill(labels < 0, IGNORE_INDEX),
    )


def hardest_first(scores: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    valid = [(b, t) for b, t in (labels != IGNORE_INDEX).nonzero().tolist()]
    return sorted(valid, key=lambda p: (-scores[p].item(), p))


def marked(kept: list[tuple[int, int]], like: Tensor) -> list[list[bool]]:
    found = torch.zeros(like.shape, dtype=torch.bool)
    for position in kept:
        found[position] = True
    return found.tolist()


@settings(max_examples=150)
@given(batches(), st.integers(1, 14))
def test_neighbours_are_suppressed_as_by_a_walk_from_the_hardest_down(
    batch: tuple[Tensor, Tensor, Tensor], window: int
) -> None:
    scores, _, labels = batch
    kept: list[tuple[int, int]] = []
    for b, t in hardest_first(scores, labels):
        if not any(row == b and abs(other - t) <= window for row, other in kept):
            kept.append((b, t))
    found = first_of_neighbours(scores, labels != IGNORE_INDEX, window)
    assert found.tolist() == marked(kept, scores)


@settings(max_examples=150)
@given(batches(), st.integers(1, 4))
def test_bigrams_are_suppressed_as_by_a_walk_from_the_hardest_down(
    batch: tuple[Tensor, Tensor, Tensor], most: int
) -> None:
    scores, ids, labels = batch
    kept, seen = [], Counter[tuple[int, int]]()
    for position in hardest_first(scores, labels):
        pair = int(ids[position]), int(labels[position])
        if seen[pair] < most:
            kept.append(position)
        seen[pair] += 1
    found = first_of_bigram(scores, labels != IGNORE_INDEX, ids, labels, most)
    assert found.tolist() == marked(kept, scores)


@pytest.mark.parametrize("falling", [True, False])
def test_a_ramp_is_thinned_from_its_top(falling: bool) -> None:
    """The longest chain of decisions: each waits for the one before it."""
    scores = torch.arange(65.0).flip(0)[None] if falling else torch.arange(65.0)[None]
    found = first_of_neighbours(scores, torch.ones(1, 65, dtype=torch.bool), 2)
    expected = range(0, 65, 3) if falling else range(1, 65, 3)
    assert found[0].nonzero().flatten().tolist() == list(expected)


def test_bigrams_of_a_large_vocabulary_do_not_collide() -> None:
    """With 8 or 16 bits for the label, (1, 0) would be (0, 256) or (0, 65,536)."""
    ids = torch.tensor([[70_000, 70_001, 70_000, 1, 0, 0]])
    labels = torch.tensor([[70_001, 70_000, 70_001, 0, 65_536, 256]])
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    found = first_of_bigram(scores, torch.ones_like(ids, dtype=torch.bool), ids, labels, 1)
    assert found.tolist() == [[False, True, True, True, True, True]]


def test_nothing_valid_leaves_nothing() -> None:
    scores, nothing = torch.rand(2, 5), torch.zeros(2, 5, dtype=torch.bool)
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert not first_of_neighbours(scores, nothing, 2).any()
    assert not first_of_bigram(scores, nothing, ids, ids - 100, 1).any()
