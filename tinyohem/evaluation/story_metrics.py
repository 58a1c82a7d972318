"""Metrics that need more than the text: a tokenizer's fertility, a model's loss."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyohem.config.difficulty import ADDED_METRICS
from tinyohem.data.corpus import Corpus
from tinyohem.data.prepare import tokenize_corpus
from tinyohem.data.token_store import TokenStore
from tinyohem.data.tokenizer import tokenizer_hash
from tinyohem.difficulty.add_metric import add_metric
from tinyohem.difficulty.metrics import fertility
from tinyohem.difficulty.score_table import ScoreTable
from tinyohem.errors import InputError, RunError
from tinyohem.evaluation.perplexity import story_token_losses
from tinyohem.io.json import JsonObject
from tinyohem.models.causal_lm import weights_hash
from tinyohem.models.source import Source
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.checkpoints import tokens_seen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_OPENING_TOKENS = 300  # an opening has 300 characters at most, so it never needs more
# Where the origin of a metric has the name and the hash of what it was computed with.
_NAME_AND_HASH = {
    "fertility": ("tokenizer", "tokenizer_sha256"),
    "model_loss": ("model", "weights_sha256"),
}


def add_fertility(
    table: ScoreTable,
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerFast",
    name: str,
    progress: Progress = SILENT,
) -> ScoreTable:
    """Return the table with tokens per word of a tokenizer; null where a story has no word.

    Args:
        table: scores of `corpus`.
        corpus: is tokenized whole, or read from the cache of token stores.
        tokenizer: see `load_tokenizer`.
        name: the user's name for it, recorded beside its hash.

    Raises:
        InputError: the table holds the fertility of another one.
    """
    origin = {"tokenizer": name, "tokenizer_sha256": tokenizer_hash(tokenizer)}
    if _is_there(table, "fertility", origin, progress):
        return table
    store = tokenize_corpus(corpus, tokenizer, progress)
    words = table.column("words")[table.positions(store.rows)]
    values = fertility(np.diff(store.offsets) - 1, words)  # the start token is none of the text's
    return _add(table, "fertility", store, values, origin, tokenizer)


def add_model_loss(
    table: ScoreTable,
    corpus: Corpus,
    source: Source,
    name: str,
    progress: Progress = SILENT,
) -> ScoreTable:
    """Return the table with the mean loss of each story under a model, in nats per token.

    It equals the loss that `eval-perplexity` gives for that story alone. The manifest records the
    weights' hash and, where it is known, the number of tokens that they were trained on.

    Args:
        table: scores of `corpus`.
        corpus: is tokenized whole, or read from the cache of token stores.
        source: the model, see `load_source`.
        name: the user's name for it, which also leads to the tokens that it was trained on.

    Raises:
        InputError: the table holds the loss of another model.
        RunError: a loss is not finite: the model's weights are broken.
    """
    origin = {
        "model": name,
        "weights_sha256": weights_hash(source.model),
        "tokens_seen": tokens_seen(Path(name)),
        "tokenizer_sha256": tokenizer_hash(source.tokenizer),
        "seq_len": source.max_seq_len,
    }
    if _is_there(table, "model_loss", origin, progress):
        return table
    store = tokenize_corpus(corpus, source.tokenizer, progress)
    values = story_losses(source.model, store, source.max_seq_len, progress)
    return _add(table, "model_loss", store, values, origin, source.tokenizer)


def story_losses(
    model: nn.Module, store: TokenStore, seq_len: int, progress: Progress = SILENT
) -> NDArray[np.float64]:
    """Return the mean nats per token of each story, (stories,), NaN for one without a token.

    Raises:
        RunError: one of them is not finite.
    """
    means = np.empty(store.num_stories)
    first = 0
    for last, losses in story_token_losses(
        model, store, seq_len=seq_len, stage="model loss", progress=progress
    ):
        starts = store.offsets[first : last + 1] - store.offsets[first]
        nats = np.add.reduceat(losses.astype(np.float64), starts[:-1])
        tokens = np.diff(starts) - 1
        if not math.isfinite(nats.sum()):
            raise RunError(
                "the model's loss on these stories is not finite", "its weights are broken"
            )
        means[first:last] = np.divide(nats, tokens, np.full(len(nats), np.nan), where=tokens > 0)
        first = last
    return means


def _is_there(table: ScoreTable, metric: str, origin: JsonObject, progress: Progress) -> bool:
    """Whether the table has this metric; refuse one that was computed with something else."""
    if metric not in table.metrics:
        return False
    found = table.metrics[metric].origin
    what, key = _NAME_AND_HASH[metric]
    if found[key] != origin[key]:
        raise InputError(
            f"{table.folder} holds {metric} of another {what}, {found[what]}",
            "choose another --out",
        )
    progress.note(f"reusing {metric} in {table.folder}")
    return True


def _add(
    table: ScoreTable,
    name: str,
    store: TokenStore,
    values: NDArray[np.float64],
    origin: JsonObject,
    tokenizer: "PreTrainedTokenizerFast",
) -> ScoreTable:
    def text_of(story: int) -> str:
        first = int(store.offsets[story]) + 1
        last = min(int(store.offsets[story + 1]), first + _OPENING_TOKENS)
        return str(tokenizer.decode(store.ids[first:last].tolist()))

    return add_metric(table, name, ADDED_METRICS[name], store.rows, values, origin, text_of)
