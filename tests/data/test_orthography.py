"""One spelling for text that looks alike: invisible characters, marks, words, scripts."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.data.orthography import (
    APOSTROPHES,
    QUOTES,
    UNSEEN,
    count_words,
    is_mostly_latin,
    normalise,
)


def test_invisible_characters_are_those_of_unicode() -> None:
    regex = pytest.importorskip("regex")
    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    every = map(chr, range(0x110000))
    assert [c for c in every if bool(UNSEEN.match(c)) != bool(ignorable.match(c))] == []


@given(st.text())
def test_composed_and_decomposed_text_are_one(text: str) -> None:
    plain = normalise(text)
    assert normalise(unicodedata.normalize("NFC", text)) == plain
    assert normalise(unicodedata.normalize("NFD", text)) == plain


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_comes_back_as_it_is(text: str) -> None:
    assert normalise(text) == text
    assert count_words(text) == len(text.split())


def test_quotes_and_apostrophes_become_ascii() -> None:
    assert normalise(APOSTROPHES) == "'" * len(APOSTROPHES)
    assert normalise(QUOTES) == '"' * len(QUOTES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("A cat sat.", 3),
        ("A \u200b cat\ufeff \u00ad sat.\u2060", 3),
        ("\ufeffA\u00a0cat\u2003sat — now", 5),
        ("А кот", 2),
    ],
)
def test_words_of_a_perplexity_stand_between_white_space(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("", True),
        ("12 🎉", True),
        ("Crème brûlée, Straße, Łódź, Đà Nẵng", True),
        ("Ｃａｔ 𝐜𝐚𝐭", True),
        ("кот", False),
        ("cat кот", True),
        ("cat кота", False),
        ("猫が好き", False),
    ],
)
def test_most_letters_are_latin(text: str, latin: bool) -> None:
    assert is_mostly_latin(text) == latin
