import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data.orthography import normalise
from tinyohem.difficulty.text import pack, split_words, words

# The rule of the module docstring once more, as a pattern over one normalised text.
WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f]|['`])+")


def words_by_pattern(text: str) -> list[str]:
    found = (match.replace("`", "'").strip("'") for match in WORD.findall(normalise(text)))
    return [word.lower() for word in found if word]


story_like = st.lists(
    st.sampled_from(
        [*"aZé9'`\"“’.!?… \n-_", "Mr.", " said", "3.5", "ß", "e\u0301", "x\u0302", "\u200b", "🎉"]
    ),
    max_size=60,
).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("The cat's well-known.", ["the", "cat's", "well", "known"]),
        ("'Hello,' said the boys' dog", ["hello", "said", "the", "boys", "dog"]),
        ("It’s “big”", ["it's", "big"]),
        ("ÉCLAIR cafe\u0301 e_mail", ["éclair", "café", "e", "mail"]),
        ("3.5 o'clock — 🎉'' '", ["3", "5", "o'clock"]),
        ("Привет, Йод и\u0306!", ["привет", "йод", "й"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),  # vowel signs are no letters of their own
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("می\u200cخواهم", ["میخواهم"]),  # a zero-width non-joiner
        ("我喜欢猫。", ["我", "喜", "欢", "猫"]),
        ("Ｃａｔ ﬁsh x\u0302y", ["cat", "fish", "x\u0302y"]),
        ("\u0301 a ❤️ 1️⃣ b™", ["a", "1", "b"]),
    ],
)
def test_words_follow_the_rules(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@settings(deadline=None)
@given(story_like)
def test_words_equal_the_pattern(text: str) -> None:
    assert words(text) == words_by_pattern(text)


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_a_batch_is_its_stories_one_by_one(texts: list[str]) -> None:
    batch = pack(texts)
    found = split_words(batch)
    spans = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    each = [[found.vocabulary[i] for i in found.ids[a:b]] for a, b in spans]
    assert each == [words(text) for text in texts]
    assert np.all(np.diff(found.offsets) >= 0)


def test_real_stories_equal_the_pattern(real_stories: list[str]) -> None:
    for text in real_stories:
        assert words(text) == words_by_pattern(text)
