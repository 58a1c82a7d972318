"""From a data set's name to a tokenizer and two token stores; everything cached by content."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyohem.artifacts import (
    atomic_folder,
    data_dir,
    hash_files,
    hash_json,
    read_sealed,
    write_sealed,
)
from tinyohem.config import DataConfig, TokenizerConfig
from tinyohem.data.clean import CleanCounts, clean_stories
from tinyohem.data.corpus import Corpus, MissingSplitError, Story, open_corpus
from tinyohem.data.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer
from tinyohem.data.tokens import STORE_FORMAT, TokenStore, build_store, open_store
from tinyohem.errors import InputError
from tinyohem.locks import sole_writer
from tinyohem.progress import SILENT, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HOLDOUT_EVERY = 50  # without a validation split, every 50th story is held out
# More text than this does not change a vocabulary of thousands, it only costs time and memory.
_TOKENIZER_STORIES = 250_000
_TOKENIZER_FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """What training needs of the data."""

    tokenizer: "PreTrainedTokenizerFast"
    corpus: Corpus  # what `train` was made from
    train: TokenStore
    valid: TokenStore


@dataclass(frozen=True)
class Part:
    """The stories of one split, and the identity that its caches are filed under."""

    corpus: Corpus
    clean: bool
    keep: Callable[[int], bool] | None  # of the row; None keeps all
    identity: dict[str, Any]

    def stories(self, progress: Progress) -> Iterator[Story]:
        """Stream the stories that are in, as they are tokenized."""
        counts = CleanCounts()
        stories: Iterator[Story] = self.corpus.stories()
        if self.keep is not None:
            stories = (story for story in stories if self.keep(story.row))
        empty = True
        for story in clean_stories(stories, counts) if self.clean else stories:
            empty = False
            yield story
        if empty and self.keep is _held_out:
            raise InputError(
                f"{self.corpus.name}: no story is left for validation, "
                f"which takes every {HOLDOUT_EVERY}th",
                "pass a file of stories with --valid",
            )
        if self.clean:
            done = ", ".join(f"{count:,} {what}" for what, count in asdict(counts).items())
            progress.note(f"cleaned {self.corpus.name} ({self.corpus.split}): {done}")

    def as_corpus(self, progress: Progress) -> Corpus:
        """Return a corpus with just these stories, each at its row."""

        def texts() -> Iterator[str]:
            next_row = 0
            for story in self.stories(progress):
                yield from repeat("", story.row - next_row)  # rows without text hold no story
                yield story.text
                next_row = story.row + 1

        return Corpus(self.corpus.name, self.corpus.split, hash_json(self.identity), texts)


def prepare_data(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    progress: Progress = SILENT,
    *,
    every_byte: bool = False,
) -> Prepared:
    """Return the tokenizer and the token stores of both splits, building what is not cached.

    Args:
        every_byte: see `open_store`.

    Raises:
        InputError: the data cannot be read, no story is left for validation, or what is named for
            it is the training stories.
    """
    train, valid = _parts(data, progress)
    if train.corpus.fingerprint == valid.corpus.fingerprint and valid.keep is None:
        raise InputError(
            f"the validation stories {valid.corpus.name} are the training stories",
            "name held-out stories with --valid, or leave it out",
        )
    tokenizer = _tokenizer(train, tokenizer_config, progress)
    return Prepared(
        tokenizer,
        train.corpus,
        part_store(train, tokenizer, progress, every_byte=every_byte),
        part_store(valid, tokenizer, progress, every_byte=every_byte),
    )


def evaluation_part(dataset: str, text_field: str, progress: Progress) -> Part:
    """Return the validation split of a data set, or all of it where there are no splits."""
    return _part(_validation_corpus(dataset, text_field, progress), clean=False)


def validation_part(data: DataConfig, progress: Progress) -> Part:
    """Return the stories that a run is validated on."""
    return _parts(data, progress)[1]


def _parts(data: DataConfig, progress: Progress) -> tuple[Part, Part]:
    train = open_corpus(data.dataset, "train", text_field=data.text_field, progress=progress)
    if data.valid is not None:
        valid = _validation_corpus(data.valid, data.text_field, progress)
        return _part(train, data.clean), _part(valid, data.clean)
    try:
        valid = open_corpus(
            data.dataset, "validation", text_field=data.text_field, progress=progress
        )
    except MissingSplitError:
        progress.note(f"no validation split: every {HOLDOUT_EVERY}th story is held out")
        return (
            _part(train, data.clean, lambda row: not _held_out(row), "not held out"),
            _part(train, data.clean, _held_out, "held out"),
        )
    return _part(train, data.clean), _part(valid, data.clean)


def _validation_corpus(name: str, text_field: str, progress: Progress) -> Corpus:
    try:
        return open_corpus(name, "validation", text_field=text_field, progress=progress)
    except MissingSplitError:
        return open_corpus(name, "train", text_field=text_field, progress=progress)


def _held_out(row: int) -> bool:
    return row % HOLDOUT_EVERY == HOLDOUT_EVERY - 1


def _part(
    corpus: Corpus, clean: bool, keep: Callable[[int], bool] | None = None, label: str = "all"
) -> Part:
    identity = {"corpus": corpus.fingerprint, "part": label, "clean": clean}
    return Part(corpus, clean, keep, identity)


def _tokenizer(
    part: Part, config: TokenizerConfig, progress: Progress
) -> "PreTrainedTokenizerFast":
    if config.name is not None:
        return load_tokenizer(config.name)
    identity = {**part.identity, "vocab_size": config.vocab_size, "format": _TOKENIZER_FORMAT}
    folder = data_dir() / "tokenizers" / hash_json(identity)[:16]
    with _missing(folder, progress) as missing:
        if missing:
            progress.start(f"train a vocabulary of {config.vocab_size:,}", None, "stories")
            texts = islice((story.text for story in part.stories(progress)), _TOKENIZER_STORIES)
            tokenizer = train_tokenizer(_counted(texts, progress), config.vocab_size)
            with atomic_folder(folder) as partial:
                tokenizer.save_pretrained(partial)
                write_sealed(partial / "manifest.json", {**identity, "sha256": hash_files(partial)})
            progress.finish()
    _require_unchanged(folder)
    return load_tokenizer(str(folder))


def _require_unchanged(folder: Path) -> None:
    """Refuse a cached tokenizer that is not what was trained: it would spell all text anew."""
    try:
        listed = read_sealed(folder / "manifest.json").get("sha256", {})
        found = hash_files(folder)
        changed = [name for name, sha256 in listed.items() if found.get(name) != sha256]
    except (OSError, ValueError, AttributeError):
        changed = ["manifest.json"]
    if changed:
        raise InputError(
            f"the tokenizer {folder} is damaged: {changed[0]} was changed",
            f"delete {folder} and run the command again to rebuild it",
        )


@contextmanager
def _missing(folder: Path, progress: Progress) -> Iterator[bool]:
    """Tell whether a cached folder has to be made; only one process at a time is told so.

    What is there already may stand on a disk that cannot be written.
    """
    if (folder / "manifest.json").exists():
        yield False
        return
    # Beside it: the folder itself is going to be replaced.
    beside = folder.with_name(f".{folder.name}.making")
    with sole_writer(beside, patience=math.inf, progress=progress):
        for leftover in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(leftover)  # of a process that was killed
        yield not (folder / "manifest.json").exists()


def _counted(texts: Iterator[str], progress: Progress) -> Iterator[str]:
    done = 0
    for done, text in enumerate(texts, 1):
        yield text
        if done % 1000 == 0:
            progress.advance(done)
    progress.advance(done)


def part_store(
    part: Part,
    tokenizer: "PreTrainedTokenizerFast",
    progress: Progress,
    *,
    every_byte: bool = False,
) -> TokenStore:
    """Return the token store of a part, built if it is not cached."""
    identity = {
        **part.identity,
        "tokenizer": tokenizer_hash(tokenizer),
        "store_format": STORE_FORMAT,
    }
    folder = data_dir() / "tokens" / hash_json(identity)[:16]
    with _missing(folder, progress) as missing:
        if not missing:
            return open_store(folder, every_byte=every_byte)
        origin = {"name": part.corpus.name, "split": part.corpus.split, **identity}
        return build_store(part.stories(progress), tokenizer, folder, origin, progress)


def tokenize_corpus(
    corpus: Corpus, tokenizer: "PreTrainedTokenizerFast", progress: Progress = SILENT
) -> TokenStore:
    """Return the token store of all stories of a corpus, built if it is not cached."""
    return part_store(_part(corpus, clean=False), tokenizer, progress)
