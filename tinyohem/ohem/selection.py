"""Select tokens: turn scores into weights. A token is kept where its weight is above 0.

Shape suffixes: B sequences, T tokens of one, S scopes (1 for `batch`, B for `sequence`),
M tokens of a scope (B·T or T).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.dedup import first_of_bigram, first_of_neighbours
from tinyohem.ohem.sampling import adaptive_counts, importance, stratified
from tinyohem.ohem.topk import keep_counts, rank_by_score, top_k, uniform


def selection_weights(
    scores_BT: Tensor,
    labels_BT: Tensor,
    keep_ratio: float,
    config: OhemConfig,
    *,
    shares: Mapping[str, float] | None = None,
    input_ids_BT: Tensor | None = None,
    pool_BT: Tensor | None = None,
    limit: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Weigh every token of an optimizer step by `config.select`; see `SELECTIONS`.

    `topk` is online hard example mining (Shrivastava et al., CVPR 2016); position breaks ties.

    Args:
        scores_BT: float (B, T), finite, without a gradient; arbitrary at ignored labels.
        labels_BT: int64 (B, T); `IGNORE_INDEX` is excluded before anything is counted.
        keep_ratio: share of the valid tokens of each scope to keep, in (0, 1]; at 1 every method
            keeps them all, with weight 1.
        shares: of each source; needed by `mixed`.
        input_ids_BT: int64 (B, T); needed to find repeated bigrams.
        pool_BT: (B, T) losses of an earlier checkpoint; needed by the source `pool`.
        limit: scalar in the scores' unit, for `threshold`; default: the config's own.
        generator: source of random numbers, on the device of the scores.

    Returns:
        float32 (B, T) weights, 0 where a token is dropped or ignored.
    """
    shape = (1, -1) if config.scope == "batch" else tuple(labels_BT.shape)
    valid_BT = labels_BT != IGNORE_INDEX
    if keep_ratio == 1:
        return valid_BT.float()
    candidates_BT = valid_BT & _distinct(scores_BT, valid_BT, input_ids_BT, labels_BT, config)
    scores_SM, valid_SM = scores_BT.reshape(shape), valid_BT.reshape(shape)
    candidates_SM = candidates_BT.reshape(shape)
    counts_S = keep_counts(valid_SM.sum(dim=1), keep_ratio, config.min_kept)
    match config.select:
        case "topk":
            weight_SM = top_k(scores_SM, candidates_SM, counts_S)
        case "threshold":
            weight_SM = _threshold(scores_SM, candidates_SM, counts_S, limit, config)
        case "band":
            weight_SM = _band(scores_SM, candidates_SM, counts_S, config.noise_fraction)
        case "random":
            weight_SM = top_k(uniform(scores_SM, generator), candidates_SM, counts_S)
        case "importance":
            if config.adaptive:
                counts_S = adaptive_counts(
                    scores_SM, valid_SM, counts_S, config.variance, config.floor
                )
            weight_SM = importance(scores_SM, valid_SM, counts_S, config.floor, generator)
        case "stratified":
            weight_SM = stratified(scores_SM, valid_SM, counts_S, config.random_share, generator)
        case "mixed":
            pool_SM = None if pool_BT is None else pool_BT.reshape(shape)
            sources = {"topk": scores_SM, "random": uniform(scores_SM, generator), "pool": pool_SM}
            weight_SM = _mixed(sources, candidates_SM, counts_S, shares)
    return weight_SM.view(labels_BT.shape).float()


def _distinct(
    scores_BT: Tensor,
    valid_BT: Tensor,
    input_ids_BT: Tensor | None,
    labels_BT: Tensor,
    config: OhemConfig,
) -> Tensor:
    """Mark the tokens that de-duplication leaves."""
    match config.dedup:
        case "position":
            return first_of_neighbours(scores_BT, valid_BT, config.dedup_window)
        case "bigram":
            if input_ids_BT is None:
                raise ValueError("finding repeated bigrams needs input_ids")
            return first_of_bigram(scores_BT, valid_BT, input_ids_BT, labels_BT, config.dedup_max)
        case _:
            return valid_BT


def _threshold(
    scores_SM: Tensor,
    candidates_SM: Tensor,
    counts_S: Tensor,
    limit: Tensor | None,
    config: OhemConfig,
) -> Tensor:
    """Keep scores above the limit, or the k highest of a scope with fewer than k above it.

    A limit from the queue already aims at k, so there only `min_kept` is guaranteed.
    """
    if limit is None:
        limits = [math.inf]
        if config.loss_threshold is not None:
            limits.append(config.loss_threshold)
        if config.prob_threshold is not None:
            limits.append(-math.log(config.prob_threshold))
        limit = scores_SM.new_tensor(min(limits))
    else:
        counts_S = torch.where(limit.isfinite(), counts_S.clamp(max=config.min_kept), counts_S)
    above_SM = candidates_SM & (scores_SM > limit)
    enough_S = above_SM.sum(dim=1) >= counts_S
    return torch.where(enough_S[:, None], above_SM, top_k(scores_SM, candidates_SM, counts_S))


def _band(scores_SM: Tensor, candidates_SM: Tensor, counts_S: Tensor, noise: float) -> Tensor:
    rank_SM = rank_by_score(scores_SM, candidates_SM)
    number_S1 = candidates_SM.sum(dim=1, keepdim=True)
    dropped_S1 = (noise * number_S1.double() + 1e-9).long()  # 0.29 · 100 is 28.999999999999996
    within_SM = (rank_SM >= dropped_S1) & (rank_SM < dropped_S1 + counts_S[:, None])
    return candidates_SM & within_SM


def _mixed(
    sources: Mapping[str, Tensor | None],
    candidates_SM: Tensor,
    counts_S: Tensor,
    shares: Mapping[str, float] | None,
) -> Tensor:
    """Take each source's share of k from the tokens that the sources before it left."""
    if shares is None:
        raise ValueError("mixed needs the shares of its sources")
    kept_SM = torch.zeros_like(candidates_SM)
    total = 0.0
    taken_S = torch.zeros_like(counts_S)
    for name, share in shares.items():
        scores_SM = sources[name]
        if scores_SM is None:
            raise ValueError(f"the source {name!r} was not given")
        total += share
        upto_S = (total * counts_S.double()).round().long()
        kept_SM |= top_k(scores_SM, candidates_SM & ~kept_SM, upto_S - taken_S)
        taken_S = upto_S
    return kept_SM
