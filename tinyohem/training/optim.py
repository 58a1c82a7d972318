"""AdamW's parameter groups and the learning rate as a function of the step."""

import math
from typing import Any

import torch
from torch import nn

from tinyohem.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build fused AdamW; matrices decay, gains do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(progress: float, config: OptimConfig) -> float:
    """Return the learning rate at `progress` in [0, 1].

    1. Linear warm-up over the first `warmup_fraction`.
    2. `wsd` holds the peak until its last `decay_fraction`; `cosine` decays from here.
    3. Decay to `min_lr_ratio` of the peak: half a cosine, or a straight line for `wsd`.
    """
    if progress < config.warmup_fraction:
        return config.lr * progress / config.warmup_fraction
    if config.schedule == "cosine":
        decayed = (progress - config.warmup_fraction) / (1 - config.warmup_fraction)
        remaining = (1 + math.cos(math.pi * decayed)) / 2
    else:
        remaining = min(1.0, (1 - progress) / config.decay_fraction)
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * remaining)
