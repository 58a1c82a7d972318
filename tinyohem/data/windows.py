"""Batches as a pure function of (plan, step), without state, so that resuming is exact."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyohem.data.token_store import TokenStore
from tinyohem.errors import InputError

IGNORE_INDEX = -100  # a label that does not count: of callers of `OhemLoss`, never of a window


@dataclass(frozen=True)
class Batch:
    """Sequences to train on: `labels` are `input_ids` one token later; both int64 (B, T)."""

    input_ids: Tensor
    labels: Tensor
    num_valid: int  # labels that count, on the host, so that no step waits for the device

    def to(self, device: torch.device) -> "Batch":
        """Copy to `device` without waiting for the copy."""
        return Batch(_sent(self.input_ids, device), _sent(self.labels, device), self.num_valid)


class WindowOrder(Protocol):
    """An order of windows: shuffled, hard ones mixed in, in two phases, or a curriculum's."""

    def windows(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the windows at positions first .. first + count - 1."""


@dataclass(frozen=True)
class WindowPlan:
    """A seeded, endless order of windows; every epoch visits each window once."""

    num_windows: int
    seed: int

    def windows(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the windows at positions first .. first + count - 1 of the endless order."""
        return self.at(np.arange(first, first + count))

    def at(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the windows at these positions of the endless order."""
        epoch, place = np.divmod(position, self.num_windows)
        order = np.empty(len(position), dtype=np.int64)
        for e in np.unique(epoch):
            here = epoch == e
            order[here] = _epoch_order(self.num_windows, self.seed, int(e))[place[here]]
        return order


@dataclass(frozen=True)
class HardWindowPlan:
    """Batches that hold some of the hardest windows ahead of their turn.

    The last `num_hard` windows of every batch come from `hardest`, in a seeded order that visits
    all of them once before any again; the others come from `base`. Both orders continue from batch
    to batch, so an epoch of `base` still visits every window once, in more steps. A hard window is
    in both orders, sometimes twice in a batch.
    """

    base: WindowPlan
    hardest: NDArray[np.int64]
    batch_size: int  # windows
    num_hard: int  # of a batch

    def windows(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the windows at positions first .. first + count - 1 of the endless order."""
        step, slot = np.divmod(np.arange(first, first + count), self.batch_size)
        num_base = self.batch_size - self.num_hard
        is_hard = slot >= num_base
        # Another seed, so that the orders differ even if nearly all windows are hardest.
        hard = WindowPlan(len(self.hardest), self.base.seed + 1)
        order = np.empty(count, dtype=np.int64)
        order[~is_hard] = self.base.at((step * num_base + slot)[~is_hard])
        order[is_hard] = self.hardest[hard.at((step * self.num_hard + slot - num_base)[is_hard])]
        return order


@dataclass(frozen=True)
class TwoPhasePlan:
    """Windows of the whole store in one phase of a run, those of its kept stories in the other.

    Each phase is a shuffled order of its own; every epoch of one visits each of its windows once.
    The kept stories come first in the store, so that their windows are those of a store of them
    alone; the window that runs from them into the others belongs to the whole only.

    Attributes:
        whole: order of all windows.
        kept: order of the windows of kept stories.
        switch: position at which the second phase begins.
        kept_first: whether the first phase is that of the kept stories.
    """

    whole: WindowPlan
    kept: WindowPlan
    switch: int
    kept_first: bool

    def windows(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the windows at positions first .. first + count - 1 of the endless order."""
        position = np.arange(first, first + count)
        later = position >= self.switch
        before, after = (self.kept, self.whole) if self.kept_first else (self.whole, self.kept)
        order = np.empty(count, dtype=np.int64)
        order[~later] = before.at(position[~later])
        order[later] = after.at(position[later] - self.switch)
        return order


@lru_cache(maxsize=4)  # a batch touches at most two epochs of an order unless the corpus is tiny
def _epoch_order(num_windows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_windows)


def plan_windows(store: TokenStore, seq_len: int, seed: int) -> WindowPlan:
    """Cut the corpus into windows of `seq_len` tokens, each with a label for its last token.

    A window runs across stories; `training.attention` says what its tokens may look at.

    Raises:
        InputError: the corpus is shorter than one window.
    """
    return _windows_of(store.num_tokens, seq_len, seed, "the corpus has")


def plan_two_phases(
    store: TokenStore,
    num_kept_tokens: int,
    seq_len: int,
    seed: int,
    *,
    switch: int,
    kept_first: bool,
) -> TwoPhasePlan:
    """Cut the store into windows and order them in two phases.

    Args:
        num_kept_tokens: tokens of the kept stories, with which the store begins.
        switch: windows of the first phase.
        kept_first: see `TwoPhasePlan`.

    Raises:
        InputError: the kept stories are shorter than one window.
    """
    whole = plan_windows(store, seq_len, seed)
    # Another seed, so that the orders differ even if nearly all stories are kept.
    kept = _windows_of(num_kept_tokens, seq_len, seed + 1, "the kept stories have")
    return TwoPhasePlan(whole, kept, switch, kept_first)


def _windows_of(num_tokens: int, seq_len: int, seed: int, whose: str) -> WindowPlan:
    num_windows = (num_tokens - 1) // seq_len
    if num_windows < 1:
        raise InputError(
            f"{whose} {num_tokens:,} tokens, fewer than one window of {seq_len:,}",
            f"use more text, or --set training.seq_len={max(2, num_tokens - 1)}",
        )
    return WindowPlan(num_windows, seed)


def batch_windows(plan: WindowOrder, step: int, batch_size: int) -> NDArray[np.int64]:
    """Return the windows that optimizer step `step` (from 0) trains on."""
    return plan.windows(step * batch_size, batch_size)


def make_batch(store: TokenStore, windows: NDArray[np.int64], seq_len: int) -> Batch:
    """Return the batch of these windows, copied out of the memory map."""
    positions = windows[:, None] * seq_len + np.arange(seq_len + 1)
    return labelled(store.ids[positions])


def labelled(ids: NDArray[np.unsignedinteger[Any]]) -> Batch:
    """Return a batch of sequences (B, T + 1): the first T tokens predict the last T."""
    return _batch_of(torch.from_numpy(ids.astype(np.int64)))


def _batch_of(tokens: Tensor) -> Batch:
    labels = tokens[:, 1:].contiguous()
    return Batch(tokens[:, :-1].contiguous(), labels, num_valid=labels.numel())


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the host to `device`, to a GPU from pinned memory without waiting."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class WindowSource:
    """The windows of a token store as batches on a device.

    A GPU with enough room holds the whole store and cuts windows itself; otherwise the host cuts
    every batch and sends it.

    Args:
        room: bytes of the device that the store may fill; default: a quarter of a GPU's free ones.
    """

    def __init__(
        self, store: TokenStore, seq_len: int, device: torch.device, room: int | None = None
    ) -> None:
        self._store, self._seq_len, self._device = store, seq_len, device
        if room is None:
            room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 0
        self._ids: Tensor | None = None
        if store.ids.nbytes <= room:
            # As signed numbers: torch cannot index unsigned ones.
            signed = np.array(store.ids).view(f"i{store.ids.itemsize}")
            self._ids = torch.from_numpy(signed).to(device)

    def batch(self, windows: NDArray[np.int64]) -> Batch:
        """Return the batch of these windows."""
        if self._ids is None:
            return make_batch(self._store, windows, self._seq_len).to(self._device)
        starts = _sent(torch.from_numpy(windows * self._seq_len), self._device)
        within = torch.arange(self._seq_len + 1, device=self._device)
        ids = self._ids[starts[:, None] + within].long()
        # The mask undoes the sign of the int16 or int32 view.
        return _batch_of(ids & (1 << 8 * self._store.ids.itemsize) - 1)


def story_rows(store: TokenStore, windows: NDArray[np.int64], seq_len: int) -> list[int]:
    """Return the corpus rows of every story that `windows` touch, in order."""
    first = store.story_of_token(windows * seq_len)
    last = store.story_of_token((windows + 1) * seq_len)
    stories = {s for a, b in zip(first, last, strict=True) for s in range(int(a), int(b) + 1)}
    return [int(store.rows[s]) for s in sorted(stories)]
