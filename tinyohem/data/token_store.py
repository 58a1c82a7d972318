"""TokenStore: a tokenized corpus on disk, memory-mapped, so that its size never meets RAM.

A store is a folder with

    ids.bin          u16 or u32 [tokens]; every story begins with the start token
    offsets.npy      i64 [stories + 1]; story s is ids[offsets[s] : offsets[s + 1]]
    rows.npy         i64 [stories]; the story's row in the corpus
    bytes.npy        u32 [stories]; UTF-8 bytes of its text
    words.npy        u32 [stories]; white-space separated words of its text (`count_words`)
    hashes.npy       u64 [stories]; what tells whether two stories are the same (`story_hash.py`)
    manifest.json    counts, dtype, hashes; written last
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.corpus import Story
from tinyohem.data.orthography import count_words
from tinyohem.data.story_hash import story_hash
from tinyohem.data.text_loss import LossMeter, TextLoss
from tinyohem.data.tokenizer import foreign_files, start_id, text_encoder
from tinyohem.errors import InputError, plainly
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.hashing import checksum_file, hash_file
from tinyohem.io.manifest import Count, Record, read_record, write_sealed
from tinyohem.progress import SILENT, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STORE_FORMAT = 5
_ARRAYS = {"offsets": "<i8", "rows": "<i8", "bytes": "<u4", "words": "<u4", "hashes": "<u8"}
_STORIES_PER_BATCH = 2_000  # enough to keep every core busy, about 2 MB of text in flight
_CHARACTERS_PER_BATCH = 8 << 20  # where stories are long

_TOKENS_PER_COUNT = 1 << 22
_CHECKED_BYTES = 2 << 30


class StoreManifest(Record):
    """What is read of a store's `manifest.json`."""

    dtype: Literal["uint16", "uint32"]
    tokens: Count
    stories: Count
    ids_sha256: str
    tokenizer: str = ""
    crc32: dict[str, int]
    text_loss: dict[str, Count] | None = None


@dataclass(frozen=True)
class TokenStore:
    """A memory-mapped tokenized corpus; the arrays are documented at the top of this file."""

    ids: NDArray[np.unsignedinteger[Any]]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    story_bytes: NDArray[np.uint32]
    story_words: NDArray[np.uint32]
    manifest: dict[str, Any]
    story_hashes: NDArray[np.uint64] = field(  # none of what was never on disk
        default_factory=lambda: np.empty(0, np.uint64)
    )

    @property
    def num_tokens(self) -> int:
        """Tokens, start tokens included."""
        return len(self.ids)

    @property
    def num_stories(self) -> int:
        """Stories."""
        return len(self.rows)

    @property
    def text_loss(self) -> TextLoss:
        """What the tokenizer lost of the stories, of all even in a `head`; only if measured."""
        return TextLoss(**self.manifest["text_loss"])

    def story_of_token(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of the story that holds each token position."""
        return np.searchsorted(self.offsets, position, side="right") - 1

    def head(self, max_tokens: int) -> "TokenStore":
        """Return the first stories that together hold at most `max_tokens` (at least one story)."""
        count = max(1, int(np.searchsorted(self.offsets, max_tokens, side="right")) - 1)
        return TokenStore(
            self.ids[: self.offsets[count]],
            self.offsets[: count + 1],
            self.rows[:count],
            self.story_bytes[:count],
            self.story_words[:count],
            self.manifest,
            self.story_hashes[:count],
        )


def token_counts(store: TokenStore, vocab_size: int) -> NDArray[np.int64]:
    """Return how often each token id occurs; reads the store in pieces."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for first in range(0, store.num_tokens, _TOKENS_PER_COUNT):
        counts += np.bincount(store.ids[first : first + _TOKENS_PER_COUNT], minlength=vocab_size)
    return counts


def build_store(
    stories: Iterable[Story],
    tokenizer: "PreTrainedTokenizerFast",
    folder: Path,
    origin: dict[str, Any],
    progress: Progress = SILENT,
    *,
    measured: bool = True,
) -> TokenStore:
    """Tokenize `stories` on every core into `folder`, which appears only once it is whole.

    Args:
        stories: streamed once; memory stays at one batch plus 40 bytes a story.
        origin: what the store was made from (names, hashes); kept in the manifest.
        measured: whether to see if the ids give the text back, as stories that are scored need.

    Raises:
        InputError: there is no story, or the tokenizer has no ids for one.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    offsets, rows, sizes, words = array("q", [0]), array("q"), array("L"), array("L")
    start, encoder = start_id(tokenizer), text_encoder(tokenizer)
    meter, loss = LossMeter(tokenizer) if measured else None, TextLoss()
    hashes = array("Q")
    progress.start("tokenize", None, "stories")
    with atomic_folder(folder) as partial:
        with (partial / "ids.bin").open("wb") as stream:
            for batch in _batched(stories):
                texts = [story.text for story in batch]
                encodings = _encode(texts, encoder)
                for story, encoding in zip(batch, encodings, strict=True):
                    ids = [start, *encoding.ids]
                    stream.write(np.asarray(ids, dtype=dtype).tobytes())
                    offsets.append(offsets[-1] + len(ids))
                    rows.append(story.row)
                    sizes.append(len(story.text.encode()))
                    words.append(count_words(story.text))
                    hashes.append(story_hash(story.text))
                if meter is not None:
                    loss += meter.measure(texts, [encoding.ids for encoding in encodings])
                progress.advance(len(rows))
        if not rows:
            raise InputError("the corpus holds no story", "check the file and --text-field")
        np.save(partial / "offsets.npy", np.asarray(offsets, dtype=np.int64))
        np.save(partial / "rows.npy", np.asarray(rows, dtype=np.int64))
        np.save(partial / "bytes.npy", np.asarray(sizes, dtype=np.uint32))
        np.save(partial / "words.npy", np.asarray(words, dtype=np.uint32))
        np.save(partial / "hashes.npy", np.asarray(hashes, dtype=np.uint64))
        manifest = {
            "format": STORE_FORMAT,
            "dtype": dtype.name,
            "tokens": offsets[-1],
            "stories": len(rows),
            "bytes": sum(sizes),
            "words": sum(words),
            "repeated": int((np.diff(np.sort(np.asarray(hashes, dtype=np.uint64))) == 0).sum()),
            "ids_sha256": hash_file(partial / "ids.bin"),
            "crc32": _checksums(partial),
            **({"text_loss": asdict(loss)} if measured else {}),
            **origin,
        }
        write_sealed(partial / "manifest.json", manifest)
    progress.finish()
    return open_store(folder)


def open_store(folder: Path, *, every_byte: bool = False) -> TokenStore:
    """Map a finished store into memory.

    A file of at most 2 GiB is read once and held against its checksum: about a second, and what is
    read stays in memory for training. Of a larger one only the length is looked at.

    Args:
        every_byte: check larger files too.

    Raises:
        InputError: the folder holds no store, or one that was cut short or changed.
    """
    hint = f"delete {folder} and run the command again to rebuild it"
    try:
        manifest: dict[str, Any] = read_record(
            folder / "manifest.json", StoreManifest, sealed=True
        ).to_json()
        for name, checksum in _checksums(folder, every_byte).items():
            if checksum != manifest["crc32"].get(name):
                what = f"{name} was cut short or changed"
                raise InputError(f"the token store {folder} is damaged: {what}", hint)
        *mapped, hashes = (_map(folder / f"{name}.npy", dtype) for name, dtype in _ARRAYS.items())
        offsets, rows, sizes, words = (np.array(array) for array in mapped)
        ids = np.memmap(folder / "ids.bin", dtype=np.dtype(manifest["dtype"]), mode="r")
    except (OSError, EOFError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{folder} is not a token store: {plainly(error)}", hint) from None
    tokens, stories = manifest["tokens"], manifest["stories"]
    lengths = {len(offsets) - 1, len(rows), len(sizes), len(words), len(hashes)}
    if len(ids) != tokens or lengths != {stories}:
        raise InputError(f"the token store {folder} was cut short", hint)
    if offsets[0] != 0 or offsets[-1] != tokens or (np.diff(offsets) < 1).any():
        raise InputError(f"the token store {folder} is damaged: its stories do not join", hint)
    return TokenStore(ids, offsets, rows, sizes, words, manifest, hashes)


def _map(path: Path, dtype: str) -> NDArray[Any]:
    # Mapped: a header that promises more than the file holds then takes no memory.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 1 or array.dtype != dtype:
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
    return array


def _checksums(folder: Path, every_byte: bool = True) -> dict[str, int]:
    """Return the checksums of a store's arrays, of the very large ones only where asked to."""
    files = [folder / "ids.bin", *(folder / f"{name}.npy" for name in _ARRAYS)]
    return {
        path.name: checksum_file(path)
        for path in files
        if every_byte or path.stat().st_size <= _CHECKED_BYTES
    }


def _batched(stories: Iterable[Story]) -> Iterator[list[Story]]:
    batch: list[Story] = []
    characters = 0
    for story in stories:
        batch.append(story)
        characters += len(story.text)
        if len(batch) == _STORIES_PER_BATCH or characters >= _CHARACTERS_PER_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def text_store(
    text: str, tokenizer: "PreTrainedTokenizerFast"
) -> tuple[TokenStore, list[tuple[int, int]]]:
    """Tokenize one story in memory.

    Returns:
        The store, and for each token after the start token the first and the end of the characters
        that it covers. Tokens that share a character, each with some of its bytes, all cover it.
    """
    with foreign_files("this tokenizer cannot encode the text", "choose another one"):
        encoding = text_encoder(tokenizer).encode(text, add_special_tokens=False)
    ids = np.asarray([start_id(tokenizer), *encoding.ids], dtype=np.uint32)
    size, words = (np.asarray([n], np.uint32) for n in (len(text.encode()), count_words(text)))
    loss = LossMeter(tokenizer).measure([text], [encoding.ids])
    manifest = {"text_loss": asdict(loss)}
    offsets, rows = np.asarray([0, len(ids)]), np.zeros(1, np.int64)
    return TokenStore(ids, offsets, rows, size, words, manifest), encoding.offsets


def _encode(texts: list[str], encoder: Any) -> list[Any]:
    """Return each story's encoding, without a start token. The encoder itself uses every core."""
    with foreign_files("this tokenizer cannot encode the stories", "choose another one"):
        return list(encoder.encode_batch_fast(texts, add_special_tokens=False))
