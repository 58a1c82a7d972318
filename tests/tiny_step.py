"""The smallest model, batch and step that every way of mining can be tried on, in float64."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyohem.config.model import Shape
from tinyohem.config.ohem import OhemConfig
from tinyohem.data.windows import IGNORE_INDEX, Batch
from tinyohem.models.causal_lm import CausalLM
from tinyohem.models.llama import build_model
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.softmax_cache import SoftmaxCache
from tinyohem.ohem.step_tokens import Draw
from tinyohem.ohem.token_weights import class_weights
from tinyohem.training.ranks import SINGLE_PROCESS, DistContext
from tinyohem.training.step import StepStats, training_step

VOCAB, ROWS, LENGTH = 23, 4, 6

SELECTS: dict[str, dict[str, Any]] = {
    "topk": {},
    "threshold": {"loss_threshold": 3.5},
    "band": {"noise_fraction": 0.15},
    "random": {},
    "importance": {},
    "stratified": {},
    "mixed": {"mix": "topk=0.3,random=0.3,pool=0.4", "reference": "pool"},
}
SCORES = ("loss", "loss_x_gradnorm", "gradnorm", "excess_loss", "lag", "entropy", "focal")
WEIGHTS = ("none", "focal", "ghm", "class_balanced")
SCOPES = ("batch", "sequence")


def model() -> Any:
    """Return a Llama of one layer whose every matrix matters."""
    shape = Shape(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=12)
    return random_model(shape, VOCAB, LENGTH).double()


def random_model(shape: Shape, vocab_size: int, seq_len: int, seed: int = 0) -> Any:
    """Return a new model without zero matrices."""
    return without_zeros(build_model(shape, vocab_size, seq_len, start_id=0, seed=seed))


def without_zeros(model: Any) -> Any:
    """Draw the matrices that begin at zero: as a model begins, no token sees another."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def tokens(*, ignored: bool = True, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Return input ids and labels (ROWS, LENGTH), some of them ignored, unevenly."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=rng)
    labels = ids[:, 1:].clone()
    if ignored:
        labels[0, 2:] = IGNORE_INDEX
        labels[3, ::3] = IGNORE_INDEX
    return ids[:, :-1], labels


def references(seed: int = 5) -> Tensor:
    """Return another model's losses, (ROWS, LENGTH) nats."""
    return 4 * torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(seed)).double()


def miner(**config: Any) -> TokenMiner:
    """Return a way of mining; labels are the rarer the higher their id."""
    return TokenMiner(OhemConfig(**config), class_weights(torch.arange(VOCAB, 0, -1) ** 3, 0.5))


def micro_batches(input_ids: Tensor, labels: Tensor, number: int) -> list[Batch]:
    """Cut a batch into equal parts."""
    return [
        Batch(i, y, int((y != IGNORE_INDEX).sum()))
        for i, y in zip(input_ids.chunk(number), labels.chunk(number), strict=True)
    ]


def step(
    built: Any,
    input_ids: Tensor,
    labels: Tensor,
    ratio: float,
    way: TokenMiner,
    *,
    number: int = 1,
    reference: Tensor | None = None,
    seed: int = 0,
    cache: SoftmaxCache | None = None,
    ranks: DistContext = SINGLE_PROCESS,
) -> StepStats:
    """Take the gradients of one step over `number` micro-batches."""
    return training_step(
        CausalLM.of(built, cache=cache),
        micro_batches(input_ids, labels, number),
        Draw(ratio, torch.Generator().manual_seed(seed), way.config.mix_schedule().shares(0.0)),
        way,
        None if reference is None else reference.chunk(number),
        ranks,
    )


def losses(built: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Return every token's cross entropy with its graph, 0 where the label is ignored."""
    logits = built(input_ids=input_ids, use_cache=False).logits
    return F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE_INDEX
    ).view(labels.shape)


def gradient(built: Any) -> Tensor:
    """Take the gradient of all parameters off the model, as one vector; absent counts as 0."""
    found = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in built.parameters()
    ]
    built.zero_grad(set_to_none=True)
    return torch.cat(found)


def every_way() -> Iterator[dict[str, Any]]:
    """Yield every combination of selection, score, weight and scope that the config allows."""
    for select, options in SELECTS.items():
        for score in SCORES:
            for weight in WEIGHTS:
                for scope in SCOPES:
                    yield {
                        "select": select,
                        "score": score,
                        "weight": weight,
                        "scope": scope,
                        **options,
                    }
