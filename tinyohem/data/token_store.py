"""TokenStore: a tokenized corpus on disk, memory-mapped, so that it may be larger than memory.

A store is a folder with

    ids.bin          u16 or u32 [tokens]; every story begins with the start token
    offsets.npy      i64 [stories + 1]; story s is ids[offsets[s] : offsets[s + 1]]
    rows.npy         i64 [stories]; the story's row in the corpus
    bytes.npy        u32 [stories]; UTF-8 bytes of its text
    words.npy        u32 [stories]; white-space separated words of its text (`count_words`)
    hashes.npy       u64 [stories]; equal for two stories that are the same (`story_hash.py`)
    manifest.json    counts, dtype, hashes; written last
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.blocks import batched
from tinyohem.data.corpus import Story
from tinyohem.data.orthography import count_words
from tinyohem.data.story_hash import story_hash
from tinyohem.data.text_loss import TextLoss, TextLossMeter
from tinyohem.data.tokenizer import foreign_files, start_id, text_encoder
from tinyohem.errors import InputError, plainly
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import JsonObject
from tinyohem.io.manifest import Count, DamagedFileError, Record, open_folder, seal_folder
from tinyohem.progress import SILENT, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STORE_FORMAT = 6
_ARRAYS = {"offsets": "<i8", "rows": "<i8", "bytes": "<u4", "words": "<u4", "hashes": "<u8"}
_FILES = ("ids.bin", *(f"{name}.npy" for name in _ARRAYS))
_STORIES_PER_BATCH = 2_000  # enough to keep every core busy, about 2 MB of text in flight
_CHARACTERS_PER_BATCH = 8 << 20  # where stories are long
_TOKENS_PER_COUNT = 1 << 22


class StoreManifest(Record):
    """A store's `manifest.json`; it also holds the names and hashes of its origin."""

    dtype: Literal["uint16", "uint32"]
    tokens: Count
    stories: Count
    bytes: Count = 0  # of all stories
    words: Count = 0  # of all stories
    repeated: Count = 0  # stories equal to an earlier one
    ids_sha256: str
    tokenizer: str = ""
    text_loss: TextLoss = TextLoss()  # of all stories, even in a `head`; only if measured


@dataclass(frozen=True)
class TokenStore:
    """A memory-mapped tokenized corpus; the top of this file documents the arrays."""

    ids: NDArray[np.unsignedinteger[Any]]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    story_bytes: NDArray[np.uint32]
    story_words: NDArray[np.uint32]
    manifest: StoreManifest
    story_hashes: NDArray[np.uint64] = field(  # empty for a store that is not on disk
        default_factory=lambda: np.empty(0, np.uint64)
    )

    @property
    def num_tokens(self) -> int:
        """Number of tokens, start tokens included."""
        return len(self.ids)

    @property
    def num_stories(self) -> int:
        """Number of stories."""
        return len(self.rows)

    @property
    def text_loss(self) -> TextLoss:
        """The text that the tokenizer lost of the stories."""
        return self.manifest.text_loss

    def story_of_token(self, position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of the story that holds each token position."""
        return np.searchsorted(self.offsets, position, side="right") - 1

    def head(self, max_tokens: int) -> "TokenStore":
        """Return the first stories that together hold at most `max_tokens` (at least one story)."""
        count = max(1, int(np.searchsorted(self.offsets, max_tokens, side="right")) - 1)
        return replace(
            self,
            ids=self.ids[: self.offsets[count]],
            offsets=self.offsets[: count + 1],
            rows=self.rows[:count],
            story_bytes=self.story_bytes[:count],
            story_words=self.story_words[:count],
            story_hashes=self.story_hashes[:count],
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
    origin: JsonObject,
    progress: Progress = SILENT,
    *,
    measured: bool = True,
) -> TokenStore:
    """Tokenize `stories` on every core into `folder`, which appears once it is whole.

    Args:
        stories: streamed once; memory holds one batch plus 40 bytes per story.
        origin: names and hashes of what the store is made from, for the manifest.
        measured: whether to measure what the tokenizer loses, which scoring needs.

    Raises:
        InputError: there is no story, or the tokenizer has no ids for one.
    """
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    offsets, rows, sizes, words = array("q", [0]), array("q"), array("L"), array("L")
    hashes, text_loss = array("Q"), TextLoss()
    meter = TextLossMeter(tokenizer) if measured else None
    progress.start("tokenize", None, "stories")
    with atomic_folder(folder) as partial:
        with (partial / "ids.bin").open("wb") as stream:
            for batch, ids in _tokenized(stories, tokenizer):
                for story, story_ids in zip(batch, ids, strict=True):
                    stream.write(np.asarray(story_ids, dtype=dtype).tobytes())
                    offsets.append(offsets[-1] + len(story_ids))
                    rows.append(story.row)
                    sizes.append(len(story.text.encode()))
                    words.append(count_words(story.text))
                    hashes.append(story_hash(story.text))
                if meter is not None:
                    texts = [story.text for story in batch]
                    text_loss += meter.measure(texts, [story_ids[1:] for story_ids in ids])
                progress.advance(len(rows))
        if not rows:
            raise InputError("the corpus holds no story", "check the file and --text-field")
        columns = (offsets, rows, sizes, words, hashes)
        for (name, kind), column in zip(_ARRAYS.items(), columns, strict=True):
            np.save(partial / f"{name}.npy", np.asarray(column, dtype=kind))
        facts = {
            "format": STORE_FORMAT,
            "dtype": dtype.name,
            "tokens": offsets[-1],
            "stories": len(rows),
            "bytes": sum(sizes),
            "words": sum(words),
            "repeated": len(rows) - len(np.unique(np.asarray(hashes))),
            "ids_sha256": hash_file(partial / "ids.bin"),
            **({"text_loss": text_loss.model_dump()} if measured else {}),
            **origin,
        }
        seal_folder(partial, facts)
    progress.finish()
    return open_store(folder)


def open_store(folder: Path, *, every_byte: bool = False) -> TokenStore:
    """Map a finished store into memory.

    A file of at most 2 GiB is read once and compared with its hash: a second or two, and the
    content stays cached for training. Of a larger one only the length is checked.

    Args:
        every_byte: check larger files too.

    Raises:
        InputError: the folder holds no store, or the store was cut short or changed.
    """
    hint = f"delete {folder} and run the command again to rebuild it"
    try:
        manifest = open_folder(
            folder, StoreManifest, names=_FILES, sealed=True, every_byte=every_byte
        )
        *mapped, hashes = (_map(folder / f"{name}.npy", dtype) for name, dtype in _ARRAYS.items())
        offsets, rows, sizes, words = (np.array(array) for array in mapped)
        ids = np.memmap(folder / "ids.bin", dtype=manifest.dtype, mode="r")
    except DamagedFileError as error:
        raise InputError(f"the token store {folder} is damaged: {error}", hint) from None
    except (OSError, EOFError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{folder} is not a token store: {plainly(error)}", hint) from None
    lengths = {len(offsets) - 1, len(rows), len(sizes), len(words), len(hashes)}
    if len(ids) != manifest.tokens or lengths != {manifest.stories}:
        raise InputError(f"the token store {folder} was cut short", hint)
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 1).any():
        raise InputError(f"the token store {folder} is damaged: its stories do not join", hint)
    return TokenStore(ids, offsets, rows, sizes, words, manifest, hashes)


def _map(path: Path, dtype: str) -> NDArray[Any]:
    # Mapped, so that a header that promises more than the file holds takes no memory.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 1 or array.dtype != dtype:
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
    return array


def _tokenized(
    stories: Iterable[Story], tokenizer: "PreTrainedTokenizerFast"
) -> Iterator[tuple[list[Story], list[list[int]]]]:
    """Yield stories with their ids, a batch at a time; the encoder itself uses every core."""
    start, encoder = start_id(tokenizer), text_encoder(tokenizer)
    for batch in _batched(stories):
        with foreign_files("this tokenizer cannot encode the stories", "choose another one"):
            encodings = encoder.encode_batch_fast(
                [story.text for story in batch], add_special_tokens=False
            )
        yield batch, [[start, *encoding.ids] for encoding in encodings]


def _batched(stories: Iterable[Story]) -> Iterator[list[Story]]:
    return batched(
        stories, lambda story: len(story.text), _STORIES_PER_BATCH, _CHARACTERS_PER_BATCH
    )


def text_store(
    text: str, tokenizer: "PreTrainedTokenizerFast"
) -> tuple[TokenStore, list[tuple[int, int]]]:
    """Tokenize one story in memory.

    Returns:
        The store, and for each token after the start token the characters that it covers, as
        (first, end). Tokens that each hold some bytes of a character all cover it.
    """
    with foreign_files("this tokenizer cannot encode the text", "choose another one"):
        encoding = text_encoder(tokenizer).encode(text, add_special_tokens=False)
    ids = np.asarray([start_id(tokenizer), *encoding.ids], dtype=np.uint32)
    size, words = (np.asarray([n], np.uint32) for n in (len(text.encode()), count_words(text)))
    manifest = StoreManifest(
        dtype="uint32",
        tokens=len(ids),
        stories=1,
        ids_sha256="",
        text_loss=TextLossMeter(tokenizer).measure([text], [encoding.ids]),
    )
    offsets, rows = np.asarray([0, len(ids)]), np.zeros(1, np.int64)
    return TokenStore(ids, offsets, rows, size, words, manifest), encoding.offsets
