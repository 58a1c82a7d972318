"""Token stores and pools of losses made by hand."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.token_store import StoreManifest, TokenStore
from tinyohem.io.hashing import hash_file
from tinyohem.ohem.loss_pool import PoolManifest, rounded, write_shard


def store_of(lengths: list[int]) -> TokenStore:
    """Return a store of stories with so many tokens, start tokens included."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    counts = np.ones(len(lengths), dtype=np.uint32)
    ids = np.arange(offsets[-1], dtype=np.uint16)
    manifest = StoreManifest(
        dtype="uint16",
        tokens=len(ids),
        stories=len(lengths),
        ids_sha256="1" * 64,
        tokenizer="7" * 64,
    )
    return TokenStore(ids, offsets, np.arange(len(lengths)), counts, counts, manifest)


def write_pool(
    folder: Path,
    store: TokenStore,
    losses: NDArray[np.float32],
    *,
    seq_len: int,
    shard_windows: int,
    tokens_seen: int | None = 1000,
) -> PoolManifest:
    """Store these losses, (tokens - 1,), as a finished pool and return its manifest."""
    manifest = PoolManifest.of(store, seq_len, "story", "5" * 64, tokens_seen)
    manifest = manifest.model_copy(update={"shard_windows": shard_windows})
    shards = manifest.files()
    for shard in shards:
        write_shard(folder, shard, rounded(losses[shard.first : shard.first + shard.size]))
    hashes = [hash_file(shard.path(folder)) for shard in shards]
    manifest = manifest.model_copy(update={"shards": hashes})
    manifest.write(folder)
    return manifest
