"""Compute the weight of every token from losses and scores, with state between steps.

Shape suffixes: B sequences, T tokens of one, N tokens of a step, Q steps of the queue, V
vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.token_store import TokenStore, token_counts
from tinyohem.data.windows import IGNORE_INDEX
from tinyohem.ohem.selection import selection_weights
from tinyohem.ohem.step_tokens import Draw, StepTokens
from tinyohem.ohem.token_weights import class_weights, ghm_weights
from tinyohem.system.timing import phase


@dataclass
class TokenMiner:
    """The mining that a config describes, with its state."""

    config: OhemConfig
    class_weight_V: Tensor | None = None  # needed by `class_balanced`
    state: dict[str, Tensor] = field(default_factory=dict)  # saved with every checkpoint

    def token_weights(self, tokens: StepTokens, draw: Draw) -> Tensor:
        """Return float32 (B, T) weights ≥ 0 of a whole optimizer step and update the state.

        A weight is that of selection times the soft one, 0 where the label is ignored. Tokens
        without losses (not read first) are all kept.
        """
        if tokens.loss_BT is None:
            return tokens.valid_BT * self.class_weight(tokens.labels_BT)
        with phase("select"):
            weight_BT = self._selected(tokens, draw)
            return weight_BT * self.class_weight(tokens.labels_BT)

    def _selected(self, tokens: StepTokens, draw: Draw) -> Tensor:
        assert tokens.loss_BT is not None
        assert tokens.score_BT is not None
        config = self.config
        weight_BT = selection_weights(
            tokens.score_BT,
            tokens.labels_BT,
            draw.keep_ratio,
            config,
            shares=draw.shares,
            input_ids_BT=tokens.input_ids_BT,
            pool_BT=tokens.reference_BT,
            limit=self._queue_limit(tokens.score_BT, tokens.labels_BT, draw.keep_ratio),
            generator=draw.generator,
        )
        if config.weight != "ghm":
            return weight_BT
        beta_BT, self.state["ghm_counts"] = ghm_weights(
            tokens.loss_BT,
            tokens.valid_BT,
            self.state.get("ghm_counts"),
            config.ghm_momentum,
            config.ghm_bins,
        )
        return weight_BT * beta_BT

    def restore(self, remembered: Mapping[str, Tensor], tokens: int, device: torch.device) -> None:
        """Restore the state from a checkpoint.

        Args:
            remembered: the state by name.
            tokens: tokens of a step.

        Raises:
            ValueError: a tensor does not fit the config.
        """
        shapes = {"ghm_counts": (self.config.ghm_bins,), "queue": (self.config.queue_steps, tokens)}
        for name, tensor in remembered.items():
            if tensor.shape != shapes.get(name) or not tensor.is_floating_point():
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
        self.state = {name: tensor.to(device) for name, tensor in remembered.items()}

    def class_weight(self, labels_BT: Tensor) -> Tensor | float:
        """Return the weight (B, T) of each label by its frequency; 1 unless `class_balanced`."""
        if self.config.weight != "class_balanced":
            return 1.0
        assert self.class_weight_V is not None
        return self.class_weight_V[labels_BT.clamp(min=0)]

    def normalise(self, weight_BT: Tensor, valid_BT: Tensor) -> Tensor:
        """Return w/Z, float32 (B, T); Z is Σ w or the number of valid tokens (`denominator`)."""
        denominator = (weight_BT if self.config.denominator == "kept" else valid_BT).sum()
        return (weight_BT / torch.where(denominator > 0, denominator, 1)).float()

    def _queue_limit(self, score_BT: Tensor, labels_BT: Tensor, ratio: float) -> Tensor | None:
        """Return the (1 − ratio) quantile of the queue, then add this step's scores to it.

        The counterpart of the memory queue in MoCo (He et al., CVPR 2020): a threshold from the
        last steps varies less than the batch's own. Infinite before the first step.
        """
        if not self.config.queue_steps:
            return None
        scores_N = score_BT.masked_fill(labels_BT == IGNORE_INDEX, torch.nan).flatten()
        queue_QN = self.state.get("queue", scores_N.new_empty(self.config.queue_steps, 0))
        # Batches of `OhemLoss` may differ in size: shorter ones are padded.
        missing = len(scores_N) - queue_QN.shape[1]
        queue_QN = F.pad(queue_QN, (0, max(0, missing)), value=torch.nan)
        scores_N = F.pad(scores_N, (0, max(0, -missing)), value=torch.nan)
        limit = queue_QN.flatten().nanquantile(1 - ratio).nan_to_num(torch.inf)
        self.state["queue"] = torch.cat([scores_N[None], queue_QN[:-1]])
        return limit


def build_miner(
    config: OhemConfig, store: TokenStore, vocab_size: int, device: torch.device
) -> TokenMiner:
    """Build the miner of a config for a training corpus."""
    if config.weight != "class_balanced":
        return TokenMiner(config)
    counts_V = torch.from_numpy(token_counts(store, vocab_size))
    return TokenMiner(config, class_weights(counts_V, config.class_power).to(device))
