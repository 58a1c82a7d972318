"""Files of one data set that hold the same stories give a warning."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tinyohem.data.corpus import open_corpus

STORIES = ["One day, Tom ran.", "Then Sue slept."]


def lines(stories: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in stories).encode()


def parquet(path: Path, stories: list[str]) -> None:
    pq.write_table(pa.table({"text": stories}), path)


def warnings(folder: Path) -> list[str]:
    listener = tiny.Listener()
    open_corpus(str(folder), progress=listener)
    return listener.warnings


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("b.jsonl.gz", lambda path: path.write_bytes(gzip.compress(lines(STORIES)))),
        ("b.jsonl", lambda path: path.write_bytes(lines(STORIES))),
        ("b.txt", lambda path: path.write_text("\n<|endoftext|>\n".join(["", *STORIES]))),
        ("b.parquet", lambda path: parquet(path, STORIES)),
        ("b.json", lambda path: path.write_text(json.dumps([{"text": t} for t in STORIES]))),
    ],
)
def test_files_with_the_same_stories_in_another_form_are_paired(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(STORIES))
    write(tmp_path / name)
    (told,) = warnings(tmp_path)
    pair = f"{tmp_path / 'a.jsonl'} and {tmp_path / name}"
    assert told.startswith(f"{pair} begin with the same story")


def test_shards_and_files_that_cannot_be_read_are_no_twins(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(STORIES[:1]))
    (tmp_path / "b.jsonl").write_bytes(lines(STORIES[1:]))
    assert warnings(tmp_path) == []
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "d.parquet").write_bytes(b"no parquet")
    assert warnings(tmp_path) == []
