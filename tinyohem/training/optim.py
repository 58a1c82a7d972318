"""The optimizers' parameter groups and the learning rate as a function of progress."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tinyohem.config.training import OptimConfig
from tinyohem.training.muon import StackedMuon


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Build what updates a model's parameters; every parameter belongs to one of them.

    `adamw`: fused AdamW; matrices decay, gains do not. `muon`: the trunk's matrices by Muon
    (Jordan et al. 2024), its update scaled to the size of AdamW's so that one learning rate serves
    both; embedding and gains stay with AdamW.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    by_muon: list[nn.Parameter] = []
    if config.optimizer == "muon":
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        embeddings |= {id(model.get_output_embeddings().weight)}  # type: ignore[operator]
        by_muon = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    taken = {id(p) for p in by_muon}
    rest = [p for p in parameters if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2]},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups,
        lr=config.peak_lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    if not by_muon:
        return [adamw]
    muon = StackedMuon(by_muon, lr=config.peak_lr, weight_decay=config.weight_decay)
    return [adamw, muon]


def update(optimizers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Take one optimizer step at this learning rate and drop the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def decay_starts(num_steps: int, config: OptimConfig) -> int:
    """Return the first step of the last `decay_fraction` of a run, in which `wsd` decays.

    Under `cosine`, which decays from the end of its warm-up, it is the same step.
    """

    def decays(step: int) -> bool:  # in the arithmetic of `learning_rate`, to the last bit
        return (1 - (step + 0.5) / num_steps) / config.decay_fraction < 1

    first = round((1 - config.decay_fraction) * num_steps)
    while first > 0 and decays(first - 1):
        first -= 1
    while first < num_steps and not decays(first):
        first += 1
    return first


def learning_rate(progress: float, config: OptimConfig) -> float:
    """Return the learning rate at `progress` in [0, 1].

    1. Linear warm-up over the first `warmup_fraction`.
    2. `wsd` holds the peak until its last `decay_fraction`; `cosine` decays from here.
    3. Decay to `min_lr_ratio` of the peak: half a cosine, or a straight line for `wsd`.
    """
    if progress < config.warmup_fraction:
        return config.peak_lr * progress / config.warmup_fraction
    if config.schedule == "cosine":
        decayed = (progress - config.warmup_fraction) / (1 - config.warmup_fraction)
        remaining = (1 + math.cos(math.pi * decayed)) / 2
    else:
        remaining = min(1.0, (1 - progress) / config.decay_fraction)
    return config.peak_lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * remaining)
