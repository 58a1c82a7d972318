"""Story files: every format returns what was written, every error names its place."""

import gzip
import io
import json
import pickle
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data import json_rows
from tinyohem.data import readers as files
from tinyohem.data import story_text as records
from tinyohem.data.blocks import read_blocks
from tinyohem.data.readers import read_texts
from tinyohem.data.tokenizer import END_OF_TEXT
from tinyohem.errors import InputError

FORMATS = [".txt", ".jsonl", ".json", ".parquet"]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: END_OF_TEXT not in text
)


def encode(suffix: str, texts: list[str], field: str = "text", *, escaped: bool = True) -> bytes:
    if suffix == ".txt":
        return "".join(text + END_OF_TEXT for text in texts).encode()
    if suffix == ".parquet":
        stream = io.BytesIO()
        pq.write_table(pa.table({"row": range(len(texts)), field: pa.array(texts, "str")}), stream)
        return stream.getvalue()
    records = [
        json.dumps({"row": row, field: text}, ensure_ascii=escaped)
        for row, text in enumerate(texts)
    ]
    joined = "[" + ",\n ".join(records) + "]" if suffix == ".json" else "\n".join(records)
    return joined.encode()


def failure(path: Path, content: bytes, text_field: str = "text") -> tuple[str, str]:
    """Write a bad file, read it and return the message, less the folder, and the hint."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_texts(path, text_field))
    return caught.value.message.replace(f"{path.parent}/", ""), str(caught.value.hint)


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("suffix", FORMATS)
@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TEXTS), escaped=st.booleans(), read_bytes=st.sampled_from([1, 7, 1 << 20]))
def test_every_format_gives_back_every_story_in_order(
    suffix: str, compression: str, texts: list[str], escaped: bool, read_bytes: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(files, "_READ_BYTES", read_bytes),
        mock.patch.object(json_rows, "_READ_BYTES", read_bytes),
    ):
        path = Path(folder) / f"stories{suffix}{compression}"
        path.write_bytes(PACK[compression](encode(suffix, texts, escaped=escaped)))
        if suffix == ".txt" and texts:  # a file's first character may be a byte order mark
            texts = [texts[0].removeprefix("\ufeff"), *texts[1:]]
        assert list(read_texts(path)) == texts


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json"])
def test_a_byte_order_mark_is_not_part_of_the_first_story(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"stories{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + encode(suffix, ["One.", "\ufeffTwo."]))
    assert list(read_texts(path)) == ["One.", "\ufeffTwo."]


def test_the_last_story_of_a_text_file_needs_no_marker(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text(f"One.\n{END_OF_TEXT}\n{END_OF_TEXT}\nThree.\n")
    assert list(read_texts(path)) == ["One.\n", "\n", "\nThree.\n"]


def test_blank_lines_between_json_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl"
    path.write_text('\n{"text": "One."}\r\n \n{"text": ""}\n\n')
    assert list(read_texts(path)) == ["One.", ""]


def test_json_array_falls_back_to_story_for_the_default_field_only(tmp_path: Path) -> None:
    path = tmp_path / "data00.json"
    content = b'[{"story": "One.", "summary": "1"}, {"story": "no", "text": "Two."}]'
    path.write_bytes(content)
    assert list(read_texts(path)) == ["One.", "Two."]
    message, hint = failure(path, content, text_field="tale")
    assert message == 'data00.json:1: no field "tale"; the fields are: story, summary'
    assert hint == "name one with --text-field"


def test_the_text_field_is_the_one_asked_for(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".json", ".parquet"):
        path = tmp_path / f"stories{suffix}"
        path.write_bytes(encode(suffix, ["One."], field="tale"))
        assert list(read_texts(path, "tale")) == ["One."]


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("a.txt", b"One\n\nbad \xff", "a.txt:3: not UTF-8: invalid start byte", "UTF-8"),
        (
            "a.txt",
            b"One\n<|endoftext|>\nTwo\n\xc3",
            "a.txt:4: not UTF-8: unexpected end of data",
            "UTF-8",
        ),
        (
            "a.jsonl",
            b'{"text": "One."}\n{"text": "Tw',
            "a.jsonl:2: broken JSON: Unterminated string",
            "whole JSON object of at most 64 MiB",
        ),
        (
            "a.jsonl",
            b'{"text": ""}\n' + b'{"text":' * 100_000,
            "a.jsonl:2: broken JSON: maximum recursion depth",
            "whole JSON object",
        ),
        ("a.jsonl", b'{"text": "\xe9t\xe9"}', "a.jsonl:1: not UTF-8", "UTF-8"),
        (
            "a.jsonl",
            b'{"text": "One."}\n\n{"story": "", "id": 1}\n',
            'a.jsonl:3: no field "text"; the fields are: story, id',
            "--text-field",
        ),
        ("a.jsonl", b'{"text": ["a"]}', "a.jsonl:1: the story is an array", "field of text"),
        ("a.jsonl", b'{"text": 3}', "a.jsonl:1: the story is of type int", "field of text"),
        ("a.jsonl", b"3", "a.jsonl:1: of type int where an object", '{"text": "..."}'),
        ("a.jsonl", b'{"text": "\\ud83d"}', "a.jsonl:1: the story holds half of a", "UTF-8"),
        ("a.json", b'{"data": [{"text": "1"}]}', "a.json:1: one object with rows", "one array"),
        ("a.json", b'{"text": {"0": "1"}}', "a.json:1: one object with rows", "orient='records'"),
        ("a.json", b'{"tale": "One."}', 'a.json:1: no field "text"', "--text-field"),
        ("a.json", b'[{"text": "One."},\n 2]', "a.json:2: of type int where an object", "text"),
        ("a.json", b'[\n{"text": "One."}', "a.json:2: broken JSON: the array is cut", "whole"),
        ("a.json", b'[\n{"text": "One."}]\n]', "a.json:3: broken JSON: text after", "whole"),
        ("a.json", b'[\n{"text":\n"One', "a.json:3: broken JSON: Unterminated", "whole"),
        ("a.json", b'[{"text": "1"},\n{"text": }]', "a.json:2: broken JSON: Expecting", "whole"),
        ("a.json", b'[{"text": "1"},\n\n{"text": "\xff"}]', "a.json:3: not UTF-8", "UTF-8"),
        ("a.parquet", b"PAR1 not really", "a.parquet cannot be read", "damaged or cut short"),
        ("a.txt.zst", b"One.", "a.txt.zst cannot be read: ZSTD", "damaged or cut short"),
        ("a.csv", b"text\nOne.", "a.csv is no story file", ".json, .parquet, .arrow"),
        ("a.csv.gz", b"", "a.csv.gz is no story file", "each also with .gz or .zst"),
    ],
)
def test_bad_content_is_named_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str, hint: str
) -> None:
    found_message, found_hint = failure(tmp_path / name, content)
    assert found_message.startswith(message)
    assert hint in found_hint


@pytest.mark.parametrize("read_bytes", [1, 3, 1000])
def test_lines_are_counted_across_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    for module in (files, json_rows):
        monkeypatch.setattr(module, "_READ_BYTES", read_bytes)
    message, _ = failure(tmp_path / "a.json", b'[\n{"text":\n"1"},\n\n{"text":\n 2}]')
    assert message == "a.json:5: the story is of type int, not text"
    message, _ = failure(tmp_path / "b.json", b'[\n{"text": "1"},\n{"text":\n "\n\xff"}]')
    assert message.startswith("b.json:5: not UTF-8")
    message, _ = failure(tmp_path / "a.txt", b"One\n\n<|endoftext|>\nTwo\n\n<|endoftext|>\n\xff")
    assert message.startswith("a.txt:7: not UTF-8")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_compressed_file_cut_short_raises(tmp_path: Path, suffix: str, compression: str) -> None:
    whole = PACK[compression](encode(suffix, [f"Story {row}." for row in range(1000)]))
    message, hint = failure(tmp_path / f"a{suffix}{compression}", whole[:-9])
    assert "Truncated compressed stream" in message
    assert "cut short" in hint


def test_a_parquet_file_that_cannot_be_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    whole = encode(".parquet", ["One.", "Two."])
    assert failure(path, whole, text_field="tale") == (
        'a.parquet: no field "tale"; the fields are: row, text',
        "name one with --text-field",
    )
    assert failure(path, whole[: len(whole) // 2])[0].startswith("a.parquet cannot be read")
    invalid = pa.array([b"fine", b"\xff"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": invalid}), path)
    assert failure(path, path.read_bytes())[0].startswith("a.parquet: not UTF-8 in rows 0 to 1")


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("a.txt.zst", b"line\n", "a.txt.zst:1: a story of more than 1 MiB"),
        ("a.jsonl.zst", b'\n{"text": "', "a.jsonl.zst:2: a story of more than 1 MiB"),
        ("a.json.zst", b'[\n{"text": "', "a.json.zst:2: broken JSON: Unterminated string"),
    ],
)
def test_a_file_that_decompresses_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, start: bytes, message: str
) -> None:
    for module in (files, json_rows, records):
        monkeypatch.setattr(module, "MAX_STORY_BYTES", 1 << 20)
    bomb = PACK[".zst"](start) + PACK[".zst"](b"a" * (1 << 24)) * 8
    tracemalloc.start()
    found, hint = failure(tmp_path / name, bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.startswith(message)
    assert "MiB" in hint or END_OF_TEXT in hint
    assert peak < 24 << 20


def test_a_story_larger_than_the_limit_raises_in_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (files, json_rows, records):
        monkeypatch.setattr(module, "MAX_STORY_BYTES", 1 << 20)
    content = encode(".parquet", ["One.", "é" * (1 << 19) + "é"])
    assert failure(tmp_path / "a.parquet", content)[0] == (
        "a.parquet: row 1: a story of more than 1 MiB"
    )


def long_corpus(suffix: str) -> Iterator[bytes]:
    """Yield about 24 MB of stories of one format in pieces."""
    block = [f"{number} Once upon a time." * 50 for number in range(500)]
    pieces = {
        ".txt": encode(".txt", block),
        ".jsonl": encode(".jsonl", block) + b"\n",
        ".json": encode(".json", block)[1:-1] + b",",
    }
    yield b"[" if suffix == ".json" else b""
    for _ in range(48):
        yield pieces[suffix]
    yield b'{"text": ""}]' if suffix == ".json" else b""


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"stories{suffix}.zst"
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as stream:
        for piece in long_corpus(suffix):
            stream.write(piece)
    next(read_texts(path))  # what it imports is not the file's memory
    tracemalloc.start()
    rows = sum(1 for _ in read_texts(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 48 * 500 + (suffix == ".json")
    assert peak < 8 << 20


def test_memory_does_not_grow_with_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "stories.parquet"
    texts = [f"{number} Once upon a time." * 50 for number in range(24_000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=2000)
    before = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() - before for _ in read_texts(path))
    assert peak < 8 << 20


def test_a_repeated_text_of_a_parquet_file_is_held_once(tmp_path: Path) -> None:
    """A few kilobytes say it a thousand times; as plain strings that is a gigabyte."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1_024, pa.int32()), ["a" * (1 << 20)])
    pq.write_table(pa.table({"text": texts.cast(pa.string())}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 17
    pool, default = pa.proxy_memory_pool(pa.system_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        assert len(next(read_texts(tmp_path / "a.parquet"))) == 1 << 20
    finally:
        pa.set_memory_pool(default)
    assert 1 << 20 < pool.max_memory() < 64 << 20


def test_a_parquet_file_cannot_make_its_reader_unpickle(tmp_path: Path) -> None:
    """pyarrow before 14.0.1 did (CVE-2023-47248), where a column's type asked for it."""
    attack = pickle.dumps(_Attack(tmp_path / "ran"))
    named = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    field = pa.field("text", pa.string(), metadata={**named, b"ARROW:extension:metadata": attack})
    table = pa.table([pa.array(["One."])], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(read_texts(tmp_path / "a.parquet")) == ["One."]
    assert not (tmp_path / "ran").exists()
    pickle.loads(attack)  # noqa: S301 - the attack itself is sound
    assert (tmp_path / "ran").exists()


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'[{"text": "One."}, null, {"text": "Two."}]'),
        ("a.json", b'{"text": "One."}\n{"text": null}\n{"text": "Two."}'),
        ("a.json", b'["One.", null, "Two."]'),
        ("a.JSON", b'"One." "" "Two."'),
        ("a.jsonl", b'{"text": "One."}\nnull\n"Two."'),
        ("a.ndjson", b'{"text": "One."}\n{"text": NaN}\n{"text": "Two."}\n'),
        (
            "a.JSONL.GZ",
            gzip.compress(b'{"text": "One."}\n{"text": null}\n{"text": "Two."}', mtime=0),
        ),
        ("A.TXT", b"One.<|endoftext|><|endoftext|>Two."),
    ],
)
def test_rows_come_in_many_shapes_and_null_is_an_empty_one(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert list(read_texts(path)) == ["One.", "", "Two."]
    blocks = [block for block, _ in read_blocks(path, "text")]
    assert [text for block in blocks for text in block.texts()] == ["One.", "", "Two."]
    assert sum(block.rows for block in blocks) == 3


def test_a_string_is_no_row_where_a_field_was_named(tmp_path: Path) -> None:
    message, hint = failure(tmp_path / "a.json", b'["One."]', text_field="tale")
    assert message == "a.json:1: text where an object with the story should be"
    assert hint == 'each row should read {"tale": "..."}'


def test_a_file_of_nothing_has_no_row(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl", "a.txt", "a.json.gz", "a.txt.zst"):
        (tmp_path / name).write_bytes(b"")
        assert list(read_texts(tmp_path / name)) == []


def write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_feather(path: Path, table: pa.Table) -> None:
    pyarrow.feather.write_feather(table, str(path), chunksize=2)


COLUMN_FILES = [
    (".parquet", write_parquet),
    (".arrow", write_stream),
    (".arrow", write_feather),
]


@pytest.mark.parametrize(("suffix", "write"), COLUMN_FILES)
class TestColumns:
    @pytest.mark.parametrize(
        "kind",
        ["string", "large_string", "binary", "large_binary", "string_view", "dictionary"],
    )
    def test_every_type_of_text_is_read(
        self, tmp_path: Path, suffix: str, write: Callable[[Path, pa.Table], None], kind: str
    ) -> None:
        texts = ["Zoë.", None, "Zoë.", "Two.", ""]
        column = pa.array(texts).dictionary_encode()
        if kind != "dictionary":
            column = pa.array([t.encode() if t and "binary" in kind else t for t in texts])
            column = column.cast(getattr(pa, kind)())
        table = pa.table({"row": range(5), "text": column})
        path = tmp_path / f"a{suffix}"
        write(path, table)
        assert list(read_texts(path)) == ["Zoë.", "", "Zoë.", "Two.", ""]
        packed = path.with_name(f"a{suffix}.ZST")
        packed.write_bytes(PACK[".zst"](path.read_bytes()))
        assert list(read_texts(packed)) == ["Zoë.", "", "Zoë.", "Two.", ""]

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ([1, 2], "int64"),
            ([0.5, None], "double"),
            ([["a"], ["b"]], "list<"),
            ([{"role": "a"}, {"role": "b"}], "struct<role: string>"),
        ],
    )
    def test_another_type_is_named_with_the_columns_of_text(
        self,
        tmp_path: Path,
        suffix: str,
        write: Callable[[Path, pa.Table], None],
        values: list[object],
        kind: str,
    ) -> None:
        table = pa.table({"text": pa.array(values), "tale": ["One.", "Two."]})
        write(tmp_path / f"a{suffix}", table)
        with pytest.raises(InputError) as caught:
            list(read_texts(tmp_path / f"a{suffix}"))
        assert f'the field "text" is {kind}' in caught.value.message
        assert caught.value.hint == "the fields of text are: tale; name one with --text-field"
        assert list(read_texts(tmp_path / f"a{suffix}", "tale")) == ["One.", "Two."]

    def test_bytes_that_are_no_utf8_are_named_by_their_row(
        self, tmp_path: Path, suffix: str, write: Callable[[Path, pa.Table], None]
    ) -> None:
        write(tmp_path / f"a{suffix}", pa.table({"text": [b"fine", b"\xff"]}))
        with pytest.raises(InputError, match="row 1: not UTF-8: invalid start byte"):
            list(read_texts(tmp_path / f"a{suffix}"))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize("suffix", [*FORMATS, ".ndjson", ".arrow"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, suffix: str, compression: str) -> None:
    message, hint = failure(tmp_path / f"a{suffix}{compression}", POINTER)
    assert message.endswith("is a git-lfs pointer, the content was not fetched")
    assert "git lfs pull" in hint
