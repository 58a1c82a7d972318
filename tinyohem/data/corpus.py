"""Open a corpus by name: the built-in sample, files, or a data set on the Hub.

`sample` is the built-in corpus. What begins like a URL is read from there. What exists here, looks
like a path or ends like a story file is local. All other names are Hub ids.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

from tinyohem.data.blocks import Block, blocks_of
from tinyohem.data.fingerprint import EachFile, hash_story_files, twins
from tinyohem.data.hub import (
    hub_builder,
    hub_fingerprint,
    hub_rows,
    hub_splits,
    hub_texts,
    latest_commit,
)
from tinyohem.data.readers import KNOWN_SUFFIXES, file_format, name_with_split, unknown_format
from tinyohem.data.story_files import (
    StoryFiles,
    by_split,
    find_here,
    is_local,
    list_names,
    story_files,
)
from tinyohem.data.story_text import DEFAULT_TEXT_FIELD
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_json
from tinyohem.io.remote import find_files, is_url
from tinyohem.progress import SILENT, Progress

Split = Literal["train", "validation"]

SAMPLE = "sample"
# Part of every fingerprint: raise it when a change reads other stories from the same files.
_FORMAT = 1


class MissingSplitError(InputError):
    """The corpus exists but has no such split."""


@dataclass(frozen=True)
class Story:
    """One story, without white space around it."""

    row: int  # index in the corpus before cleaning, from 0; empty rows count too
    text: str


@dataclass(frozen=True)
class Corpus:
    """A named stream of stories that can be read any number of times.

    Attributes:
        name: as the user typed it.
        split: "train" or "validation".
        fingerprint: SHA-256 in hex that changes whenever the stories could.
        num_rows: number of rows, None if unknown before reading.
    """

    name: str
    split: str
    fingerprint: str
    _texts: Callable[[], Iterator[str]] = field(repr=False, compare=False)
    num_rows: int | None = None
    _files: StoryFiles | None = field(default=None, repr=False, compare=False)
    _tell: Callable[[str], None] = field(default=SILENT.note, repr=False, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return its files in order; none for the sample and the Hub."""
        return self._files.paths if self._files else ()

    @property
    def text_field(self) -> str:
        """Return the field of the files that holds the story."""
        return self._files.text_field if self._files else DEFAULT_TEXT_FIELD

    def stories(self) -> Iterator[Story]:
        """Stream every story that is not empty, in order, from the beginning at each call.

        Memory holds a buffer and the longest story, not the corpus.

        Raises:
            InputError: there is no story at all, or a file is damaged (see `readers.read_texts`).
            RunError: the connection to the Hub was lost.
        """
        row = stories = 0
        for row, text in enumerate(self._texts()):
            if text := text.strip():
                stories += 1
                yield Story(row, text)
        where = name_with_split(self.name, self.split)
        if not stories:
            raise InputError(f"{where} holds no story", "check the file and --text-field")
        if empty := row + 1 - stories:
            self._tell(f"{where}: {empty:,} of {row + 1:,} rows hold no text")

    def blocks(self) -> Iterator[tuple[Block, float]]:
        """Stream every row, empty ones too, in blocks that other processes can parse.

        Yields:
            A block, and the share of the corpus read by its end, 0 if unknown.

        Raises:
            InputError, RunError: as `stories`, except for what parsing finds.
        """
        if self._files:
            yield from self._files.blocks()
            return
        rows = 0
        for block in blocks_of(self._texts()):
            rows += block.rows
            yield block, min(1.0, rows / self.num_rows) if self.num_rows else 0.0


def open_corpus(
    name: str,
    split: Split = "train",
    *,
    text_field: str = DEFAULT_TEXT_FIELD,
    progress: Progress = SILENT,
    each: EachFile = map,
) -> Corpus:
    """Find a corpus and fingerprint it, without reading its stories.

    Files are one train split, unless their names tell splits apart, as `train.jsonl` and
    `valid.jsonl` do: then each split has the files named after it. A single file is always a train
    split.

    Args:
        name: `sample`; a file, folder or glob, also by URL; or a Hub id such as
            `roneneldan/TinyStories`.
        text_field: the field of JSON, Parquet and Hub rows that holds the story.
        each: maps a hash function over files in order, here or on other machines.

    Raises:
        MissingSplitError: the corpus exists but has no such split.
        InputError: the corpus does not exist, or the Hub or a URL cannot be reached.
    """
    if name == SAMPLE:
        return _open_sample(split)
    match = find_files(name) if is_url(name) else find_here(name)
    if match is None:
        return _open_hub(name, split, text_field, progress)
    found = match.paths
    if match.is_file:
        if file_format(found[0]) is None:
            raise unknown_format(found[0])
        if split != "train":
            raise _missing_split(name, split, ["train"])
        return _open_files(name, found, split, text_field, progress, each)
    files, others = story_files(found)
    if not files:
        raise InputError(f"{name} holds no story file", KNOWN_SUFFIXES)
    groups = by_split(files)
    if split not in groups:
        raise _missing_split(name, split, [group for group in groups if group])
    chosen = groups[split]
    of_all = f", {len(chosen):,} of {len(files):,} files" if len(chosen) < len(files) else ""
    left_out = f"; left out: {list_names(others, found)}" if others else ""
    progress.note(f"{name}: the {split} split is {list_names(chosen, found)}{of_all}{left_out}")
    return _open_files(name, chosen, split, text_field, progress, each)


def absolute_name(name: str) -> str:
    """Return a data set's name for any working directory."""
    if name == SAMPLE or is_url(name) or not is_local(name):
        return name
    return os.path.join(os.getcwd(), os.path.expanduser(name))


def _open_sample(split: Split) -> Corpus:
    from tinyohem.data.sample.stories import SAMPLE_COUNTS, SAMPLE_FINGERPRINT, sample_stories

    fingerprint = hash_json([_FORMAT, SAMPLE_FINGERPRINT[split]])
    return Corpus(SAMPLE, split, fingerprint, lambda: sample_stories(split), SAMPLE_COUNTS[split])


def _open_hub(name: str, split: Split, text_field: str, progress: Progress) -> Corpus:
    commit = latest_commit(name)
    builder = hub_builder(name, commit)
    splits = hub_splits(builder)
    if split not in splits:
        raise _missing_split(name, split, splits)
    progress.note(f"{name}: streaming from the Hub, commit {commit[:8]}")
    fingerprint = hash_json([_FORMAT, text_field, hub_fingerprint(builder, split)])
    texts = partial(hub_texts, builder, name, split, text_field)
    rows = hub_rows(builder, split)
    return Corpus(name, split, fingerprint, texts, rows, _tell=cache(progress.note))


def _open_files(
    name: str,
    paths: Sequence[Path],
    split: Split,
    text_field: str,
    progress: Progress,
    each: EachFile,
) -> Corpus:
    # Without the name: a moved file still holds the same stories.
    shas = hash_story_files(list(paths), each, progress)
    hashes = [[file_format(path), sha] for path, sha in zip(paths, shas, strict=True)]
    for first, second in twins(paths, shas, text_field):
        same = f"{first} and {second} begin with the same story"
        progress.warn(f"{same}: if they hold the same ones, leave one of them out")
    fingerprint = hash_json([_FORMAT, text_field, hashes])
    tell = cache(progress.note)  # once, however often the stories are read
    files = StoryFiles(tuple(paths), text_field, tell)
    return Corpus(name, split, fingerprint, files.texts, _files=files, _tell=tell)


def _missing_split(name: str, split: Split, splits: list[str]) -> MissingSplitError:
    return MissingSplitError(
        f"{name} has no {split} split, only: {', '.join(splits) or 'none'}",
        "pass the file itself" if split == "train" else "pass a file of stories with --valid",
    )
