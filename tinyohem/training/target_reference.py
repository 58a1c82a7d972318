"""Train a small model on a target, or on its pool, and score the pool by it.

The model and its steps are those of any run. It leaves no run folder: only its losses are wanted,
and a kill costs the minute or two that it takes.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyohem.config.reference import MOST_EPOCHS, VALIDATIONS
from tinyohem.config.run import RunConfig
from tinyohem.data.corpus import Corpus
from tinyohem.data.prepare import Prepared, tokenize_corpus
from tinyohem.data.sources import Sources
from tinyohem.data.target import TargetStories
from tinyohem.data.token_store import TokenStore
from tinyohem.data.tokenizer import train_tokenizer
from tinyohem.difficulty.reference_scores import LearnsFrom
from tinyohem.errors import InputError
from tinyohem.evaluation.perplexity import evaluate_perplexity
from tinyohem.evaluation.story_metrics import story_losses
from tinyohem.io.hashing import hash_json
from tinyohem.progress import SILENT, Progress
from tinyohem.system.device import pick_device
from tinyohem.training.arithmetic import plain_arithmetic
from tinyohem.training.between_steps import due
from tinyohem.training.plan import budget_steps
from tinyohem.training.prepare import Inputs, begin_run, prepare_run
from tinyohem.training.ranks import SINGLE_PROCESS
from tinyohem.training.take_step import StepContext, take_step


def score_by_reference(
    config: RunConfig, learns_from: LearnsFrom, sources: Sources, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train a reference and score a pool by it; see `ScoreByModel`.

    Both references have the vocabulary of the target's stories to fit. The pool's sees as many
    tokens as the target's, and each window of the pool at most once: a story that it knew by heart
    would look less like the target than one that it has never seen. It learns from no story that
    the target or the validation stories hold.

    Args:
        config: of the reference.

    Raises:
        InputError: the target, or what the pool's model may learn from, holds less text than a
            training window.
        RunError: a loss is not finite.
    """
    pool, target = sources.train.corpus, sources.target
    assert target is not None
    tokenizer = train_tokenizer(target.fit, config.tokenizer.vocab_size, exact=False)
    data = target_data(target, tokenizer)
    num_steps = reference_steps(config, data)
    store = tokenize_corpus(pool, tokenizer, progress)
    if learns_from == "pool":
        learned = _unbarred(store, sources, config, tokenizer, progress)
        data = replace(data, corpus=pool, train=learned)
        one_pass = (learned.num_tokens - 1) // config.training.tokens_per_step
        num_steps = max(1, min(num_steps, one_pass))
    model = train_reference(
        config, data, num_steps, keeps_best=learns_from == "target", progress=progress
    )
    seq_len = config.training.seq_len
    values = np.full(int(store.rows[-1]) + 1, np.nan)
    values[store.rows] = story_losses(model, store, seq_len, progress)
    return values, story_losses(model, data.valid, seq_len)


def _unbarred(
    store: TokenStore, sources: Sources, config: RunConfig, tokenizer: Any, progress: Progress
) -> TokenStore:
    """Return the pool's store without the stories that the target or the validation holds too."""
    pool, target = sources.train.corpus, sources.target
    assert target is not None
    hashes = np.fromiter(target.hashes | sources.valid.hashes(), np.uint64)
    barred = np.isin(store.story_hashes, hashes)
    left = int(np.diff(store.offsets)[~barred].sum())
    if left <= config.training.seq_len:
        raise InputError(
            f"{pool.name} holds too little text for a model to learn from: {left:,} tokens, the "
            "target's own and validation stories left out",
            "choose by target.score = reference_loss, or name another --dataset",
        )
    if not barred.any():
        return store
    rows = set(store.rows[barred].tolist())

    def texts() -> Iterator[str]:
        next_row = 0
        for story in pool.stories():
            yield from repeat("", story.row - next_row)
            yield "" if story.row in rows else story.text
            next_row = story.row + 1

    fingerprint = hash_json([pool.fingerprint, target.fingerprint, sources.valid.identity])
    rest = Corpus(pool.name, pool.split, fingerprint, texts)
    return tokenize_corpus(rest, tokenizer, progress)


def target_data(target: TargetStories, tokenizer: Any) -> Prepared:
    """Return a target as the data of a run: its stories to fit train, those to calibrate validate.

    Args:
        tokenizer: of transformers; makes their ids.
    """
    fit = _corpus(target, "fit", target.fit)
    calibrate = _corpus(target, "calibrate", target.calibrate)
    train, valid = (tokenize_corpus(corpus, tokenizer) for corpus in (fit, calibrate))
    return Prepared(tokenizer, fit, train, valid)


def _corpus(target: TargetStories, part: str, texts: tuple[str, ...]) -> Corpus:
    fingerprint = hash_json([target.fingerprint, part])
    return Corpus(target.name, part, fingerprint, lambda: iter(texts))


def reference_steps(config: RunConfig, data: Prepared) -> int:
    """Return the steps of a reference: its budget, but a small target is not read for ever.

    Raises:
        InputError: the target holds less text than a training window.
    """
    if data.train.num_tokens <= config.training.seq_len:
        raise InputError(
            f"the target {data.corpus.name} holds too little text for a model to learn from: "
            f"{data.train.num_tokens:,} tokens",
            "name more stories with --target, or leave out the model that learns from them",
        )
    epochs = MOST_EPOCHS * data.train.num_tokens // config.training.tokens_per_step
    return max(1, min(budget_steps(config, data), epochs))


def train_reference(
    config: RunConfig,
    data: Prepared,
    num_steps: int,
    *,
    keeps_best: bool = True,
    progress: Progress = SILENT,
) -> Any:
    """Train a model and return it, a causal LM of transformers, on its device.

    Args:
        keeps_best: whether its weights are those of the best of its validations; else the last.

    Raises:
        InputError: the stories hold less text than a window.
        RunError: a loss is not finite.
    """
    device = pick_device(config.training.device)
    arithmetic = plain_arithmetic(config, device)
    prepared = prepare_run(config, Inputs(None, data), num_steps)
    run = begin_run(prepared, Path(), device, SINGLE_PROCESS, arithmetic)
    context, best, weights = StepContext.of(run), math.inf, {}
    progress.start(f"train a reference on {data.corpus.name}", num_steps, "steps")
    while not run.finished:
        before = run.fraction_done
        take_step(run, context, 1, progress)
        if keeps_best and due(run, None, VALIDATIONS, before):
            loss = evaluate_perplexity(run.model, data.valid, seq_len=config.training.seq_len).loss
            if loss < best:
                best = loss
                weights = {name: w.clone() for name, w in run.model.state_dict().items()}
        progress.advance(run.state.step, {"loss": best} if weights else None)
    progress.finish()
    if weights:
        run.model.load_state_dict(weights)
    return run.model
