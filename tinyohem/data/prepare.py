"""Prepare a data set: a tokenizer and two token stores, cached by content."""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinyohem.config.data import DataConfig, TokenizerConfig
from tinyohem.config.target import TargetConfig
from tinyohem.data.choice import Choice
from tinyohem.data.corpus import Corpus
from tinyohem.data.parts import Part, count_shared, same_stories
from tinyohem.data.sources import Sources, open_sources
from tinyohem.data.token_store import STORE_FORMAT, TokenStore, build_store, open_store
from tinyohem.data.tokenizer import load_tokenizer, tokenizer_hash, train_tokenizer
from tinyohem.errors import InputError, plainly
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.data_dir import data_dir
from tinyohem.io.hashing import hash_json
from tinyohem.io.locks import sole_writer
from tinyohem.io.manifest import MANIFEST_FILE, Record, open_folder, seal_folder
from tinyohem.progress import SILENT, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# More text does not change a vocabulary of thousands; it only costs time and memory.
_TOKENIZER_STORIES = 250_000
_TOKENIZER_FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """The data that training needs."""

    tokenizer: "PreTrainedTokenizerFast"
    corpus: Corpus  # source of `train`
    train: TokenStore
    valid: TokenStore
    choice: Choice | None = None  # the stories of the corpus that `train` holds; None: all

    @property
    def num_kept_tokens(self) -> int:
        """Tokens of the chosen stories, with which `train` begins."""
        if self.choice is None:
            return self.train.num_tokens
        kept = np.isin(self.train.rows, self.choice.rows)
        return int(self.train.offsets[np.count_nonzero(kept)])


Choose = Callable[[Sources], Choice | None]


def prepare_data(
    data: DataConfig,
    tokenizer_config: TokenizerConfig,
    progress: Progress = SILENT,
    *,
    target: TargetConfig | None = None,
    choose: Choose | None = None,
    every_byte: bool = False,
) -> Prepared:
    """Return the tokenizer and the token stores of both splits, and build what is not cached.

    Warns of validation stories that are training stories too; cleaning drops them from training.
    A run's own data come from `difficulty.choose.prepare_chosen`, which knows how to choose.

    Args:
        target: the section of that name; a part of its stories validates unless `data` names
            validation stories, and another is read when a vocabulary is trained.
        choose: chooses among the training stories, before a vocabulary is trained; default: all.
        every_byte: see `open_store`.

    Raises:
        InputError: the data cannot be read, no story is left to train on, or every validation
            story is a training story.
    """
    target = target or TargetConfig()
    sources = open_sources(data, target, progress)
    train, valid = sources.train, sources.valid
    if train.corpus.fingerprint == valid.corpus.fingerprint and valid.which == "all":
        raise same_stories(valid.corpus.name)
    choice = choose(sources) if choose else None
    chosen = replace(train, choice=choice)
    own = sources.target.fit if sources.target else ()
    tokenizer = _tokenizer(chosen, own, tokenizer_config, progress)
    train = replace(chosen, and_dropped=target.when != "always")
    prepared = Prepared(
        tokenizer,
        train.corpus,
        part_store(train, tokenizer, progress, every_byte=every_byte, scored=False),
        part_store(valid, tokenizer, progress, every_byte=every_byte),
        choice,
    )
    _tell_copies(prepared, valid.corpus.name, progress)
    return prepared


def _tell_copies(prepared: Prepared, name: str, progress: Progress) -> None:
    """Report stories that come more than once, in training or in both splits.

    Args:
        name: of the validation stories.
    """
    train, valid = prepared.train.manifest, prepared.valid.manifest
    if train.repeated:
        copies = f"{train.repeated:,} of {train.stories:,} training stories"
        progress.note(f"{copies} repeat an earlier one; --clean drops them")
    shared = count_shared(prepared.train.story_hashes, prepared.valid.story_hashes)
    both = f"{shared:,} of {valid.stories:,} validation stories are training stories too"
    if shared == valid.stories:
        if train.stories - train.repeated == valid.stories - valid.repeated:
            raise same_stories(name)
        hint = "name others with --valid, or take them out of training with --clean"
        raise InputError(f"{name}: {both}", hint)
    if shared:
        progress.warn(f"{both}; --clean takes them out of training")


def _tokenizer(
    part: Part, more: Iterable[str], config: TokenizerConfig, progress: Progress
) -> "PreTrainedTokenizerFast":
    """Load the tokenizer that the config names, or train one on `more` texts and the part's.

    Args:
        more: texts that follow from the part's identity.
    """
    if config.name is not None:
        return load_tokenizer(config.name)
    identity = {**part.identity, "vocab_size": config.vocab_size, "format": _TOKENIZER_FORMAT}
    folder = data_dir() / "tokenizers" / hash_json(identity)[:16]
    with absent(folder, progress) as is_absent:
        if is_absent:
            progress.start(f"train a vocabulary of {config.vocab_size:,}", None, "stories")
            # Silent: tokenizing the stories reports what cleaning does.
            own = (story.text for story in part.stories(SILENT))
            texts = islice(chain(more, own), _TOKENIZER_STORIES)
            tokenizer = train_tokenizer(_counted(texts, progress), config.vocab_size)
            with atomic_folder(folder) as partial:
                tokenizer.save_pretrained(partial)
                seal_folder(partial, identity)
            progress.finish()
    try:  # a changed tokenizer would give other ids
        open_folder(folder, Record)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the tokenizer {folder} is damaged: {plainly(error)}",
            f"delete {folder} and run the command again to rebuild it",
        ) from None
    return load_tokenizer(str(folder))


@contextmanager
def absent(folder: Path, progress: Progress) -> Iterator[bool]:
    """Tell whether a cached folder has to be made; tell only one process at a time.

    A finished folder is not locked, so it may be on a read-only disk.
    """
    if (folder / MANIFEST_FILE).exists():
        yield False
        return
    # A lock beside the folder, because the folder itself will be replaced.
    beside = folder.with_name(f".{folder.name}.making")
    with sole_writer(beside, patience=math.inf, progress=progress):
        for leftover in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(leftover)  # of a killed process
        yield not (folder / MANIFEST_FILE).exists()


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
    scored: bool = True,
) -> TokenStore:
    """Return the token store of a part, built if it is not cached.

    Args:
        every_byte: see `open_store`.
        scored: whether models are scored on it; if so, measure and report what the tokenizer
            loses of the text.
    """
    identity = {
        **part.identity,
        "tokenizer": tokenizer_hash(tokenizer),
        "store_format": STORE_FORMAT,
        "scored": scored,
    }
    folder = data_dir() / "tokens" / hash_json(identity)[:16]
    with absent(folder, progress) as is_absent:
        if is_absent:
            origin = {"name": part.corpus.name, "split": part.corpus.split, **identity}
            stories = part.stories(progress)
            store = build_store(stories, tokenizer, folder, origin, progress, measured=scored)
        else:
            store = open_store(folder, every_byte=every_byte)
    # They may have been prepared under another name.
    names = {"name": part.corpus.name, "split": part.corpus.split}
    store = replace(store, manifest=store.manifest.model_copy(update=names))
    if scored and store.text_loss:
        progress.warn(
            f"{store.text_loss}; bits per byte and perplexity per word and byte are left out"
        )
    return store


def tokenize_corpus(
    corpus: Corpus, tokenizer: "PreTrainedTokenizerFast", progress: Progress = SILENT
) -> TokenStore:
    """Return the token store of all stories of a corpus, built if it is not cached."""
    return part_store(Part(corpus, clean=False), tokenizer, progress, scored=False)
