"""The steps that a benchmark times, each from a batch to updated weights."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyohem.config.model import model_shape
from tinyohem.config.ohem import Backward, OhemConfig
from tinyohem.config.run import RunConfig
from tinyohem.data.windows import Batch
from tinyohem.models.causal_lm import CausalLM
from tinyohem.models.llama import build_model
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.softmax_cache import SoftmaxCache
from tinyohem.ohem.step_tokens import Draw
from tinyohem.ohem.topk import top_k
from tinyohem.system.device import autocast
from tinyohem.system.timing import phase
from tinyohem.training import step as training
from tinyohem.training.optim import build_optimizers, update
from tinyohem.training.step import training_step

KEEP_RATIOS = (0.75, 0.5, 0.25)
PHASES = (*training.PHASES, "update")  # of our steps; update: clipping and the optimizer

TRAINER = "trainer"
_START = 0  # the token that begins a story; a random one is as good
Step = Callable[[Batch], None]


def random_batch(config: RunConfig, generator: torch.Generator, device: torch.device) -> Batch:
    """Return a batch of random tokens, as large as the config's."""
    size = (config.training.batch_size, config.training.seq_len + 1)
    tokens = torch.randint(config.tokenizer.vocab_size, size, generator=generator, device=device)
    labels = tokens[:, 1:].contiguous()
    return Batch(tokens[:, :-1].contiguous(), labels, labels.numel())


def bench_steps(config: RunConfig, device: torch.device) -> dict[str, Step]:
    """Return the steps by name; they share one model.

    `full`, `topk-<ratio>` (exact) and `pruned-<ratio>` (exact where that is cheaper) are ours,
    top-k by loss. `bare` is `model(...).logits` with `F.cross_entropy`. `mask-0.5` is the usual way
    to mine: a mask on the loss of the bare step. `trainer` is a step of transformers' `Trainer`
    with its own optimizer, where accelerate is installed. With `training.compile` all but the mask
    are timed with torch.compile too. Of the config's `ohem` only the scope counts.
    """
    from transformers.utils import is_accelerate_available

    shape = model_shape(config.model)
    model: Any = build_model(
        shape, config.tokenizer.vocab_size, config.training.seq_len, _START, config.training.seed
    ).to(device)
    optimizers = build_optimizers(model, config.optim)

    def finish() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
        update(optimizers, config.optim.peak_lr)

    precision = autocast(device, config.training.precision)
    half = torch.tensor([config.training.tokens_per_step // 2], device=device)
    start = _START if config.training.attention == "story" else None
    lm = CausalLM.of(model, precision, SoftmaxCache(), story_start=start)
    steps = _ours(config, lm, finish)
    if config.training.compile:
        lm = CausalLM.of(model, precision, SoftmaxCache(), story_start=start, compiled=True)
        compiled = _ours(config, lm, finish).items()
        steps |= {f"{name}-compiled": step for name, step in compiled}
        steps["bare-compiled"] = _bare(torch.compile(model), precision, finish)
    steps["bare"] = _bare(model, precision, finish)
    steps["mask-0.5"] = _mask(model, precision, half, finish)
    if is_accelerate_available():  # in a version that the Trainer accepts
        trainer = _trainer(config, device, model)
        steps[TRAINER] = partial(trainer, model)
        if config.training.compile:
            steps[f"{TRAINER}-compiled"] = partial(trainer, torch.compile(model))
    return steps


def _ours(config: RunConfig, lm: CausalLM, finish: Callable[[], None]) -> dict[str, Step]:
    def ours(ratio: float, backward: Backward) -> Step:
        miner = TokenMiner(OhemConfig(ratio=ratio, backward=backward, scope=config.ohem.scope))

        def step(batch: Batch) -> None:
            training_step(lm, [batch], Draw(ratio), miner)
            with phase("update"):
                finish()

        return step

    return (
        {"full": ours(1.0, "exact")}
        | {f"topk-{ratio:g}": ours(ratio, "exact") for ratio in KEEP_RATIOS}
        | {f"pruned-{ratio:g}": ours(ratio, "pruned") for ratio in KEEP_RATIOS}
    )


def _bare(model: Any, precision: AbstractContextManager[Any], finish: Callable[[], None]) -> Step:
    def step(batch: Batch) -> None:
        with precision:
            logits = model(input_ids=batch.input_ids, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        loss.backward()
        finish()

    return step


def _mask(
    model: Any, precision: AbstractContextManager[Any], count: Tensor, finish: Callable[[], None]
) -> Step:
    def step(batch: Batch) -> None:
        labels = batch.labels.flatten()
        with precision:
            logits = model(input_ids=batch.input_ids, use_cache=False).logits
            losses = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none")
        kept = top_k(losses.detach()[None], torch.ones_like(labels[None], dtype=torch.bool), count)
        ((losses * kept[0]).sum() / count).sum().backward()
        finish()

    return step


def _trainer(config: RunConfig, device: torch.device, model: Any) -> Callable[[Any, Batch], None]:
    """Return a step of the Trainer, given the model as it is or compiled."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=device.type == "cpu",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments)
    # Not by accelerate, to which the Trainer leaves autocast: it would wrap the shared model.
    precision = autocast(device, config.training.precision)
    trainer.compute_loss_context_manager = lambda: precision
    optimizer = trainer.create_optimizer()
    # The model shifts the labels, so it learns one token less of each sequence.
    batch_size, seq_len = config.training.batch_size, config.training.seq_len
    count = torch.tensor(batch_size * (seq_len - 1), device=device)

    def step(called: Any, batch: Batch) -> None:
        inputs = {"input_ids": batch.input_ids, "labels": batch.input_ids}
        trainer.training_step(called, inputs, count)
        trainer.accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        model.zero_grad()

    return step
