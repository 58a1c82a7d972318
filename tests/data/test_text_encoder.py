"""Text that spells a special token is text, whatever the tokenizer is made of."""

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import tokenizers_of_others as others
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tokenizers import Tokenizer

from tinyohem.data.prepare import part_store
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.sources import evaluation_part
from tinyohem.data.token_store import text_store
from tinyohem.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    start_id,
    text_encoder,
    tokenizer_hash,
    train_tokenizer,
)
from tinyohem.progress import SILENT

STORIES = [*islice(sample_stories("train"), 40), "a <s> b", "</s> [UNK] <s>"]
Build = Callable[[Iterable[str]], Tokenizer]
FOREIGN: dict[str, Build] = {
    "byte level": others.byte_level,
    "words": others.word_level,
    "unigram": others.unigram,
    "merges": others.merged_specials,
}
SPELLED = ["<s>", "</s>", "[UNK]", END_OF_TEXT, "<", "s>", "<s", "[", "the", " ", "  ", "\n", "Ġ"]
texts = st.lists(st.sampled_from(SPELLED) | st.text(max_size=3), max_size=8).map("".join)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return one of each kind as the program loads it, and our own."""
    folder = tmp_path_factory.mktemp("tokenizers")
    loaded = {
        kind: load_tokenizer(str(others.save(build(STORIES[:40]), folder / kind)))
        for kind, build in FOREIGN.items()
    }
    return loaded | {"own": train_tokenizer(STORIES, 300)}


@pytest.mark.parametrize("kind", [*FOREIGN, "own"])
@settings(max_examples=60)
@given(text=texts)
def test_no_text_has_the_id_of_a_special_token(
    tokenizers: dict[str, Any], kind: str, text: str
) -> None:
    tokenizer = tokenizers[kind]
    before = tokenizer_hash(tokenizer)
    ids = text_encoder(tokenizer).encode(text, add_special_tokens=False).ids
    allowed = {"words", "unigram", "merges"}  # which do not know every character
    unknown = {tokenizer.unk_token_id} if kind in allowed else set()
    assert set(ids) & set(tokenizer.all_special_ids) <= unknown
    if kind in ("byte level", "own"):
        assert tokenizer.decode(ids) == text
    assert tokenizer_hash(tokenizer) == before


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_text_keeps_its_ids(tokenizers: dict[str, Any], kind: str) -> None:
    tokenizer = tokenizers[kind]
    for text in STORIES[:20]:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert text_encoder(tokenizer).encode(text, add_special_tokens=False).ids == expected


def test_pieces_and_merges_spell_a_special_token_letter_by_letter(
    tokenizers: dict[str, Any],
) -> None:
    """Known letters: nothing is lost."""
    for kind in ("unigram", "merges"):
        store, spans = text_store("a <s> </s>", tokenizers[kind])
        assert not store.text_loss, kind
        assert len(spans) > 4


def test_a_special_token_of_one_letter_leaves_the_letter_spelled() -> None:
    backend = others.byte_level(STORIES)
    tokenizer = others.as_loaded(backend)
    tokenizer.add_special_tokens({"pad_token": "!"})
    store, _ = text_store("Oh! No!", tokenizer)
    assert not store.text_loss


def test_training_a_vocabulary_reads_a_special_token_as_text() -> None:
    stories = [f"{END_OF_TEXT} he wrote {END_OF_TEXT}"] * 20
    tokenizer = train_tokenizer([*STORIES, *stories], 320)
    assert tokenizer.convert_tokens_to_ids(END_OF_TEXT) == 0
    ids = text_encoder(tokenizer).encode(stories[0]).ids
    assert 0 not in ids
    assert tokenizer.decode(ids) == stories[0]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("kind", ["unigram", "words", "own"])
def test_a_special_token_in_a_file_of_stories_is_text(
    tokenizers: dict[str, Any], kind: str, suffix: str, tmp_path: Path
) -> None:
    tokenizer = tokenizers[kind]
    stories = [f"a {END_OF_TEXT} b", "<s> a </s>", "a"]
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table({"text": stories}), path)
    elif suffix == ".json":
        path.write_text(json.dumps([{"text": story} for story in stories]))
    else:
        path.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    store = part_store(evaluation_part(str(path), "text", SILENT), tokenizer, SILENT)
    assert store.num_stories == 3
    special = [int(i) for i in store.ids if i in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
    assert special == [start_id(tokenizer)] * 3  # ahead of each story, and nowhere else
