"""The byte-level BPE: deterministic, lossless, of exactly the size asked for."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tinyohem.data.sample.stories import tell
from tinyohem.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    start_id,
    tokenizer_hash,
    train_tokenizer,
)
from tinyohem.errors import InputError

VOCAB = 400
TRAIN = f"""
from tinyohem.data.sample.stories import tell
from tinyohem.data.tokenizer import tokenizer_hash, train_tokenizer

texts = [tell("train", index)[1] for index in range(40)]
print(tokenizer_hash(train_tokenizer(texts, {VOCAB})))
"""


def sample_texts(count: int = 40) -> list[str]:
    return [tell("train", index)[1] for index in range(count)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(sample_texts(), VOCAB)


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_trained_tokenizer_is_the_same_in_every_process(tokenizer: Any) -> None:
    # Each process hashes strings its own way, and so orders sets its own way.
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN],
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, threads in (("1", "1"), ("2", "4"))
    ]
    hashes = {worker.communicate(timeout=tiny.PATIENCE)[0].strip() for worker in workers}
    assert hashes == {tokenizer_hash(tokenizer)}


def test_the_vocabulary_has_exactly_the_size_asked_for(tokenizer: Any) -> None:
    assert len(tokenizer) == tokenizer.vocab_size == VOCAB
    assert sorted(tokenizer.get_vocab().values()) == list(range(VOCAB))


def test_one_special_token_begins_ends_and_pads(tokenizer: Any) -> None:
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == END_OF_TEXT
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.all_special_tokens == [END_OF_TEXT]
    assert start_id(tokenizer) == 0


def test_merges_shorten_the_text_it_was_trained_on(tokenizer: Any) -> None:
    text = "\n".join(sample_texts())
    assert len(encode(tokenizer, text)) < 0.6 * len(text)


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_any_text_survives_the_round_trip(tokenizer: Any, text: str) -> None:
    tokenizer.backend_tokenizer.encode_special_tokens = True
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert 0 not in ids


def test_a_saved_tokenizer_is_the_same_one(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    for loaded in (load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
        assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 0, 0)
        text = "  A cat , a dog .\n\nDon't!"
        assert loaded.decode(encode(loaded, text)) == text


def test_more_merges_than_the_text_supports_are_refused() -> None:
    with pytest.raises(InputError, match=r"supports a vocabulary of 2\d\d tokens, not 4,096") as e:
        train_tokenizer(["a cat and a cat"], 4096)
    supported = int((e.value.hint or "").rpartition("=")[2])
    assert len(train_tokenizer(["a cat and a cat"], supported)) == supported  # the hint is right


def test_the_hash_changes_with_the_text_and_the_size(tokenizer: Any) -> None:
    others = [
        train_tokenizer(sample_texts(), VOCAB + 1),
        train_tokenizer(sample_texts(39), VOCAB),
    ]
    assert len({tokenizer_hash(t) for t in (tokenizer, *others)}) == 3


def small_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_stories_start_with_begin_of_text_else_end_of_text() -> None:
    assert start_id(small_tokenizer(bos_token="<s>", eos_token="</s>")) == 0
    assert start_id(small_tokenizer(eos_token="</s>")) == 1
    with pytest.raises(InputError, match="neither a begin-of-text nor an end-of-text"):
        start_id(small_tokenizer())


def test_a_folder_without_a_tokenizer_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load the tokenizer"):
        load_tokenizer(str(tmp_path))
