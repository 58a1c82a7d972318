"""Files of one data set that hold the same stories, such as `x.jsonl` beside `x.jsonl.gz`."""

from collections.abc import Sequence
from pathlib import Path

from tinyohem.data.readers import file_format, read_texts
from tinyohem.data.story_hash import story_hash
from tinyohem.errors import InputError


def twins(files: Sequence[Path], shas: Sequence[str], text_field: str) -> list[tuple[Path, Path]]:
    """Return pairs of files that begin with the same story, each file with the first of its like.

    Among files of one suffix, such as shards, only those of the same bytes are found: then none has
    to be opened.

    Args:
        files: at least one.
        shas: hash of each.
        text_field: of those files.
    """
    of_one_kind = len({(file_format(path), path.suffix) for path in files}) == 1
    beginnings = shas if of_one_kind else [_first_story(path, text_field) for path in files]
    first: dict[str, Path] = {}
    pairs = []
    for path, beginning in zip(files, beginnings, strict=True):
        if beginning is not None and first.setdefault(beginning, path) is not path:
            pairs.append((first[beginning], path))
    return pairs


def _first_story(path: Path, text_field: str) -> str | None:
    """Return the hash of a file's first story; None where it has none that can be read."""
    try:
        texts = read_texts(path, text_field)
        return next((str(story_hash(text)) for text in texts if text.strip()), None)
    except InputError:
        return None  # told when the corpus is read
