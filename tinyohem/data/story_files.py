"""Find the files that a name means, sort them into splits, and read them in order."""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tinyohem.data.blocks import Block, read_blocks
from tinyohem.data.readers import file_format, read_texts
from tinyohem.data.tokenizer import END_OF_TEXT
from tinyohem.errors import InputError
from tinyohem.io.remote import FoundFiles

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
# Whole words only: "retrain" and "evaluation" name no split.
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_WORDS)})(?![a-z])")
# Files beside stories: documents, and what `datasets` writes for itself.
_NO_STORIES = re.compile(
    r"(licen[cs]e|copying|notice|readme|changelog|citation|requirements)([-.]\w+)*"
    r"|dataset_(info|infos|dict)\.json|state\.json|cache-.*\.arrow",
    re.IGNORECASE,
)
_NAMED = 5  # files that a message names


def find_here(name: str) -> FoundFiles | None:
    """Return the files that a name means, None for a Hub id."""
    try:
        path = Path(name).expanduser()
        if "\0" in name:
            raise ValueError("it holds a null byte")
    except (RuntimeError, ValueError) as error:  # `~somebody`
        raise InputError(f"there is no file or folder {name}: {error}", "check the path") from None
    if path.is_file():
        return FoundFiles(True, [path])
    if path.is_dir():
        files = [file for file in path.rglob("*") if not _hidden(file.relative_to(path))]
        return FoundFiles(False, files)
    if glob.has_magic(name):
        return FoundFiles(False, [*map(Path, glob.glob(_pattern(path), recursive=True))])
    if is_local(name):
        braces = "name the files by *, or leave braces to the shell, which takes them unquoted"
        raise InputError(
            f"there is no file or folder {name}", braces if "{" in name else "check the path"
        )
    return None


def is_local(name: str) -> bool:
    """Tell whether a name is a path, existing or not, or a glob, rather than a Hub id."""
    path = Path(name)
    return (
        name.startswith((".", "/", "~"))
        or glob.has_magic(name)
        or file_format(path) is not None
        or name.count("/") > 1
        or path.is_file()
        or path.is_dir()
    )


def _pattern(path: Path) -> str:
    """Return a glob in which the brackets of an existing folder's name are literal."""
    for folder in path.parents:  # the longest first
        if folder.is_dir():
            return str(Path(glob.escape(str(folder)), path.relative_to(folder)))
    return str(path)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def story_files(found: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files that can hold stories, in order, and the files left out."""
    files = sorted((file for file in found if file.is_file()), key=pure)
    stories = [file for file in files if file_format(file) and not _NO_STORIES.fullmatch(file.name)]
    return stories, [file for file in files if file not in set(stories)]


def by_split(files: list[Path]) -> dict[str | None, list[Path]]:
    """Group files by split if their names differ in it; else all are train."""
    base = _common_folder(files)
    groups: dict[str | None, list[Path]] = {}
    for file in files:
        words = _SPLIT_WORD.findall(pure(file).relative_to(base).as_posix().lower())
        # The last word, because a file's name says more than its folders' names.
        groups.setdefault(_SPLIT_WORDS[words[-1]] if words else None, []).append(file)
    if len(groups) == 1:
        return {"train": files}
    if "train" not in groups and None in groups:
        groups["train"] = groups.pop(None)
    return groups


def pure(path: Path) -> PurePosixPath:
    """Return the parts of a path or a URL."""
    return PurePosixPath(path.as_posix())


def list_names(files: Sequence[Path], among: Iterable[Path]) -> str:
    """Name a few files by their paths below the common folder of all files `among`."""
    base = _common_folder(among)
    names = ", ".join(str(pure(file).relative_to(base)) for file in files[:_NAMED])
    return names if len(files) <= _NAMED else f"{names} and {len(files) - _NAMED:,} more"


def _common_folder(files: Iterable[Path]) -> str:
    return os.path.commonpath([pure(file).parent for file in files])


@dataclass(frozen=True)
class StoryFiles:
    """Story files, read in order.

    Attributes:
        paths: the files.
        text_field: field of their rows that holds the story.
        tell: called with a note on text files that came out as one story.
    """

    paths: tuple[Path, ...]
    text_field: str
    tell: Callable[[str], None]

    def texts(self) -> Iterator[str]:
        """Yield the text of every row."""
        single = []
        for path in self.paths:
            rows = 0
            for text in read_texts(path, self.text_field):
                rows += 1
                yield text
            single += [path] * _is_one_story(path, rows)
        self._tell_of(single)

    def blocks(self) -> Iterator[tuple[Block, float]]:
        """Yield blocks of rows; see `Corpus.blocks`."""
        single = []
        total, before = max(1, sum(path.stat().st_size for path in self.paths)), 0
        for path in self.paths:
            rows = 0
            for block, read in read_blocks(path, self.text_field):
                rows += block.rows
                yield block, min(1.0, (before + read) / total)  # a URL may not know its size
            before += path.stat().st_size
            single += [path] * _is_one_story(path, rows)
        self._tell_of(single)

    def _tell_of(self, single: Sequence[Path]) -> None:
        """Report text files that came out as one story."""
        if single:
            one, names = len(single) == 1, list_names(single, self.paths)
            them = f"{single[0]} is" if one else f"each of {names} is"
            self.tell(f"{them} one story: a line {END_OF_TEXT} separates stories in a .txt file")


def _is_one_story(path: Path, rows: int) -> bool:
    return rows == 1 and file_format(path) == ".txt"
