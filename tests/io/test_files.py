"""Files: atomic writes, compressed streams, JSON, seals; damage raises."""

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyohem.errors import InputError
from tinyohem.io import json as json_files
from tinyohem.io import streams
from tinyohem.io.atomic import atomic_file, atomic_folder
from tinyohem.io.data_dir import data_dir
from tinyohem.io.hashing import hash_file, hash_files, hash_json
from tinyohem.io.json import append_line, parse_json, read_json, read_jsonl, write_json
from tinyohem.io.manifest import (
    DamagedFileError,
    Record,
    open_folder,
    read_sealed,
    seal_folder,
    write_sealed,
)
from tinyohem.io.streams import open_binary

# Half of it cannot be compressed, so that a cut falls inside a block as well as between blocks.
CONTENT = random.Random(0).randbytes(300_000) + b"a" * 300_000
PACK = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def _read(path: Path) -> bytes:
    with open_binary(path) as stream:
        return stream.read()


@pytest.mark.parametrize("suffix", PACK)
def test_reads_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACK[suffix](CONTENT))
    assert _read(path) == CONTENT


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_reads_files_joined_end_to_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACK[suffix](b"one ") + PACK[suffix](b"two"))
    assert _read(path) == b"one two"


@pytest.mark.parametrize("suffix", PACK)
def test_reads_an_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACK[suffix](b""))
    assert _read(path) == b""


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("missing", [1, 5, 1_000, 200_000])
def test_a_file_cut_short_raises(tmp_path: Path, suffix: str, missing: int) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACK[suffix](CONTENT)[:-missing])
    with pytest.raises(OSError, match="Truncated"):
        _read(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_second_part_cut_short_raises(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACK[suffix](b"one ") + PACK[suffix](CONTENT)[:10])
    with pytest.raises(OSError, match="Truncated"):
        _read(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_raises(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"Once upon a time there was a cat.")
    with pytest.raises(OSError, match=r"Not a gzipped file|decompress failed"):
        _read(path)


SKIPPED = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"  # RFC 8878, 3.1.2


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two") + bytes(512),
        gzip.compress(b"one two") + bytes(1 << 17),
        SKIPPED
        + PACK[".zst"](b"one ")
        + SKIPPED
        + PACK[".zst"](b"")
        + PACK[".zst"](b"two")
        + SKIPPED,
    ],
)
@pytest.mark.parametrize("suffix", ["gz", "ZST", "txt"])
def test_what_the_tools_take_is_read_whatever_the_suffix_says(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    if content.startswith(SKIPPED):  # its first bytes may begin a text: there the suffix counts
        suffix = "zst"
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert _read(tmp_path / f"a.{suffix}") == b"one two"


FAILURES = [OSError("disk full"), KeyboardInterrupt()]


def fail_in_file(path: Path, error: BaseException) -> None:
    with atomic_file(path) as stream:
        stream.write(b"half")
        raise error


def fail_in_folder(path: Path, error: BaseException) -> None:
    with atomic_folder(path) as partial:
        (partial / "new").write_bytes(b"half")
        raise error


class TestAtomicFile:
    def test_it_appears_under_its_name_only_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "file"
        with atomic_file(path) as stream:
            stream.write(b"one")
            assert not path.exists()
        assert path.read_bytes() == b"one"
        assert [p.name for p in path.parent.iterdir()] == ["file"]

    @pytest.mark.parametrize("error", FAILURES)
    def test_a_failure_leaves_nothing(self, tmp_path: Path, error: BaseException) -> None:
        with pytest.raises(type(error)):
            fail_in_file(tmp_path / "file", error)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("error", FAILURES)
    def test_a_failure_leaves_the_old_file(self, tmp_path: Path, error: BaseException) -> None:
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(type(error)):
            fail_in_file(tmp_path / "file", error)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}

    def test_it_replaces_the_old_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"old and longer")
        with atomic_file(tmp_path / "file") as stream:
            stream.write(b"new")
        assert (tmp_path / "file").read_bytes() == b"new"


class TestAtomicFolder:
    def test_it_appears_under_its_name_only_at_the_end(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "folder"
        with atomic_folder(path) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / "file").write_bytes(b"one")
            assert not path.exists()
        assert (path / "sub" / "file").read_bytes() == b"one"
        assert [p.name for p in path.parent.iterdir()] == ["folder"]

    @pytest.mark.parametrize("error", FAILURES)
    def test_a_failure_leaves_nothing(self, tmp_path: Path, error: BaseException) -> None:
        with pytest.raises(type(error)):
            fail_in_folder(tmp_path / "folder", error)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("error", FAILURES)
    def test_a_failure_leaves_the_old_folder(self, tmp_path: Path, error: BaseException) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "old").write_bytes(b"old")
        with pytest.raises(type(error)):
            fail_in_folder(tmp_path / "folder", error)
        assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == [
            "folder",
            "folder/old",
        ]

    def test_it_replaces_the_old_folder_whole(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "old").write_bytes(b"old")
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / "new").write_bytes(b"new")
        assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]


class TestJson:
    def test_a_value_survives_and_stays_readable(self, tmp_path: Path) -> None:
        value = {"b": [1, 2.5, None, True], "a": "größe 🐈"}
        write_json(tmp_path / "v.json", value)
        assert read_json(tmp_path / "v.json") == value
        assert "größe 🐈" in (tmp_path / "v.json").read_text(encoding="utf-8")

    def test_a_value_that_is_no_json_leaves_the_old_file(self, tmp_path: Path) -> None:
        write_json(tmp_path / "v.json", 1)
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "v.json", float("nan"))
        assert read_json(tmp_path / "v.json") == 1

    @pytest.mark.parametrize("cut", [1, 5, 14])
    def test_a_last_line_cut_short_is_left_out(self, tmp_path: Path, cut: int) -> None:
        rows = [{"step": 1, "text": "a\u2028b"}, {"step": 2, "loss": 0.5}]
        with (tmp_path / "m.jsonl").open("wb") as stream:
            for row in rows:
                append_line(stream, row)
        assert read_jsonl(tmp_path / "m.jsonl") == rows
        content = (tmp_path / "m.jsonl").read_bytes()
        (tmp_path / "m.jsonl").write_bytes(content[:-cut])
        assert read_jsonl(tmp_path / "m.jsonl") == rows[:1]

    def test_a_missing_log_has_no_rows(self, tmp_path: Path) -> None:
        assert read_jsonl(tmp_path / "m.jsonl") == []


def test_a_hash_depends_on_content_and_not_on_key_order(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    assert hash_file(tmp_path / "file") == hashlib.sha256(CONTENT).hexdigest()
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    assert hash_json([1, 2]) != hash_json([2, 1])


def test_the_data_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TINYOHEM_DATA", raising=False)
    assert data_dir() == Path("data")
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path))
    assert data_dir() == tmp_path


class TestJsonOfStrangers:
    @pytest.mark.parametrize(
        "text",
        [
            *("NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "-1e999", "[1, 2", "", "\ufeff1"),
            *("9223372036854775808", "-9223372036854775809", "1" * 5_000),
            *("[" * 100_000, '{"a":' * 100_000, "[" * 33 + "]" * 33),
            *(r'"\ud83d"', r'{"\udc00": 1}', r'[["a", {"b": "\ud800x"}]]'),
        ],
    )
    def test_json_that_cannot_be_computed_with_or_written_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r".") as caught:
            parse_json(text)
        assert len(str(caught.value)) < 200

    def test_other_json_is_parsed_as_the_standard_library_does(self) -> None:
        text = '{"a": [1, -2.5e3, null, true, "\\ud83d\\ude00"], "b": 9223372036854775807}'
        assert parse_json(text) == json.loads(text)
        assert parse_json("[" * 32 + "]" * 32) == json.loads("[" * 32 + "]" * 32)

    def test_a_json_file_beyond_the_limit_is_not_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(json_files, "MAX_JSON_BYTES", 100)
        (tmp_path / "a.json").write_text(f'"{"a" * 99}"')
        with pytest.raises(ValueError, match="more than"):
            read_json(tmp_path / "a.json")
        (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 50 + f'{{"a": "{"a" * 99}"}}\n')
        with pytest.raises(InputError, match="line 51 is damaged"):
            read_jsonl(tmp_path / "a.jsonl")


class TestBombs:
    @pytest.mark.parametrize("suffix", [".gz", ".zst"])
    def test_a_file_that_expands_beyond_any_text_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
    ) -> None:
        monkeypatch.setattr(streams, "_FREE_BYTES", 1 << 20)
        monkeypatch.setattr(streams, "MAX_EXPANSION", 100)
        path = tmp_path / f"file{suffix}"
        path.write_bytes(PACK[suffix](bytes(32 << 20)))
        read: list[int] = []
        with pytest.raises(OSError, match="expands to more than 100"), open_binary(path) as stream:
            read.extend(iter(lambda: len(stream.read(1 << 16)), 0))
        assert 1 << 19 < sum(read) <= (3 << 20) + 100 * path.stat().st_size
        # As large, but nothing that text would not do.
        path.write_bytes(PACK[suffix](random.Random(0).randbytes(1 << 15) * 64))
        assert len(_read(path)) == 64 << 15

    def test_a_window_beyond_128_mib_is_refused(self, tmp_path: Path) -> None:
        # A frame of one byte that asks its reader for a window of 2 GiB (RFC 8878, 3.1.1.1.2).
        frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x09\x00\x00" + b"a"
        (tmp_path / "a.zst").write_bytes(frame)
        with pytest.raises(InputError, match="window of more than 128 MiB"):
            _read(tmp_path / "a.zst")
        small = frame[:5] + bytes([10 << 3]) + frame[6:]
        (tmp_path / "a.zst").write_bytes(small)
        assert _read(tmp_path / "a.zst") == b"a"


class TestSeals:
    NUMBERS = st.integers(-(2**63), 2**63 - 1)
    VALUE = st.dictionaries(st.text(max_size=3), st.none() | NUMBERS | st.text(max_size=3))

    @given(value=VALUE, other=VALUE)
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_what_was_sealed_comes_back_and_nothing_else(
        self, tmp_path: Path, value: dict[str, Any], other: dict[str, Any]
    ) -> None:
        path = tmp_path / "sealed.json"
        value.pop("seal", None)
        other.pop("seal", None)
        write_sealed(path, value)
        assert read_sealed(path) == value
        write_json(path, {**other, "seal": read_json(path)["seal"]})
        if other == value:
            assert read_sealed(path) == value
        else:
            with pytest.raises(ValueError, match="was changed"):
                read_sealed(path)

    def test_an_object_without_a_seal_is_read(self, tmp_path: Path) -> None:
        write_json(tmp_path / "old.json", {"a": 1})
        assert read_sealed(tmp_path / "old.json") == {"a": 1}
        write_json(tmp_path / "list.json", [1])
        with pytest.raises(ValueError, match="is no JSON object"):
            read_sealed(tmp_path / "list.json")

    def test_files_are_hashed_by_their_path_from_the_folder(self, tmp_path: Path) -> None:
        content = bytes(range(256)) * 5000
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_bytes(content)
        assert hash_files(tmp_path) == {"a/b": hashlib.sha256(content).hexdigest()}


class TestSealedFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "sealed" / "a").mkdir(parents=True)
        (tmp_path / "sealed" / "a" / "b").write_bytes(b"content")
        (tmp_path / "sealed" / "c").write_bytes(b"more")
        seal_folder(tmp_path / "sealed", {"count": 3})
        return tmp_path / "sealed"

    def test_the_facts_come_back_while_every_file_is_as_it_was(self, folder: Path) -> None:
        (folder / "new").write_text("beside them")
        facts = open_folder(folder, Record, sealed=True).to_json()
        sha256 = {
            "a/b": hashlib.sha256(b"content").hexdigest(),
            "c": hashlib.sha256(b"more").hexdigest(),
        }
        assert facts == {"count": 3, "sha256": sha256}

    @pytest.mark.parametrize("content", [b"", b"Content", b"content ", None])
    def test_a_damaged_file_is_named(self, folder: Path, content: bytes | None) -> None:
        path = folder / "a" / "b"
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"^a/b (is missing|was cut short or changed)$"):
            open_folder(folder, Record)

    @pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a", ""])
    def test_a_name_that_is_no_file_of_the_folder_is_not_followed(
        self, folder: Path, name: str
    ) -> None:
        (folder.parent / "outside").write_bytes(b"secret")
        sha256 = {name: hashlib.sha256(b"secret").hexdigest()}
        write_sealed(folder / "manifest.json", {"sha256": sha256})
        with pytest.raises(DamagedFileError, match="is missing"):
            open_folder(folder, Record)

    def test_changed_facts_are_refused(self, folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(path.read_text().replace('"count": 3', '"count": 4'))
        with pytest.raises(ValueError, match=r"manifest\.json was changed"):
            open_folder(folder, Record)
