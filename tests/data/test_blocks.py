"""Blocks: together they are the rows of the file, wherever it is cut."""

import gzip
import json
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data import blocks
from tinyohem.data import story_text as records
from tinyohem.data.blocks import read_blocks
from tinyohem.data.corpus import Story, open_corpus
from tinyohem.data.readers import read_texts
from tinyohem.data.tokenizer import END_OF_TEXT
from tinyohem.errors import InputError

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda text: "<" not in text
)
BLANK = st.sampled_from(["", " ", "\t\r", "\u3000", "\x85"])
LINE = st.one_of(
    TEXT.map(lambda text: json.dumps({"text": text})),
    TEXT.map(lambda text: " " + json.dumps({"text": text}, ensure_ascii=False) + "\r"),
    BLANK,
)


def cut_small(read: int, rows: int, size: int) -> mock._patch:
    limits = {"_READ_BYTES": read, "BLOCK_ROWS": rows, "BLOCK_BYTES": size}
    return mock.patch.multiple(blocks, **limits)


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
@settings(deadline=None, max_examples=100)
@given(
    pieces=st.data(),
    read=st.sampled_from([1, 7, 1 << 20]),
    rows=st.integers(1, 5),
    size=st.sampled_from([1, 30, 1 << 20]),
    ends=st.booleans(),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_blocks_hold_every_row_in_order(
    suffix: str,
    compression: str,
    pieces: st.DataObject,
    read: int,
    rows: int,
    size: int,
    ends: bool,
    mark: bytes,
) -> None:
    separator = "\n" if suffix == ".jsonl" else END_OF_TEXT
    found = pieces.draw(st.lists(LINE if suffix == ".jsonl" else TEXT | BLANK, max_size=12))
    content = separator.join(found) + separator * ends
    with tempfile.TemporaryDirectory() as folder, cut_small(read, rows, size):
        path = Path(folder) / f"stories{suffix}{compression}"
        path.write_bytes(PACK[compression](mark + content.encode()))
        cut = [block for block, _ in read_blocks(path, "text")]
        texts = [list(block.texts()) for block in cut]
        assert [text for block in texts for text in block] == list(read_texts(path))
        assert [block.rows for block in cut] == [len(block) for block in texts]
        assert all(block.rows <= rows for block in cut[:-1])


def test_blocks_end_by_rows_or_by_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * length}) + "\n" for length in [1] * 5 + [99]))
    with cut_small(1 << 20, 2, 1 << 20):
        assert [block.rows for block, _ in read_blocks(path, "text")] == [2, 2, 2]
    with cut_small(8, 100, 40):
        assert [block.rows for block, _ in read_blocks(path, "text")] == [2, 3, 1]


def test_parsed_formats_come_in_blocks_too(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": text} for text in ("a" * 9, "b", "c", "", "d")]))
    with cut_small(1 << 20, 3, 9):
        values = [list(block.texts()) for block, _ in read_blocks(path, "text")]
    assert values == [["a" * 9], ["b", "c", ""], ["d"]]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", b'\n{"text": "1"}\n\n{"text": "2"}\n{"text": 3}\n', "a.jsonl:5: the story is"),
        (
            "a.txt",
            b"1\n<|endoftext|>\n2\n<|endoftext|>3\n<|endoftext|>\n\xff",
            "a.txt:6: not UTF-8",
        ),
    ],
)
def test_errors_name_the_line_of_the_file(
    tmp_path: Path, name: str, content: bytes, place: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with cut_small(5, 1, 1 << 20):
        cut = [block for block, _ in read_blocks(tmp_path / name, "text")]
    with pytest.raises(InputError, match=place):
        [list(block.texts()) for block in cut]


@pytest.mark.parametrize("name", ["a.txt.zst", "a.jsonl.zst"])
def test_a_file_that_decompresses_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in (blocks, records):
        monkeypatch.setattr(module, "MAX_STORY_BYTES", 1 << 20)
    (tmp_path / name).write_bytes(PACK[".zst"](b"\n") + PACK[".zst"](b"a" * (1 << 24)) * 8)
    line = 2 if "jsonl" in name else 1
    with pytest.raises(InputError, match=f"{name}:{line}: a story of more than 1 MiB"):
        list(read_blocks(tmp_path / name, "text"))


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(PACK[".zst"](b'{"text": "One."}\n' * 1000)[:-9])
    with pytest.raises(InputError, match="Truncated compressed stream"):
        list(read_blocks(path, "text"))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".jsonl.zst", ".txt.gz"])
def test_a_corpus_in_blocks_is_the_same_rows_and_tells_how_far_it_is(
    tmp_path: Path, suffix: str
) -> None:
    for number in range(3):
        texts = ["", f" One {number}. ", "Two."] * 20
        separator = END_OF_TEXT if "txt" in suffix else "\n"
        lines = texts if "txt" in suffix else [json.dumps({"text": text}) for text in texts]
        content = "".join(line + separator for line in lines).encode()
        compression = "." + suffix.split(".")[2] if suffix.count(".") == 2 else ""
        (tmp_path / f"{number}{suffix}").write_bytes(PACK[compression](content))
    corpus = open_corpus(str(tmp_path))
    with cut_small(64, 7, 1 << 20):
        cut = list(corpus.blocks())
    rows = [text.strip() for block, _ in cut for text in block.texts()]
    assert [Story(row, text) for row, text in enumerate(rows) if text] == list(corpus.stories())
    shares = [share for _, share in cut]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.4
    assert shares[-1] == 1


def test_the_sample_knows_how_far_it_is() -> None:
    blocks_of_sample = list(open_corpus("sample", "validation").blocks())
    assert [(block.rows, share) for block, share in blocks_of_sample] == [(500, 1.0)]
