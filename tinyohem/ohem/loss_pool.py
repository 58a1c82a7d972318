"""A pool: the loss of every training token under one checkpoint, aligned with its token store.

A pool is a folder with

    manifest.json              what the losses belong to; SHA-256 of every shard once all are there
    shard_0000000.f16.zst      float16 nats of the labels of consecutive windows, one zstd frame

Entry i of the joined shards is the loss of ids[i + 1], so the labels of window w of T tokens are
entries [w · T, (w + 1) · T). A token's context is its story within the window, or the window, as in
training. The last window of
the store may be shorter, so only the very first token has no loss. The manifest lists no file
names.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tinyohem.config.training import Attention
from tinyohem.data.token_store import TokenStore
from tinyohem.errors import InputError, plainly
from tinyohem.io.atomic import atomic_file
from tinyohem.io.compressed import compress, decompress
from tinyohem.io.data_dir import data_dir
from tinyohem.io.hashing import hash_json
from tinyohem.io.manifest import MANIFEST_FILE, Count, Record, read_record, write_sealed

SHARD_TOKENS = 1 << 20  # about: a shard holds whole windows
HARDEST_SHARE = 0.1  # of the windows

_LARGEST = float(np.finfo(np.float16).max)  # nats


# "windows" is also the rule of pools that were mined before there was another.
_RULES: dict[Attention, str] = {"window": "windows", "story": "stories in windows"}


class PoolContext(Record):
    """The tokens that the model saw before each token."""

    rule: str  # of `_RULES`
    seq_len: int = Field(ge=2)


@dataclass(frozen=True)
class Shard:
    """Consecutive windows, the last of which may be short."""

    index: int
    first: int  # entry of the pool
    size: int  # entries

    def path(self, folder: Path) -> Path:
        """Return the path of the shard's file in the pool `folder`."""
        return folder / f"shard_{self.index:07d}.f16.zst"


class PoolManifest(Record):
    """A pool's `manifest.json`: everything that its losses depend on, and their files."""

    format: Literal[1]
    tokenizer: str
    ids_sha256: str
    tokens: int = Field(ge=2)
    context: PoolContext
    weights_sha256: str
    tokens_seen: Count | None  # that the model was trained on; None: unknown
    shard_windows: int = Field(ge=1)
    shards: list[str] | None  # SHA-256 of each; None: unfinished

    @classmethod
    def of(
        cls,
        store: TokenStore,
        seq_len: int,
        attention: Attention,
        weights_sha256: str,
        tokens_seen: int | None,
    ) -> Self:
        """Describe a pool that has no shards yet."""
        return cls(
            format=1,
            tokenizer=store.manifest.tokenizer,
            ids_sha256=store.manifest.ids_sha256,
            tokens=store.num_tokens,
            context=PoolContext(rule=_RULES[attention], seq_len=seq_len),
            weights_sha256=weights_sha256,
            tokens_seen=tokens_seen,
            shard_windows=max(1, SHARD_TOKENS // seq_len),
            shards=None,
        )

    def files(self) -> list[Shard]:
        """Return all shards in order, whether or not their files exist."""
        entries = self.tokens - 1
        size = self.shard_windows * self.context.seq_len
        return [
            Shard(index, first, min(size, entries - first))
            for index, first in enumerate(range(0, entries, size))
        ]

    def write(self, folder: Path) -> None:
        """Write the manifest of the pool in `folder`."""
        write_sealed(folder / MANIFEST_FILE, self.model_dump())


@dataclass(frozen=True)
class Pool:
    """Every token's loss under one checkpoint.

    Attributes:
        losses: float16 (tokens - 1,) nats, memory-mapped; see the module's docstring.
        manifest: what the losses belong to.
    """

    losses: NDArray[np.float16]
    manifest: PoolManifest

    @property
    def seq_len(self) -> int:
        """The tokens of a window."""
        return self.manifest.context.seq_len

    @property
    def hash(self) -> str:
        """Return a hash of the losses and of what they belong to, in hex."""
        return hash_json(self.manifest.to_json())

    def of_windows(self, windows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the losses of whole windows, (B, seq_len) nats."""
        positions = windows[:, None] * self.seq_len + np.arange(self.seq_len)
        return self.losses[positions].astype(np.float32)

    def hardest_windows(self) -> NDArray[np.int64]:
        """Return the tenth of the whole windows with the highest mean loss, in ascending order.

        At least one; ties go to the earlier window.
        """
        windows = self.losses[: len(self.losses) // self.seq_len * self.seq_len]
        loss_WT = windows.reshape(-1, self.seq_len)
        means = loss_WT.mean(axis=1, dtype=np.float64)
        hardest_first = np.argsort(-means, kind="stable")
        return np.sort(hardest_first[: max(1, round(HARDEST_SHARE * len(means)))])


def open_pool(folder: Path, store: TokenStore, seq_len: int, attention: Attention) -> Pool:
    """Check a pool, unpack it into a temporary file and map that into memory.

    Args:
        store: the tokens that the losses must belong to.
        seq_len: tokens of a window.
        attention: what a token may look at.

    Raises:
        InputError: there is no pool, it is unfinished or damaged, or it belongs to other tokens or
            windows.
    """
    manifest = read_manifest(folder)
    _check_fits(folder, manifest, store, seq_len, attention)
    shards, hashes = manifest.files(), manifest.shards
    if hashes is None:
        raise InputError(f"the pool in {folder} is unfinished", _AGAIN)
    if len(hashes) != len(shards):
        raise InputError(f"{folder / MANIFEST_FILE} does not list {len(shards)} shards", _AGAIN)
    data_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=data_dir()) as stream:
        for shard, sha256 in zip(shards, hashes, strict=True):
            try:
                stream.write(read_shard(folder, shard, sha256).tobytes())
            except (OSError, ValueError) as error:
                what = f"the pool's shard {shard.path(folder)} is damaged: {plainly(error)}"
                raise InputError(what, _AGAIN) from None
        stream.flush()
        return Pool(np.memmap(stream, dtype=np.float16, mode="r"), manifest)


_AGAIN = "repeat the `tinyohem mine` that made it: it mines only what is missing or damaged"


def read_manifest(folder: Path) -> PoolManifest:
    """Read the manifest of a pool.

    Raises:
        InputError: the folder holds no pool, or one of another version.
    """
    try:
        return read_record(folder / MANIFEST_FILE, PoolManifest)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no pool that can be read: {plainly(error)}",
            "`tinyohem mine RUN --out FOLDER` makes one in another folder",
        ) from None


def _check_fits(
    folder: Path, pool: PoolManifest, store: TokenStore, seq_len: int, attention: Attention
) -> None:
    """Refuse a pool whose tokens, windows or context are not those of the run."""
    wanted = PoolManifest.of(store, seq_len, attention, pool.weights_sha256, pool.tokens_seen)
    differences = {
        "with other tokens": pool.tokenizer != wanted.tokenizer,
        "on other stories": (pool.ids_sha256, pool.tokens) != (wanted.ids_sha256, wanted.tokens),
        "on other windows": pool.context.seq_len != wanted.context.seq_len,
        "with another context of a token": pool.context.rule != wanted.context.rule,
    }
    for difference, found in differences.items():
        if found:
            raise InputError(
                f"the pool in {folder} was mined {difference} than those of this run",
                "mine one with this run's --dataset, --valid and tokenizer, and with "
                f"--seq-len {seq_len}, of a run with training.attention={attention}",
            )


def rounded(losses: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round losses (nats) to float16, at most its largest finite number."""
    return np.minimum(losses, _LARGEST).astype(np.float16)


def write_shard(folder: Path, shard: Shard, losses: NDArray[np.float16]) -> None:
    """Store the losses of a shard atomically."""
    with atomic_file(shard.path(folder)) as stream:
        stream.write(compress(losses.tobytes()))


def read_shard(folder: Path, shard: Shard, sha256: str | None = None) -> NDArray[np.float16]:
    """Return the losses of a shard.

    Args:
        sha256: of the file, where known; the checksum in the file is verified either way.

    Raises:
        ValueError: the file is damaged, or holds a loss that is not finite.
        OSError: the file does not exist or cannot be read.
    """
    size = shard.size * np.dtype(np.float16).itemsize
    path = shard.path(folder)
    if path.stat().st_size > 2 * size + 1024:  # no frame with so much content is that large
        raise ValueError("it is too large")
    frame = path.read_bytes()
    if sha256 is not None and hashlib.sha256(frame).hexdigest() != sha256:
        raise ValueError("it was cut short or changed")
    losses = np.frombuffer(decompress(frame, size), dtype=np.float16)
    if not np.isfinite(losses).all():
        raise ValueError("it holds a loss that is not finite")
    return losses
