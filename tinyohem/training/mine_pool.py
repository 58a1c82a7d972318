"""Run a model over every training token and store the losses as a pool."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinyohem.config.training import Attention
from tinyohem.data.token_store import TokenStore
from tinyohem.data.windows import Batch, labelled, make_batch
from tinyohem.errors import InputError, RunError
from tinyohem.io.atomic import drop_leftovers, is_leftover
from tinyohem.io.hashing import hash_file
from tinyohem.io.manifest import MANIFEST_FILE
from tinyohem.models.causal_lm import CausalLM, weights_hash
from tinyohem.ohem.loss_pool import (
    PoolManifest,
    Shard,
    read_manifest,
    read_shard,
    rounded,
    write_shard,
)
from tinyohem.progress import SILENT, Progress
from tinyohem.system.signals import StopRequest
from tinyohem.training.reference import model_losses

_CPU_PASS_TOKENS = 1 << 13
_GPU_PASS_TOKENS = 1 << 17


@dataclass(frozen=True)
class Mined:
    """The result of a pass."""

    manifest: PoolManifest
    loss: float  # nats, mean over all tokens
    tokens: int
    new_tokens: int  # mined by this pass; the others were stored before


def mine_pool(
    model: nn.Module,
    store: TokenStore,
    folder: Path,
    *,
    seq_len: int,
    story_start: int | None,
    tokens_seen: int | None,
    stop: StopRequest | None = None,
    progress: Progress = SILENT,
) -> Mined:
    """Store the loss of every token; keep the shards that are already stored and sound.

    The model runs in its own precision, without autocast, on its own device.

    Args:
        model: a causal LM.
        folder: the pool's. An unfinished or damaged pool in it is completed.
        seq_len: tokens of a window.
        story_start: see `Trunk`.
        tokens_seen: tokens that the model was trained on; None: unknown.
        stop: checked between forward passes.

    Raises:
        InputError: the folder holds no pool but other files, or another pool.
        RunError: a loss is not finite.
        KeyboardInterrupt: `stop` was requested; finished shards are stored.
    """
    attention: Attention = "window" if story_start is None else "story"
    manifest = _begin_or_resume(
        folder, PoolManifest.of(store, seq_len, attention, weights_hash(model), tokens_seen)
    )
    lm = CausalLM.of(model, story_start=story_start)
    shards = manifest.files()
    listed = manifest.shards if len(manifest.shards or ()) == len(shards) else None
    hashes: Sequence[str | None] = listed or [None] * len(shards)
    on_cpu = next(model.parameters()).is_cpu
    pass_tokens = _CPU_PASS_TOKENS if on_cpu else _GPU_PASS_TOKENS
    progress.start("mine", store.num_tokens - 1, "tokens")
    began, done, mined, nats = time.perf_counter(), 0, 0, 0.0
    for shard, sha256 in zip(shards, hashes, strict=True):
        losses = _sound_shard(folder, shard, sha256)
        if losses is not None:
            done += shard.size
            progress.advance(done)
        else:
            parts = []
            for batch in _batches(store, shard, seq_len, pass_tokens):
                if stop is not None and stop.requested:
                    raise KeyboardInterrupt
                parts.append(_losses(model, lm, batch))
                done, mined = done + len(parts[-1]), mined + len(parts[-1])
                progress.advance(done, {"tok/s": mined / (time.perf_counter() - began)})
            losses = np.concatenate(parts)
            write_shard(folder, shard, losses)
        nats += float(losses.sum(dtype=np.float64))
    progress.finish()
    return Mined(_finish(folder, manifest), nats / done, done, mined)


def _begin_or_resume(folder: Path, wanted: PoolManifest) -> PoolManifest:
    """Return the manifest of the pool in `folder`, or write that of a new one."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file", _OTHER_OUT)
    if not folder.exists() or all(map(is_leftover, folder.iterdir())):
        wanted.write(folder)
        return wanted
    if not (folder / MANIFEST_FILE).exists():
        raise InputError(f"{folder} is not empty and holds no pool", _OTHER_OUT)
    found = read_manifest(folder)
    for key, value in wanted:
        if key not in ("shard_windows", "shards") and getattr(found, key) != value:
            raise InputError(f"{folder} holds another pool: its {key} differs", _OTHER_OUT)
    return found


_OTHER_OUT = "choose another --out"


def _finish(folder: Path, manifest: PoolManifest) -> PoolManifest:
    """List the shards in the manifest, which finishes the pool, and delete leftovers of kills."""
    hashes = [hash_file(shard.path(folder)) for shard in manifest.files()]
    if hashes != manifest.shards:
        manifest = manifest.model_copy(update={"shards": hashes})
        manifest.write(folder)
    drop_leftovers(folder)
    return manifest


def _sound_shard(folder: Path, shard: Shard, sha256: str | None) -> NDArray[np.float16] | None:
    """Return the losses of a shard, None where its file is missing or damaged."""
    try:
        return read_shard(folder, shard, sha256)
    except (OSError, ValueError):
        return None


def _batches(store: TokenStore, shard: Shard, seq_len: int, pass_tokens: int) -> Iterator[Batch]:
    """Yield the windows of a shard in order, the short one at the end by itself."""
    first = shard.first // seq_len
    last = first + shard.size // seq_len
    count = max(1, pass_tokens // seq_len)
    for window in range(first, last, count):
        yield make_batch(store, np.arange(window, min(window + count, last)), seq_len)
    if shard.size % seq_len:
        yield labelled(store.ids[None, last * seq_len : shard.first + shard.size + 1])


def _losses(model: nn.Module, lm: CausalLM, batch: Batch) -> NDArray[np.float16]:
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    losses = model_losses(lm, batch.to(device)).flatten().cpu().numpy()
    model.train(was_training)
    if not np.isfinite(losses).all():
        raise RunError("the model's loss on these stories is not finite", "its weights are broken")
    return rounded(losses)
