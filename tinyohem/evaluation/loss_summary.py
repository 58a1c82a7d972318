"""Summaries of token losses: the hard tail, the easy half, the Gini coefficient of token types."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.token_store import TokenStore


@dataclass(frozen=True)
class Breakdown:
    """Summaries of one model's token losses on a split."""

    hardest_tenth: float  # nats, mean of the model's own highest tenth of losses
    easiest_half: float  # nats, mean of its own lowest half
    gini: float  # of the mean loss of token types, 0 (all alike) to 1


def break_down(losses: NDArray[np.float32], labels: NDArray[np.integer]) -> Breakdown:
    """Summarise token losses.

    Args:
        losses: nats (N,), one for each scored token.
        labels: token ids (N,).
    """
    ranked = np.sort(losses.astype(np.float64))
    tenth, half = max(1, len(ranked) // 10), max(1, len(ranked) // 2)
    return Breakdown(
        hardest_tenth=float(ranked[-tenth:].mean()),
        easiest_half=float(ranked[:half].mean()),
        gini=gini(mean_by_type(losses, labels)),
    )


def mean_by_type(losses: NDArray[np.float32], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the mean loss of every token type that occurs, by rising token id."""
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=losses.astype(np.float64))
    seen = counts > 0
    return sums[seen] / counts[seen]


def gini(values: NDArray[np.float64]) -> float:
    """Return the Gini coefficient, Σᵢ Σⱼ |xᵢ − xⱼ| / (2 n² x̄), of values ≥ 0."""
    ranked = np.sort(values)
    n, total = len(ranked), float(ranked.sum())
    if total == 0:
        return 0.0
    return float(((2 * np.arange(1, n + 1) - n - 1) * ranked).sum() / (n * total))


def scored_labels(store: TokenStore) -> NDArray[np.bool_]:
    """Mark the ids that are scored: all but the start token ahead of each story."""
    scored = np.ones(store.num_tokens, dtype=bool)
    scored[store.offsets[:-1]] = False
    return scored
