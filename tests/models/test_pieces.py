"""A story that is shown as it is written never shows half a character, and ends up whole."""

from collections.abc import Callable, Iterable

import pytest
import tokenizers_of_others as others
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tinyohem.models.generate import Pieces

TEXTS = ["Once upon a time 🐶 there was a dog.\n\nÉlan! 日本語. She ran  home."] * 3


def byte_fallback(_: Iterable[str]) -> Tokenizer:
    """Pieces of sentencepiece, with a token for every byte, as of Llama 2."""
    words = ["[UNK]", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b", "▁"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]", byte_fallback=True))
    space, first = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    fallback = decoders.ByteFallback()
    tokenizer.decoder = decoders.Sequence([space, fallback, decoders.Fuse(), first])
    return tokenizer


KINDS: dict[str, Callable[[Iterable[str]], Tokenizer]] = {
    "byte_level": others.byte_level,
    "byte_fallback": byte_fallback,
    "unigram": others.unigram,
    "word_level": others.word_level,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return others.as_loaded(KINDS[request.param](TEXTS))


def pieces_of(tokenizer: PreTrainedTokenizerFast, ids: list[int], prompt: int) -> list[str]:
    """Return the pieces of a story whose first ids came at once."""
    shown: list[str] = []
    pieces = Pieces(tokenizer, 0, lambda _, piece: shown.append(piece))
    pieces.put(torch.tensor([ids[:prompt]]))
    for token_id in ids[prompt:]:
        pieces.put(torch.tensor([token_id]))
    pieces.end()
    assert pieces.text == "".join(shown)
    return shown


@given(data=st.data(), prompt=st.integers(1, 3))
def test_any_tokens_add_up_to_their_text(
    tokenizer: PreTrainedTokenizerFast, data: st.DataObject, prompt: int
) -> None:
    """Random bytes, too, which are no text at all."""
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=prompt, max_size=40))
    shown = pieces_of(tokenizer, ids, prompt)
    assert "".join(shown) == tokenizer.decode(ids, skip_special_tokens=True)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), min_size=1)
)
@example("🐶👩‍👩‍👧日é")
def test_no_piece_ends_inside_a_character(text: str) -> None:
    tokenizer = others.as_loaded(others.byte_level(TEXTS))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = pieces_of(tokenizer, ids, 1)
    assert "".join(shown) == text
    assert all("\ufffd" not in piece for piece in shown)


def test_a_token_is_shown_as_soon_as_it_is_there() -> None:
    tokenizer = others.as_loaded(others.byte_level(TEXTS))
    ids = tokenizer("xyz 🐶", add_special_tokens=False)["input_ids"]
    shown = pieces_of(tokenizer, ids, 1)
    assert shown[:3] == ["x", "y", "z"]
