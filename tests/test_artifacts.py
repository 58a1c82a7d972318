"""Compressed files: whole ones come back byte for byte, damaged ones raise."""

import gzip
import random
from pathlib import Path

import pytest
import zstandard

from tinyohem.artifacts import open_binary

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
    with pytest.raises(OSError, match=r"inflate failed|decompress failed"):
        _read(path)
