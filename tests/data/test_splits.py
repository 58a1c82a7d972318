"""Splits: which texts are one story, which are held out, which two splits share."""

import hashlib
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyohem.data.corpus import Story
from tinyohem.data.parts import (
    HOLDOUT_EVERY,
    count_shared,
    held_out,
    holdout_limit,
    not_held_out,
)
from tinyohem.data.story_hash import story_hash

TEXTS = st.text(max_size=30) | st.text(" \t\n\x1c\x1fAaBb.", max_size=30)


class TestSameStory:
    @pytest.mark.parametrize(
        "other",
        [
            "ONCE, A CAFÉ SHUT.",
            "  once, a\n\ncafé\tshut.\r\n",
            "Once, a cafe\u0301 shut.",  # decomposed
            "Once,\u00a0a café\u2003shut.",
            "\ufeffOnce, a ca\u00adfé shut.\u200b",
            "\u2066Once,\u2069 a caf\u034fé\ufe0f shut.\u061c",
            "Ｏｎｃｅ， a café shut.",  # full width
        ],
    )
    def test_white_space_case_and_unicode_spelling_make_the_same_story(self, other: str) -> None:
        assert story_hash("Once, a café shut.") == story_hash(other)

    @pytest.mark.parametrize(
        "other", ["Once, a cafe shut.", "Once, a café shut!", "Once a café shut.", ""]
    )
    def test_letters_accents_and_marks_make_another_story(self, other: str) -> None:
        assert story_hash("Once, a café shut.") != story_hash(other)

    @pytest.mark.parametrize(("upper", "lower"), [("STRASSE", "straße"), ("ΟΔΟΣ", "οδος")])
    def test_case_is_folded_as_unicode_defines(self, upper: str, lower: str) -> None:
        assert story_hash(upper) == story_hash(lower)

    @given(TEXTS)
    @example("\x00 A\x1fb")
    def test_the_hash_follows_its_definition_for_any_text(self, text: str) -> None:
        """D146 of the Unicode Standard, transcribed; the code has a shortcut for ASCII."""
        regex = pytest.importorskip("regex")
        nfkd = unicodedata.normalize("NFD", text)
        for _ in range(2):
            nfkd = unicodedata.normalize("NFKD", nfkd.casefold())
        plain = regex.sub(r"\p{Default_Ignorable_Code_Point}", "", "".join(nfkd.split()))
        digest = hashlib.blake2b(plain.encode(), digest_size=8).digest()
        assert story_hash(text) == int.from_bytes(digest, "little")


class TestHoldout:
    @given(st.lists(st.sampled_from([f"Story {n}." for n in range(300)]), min_size=1, max_size=400))
    def test_no_copy_is_on_both_sides_and_no_story_is_lost(self, texts: list[str]) -> None:
        texts = [text.upper() if row % 3 else text for row, text in enumerate(texts)]
        stories = [Story(row, text) for row, text in enumerate(texts)]
        limit = holdout_limit(stories)
        valid = [story_hash(s.text) for s in held_out(stories, limit)]
        train = [story_hash(s.text) for s in not_held_out(stories, limit)]
        everything = Counter(map(story_hash, texts))
        assert valid
        assert max(Counter(valid).values()) == 1
        assert not set(valid) & set(train)
        assert Counter(train) == Counter({h: n for h, n in everything.items() if h not in valid})

    def test_one_story_in_fifty_is_held_out(self) -> None:
        stories = [Story(row, f"This is story {row}.") for row in range(20_000)]
        count = len(list(held_out(stories, holdout_limit(stories))))
        expected = 20_000 / HOLDOUT_EVERY
        assert abs(count - expected) < 4 * np.sqrt(expected)

    def test_holding_out_does_not_depend_on_order_or_other_stories(self) -> None:
        stories = [Story(row, f"This is story {row}.") for row in range(2_000)]
        more = [*reversed(stories), *(Story(0, f"Another, {row}.") for row in range(500))]
        first = {s.text for s in held_out(stories, holdout_limit(stories))}
        second = {s.text for s in held_out(more, holdout_limit(more))}
        assert first == {text for text in second if text.startswith("This")}

    def test_a_small_corpus_holds_out_its_lowest_hash(self) -> None:
        texts = ["One.", "Two.", "Three."]
        limit = 2**64 // HOLDOUT_EVERY
        assert min(map(story_hash, texts)) > limit
        stories = [Story(row, text) for row, text in enumerate([*texts, "one."])]
        found = [s.text for s in held_out(stories, holdout_limit(stories))]
        assert found == [min(texts, key=story_hash)]


@given(st.lists(st.integers(0, 60)), st.lists(st.integers(0, 60), min_size=1))
@example([], [3])
def test_shared_stories_are_counted_with_their_copies(train: list[int], valid: list[int]) -> None:
    found = count_shared(np.array(train, dtype=np.uint64), np.array(valid, dtype=np.uint64))
    assert found == sum(story in train for story in valid)
