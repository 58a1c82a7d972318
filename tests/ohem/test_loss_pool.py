"""Pools: what is stored comes back, and whatever is wrong with one is said before it is used."""

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pools
import pytest
import tiny
import zstandard

from tinyohem.errors import InputError
from tinyohem.io.data_dir import data_dir
from tinyohem.io.json import read_json
from tinyohem.io.manifest import read_sealed, write_sealed
from tinyohem.ohem import loss_pool as pool
from tinyohem.ohem.loss_pool import Pool, open_pool

SEQ_LEN = 8
STORE = pools.store_of([30, 1, 25, 40, 5, 70])  # 171 tokens: 21 windows, 2 tokens left
LOSSES = np.random.default_rng(0).gamma(1.5, 2.0, STORE.num_tokens - 1).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pools.write_pool(tmp_path / "pool", STORE, LOSSES, seq_len=SEQ_LEN, shard_windows=6)
    return tmp_path / "pool"


def opened(folder: Path) -> Pool:
    return open_pool(folder, STORE, SEQ_LEN, "story")


class TestContent:
    def test_a_window_gets_the_losses_of_its_labels(self, folder: Path) -> None:
        windows = np.array([20, 0, 7, 7])
        found = opened(folder).of_windows(windows)
        assert found.dtype == np.float32
        for row, window in zip(found, windows, strict=True):
            expected = LOSSES[window * SEQ_LEN : (window + 1) * SEQ_LEN]
            np.testing.assert_array_equal(row, expected.astype(np.float16).astype(np.float32))

    def test_the_shards_are_what_the_file_says_they_are(self, folder: Path) -> None:
        """Whoever reads the format's description can read the losses without this project."""
        shards = sorted(folder.glob("shard_*.f16.zst"))
        assert len(shards) == 4  # 6 + 6 + 6 + 3 windows and the rest
        joined = b"".join(zstandard.decompress(shard.read_bytes()) for shard in shards)
        found = np.frombuffer(joined, dtype="<f2")
        np.testing.assert_array_equal(found, LOSSES.astype(np.float16))
        manifest = read_sealed(folder / "manifest.json")
        hashes = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
        assert manifest["shards"] == hashes
        assert (manifest["tokens_seen"], manifest["weights_sha256"]) == (1000, "5" * 64)
        assert manifest["context"] == {"rule": "stories in windows", "seq_len": SEQ_LEN}

    def test_no_loss_becomes_infinite(self) -> None:
        losses = np.array([0.0, 70_000.0, 3e38], dtype=np.float32)
        assert pool.rounded(losses).tolist() == [0.0, 65_504.0, 65_504.0]

    def test_the_unpacked_losses_leave_no_file(self, folder: Path) -> None:
        before = tiny.snapshot(folder), sorted(data_dir().iterdir())
        losses = opened(folder).losses
        assert isinstance(losses, np.memmap)
        assert (tiny.snapshot(folder), sorted(data_dir().iterdir())) == before

    def test_hardest_windows_equal_a_slow_sort(self, folder: Path) -> None:
        stored = LOSSES.astype(np.float16).tolist()
        means = [sum(stored[w * SEQ_LEN : (w + 1) * SEQ_LEN]) for w in range(21)]
        expected = sorted(sorted(range(21), key=lambda w: (-means[w], w))[:2])  # a tenth of 21
        assert opened(folder).hardest_windows().tolist() == expected

    def test_of_equally_hard_windows_the_first_counts(self, tmp_path: Path) -> None:
        losses = np.ones_like(LOSSES)
        losses[160:] = 9.0  # window 20 and the short one behind it, which is never drawn
        pools.write_pool(tmp_path, STORE, losses, seq_len=SEQ_LEN, shard_windows=100)
        assert opened(tmp_path).hardest_windows().tolist() == [0, 20]


Damage = Callable[[Path, dict[str, Any]], None]


def set_key(key: str, value: Any) -> Damage:
    """Return what overwrites one key of the manifest."""

    def change(folder: Path, manifest: dict[str, Any]) -> None:
        (folder / "manifest.json").write_text(json.dumps({**manifest, key: value}))

    return change


def set_text(text: str) -> Damage:
    return lambda folder, _: (folder / "manifest.json").write_text(text) and None


def on_shard(edit: Callable[[bytes], bytes], *, listed: bool) -> Damage:
    """Return what edits the third shard; `listed`: with the manifest's hash made to fit."""

    def change(folder: Path, manifest: dict[str, Any]) -> None:
        path = folder / "shard_0000002.f16.zst"
        path.write_bytes(edit(path.read_bytes()))
        if listed:
            manifest["shards"][2] = hashlib.sha256(path.read_bytes()).hexdigest()
            (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


def flip(content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


def swap(folder: Path, _: dict[str, Any]) -> None:
    first, second = (folder / f"shard_000000{i}.f16.zst" for i in (1, 2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def losses_of(values: list[float]) -> bytes:
    return zstandard.compress(np.resize(np.array(values, dtype=np.float16), 48).tobytes())


def without_size(_: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(bytes(96)) + stream.flush()


def another_number(folder: Path, manifest: dict[str, Any]) -> None:
    """Change one digit that still makes sense."""
    path = folder / "manifest.json"
    write_sealed(path, manifest)
    path.write_text(path.read_text().replace('"tokens_seen": 1', '"tokens_seen": 2'))
    assert read_json(path)["tokens_seen"] != manifest["tokens_seen"]


ESCAPE = "../../../../etc/passwd"


class TestRefusals:
    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (set_text("{"), "holds no pool that can be read"),
            (set_text("[]"), "holds no pool that can be read"),
            (set_text("{}"), "holds no pool that can be read"),
            (lambda folder, _: (folder / "manifest.json").unlink(), "holds no pool"),
            (set_key("format", 2), "format: Input should be 1"),
            (set_key("shard_windows", 0), "shard_windows: Input should be greater than or equal"),
            (set_key("shard_windows", "6"), "shard_windows: Input should be a valid integer"),
            (set_key("tokens_seen", "many"), "tokens_seen: Input should be a valid integer"),
            (another_number, "manifest.json was changed"),
            (set_key("tokenizer", "8" * 64), "was mined with other tokens"),
            (set_key("ids_sha256", "2" * 64), "was mined on other stories"),
            (set_key("tokens", 172), "was mined on other stories"),
            (set_key("tokens", None), "tokens: Input should be a valid integer"),
            (
                set_key("context", {"rule": "stories in windows", "seq_len": 9}),
                "was mined on other windows",
            ),
            (
                set_key("context", {"rule": "windows", "seq_len": 8}),
                "was mined with another context of a token",
            ),
            (set_key("context", ESCAPE), "context: Input should be"),
            (set_key("shards", None), "is unfinished"),
            (set_key("shards", ["0" * 64]), "does not list 4 shards"),
            (set_key("shards", {ESCAPE: "0" * 64}), "shards: Input should be a valid list"),
            (set_key("shards", [ESCAPE] * 4), "shard_0000000.f16.zst is damaged"),
            (set_key("shard_windows", 3), "does not list 8 shards"),
            (on_shard(flip, listed=False), "shard_0000002.f16.zst is damaged"),
            (on_shard(lambda whole: whole[:-1], listed=False), "shard_0000002.f16.zst is damaged"),
            (on_shard(lambda _: b"", listed=False), "shard_0000002.f16.zst is damaged"),
            (lambda f, _: (f / "shard_0000003.f16.zst").unlink(), "shard_0000003.f16.zst is dam"),
            (swap, "shard_0000001.f16.zst is damaged"),
            # The rest could only be made on purpose: the manifest tells of the change.
            (on_shard(flip, listed=True), "shard_0000002.f16.zst is damaged"),
            (on_shard(lambda whole: whole[:-1], listed=True), "did not decompress full frame"),
            (on_shard(lambda whole: 2 * whole, listed=True), "unused data"),
            (on_shard(lambda whole: whole + bytes(2000), listed=True), "it is too large"),
            (on_shard(lambda _: b"losses", listed=True), "is damaged"),
            (on_shard(without_size, listed=True), "not a zstd frame of 96 bytes"),
            (on_shard(lambda _: losses_of([1.0, np.nan]), listed=True), "not finite"),
            (on_shard(lambda _: losses_of([1.0, np.inf]), listed=True), "not finite"),
        ],
    )
    def test_damage_is_named_and_nothing_changes(
        self, folder: Path, damage: Damage, told: str
    ) -> None:
        damage(folder, read_sealed(folder / "manifest.json"))
        before = tiny.snapshot(folder), sorted(data_dir().iterdir())
        with pytest.raises(InputError) as caught:
            opened(folder)
        assert told in caught.value.message
        assert str(folder) in caught.value.message
        assert "mine" in str(caught.value.hint)
        assert (tiny.snapshot(folder), sorted(data_dir().iterdir())) == before

    def test_a_decompression_bomb_takes_no_memory(self, folder: Path) -> None:
        bomb = zstandard.compress(bytes(1 << 27))
        assert len(bomb) > 2 * 96 + 1024
        small = zstandard.compress(bytes(1 << 22))
        assert len(small) < 2 * 96 + 1024  # small enough to be read
        for frame, told in ((bomb, "too large"), (small, "not a zstd frame of 96 bytes")):
            damage = on_shard(lambda _, frame=frame: frame, listed=True)  # type: ignore[misc]
            damage(folder, read_sealed(folder / "manifest.json"))
            tracemalloc.start()
            with pytest.raises(InputError, match=told):
                opened(folder)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
            tracemalloc.stop()

    def test_a_pool_of_other_tokens_or_windows_is_refused(self, folder: Path) -> None:
        with pytest.raises(InputError, match="on other windows") as caught:
            open_pool(folder, STORE, 16, "story")
        assert "--seq-len 16" in str(caught.value.hint)
        with pytest.raises(InputError, match="on other stories"):
            open_pool(folder, pools.store_of([171, 10]), SEQ_LEN, "story")
