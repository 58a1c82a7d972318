"""The token store on disk: it returns its stories, and damage is found."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinyohem.data import token_store as tokens
from tinyohem.data.corpus import Story, open_corpus
from tinyohem.data.token_store import TokenStore, build_store, open_store
from tinyohem.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    start_id,
    tokenizer_hash,
    train_tokenizer,
)
from tinyohem.errors import InputError
from tinyohem.io import manifest as manifests
from tinyohem.io.hashing import hash_file
from tinyohem.io.manifest import read_sealed, write_sealed

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "tinystories"
STORIES = [
    Story(0, "Once upon a time there was a cat."),
    Story(1, 'The cat said:\n\n"Größe, 猫, 🐈‍⬛!"'),
    Story(4, "One"),
    Story(9, "Two   spaces,\ttabs and\u00a0more."),
    Story(10, "Once upon a time there was a dog."),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([story.text for story in STORIES] * 3, vocab_size=270)


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    words = {END_OF_TEXT: 0, **{f"w{n}": n for n in range(1, vocab_size)}}
    backend = Tokenizer(models.WordLevel(words, unk_token=END_OF_TEXT))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END_OF_TEXT)


def ids_of(store: TokenStore, story: int) -> list[int]:
    return store.ids[store.offsets[story] : store.offsets[story + 1]].tolist()


@pytest.mark.parametrize("batch", [1, 2, 2000])
def test_every_story_comes_back_behind_one_start_token(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(tokens, "_STORIES_PER_BATCH", batch)
    store = build_store(STORIES, tokenizer, tmp_path / "store", {})
    for index, story in enumerate(STORIES):
        start, *ids = ids_of(store, index)
        assert start == start_id(tokenizer)
        assert tokenizer.decode(ids) == story.text
    assert store.rows.tolist() == [0, 1, 4, 9, 10]
    assert store.num_stories == 5
    assert store.num_tokens == store.offsets[-1] == len(store.ids)
    assert store.offsets[0] == 0


@pytest.mark.skipif(not SHARED.exists(), reason="the real TinyStories sample is not here")
def test_real_stories_come_back(tmp_path: Path) -> None:
    stories = list(islice(open_corpus(str(SHARED / "valid.jsonl.zst")).stories(), 300))
    tokenizer = train_tokenizer((story.text for story in stories), vocab_size=1024)
    store = build_store(stories, tokenizer, tmp_path / "store", {})
    for index, story in enumerate(stories):
        assert tokenizer.decode(ids_of(store, index)[1:]) == story.text
    assert store.story_bytes.sum() > 2.5 * store.num_tokens  # the merges do their work


def test_bytes_and_words_are_those_of_the_text(tmp_path: Path, tokenizer: Any) -> None:
    store = build_store(STORIES, tokenizer, tmp_path / "store", {})
    assert store.story_bytes.tolist() == [len(story.text.encode()) for story in STORIES]
    assert store.story_bytes[2] == 3
    assert store.story_words.tolist() == [8, 6, 1, 5, 8]


def test_the_manifest_counts_hashes_and_names_the_origin(tmp_path: Path, tokenizer: Any) -> None:
    store = build_store(STORIES, tokenizer, tmp_path / "store", {"name": "here", "corpus": "abc"})
    manifest = read_sealed(tmp_path / "store" / "manifest.json")
    assert store.manifest.to_json() == manifest
    names = ("ids.bin", "offsets.npy", "rows.npy", "bytes.npy", "words.npy", "hashes.npy")
    assert manifest == {
        "format": tokens.STORE_FORMAT,
        "dtype": "uint16",
        "tokens": store.num_tokens,
        "stories": 5,
        "bytes": int(store.story_bytes.sum()),
        "words": 28,
        "repeated": 0,
        "ids_sha256": hash_file(tmp_path / "store" / "ids.bin"),
        "text_loss": {
            "stories": 5,
            "lost_stories": 0,
            "tokens": store.num_tokens - 5,
            "unknown_tokens": 0,
        },
        "sha256": {name: hash_file(tmp_path / "store" / name) for name in names},
        "name": "here",
        "corpus": "abc",
    }


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_take_two_bytes_as_long_as_they_fit(
    tmp_path: Path, vocab_size: int, dtype: type
) -> None:
    last = vocab_size - 1
    story = Story(0, f"w1 w{last} w65535")
    store = build_store([story], word_tokenizer(vocab_size), tmp_path / "store", {})
    assert store.ids.dtype == dtype
    assert store.ids.tolist() == [0, 1, last, 65535]


def test_a_marker_inside_a_story_is_text(tmp_path: Path, tokenizer: Any) -> None:
    before = tokenizer_hash(tokenizer)
    text = f"He wrote {END_OF_TEXT} and went on."
    store = build_store([Story(0, text)], tokenizer, tmp_path / "store", {})
    assert store.ids.tolist().count(start_id(tokenizer)) == 1
    assert tokenizer.decode(ids_of(store, 0)[1:]) == text
    assert tokenizer_hash(tokenizer) == before


def test_a_tokenizer_saved_with_truncation_and_padding_cuts_and_pads_nothing(
    tmp_path: Path, tokenizer: Any
) -> None:
    expected = build_store(STORIES, tokenizer, tmp_path / "expected", {}).ids.tolist()
    copy = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
    )
    copy(["Once upon a time"], truncation=True, max_length=5, padding="max_length")
    copy.save_pretrained(tmp_path / "tokenizer")  # as after a fine-tuning script: both stay on
    loaded = load_tokenizer(str(tmp_path / "tokenizer"))
    before = tokenizer_hash(loaded)
    assert build_store(STORIES, loaded, tmp_path / "store", {}).ids.tolist() == expected
    assert tokenizer_hash(loaded) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(tokens, "_STORIES_PER_BATCH", 2)

    def broken() -> Iterator[Story]:
        yield from STORIES[:3]
        raise error

    with pytest.raises(type(error)):
        build_store(broken(), tokenizer, tmp_path / "store", {})
    assert list(tmp_path.iterdir()) == []


def test_no_story_is_an_input_error_and_leaves_nothing(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="holds no story"):
        build_store([], tokenizer, tmp_path / "store", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["ids.bin", "offsets.npy", "rows.npy", "bytes.npy", "words.npy", "hashes.npy"]
)
@pytest.mark.parametrize("missing", [1, 2, 8, None])
def test_a_file_cut_short_is_noticed(
    tmp_path: Path, tokenizer: Any, name: str, missing: int | None
) -> None:
    build_store(STORIES, tokenizer, tmp_path / "store", {})
    path = tmp_path / "store" / name
    path.write_bytes(path.read_bytes()[:-missing] if missing else b"")
    with pytest.raises(InputError, match=r"was cut short|is not a token store") as caught:
        open_store(tmp_path / "store")
    assert "delete" in (caught.value.hint or "")


FILES = [
    "ids.bin",
    "offsets.npy",
    "rows.npy",
    "bytes.npy",
    "words.npy",
    "hashes.npy",
    "manifest.json",
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    tmp_path: Path, tokenizer: Any, name: str, at: float, bit: int
) -> None:
    folder = tmp_path / "store"
    if not folder.exists():
        build_store(STORIES, tokenizer, folder, {"name": "here"})
    path = folder / name
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[int(at * len(sound))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        same = name == "manifest.json" and json.loads(damaged) == json.loads(sound)
    except ValueError:
        same = False
    try:
        if same:  # white space for other white space
            assert open_store(folder).manifest.to_json() == build_manifest(sound)
        else:
            with pytest.raises(InputError, match=r"was cut short or changed|is not a token store"):
                open_store(folder)
    finally:
        path.write_bytes(sound)


def build_manifest(text: bytes) -> dict[str, Any]:
    return {key: value for key, value in json.loads(text).items() if key != "seal"}


def test_a_very_large_file_is_hashed_only_if_asked(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    size = build_store(STORIES, tokenizer, folder, {}).ids.nbytes
    path = folder / "ids.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    monkeypatch.setattr(manifests, "_LARGE_FILE", size)
    with pytest.raises(InputError, match=r"ids\.bin was cut short or changed"):
        open_store(folder)
    monkeypatch.setattr(manifests, "_LARGE_FILE", size - 1)
    assert open_store(folder).num_tokens == size // 2
    with pytest.raises(InputError, match=r"ids\.bin was cut short or changed"):
        open_store(folder, every_byte=True)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="was cut short"):
        open_store(folder)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"dtype": "uint16"}'])
def test_a_folder_without_a_sound_manifest_is_no_store(
    tmp_path: Path, tokenizer: Any, content: str | None
) -> None:
    build_store(STORIES, tokenizer, tmp_path / "store", {})
    manifest = tmp_path / "store" / "manifest.json"
    if content is None:
        manifest.unlink()
    else:
        manifest.write_text(content)
    with pytest.raises(InputError, match="is not a token store"):
        open_store(tmp_path / "store")


def test_a_manifest_of_another_length_is_noticed(tmp_path: Path, tokenizer: Any) -> None:
    store = build_store(STORIES, tokenizer, tmp_path / "store", {})
    manifest = {**store.manifest.to_json(), "tokens": store.num_tokens + 1}
    write_sealed(tmp_path / "store" / "manifest.json", manifest)
    with pytest.raises(InputError, match="was cut short"):
        open_store(tmp_path / "store")


def test_head_takes_whole_stories_up_to_a_number_of_tokens(tmp_path: Path, tokenizer: Any) -> None:
    store = build_store(STORIES, tokenizer, tmp_path / "store", {})
    ends = store.offsets[1:].tolist()
    for max_tokens, count in [
        (1, 1),  # at least one story
        (ends[0], 1),
        (ends[1] - 1, 1),
        (ends[1], 2),
        (ends[3], 4),
        (ends[4] - 1, 4),
        (ends[4], 5),
        (10**9, 5),
    ]:
        head = store.head(max_tokens)
        assert head.num_stories == len(head.story_bytes) == len(head.story_words) == count
        assert head.num_tokens == head.offsets[-1] == ends[count - 1]
        assert head.ids.tolist() == store.ids[: ends[count - 1]].tolist()
        assert head.rows.tolist() == store.rows[:count].tolist()


def test_story_of_token_at_both_ends_of_every_story(tmp_path: Path, tokenizer: Any) -> None:
    store = build_store(STORIES, tokenizer, tmp_path / "store", {})
    assert store.story_of_token(store.offsets[:-1]).tolist() == [0, 1, 2, 3, 4]
    assert store.story_of_token(store.offsets[1:] - 1).tolist() == [0, 1, 2, 3, 4]


def agree(store: Path) -> None:
    """Rewrite the manifest so that its hashes fit the arrays, as anybody can."""
    manifest = read_sealed(store / "manifest.json")
    sha256 = {name: hash_file(store / name) for name in manifest["sha256"]}
    write_sealed(store / "manifest.json", {**manifest, "sha256": sha256})


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("offsets", np.array([0, 9, 5, 7])),
        ("offsets", np.array([1, 2, 3])),
        ("offsets", np.array([[0, 1, 2]])),
        ("offsets", np.array([0.0, 1.0, 2.0])),
        ("rows", np.array(["a"])),
        ("bytes", np.array([1, 2, 3, 4, 5])),
        ("words", np.array([None, {}], dtype=object)),
    ],
)
def test_arrays_of_another_kind_are_refused(
    tmp_path: Path, tokenizer: Any, name: str, array: Any
) -> None:
    build_store(STORIES, tokenizer, tmp_path / "store", {})
    np.save(tmp_path / "store" / f"{name}.npy", array, allow_pickle=True)
    agree(tmp_path / "store")
    with pytest.raises(InputError, match=r"was cut short|is not a token store|do not join"):
        open_store(tmp_path / "store")


def test_a_header_of_more_than_the_file_takes_no_memory(tmp_path: Path, tokenizer: Any) -> None:
    build_store(STORIES, tokenizer, tmp_path / "store", {})
    path = tmp_path / "store" / "rows.npy"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"(5,), }" + b" " * 12, b"(9999999999999,), }"))
    assert path.read_bytes() != before
    agree(tmp_path / "store")
    with pytest.raises(InputError, match="is not a token store"):
        open_store(tmp_path / "store")


def test_batches_are_bounded_in_characters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHARACTERS_PER_BATCH", 100)
    stories = [Story(row, "a" * size) for row, size in enumerate([40, 59, 1, 1, 300, 5, 5])]
    batches = list(tokens._batched(stories))
    assert [[len(s.text) for s in batch] for batch in batches] == [[40, 59, 1], [1, 300], [5, 5]]
    assert [story for batch in batches for story in batch] == stories
