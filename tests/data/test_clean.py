"""Cleaning: what is repaired, what is dropped and why, and that the counts add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.data.clean import (
    EMPTY,
    MARKER,
    NO_BEGINNING,
    NO_END,
    REPEATED,
    RULES,
    TEXT,
    VALIDATION,
    Cleaning,
    clean_stories,
)
from tinyohem.data.corpus import Story
from tinyohem.data.story_hash import story_hash
from tinyohem.data.tokenizer import END_OF_TEXT


def clean(*texts: str, validation: set[int] | None = None) -> tuple[list[Story], Cleaning]:
    cleaning = Cleaning()
    stories = [Story(row, text) for row, text in enumerate(texts)]
    return list(clean_stories(stories, cleaning, validation or ())), cleaning


def counts(cleaning: Cleaning) -> dict[str, int]:
    """Return what is not 0."""
    every = {"read": cleaning.read, "kept": cleaning.kept, **cleaning.repaired, **cleaning.dropped}
    return {name: count for name, count in every.items() if count}


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
    kept, cleaning = clean(text)
    assert kept == [Story(0, text)]
    assert counts(cleaning) == {"read": 1, "kept": 1}


@pytest.mark.parametrize(
    "text",
    [
        "They were happy. The End",
        "They were happy.\n\nTHE END",
        "They were happy. ~ the end ~",
        "They were happy.\n**The End of the story**",
        "They were happy!\nFin",
        "It was so much fun 😊",
        "She loves him ❤️",
        "They are a family 👨‍👩‍👧",
        "Well done 👍🏽",
        "They went home 🇫🇷",
        'She smiled and said, "Bye 😊"',
        "They were friends :)",
        "Mom loves you <3",
        "He shared. Moral: be kind",
        "He shared.\n\nMoral of the story: share your toys, and be kind",
        "He shared. The moral of the story is to be kind",
        "He shared.\nLesson: be kind",
        "他回家了。",
        "「他回家了。」",
        "वह घर गया।",
    ],
)
def test_an_end_need_not_be_a_full_stop(text: str) -> None:
    assert [story.text for story in clean(text)[0]] == [text]


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a",
        'He said, "I',
        "and then,",
        "Oh no:",
        '"',
        "*",
        "They walked to the end",
        "It was a shark's fin",
        "The train left at 12:33",
        "Tom learned a moral",
        "The moral",
        "And so (",
    ],
)
def test_a_story_that_breaks_off_is_dropped(text: str) -> None:
    kept, cleaning = clean(text)
    assert kept == []
    assert counts(cleaning) == {"read": 1, NO_END: 1}


@pytest.mark.parametrize(
    "text",
    [
        "u don't have to be scared of the dog.\" The mole felt safe.",  # as real files begin
        "to the park. She was glad.",
        ", said Tom. He was glad.",
    ],
)
def test_a_fragment_that_begins_inside_a_sentence_is_dropped(text: str) -> None:
    kept, cleaning = clean(text, "One day, Tom ran.")
    assert [story.row for story in kept] == [1]
    assert counts(cleaning) == {"read": 2, "kept": 1, NO_BEGINNING: 1}


@pytest.mark.parametrize(
    "text",
    [
        "once upon a time, Lily ran. She was glad.",
        "a dog ran. it was glad.",  # small letters throughout
        '"Hello," said Tom. He was glad.',
        "3 dogs ran. They were glad.",
        "…and so Tom ran. He was glad.",
        "小猫跑了。",
    ],
)
def test_a_beginning_need_not_be_a_capital(text: str) -> None:
    assert [story.text for story in clean(text)[0]] == [text]


def test_mojibake_is_repaired() -> None:
    kept, cleaning = clean("â€œLook,â€\x9d said Tim.", "The cafÃ© was shut.", "It was fine.")
    assert kept == [
        Story(0, '"Look," said Tim.'),
        Story(1, "The café was shut."),
        Story(2, "It was fine."),
    ]
    assert counts(cleaning) == {"read": 3, "kept": 3, TEXT: 2}


def test_markers_inside_a_story_are_removed() -> None:
    kept, cleaning = clean(
        f"{END_OF_TEXT}One.{END_OF_TEXT}", f"Two.{END_OF_TEXT}Three.", f" {END_OF_TEXT} ", "Four."
    )
    assert kept == [Story(0, "One."), Story(1, "Two.\nThree."), Story(3, "Four.")]
    assert counts(cleaning) == {"read": 4, "kept": 3, MARKER: 3, EMPTY: 1}


def test_a_marker_that_the_repair_reveals_is_removed() -> None:
    kept, cleaning = clean("One.＜｜endoftext｜＞")
    assert kept == [Story(0, "One.")]
    assert counts(cleaning) == {"read": 1, "kept": 1, TEXT: 1, MARKER: 1}


def test_only_the_first_of_equal_stories_stays() -> None:
    kept, cleaning = clean("One.", "Two.", "One.", f"One.{END_OF_TEXT}", "ONE .", "Ones.")
    assert [story.row for story in kept] == [0, 1, 5]
    assert counts(cleaning) == {"read": 6, "kept": 3, MARKER: 1, REPEATED: 3}


def test_validation_stories_are_taken_out_however_they_are_spelt() -> None:
    kept, cleaning = clean("One.", "“Two,” he said.", validation={story_hash('"two," HE said.')})
    assert [story.row for story in kept] == [0]
    assert counts(cleaning) == {"read": 2, "kept": 1, TEXT: 1, VALIDATION: 1}


def test_stories_stream_and_the_counts_follow() -> None:
    cleaning = Cleaning()
    stream = clean_stories((Story(row, f"Story {row}.") for row in range(10**9)), cleaning)
    assert [next(stream).row for _ in range(3)] == [0, 1, 2]
    assert (cleaning.read, cleaning.kept) == (3, 3)


def test_every_rule_is_shown_with_its_count_and_at_most_three_examples() -> None:
    texts = [f"Tom {name} went to the" for name in ("A", "B", "C", "D")]
    long = "Sue ran " + "and ran " * 20 + "to the"
    _, cleaning = clean("One.", "one.", "", long, *texts)
    shown = list(cleaning.lines())
    assert shown[0] == "8 stories read, 1 kept"
    assert shown[2:] == [
        "dropped: 1 (empty)",
        "dropped: 0 (begins inside a sentence)",
        f'dropped: 5 (ends inside a sentence): "…{long[-40:]}", "{texts[0]}", "{texts[1]}"',
        'dropped: 1 (repeats an earlier story): "one."',
        "dropped: 0 (is a validation story)",
    ]


@given(st.lists(st.text('ab.!" <|>' + "é\u2019\x00\r\n", max_size=12) | st.just(END_OF_TEXT)))
def test_counts_add_up_and_a_clean_corpus_stays(texts: list[str]) -> None:
    kept, cleaning = clean(*texts)
    assert cleaning.read == len(texts) == cleaning.kept + sum(cleaning.dropped.values())
    assert set(cleaning.dropped) <= set(RULES)
    assert cleaning.kept == len(kept) == len({story_hash(story.text) for story in kept})
    again, second = clean(*(story.text for story in kept))
    assert [story.text for story in again] == [story.text for story in kept]
    assert counts(second) == ({"read": len(kept), "kept": len(kept)} if kept else {})
