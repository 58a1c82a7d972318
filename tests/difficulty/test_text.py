import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.difficulty.text import (
    count_sentences,
    normalise,
    pack,
    sentences,
    split_words,
    words,
)

# The rules of the module docstring once more, as patterns over one normalised text.
WORD = re.compile(r"(?:[^\W_]|')+")
END = re.compile(
    r"(?P<run>[.!?]++)"
    r"(?![^\W_])"  # a letter or digit follows at once
    r"(?![\"'] [a-z])"  # the sentence goes on after the quote
)
TITLE = re.compile(r"(?<![^\W_])(Mr|Mrs|Ms|Dr|St)\.$")


def words_by_pattern(text: str) -> list[str]:
    found = (match.strip("'") for match in WORD.findall(normalise(text).lower()))
    return [word for word in found if word]


def sentences_by_pattern(text: str) -> int:
    text = normalise(text)
    parts, start = [], 0
    for end in END.finditer(text):
        if not TITLE.search(text[: end.start() + 1]) or len(end["run"]) > 1:
            parts.append(text[start : end.end()])
            start = end.end()
    return sum(bool(re.search(r"[^\W_]", part)) for part in [*parts, text[start:]])


story_like = st.lists(
    st.sampled_from(
        [*"aZé9'\"“’.!?… \n-_", "Mr.", "Mrs.", " said", "St", '." h', "3.5", "ß", "e\u0301", "🎉"]
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
    ],
)
def test_words_follow_the_rules(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("... !", 0),
        ("I like cats", 1),
        ("I like cats. Dogs too", 2),
        ("Wait... What?! No!", 3),
        ('"Stop!" said Tom. He ran.', 2),
        ('"Stop!" Tom said. He ran.', 3),
        ("“Why?” she asked… “Because.”", 2),
        ("Mr. Fox met Mrs. Hen and Dr. Owl. St. Nick came.", 2),
        ("He said mr. That was it... MMr. Then", 4),
        ("It cost 3.5 coins at www.example.org. Wow.", 2),
        ("he ran. then he hid.", 2),
    ],
)
def test_sentences_follow_the_rules(text: str, expected: int) -> None:
    assert sentences(text) == expected


@settings(deadline=None)
@given(story_like)
def test_words_and_sentences_equal_the_patterns(text: str) -> None:
    assert words(text) == words_by_pattern(text)
    assert sentences(text) == sentences_by_pattern(text)


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_a_batch_is_its_stories_one_by_one(texts: list[str]) -> None:
    batch = pack(texts)
    found = split_words(batch)
    spans = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    each = [[found.vocabulary[i] for i in found.ids[a:b]] for a, b in spans]
    assert each == [words(text) for text in texts]
    np.testing.assert_array_equal(count_sentences(batch), [sentences(text) for text in texts])


def test_real_stories_equal_the_patterns(real_stories: list[str]) -> None:
    for text in real_stories:
        assert words(text) == words_by_pattern(text)
        assert sentences(text) == sentences_by_pattern(text)


def test_hostile_text_has_words_and_sentences_or_neither(hostile: str) -> None:
    assert (len(words(hostile)) > 0) == (sentences(hostile) > 0)
