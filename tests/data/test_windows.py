"""Windows of a token store: each once per epoch, the same after a resume."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data.token_store import TokenStore
from tinyohem.data.windows import (
    Batch,
    HardWindowPlan,
    TwoPhasePlan,
    WindowPlan,
    WindowSource,
    batch_windows,
    make_batch,
    plan_two_phases,
    plan_windows,
    story_rows,
)
from tinyohem.errors import InputError


def store_of(lengths: list[int], rows: list[int] | None = None) -> TokenStore:
    """Return a store whose token at position p has id p, so that an id is its position."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    row_numbers = np.asarray(rows if rows is not None else range(len(lengths)), dtype=np.int64)
    counts = np.ones(len(lengths), dtype=np.uint32)
    ids = np.arange(offsets[-1], dtype=np.uint16)
    return TokenStore(ids, offsets, row_numbers, counts, counts, {})


plans = st.builds(WindowPlan, num_windows=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))


@settings(deadline=None)
@given(plans, st.integers(0, 5))
def test_every_epoch_is_a_permutation(plan: WindowPlan, epoch: int) -> None:
    windows = plan.windows(epoch * plan.num_windows, plan.num_windows)
    assert sorted(windows.tolist()) == list(range(plan.num_windows))


@settings(deadline=None)
@given(plans, st.integers(1, 100), st.integers(0, 8), st.randoms(use_true_random=False))
def test_a_batch_depends_on_plan_and_step_alone(
    plan: WindowPlan, batch_size: int, num_steps: int, random: object
) -> None:
    steps = list(range(num_steps))
    straight = [batch_windows(plan, step, batch_size).tolist() for step in steps]
    random.shuffle(steps)  # type: ignore[attr-defined]
    again = WindowPlan(plan.num_windows, plan.seed)
    for step in steps:
        assert batch_windows(again, step, batch_size).tolist() == straight[step]
    joined = [window for batch in straight for window in batch]
    assert joined == plan.windows(0, batch_size * num_steps).tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = WindowPlan(1000, seed=0).windows(0, 2000).reshape(2, 1000)
    other = WindowPlan(1000, seed=1).windows(0, 1000)
    for a, b in ((first, second), (first, other), (second, other)):
        assert (a == b).mean() < 0.02
    assert (first == np.arange(1000)).mean() < 0.02


@st.composite
def hard_plans(draw: st.DrawFn) -> HardWindowPlan:
    base = draw(plans)
    batch_size = draw(st.integers(2, 9))
    windows = st.integers(0, base.num_windows - 1)
    hardest = sorted(draw(st.sets(windows, min_size=1)))
    num_hard = draw(st.integers(1, batch_size - 1))
    return HardWindowPlan(base, np.array(hardest), batch_size, num_hard)


@settings(deadline=None)
@given(hard_plans())
def test_every_batch_holds_its_share_of_hard_windows(plan: HardWindowPlan) -> None:
    """Both orders continue from batch to batch, and each visits its windows once per epoch."""
    num_base, num_windows = plan.batch_size - plan.num_hard, plan.base.num_windows
    batches = [batch_windows(plan, s, plan.batch_size) for s in range(2 * num_windows)]
    base = np.concatenate([batch[:num_base] for batch in batches])
    hard = np.concatenate([batch[num_base:] for batch in batches])
    assert base.tolist() == plan.base.windows(0, len(base)).tolist()
    epochs = hard[: len(hard) // len(plan.hardest) * len(plan.hardest)]
    for epoch in epochs.reshape(-1, len(plan.hardest)):
        assert sorted(epoch.tolist()) == plan.hardest.tolist()


@settings(deadline=None)
@given(hard_plans(), st.integers(0, 100), st.integers(1, 30))
def test_any_stretch_of_a_hard_plan_is_the_same(
    plan: HardWindowPlan, first: int, count: int
) -> None:
    whole = plan.windows(0, first + count).tolist()
    assert plan.windows(first, count).tolist() == whole[first:]


def test_hard_windows_have_an_order_of_their_own() -> None:
    base = WindowPlan(1000, seed=0)
    plan = HardWindowPlan(base, np.arange(1000), batch_size=2, num_hard=1)
    pairs = plan.windows(0, 2000).reshape(1000, 2)
    assert (pairs[:, 0] == pairs[:, 1]).mean() < 0.02
    first, second = plan.windows(0, 4000).reshape(2000, 2)[:, 1].reshape(2, 1000)
    assert (first == second).mean() < 0.02


def test_the_caller_cannot_spoil_the_order() -> None:
    plan = WindowPlan(10, seed=0)
    expected = plan.windows(0, 10).tolist()
    plan.windows(0, 10)[:] = 0
    assert plan.windows(0, 10).tolist() == expected


@pytest.mark.parametrize(
    ("num_tokens", "seq_len", "num_windows"), [(9, 4, 2), (8, 4, 1), (5, 4, 1), (100, 3, 33)]
)
def test_a_window_needs_a_label_for_its_last_token(
    num_tokens: int, seq_len: int, num_windows: int
) -> None:
    plan = plan_windows(store_of([num_tokens]), seq_len, seed=3)
    assert plan == WindowPlan(num_windows, seed=3)


@pytest.mark.parametrize("num_tokens", [1, 7, 8])
def test_a_corpus_shorter_than_a_window_is_refused(num_tokens: int) -> None:
    with pytest.raises(InputError, match=f"has {num_tokens} tokens, fewer than one window of 8"):
        plan_windows(store_of([num_tokens]), 8, seed=0)


def test_labels_are_the_inputs_one_token_later() -> None:
    batch = make_batch(store_of([30, 20]), np.array([2, 0]), seq_len=10)
    assert batch.input_ids.tolist() == [list(range(20, 30)), list(range(10))]
    assert batch.labels.tolist() == [list(range(21, 31)), list(range(1, 11))]
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
    assert batch.num_valid == 20


def test_an_epoch_trains_on_every_token_but_the_first_exactly_once() -> None:
    store = store_of([25, 16])
    plan = plan_windows(store, 5, seed=9)
    labels = [make_batch(store, batch_windows(plan, step, 2), 5).labels for step in range(4)]
    assert sorted(torch.cat(labels).flatten().tolist()) == list(range(1, 41))


def test_a_batch_moves_with_its_count() -> None:
    batch = Batch(torch.ones(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long), 2)
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.input_ids, batch.input_ids)
    assert torch.equal(moved.labels, batch.labels)
    assert moved.num_valid == 2


CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@settings(deadline=None)
@given(data=st.data(), seq_len=st.integers(2, 9))
def test_a_store_on_the_device_gives_the_same_batches(
    dtype: type, data: st.DataObject, seq_len: int
) -> None:
    """Also of ids that a signed number of that size cannot hold."""
    top = 2**16 - 1 if dtype is np.uint16 else 2**24 - 1
    ids = data.draw(st.lists(st.integers(0, top) | st.just(top), min_size=seq_len + 1))
    store = replace(store_of([len(ids)]), ids=np.array(ids, dtype=dtype))
    last = (len(ids) - 1) // seq_len - 1
    windows = np.array(data.draw(st.lists(st.integers(0, last), min_size=1, max_size=4)))
    cut = WindowSource(store, seq_len, CPU, room=store.ids.nbytes)
    sent = WindowSource(store, seq_len, CPU, room=store.ids.nbytes - 1)
    store.ids[:] = 0  # only what is not on the device yet can change
    found, other, expected = (
        cut.batch(windows),
        sent.batch(windows),
        make_batch(replace(store, ids=np.array(ids, dtype=dtype)), windows, seq_len),
    )
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.labels, expected.labels)
    assert found.num_valid == expected.num_valid
    assert found.input_ids.dtype == found.labels.dtype == torch.int64
    assert not other.input_ids.any()


def test_a_cpu_reads_the_memory_map() -> None:
    store = store_of([30])
    source = WindowSource(store, 10, CPU)
    store.ids[:] = 7
    assert source.batch(np.array([1])).labels.unique().tolist() == [7]


@pytest.mark.parametrize(
    ("windows", "rows"),
    [
        ([0], [10]),  # inputs 0..4, last label 5: all of the first story
        ([1], [10, 13, 17]),  # 5..9, label 10: ends the first, all of the second, opens the third
        ([2], [17]),
        ([3], [17, 40]),  # 15..19 with label 20, where the last story begins
        ([3, 0], [10, 17, 40]),
    ],
)
def test_story_rows_name_every_story_that_a_window_touches(
    windows: list[int], rows: list[int]
) -> None:
    store = store_of([7, 2, 11, 5], rows=[10, 13, 17, 40])
    assert story_rows(store, np.array(windows), seq_len=5) == rows


@settings(max_examples=60)
@given(
    whole=st.integers(1, 40),
    share=st.floats(0.01, 1),
    switch=st.integers(0, 60),
    draws=st.integers(1, 120),
    kept_first=st.booleans(),
    seed=st.integers(0, 5),
)
def test_each_phase_draws_its_windows_equally_often(
    whole: int, share: float, switch: int, draws: int, kept_first: bool, seed: int
) -> None:
    kept = max(1, round(share * whole))
    plan = TwoPhasePlan(WindowPlan(whole, seed), WindowPlan(kept, seed + 1), switch, kept_first)
    order = plan.windows(0, draws)
    first, then = (kept, whole) if kept_first else (whole, kept)
    for phase, size in ((order[:switch], first), (order[switch:], then)):
        counts = np.bincount(phase, minlength=size)
        assert len(counts) == size  # in the phase of kept stories no other window
        assert counts.max() - counts.min() <= 1
    # A pure function of the position: in any pieces the same.
    for start in range(0, draws, 7):
        piece = plan.windows(start, min(7, draws - start))
        assert piece.tolist() == order[start : start + 7].tolist()


def test_kept_windows_hold_tokens_of_kept_stories_alone() -> None:
    store = store_of([37, 63])  # the first 37 tokens are those of kept stories
    plan = plan_two_phases(store, 37, 6, 0, switch=0, kept_first=False)
    windows = plan.windows(0, plan.kept.num_windows)
    batch = make_batch(store, np.sort(windows), 6)
    assert batch.labels.flatten().tolist() == list(range(1, 37))
    with pytest.raises(InputError, match="the kept stories have 6 tokens, fewer than one window"):
        plan_two_phases(store, 6, 6, 0, switch=0, kept_first=False)
