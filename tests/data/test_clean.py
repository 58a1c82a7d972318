"""Cleaning: what is repaired, what is dropped and why, and that the counts add up."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.data.clean import CleanCounts, clean_stories
from tinyohem.data.corpus import Story
from tinyohem.data.tokenizer import END_OF_TEXT


def clean(*texts: str) -> tuple[list[Story], CleanCounts]:
    counts = CleanCounts()
    stories = [Story(row, text) for row, text in enumerate(texts)]
    return list(clean_stories(stories, counts)), counts


@pytest.mark.parametrize(
    "text",
    [
        "The end.",
        "Really?",
        "Yes!",
        'He said, "Hello."',
        "(It was fun.)",
        "And so on…",
        "'\"Bye!\"'",
        "&lt; is what Tom wrote.",
    ],
)
def test_a_good_story_passes_as_it_is(text: str) -> None:
    kept, counts = clean(text)
    assert kept == [Story(0, text)]
    assert counts == CleanCounts(read=1, kept=1)


@pytest.mark.parametrize("text", ["Once upon a", 'He said, "I', "and then,", "Oh no:", '"', "*"])
def test_a_story_that_breaks_off_is_dropped(text: str) -> None:
    assert clean(text) == ([], CleanCounts(read=1, dropped_cut_off=1))


def test_mojibake_is_repaired() -> None:
    kept, counts = clean("â€œLook,â€\x9d said Tim.", "The cafÃ© was shut.", "It was fine.")
    assert kept == [
        Story(0, '"Look," said Tim.'),
        Story(1, "The café was shut."),
        Story(2, "It was fine."),
    ]
    assert counts == CleanCounts(read=3, kept=3, repaired_text=2)


def test_markers_are_taken_out() -> None:
    kept, counts = clean(
        f"{END_OF_TEXT}One.{END_OF_TEXT}", f"Two.{END_OF_TEXT}Three.", f" {END_OF_TEXT} ", "Four."
    )
    assert kept == [Story(0, "One."), Story(1, "Two.\nThree."), Story(3, "Four.")]
    assert counts == CleanCounts(read=4, kept=3, repaired_markers=3, dropped_empty=1)


def test_a_marker_that_the_repair_brings_out_is_taken_out_too() -> None:
    kept, counts = clean("One.＜｜endoftext｜＞")
    assert kept == [Story(0, "One.")]
    assert counts == CleanCounts(read=1, kept=1, repaired_text=1, repaired_markers=1)


def test_only_the_first_of_equal_stories_stays() -> None:
    kept, counts = clean("One.", "Two.", "One.", f"One.{END_OF_TEXT}", "one.")
    assert [story.row for story in kept] == [0, 1, 4]
    assert counts == CleanCounts(read=5, kept=3, repaired_markers=1, dropped_duplicate=2)


def test_an_empty_story_is_counted_once() -> None:
    assert clean("", "") == ([], CleanCounts(read=2, dropped_empty=2))


def test_stories_stream_and_the_counts_follow() -> None:
    counts = CleanCounts()
    stream = clean_stories((Story(row, f"Story {row}.") for row in range(10**9)), counts)
    assert [next(stream).row for _ in range(3)] == [0, 1, 2]
    assert (counts.read, counts.kept) == (3, 3)


@given(st.lists(st.text('ab.!" <|>' + "é\u2019\x00\r\n", max_size=12) | st.just(END_OF_TEXT)))
def test_counts_add_up_and_a_clean_corpus_stays(texts: list[str]) -> None:
    kept, counts = clean(*texts)
    numbers = dataclasses.asdict(counts)
    dropped = sum(number for name, number in numbers.items() if name.startswith("dropped"))
    assert counts.read == len(texts) == counts.kept + dropped
    assert counts.kept == len(kept) == len({story.text for story in kept})
    again, second = clean(*(story.text for story in kept))
    assert [story.text for story in again] == [story.text for story in kept]
    assert second == CleanCounts(read=len(kept), kept=len(kept))
