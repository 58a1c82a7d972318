"""Group token losses by their size, by the token's frequency, or by the story's difficulty.

Groups partition the tokens, so that their losses weighted by their tokens add up to the whole.
Groups without a token are left out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.token_store import TokenStore, token_counts
from tinyohem.evaluation.perplexity import exp_or_inf, finite_or_none
from tinyohem.io.json import JsonObject
from tinyohem.ohem.losses import LOSS_BUCKETS

LOSS_GROUPS = ("<1", "1-3", "3-5", ">5")  # a loss on a bound belongs to the harder group
# Of token types, the most frequent in training first. Frequencies fall like a power of the rank
# (Zipf), so the bands widen by tens.
RANK_BOUNDS = (10, 100, 1_000)
FREQUENCY_GROUPS = ("top 10", "11-100", "101-1,000", "1,001 and rarer", "unseen")
UNDEFINED = "undefined"
_DECILES = ("1 (easiest)", *map(str, range(2, 10)), "10 (hardest)")


@dataclass(frozen=True)
class Group:
    """Some of the scored tokens."""

    name: str
    tokens: int
    loss: float  # nats per token
    share_of_loss: float  # of the nats of all tokens, 0 to 1

    @property
    def perplexity(self) -> float:
        """Return e^loss; infinity if it is too large for a float."""
        return exp_or_inf(self.loss)

    def to_json(self) -> JsonObject:
        """Return the figures by name; a perplexity too large for a float is None."""
        return {**asdict(self), "perplexity": finite_or_none(self.perplexity)}


def by_loss(losses: NDArray[np.floating]) -> list[Group]:
    """Group tokens by their loss: below 1, 1 to 3, 3 to 5, above 5 nats.

    Args:
        losses: nats (N,), one for each scored token.
    """
    return _groups(LOSS_GROUPS, np.digitize(losses, LOSS_BUCKETS), losses)


def by_frequency(
    losses: NDArray[np.floating],
    labels: NDArray[np.integer],
    train_counts: NDArray[np.integer],
) -> list[Group]:
    """Group tokens by how their type ranks among the token types of the training split.

    The bands are the 10 most frequent types, ranks 11 to 100, 101 to 1,000, the rest, and types
    that training never saw. Types of equal count rank by their id.

    Args:
        losses: nats (N,).
        labels: token ids (N,).
        train_counts: (V,) how often each type is a label in the training split.
    """
    rank = np.empty(len(train_counts), dtype=np.int64)
    rank[np.argsort(-train_counts, kind="stable")] = np.arange(len(train_counts))
    band = np.digitize(rank, RANK_BOUNDS)
    band[train_counts == 0] = FREQUENCY_GROUPS.index("unseen")
    return _groups(FREQUENCY_GROUPS, band[labels], losses)


def by_difficulty(
    story_losses: NDArray[np.floating],
    story_tokens: NDArray[np.integer],
    difficulty: NDArray[np.floating],
) -> list[Group]:
    """Group stories by the decile of their difficulty; those without one are `undefined`.

    Stories of equal difficulty stay together, so ties and few stories leave some deciles empty.

    Args:
        story_losses: nats (S,), summed over each story.
        story_tokens: scored tokens (S,) of each story.
        difficulty: (S,), higher is harder, NaN is undefined.
    """
    defined = np.sort(difficulty[~np.isnan(difficulty)])
    # Twice the middle of a story's ranks, from 1 to 2 n − 1.
    twice_rank = np.searchsorted(defined, difficulty) + np.searchsorted(
        defined, difficulty, "right"
    )
    decile = 5 * twice_rank // max(1, len(defined))
    decile[np.isnan(difficulty)] = len(_DECILES)
    return _groups((*_DECILES, UNDEFINED), decile, story_losses, story_tokens)


def label_counts(store: TokenStore, vocab_size: int) -> NDArray[np.int64]:
    """Return how often each token type is a label: (V,); start tokens are context only."""
    starts = np.bincount(store.ids[store.offsets[:-1]], minlength=vocab_size)
    return token_counts(store, vocab_size) - starts


def story_sums(store: TokenStore, losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the nats of each story (S,), given those of every id of the store."""
    return np.add.reduceat(losses, store.offsets[:-1], dtype=np.float64)


def _groups(
    names: Sequence[str],
    group: NDArray[np.integer],
    losses: NDArray[np.floating],
    tokens: NDArray[np.integer] | None = None,
) -> list[Group]:
    """Sum the losses, and the tokens that each of them covers (default: one), by group."""
    nats = np.bincount(group, losses.astype(np.float64), len(names))
    counts = np.bincount(group, tokens, len(names)).astype(np.int64)
    total = float(nats.sum()) or 1.0  # no division by zero where every loss is 0
    return [
        Group(name, int(count), float(part / count), float(part / total))
        for name, count, part in zip(names, counts, nats, strict=True)
        if count
    ]
