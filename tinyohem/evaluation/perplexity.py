"""Exact perplexity: every token of every story scored once, with its own story as context.

Shape suffixes: B windows of a batch, T tokens of one, V vocabulary.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tinyohem.data.text_loss import TextLoss
from tinyohem.data.token_store import TokenStore
from tinyohem.errors import RunError
from tinyohem.progress import SILENT, Progress
from tinyohem.system.signals import StopRequest

_LOGIT_ELEMENTS = 1 << 25  # a forward pass makes at most about this many logits (128 MB)
# Lost text makes these figures too low, so they are left out.
PER_TEXT = frozenset({"word_perplexity", "byte_perplexity", "bits_per_byte"})
_STORIES_PER_BLOCK = 4_096  # stories whose windows are sorted together, so memory stays bounded


@dataclass(frozen=True)
class Perplexity:
    """Sums over a split; every rate is a quotient of two of them."""

    nats: float
    tokens: int
    words: int
    bytes: int
    stories: int
    text_loss: TextLoss = field(default_factory=TextLoss)

    @classmethod
    def of(cls, store: TokenStore, nats: float) -> Self:
        """Return the figures of a split whose tokens took so many nats."""
        return cls(
            nats=nats,
            tokens=store.num_tokens - store.num_stories,  # the start token is context only
            words=int(store.story_words.sum(dtype=np.int64)),
            bytes=int(store.story_bytes.sum(dtype=np.int64)),
            stories=store.num_stories,
            text_loss=store.text_loss,
        )

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte, comparable between tokenizers; None if the ids lose text."""
        return None if self.text_loss else self.nats / self.bytes / math.log(2)

    def to_json(self) -> dict[str, float | int | None]:
        """Return every figure under its public name.

        A figure is None if it is too large for a float, as for a model that diverged or, per word,
        for a text without spaces. Figures per word and per byte are also None if the ids lose text.
        """
        figures = {
            "loss": self.loss,
            "perplexity": finite_or_none(exp_or_inf(self.loss)),
            "word_perplexity": finite_or_none(exp_or_inf(self.nats / self.words)),
            "byte_perplexity": finite_or_none(exp_or_inf(self.nats / self.bytes)),
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "words": self.words,
            "bytes": self.bytes,
            "stories": self.stories,
            **self.text_loss.shares(),
        }
        return {**figures, **dict.fromkeys(PER_TEXT)} if self.text_loss else figures


@dataclass(frozen=True)
class _Window:
    """Inputs ids[start:end] of the store; the labels from `score_from` on are scored."""

    start: int
    end: int
    score_from: int

    @property
    def scored(self) -> slice:
        """Where in the window the inputs stand whose labels are scored."""
        return slice(self.score_from - self.start, self.end - self.start)


def evaluate_perplexity(
    model: nn.Module,
    store: TokenStore,
    *,
    seq_len: int,
    stride: int | None = None,
    out: NDArray[np.float32] | None = None,
    stop: StopRequest | None = None,
    progress: Progress = SILENT,
) -> Perplexity:
    """Score a whole split.

    Args:
        seq_len: the longest context the model is given, in tokens.
        stride: see `story_token_losses`.
        out: (tokens,) where given, takes the nats of each id of the store, 0 at start tokens.
        stop: looked at between forward passes.

    Raises:
        RunError: a loss is not finite: the model's weights are broken.
        KeyboardInterrupt: `stop` was requested.
    """
    nats = 0.0
    for last_story, losses in story_token_losses(
        model, store, seq_len=seq_len, stride=stride, stop=stop, progress=progress
    ):
        nats += float(losses.sum(dtype=np.float64))
        if out is not None:
            end = int(store.offsets[last_story])
            out[end - len(losses) : end] = losses
    if not math.isfinite(nats):
        raise RunError("the model's loss on these stories is not finite", "its weights are broken")
    return Perplexity.of(store, nats)


@torch.inference_mode()
def story_token_losses(
    model: nn.Module,
    store: TokenStore,
    *,
    seq_len: int,
    stride: int | None = None,
    stop: StopRequest | None = None,
    stage: str = "evaluate",
    progress: Progress = SILENT,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the loss of every token, a block of whole stories at a time.

    A story of at most `seq_len` tokens is one window behind its start token. A longer one is cut:
    the first window scores `seq_len` tokens, each later one the next `stride`, with as much of the
    story ahead of them as fits.

    Args:
        stride: tokens newly scored by a window past the first (default: half of `seq_len`). At
            `seq_len` itself the windows are those of lm-evaluation-harness, and so are the losses
            if it gets stripped text, adds one start token and reads special tokens as text.
        stage: the name shown by `progress`, which advances with every forward pass.

    Yields:
        The number of stories done so far, and float32 nats for each of the block's ids in store
        order, with 0 at start tokens.
    """
    scored, began = 0, time.perf_counter()
    progress.start(stage, store.num_tokens - store.num_stories, "tokens")
    for first, last in _blocks(store):
        origin = int(store.offsets[first])
        losses = np.zeros(int(store.offsets[last]) - origin, dtype=np.float32)
        for windows, logits_BTV, labels_BT in _window_logits(
            model, store, first, last, seq_len, stride
        ):
            if stop is not None and stop.requested:
                raise KeyboardInterrupt
            label_logits_BT = logits_BTV.gather(2, labels_BT[..., None]).squeeze(2)
            loss_BT = (logits_BTV.logsumexp(dim=2) - label_logits_BT).cpu().numpy()
            for window, row in zip(windows, loss_BT, strict=True):
                # The input at position p predicts the token at p + 1.
                at = slice(window.score_from + 1 - origin, window.end + 1 - origin)
                losses[at] = row[window.scored]
                scored += window.end - window.score_from
            progress.advance(scored, {"tok/s": scored / (time.perf_counter() - began)})
        yield last, losses
    progress.finish()


@torch.inference_mode()
def scored_logits(
    model: nn.Module, store: TokenStore, *, seq_len: int, stride: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits that every token is scored by, a batch at a time, each token once.

    Args:
        stride: see `story_token_losses`.

    Yields:
        Float32 logits (N, V) and int64 labels (N,).
    """
    for first, last in _blocks(store):
        for windows, logits_BTV, labels_BT in _window_logits(
            model, store, first, last, seq_len, stride
        ):
            scored_BT = torch.zeros_like(labels_BT, dtype=torch.bool)
            for row, window in enumerate(windows):
                scored_BT[row, window.scored] = True
            yield logits_BTV[scored_BT], labels_BT[scored_BT]


def _blocks(store: TokenStore) -> Iterator[tuple[int, int]]:
    """Yield the first and the end of each run of stories whose windows are sorted together."""
    for first in range(0, store.num_stories, _STORIES_PER_BLOCK):
        yield first, min(first + _STORIES_PER_BLOCK, store.num_stories)


def _window_logits(
    model: nn.Module, store: TokenStore, first: int, last: int, seq_len: int, stride: int | None
) -> Iterator[tuple[list[_Window], Tensor, Tensor]]:
    """Yield batches of windows with float32 logits (B, T, V) and int64 labels (B, T).

    Windows are padded on the right: a causal model does not see the padding at scored positions.
    """
    windows = [
        window
        for start, end in zip(
            store.offsets[first:last].tolist(),
            store.offsets[first + 1 : last + 1].tolist(),
            strict=True,
        )
        for window in _story_windows(start, end, seq_len, stride or seq_len // 2)
    ]
    # Longest first: batches hold windows of like length, and the largest batch comes first.
    windows.sort(key=lambda window: window.start - window.end)
    vocab_size = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        while windows:
            longest = windows[0].end - windows[0].start
            count = max(1, _LOGIT_ELEMENTS // (vocab_size * longest))
            batch, windows = windows[:count], windows[count:]
            tokens = _tokens(store, batch, longest).to(device)
            yield (
                batch,
                model(input_ids=tokens[:, :-1], use_cache=False).logits.float(),
                tokens[:, 1:],
            )
    finally:
        model.train(was_training)


def _story_windows(start: int, end: int, seq_len: int, stride: int) -> Iterator[_Window]:
    """Cut ids[start:end], a start token and its story, so that every label is scored once."""
    last_input = end - 1
    scored = start
    while scored < last_input:
        new = seq_len if scored == start else stride
        stop = min(scored + new, last_input)
        yield _Window(max(start, stop - seq_len), stop, scored)
        scored = stop


def overlap_of(store: TokenStore, seq_len: int) -> float:
    """Return how many tokens are read for each one that is scored, by the default stride.

    1 where no story is longer than the context; about 2 where all are much longer.
    """
    inputs = np.diff(store.offsets) - 1
    more = np.maximum(0, inputs - seq_len)  # scored by windows past a story's first
    read = np.minimum(inputs, seq_len) + seq_len * -(-more // (seq_len // 2))
    return float(read.sum() / max(1, inputs.sum()))


def _tokens(store: TokenStore, windows: list[_Window], longest: int) -> Tensor:
    """Return int64 (B, T + 1): the inputs of each window and, one token on, its labels."""
    ids = np.zeros((len(windows), longest + 1), dtype=np.int64)
    for row, window in enumerate(windows):
        ids[row, : window.end + 1 - window.start] = store.ids[window.start : window.end + 1]
    return torch.from_numpy(ids)


def exp_or_inf(nats: float) -> float:
    """Return e^nats; infinity if it is too large for a float."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def finite_or_none(value: float) -> float | None:
    """Return the value; None if it is infinite or NaN, which JSON lacks."""
    return value if math.isfinite(value) else None
