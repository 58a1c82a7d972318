"""The built-in sample corpus: distinct stories, deterministic, in correct English."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
import zstandard

from tinyohem.data.sample import stories as sample
from tinyohem.data.sample.stories import (
    SAMPLE_COUNTS,
    SAMPLE_FINGERPRINT,
    WORDS,
    sample_stories,
    tell,
)

# SHA-256 of the first 100 train stories. It changes with every change of the grammar, on purpose:
# a figure measured on the sample holds for one grammar only.
GOLDEN = "bb7eed2df371fa2d6e3c1068595f4f93d5cf3f038ad751ffacedc1addbb7e25d"
HASH_100 = (
    "import hashlib, itertools; from tinyohem.data.sample.stories import sample_stories as s;"
    "print(hashlib.sha256('|'.join(itertools.islice(s('train'), 100)).encode()).hexdigest())"
)


@pytest.fixture(scope="module")
def told() -> list[tuple[str, str]]:
    """(plot, story) of the whole train split."""
    return [tell("train", index) for index in range(SAMPLE_COUNTS["train"])]


@pytest.fixture(scope="module")
def train(told: list[tuple[str, str]]) -> list[str]:
    return [story for _, story in told]


def found(pattern: str, stories: list[str]) -> list[str]:
    """The first passages that match a pattern no story should match, with what surrounds them."""
    text = "\n\n".join(stories)
    matches = islice(re.finditer(pattern, text), 5)
    return [text[max(0, match.start() - 40) : match.end() + 40] for match in matches]


def test_all_stories_of_both_splits_are_distinct(train: list[str]) -> None:
    validation = list(sample_stories("validation"))
    assert (len(train), len(validation)) == (20_000, 500)
    assert (len(train), len(validation)) == (20_000, 500)
    assert len({*train, *validation}) == 20_500


def test_first_stories_are_golden(train: list[str]) -> None:
    assert hashlib.sha256("|".join(train[:100]).encode()).hexdigest() == GOLDEN


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_stories_do_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    output = subprocess.run(
        [sys.executable, "-c", HASH_100],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout.strip() == GOLDEN


def test_a_story_depends_on_split_and_index_only(train: list[str]) -> None:
    assert list(islice(sample_stories("train"), 30)) == train[:30]
    assert tell("train", 17)[1] == train[17]
    assert tell("validation", 17)[1] != train[17]


def test_fingerprint_changes_with_words_and_with_logic(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(SAMPLE_FINGERPRINT) == {"train", "validation"}
    assert SAMPLE_FINGERPRINT["train"] != SAMPLE_FINGERPRINT["validation"]
    assert sample._fingerprint("train") == SAMPLE_FINGERPRINT["train"]
    with monkeypatch.context() as patch:
        patch.setitem(sample.WORDS, "toy", WORDS["toy"] + ", rattle")
        assert sample._fingerprint("train") != SAMPLE_FINGERPRINT["train"]
    monkeypatch.setattr(sample, "polish", str.strip)
    assert sample._fingerprint("train") != SAMPLE_FINGERPRINT["train"]


def test_every_plot_occurs_about_as_often(told: list[tuple[str, str]]) -> None:
    counts = Counter(plot for plot, _ in told)
    assert len(counts) == 16
    assert min(counts.values()) > 1_100
    assert max(counts.values()) < 1_400


def test_story_lengths_are_those_of_short_stories(train: list[str]) -> None:
    words = [len(story.split()) for story in train]
    assert min(words) >= 80
    assert max(words) <= 250
    assert 2_900_000 < sum(words) < 3_400_000
    assert min(story.count("\n\n") for story in train) >= 3


def test_vocabulary_has_a_long_tail(train: list[str]) -> None:
    counts = Counter(re.findall(r"[a-z]+(?:'[a-z]+)?", "\n".join(train).lower()))
    assert len(counts) >= 1_500
    assert sum(count < 300 for count in counts.values()) >= 250
    assert counts["the"] > 100_000


def test_text_is_not_absurdly_compressible(train: list[str]) -> None:
    text = "\n\n".join(train).encode()
    ratio = len(text) / len(zstandard.ZstdCompressor(level=3).compress(text))
    # Measured: 6.06 over all 20,000 stories at level 3.
    assert 3 < ratio < 7
    sentences = re.split(r"(?<=[.!?\"])\s+", text.decode())
    assert len(set(sentences)) > 90_000


def test_no_trace_of_the_notation_is_left(train: list[str]) -> None:
    assert found(r"[\[\]{}<>|/_]|  | \n|\n | [.,!?]", train) == []


def test_articles_agree_with_the_next_sound(train: list[str]) -> None:
    assert found(r"\b[Aa] [aeiouAEIOU]", train) == []
    assert found(r"\b[Aa]n (?![aeiouAEIOU]|hour\b)", train) == []


def test_no_word_is_doubled_and_no_punctuation_piles_up(train: list[str]) -> None:
    assert found(r"\b(\w+) \1\b", train) == []
    assert found(r'[.,!?]{2}|[.,!?]"[.,!?]|\w"', train) == []


def test_sentences_start_with_a_capital(train: list[str]) -> None:
    assert found(r"[.!?] [a-z]", train) == []
    assert found(r'(?:^|\n\n)(?!"?[A-Z])', train) == []
    # A name or a new sentence is all that may carry a capital after a quoted comma.
    assert found(r'," (?:He|She|It|They|The|His|Her)\b', train) == []


def test_quotes_are_balanced_and_endings_punctuated(train: list[str]) -> None:
    paragraphs = [paragraph for story in train for paragraph in story.split("\n\n")]
    assert [text for text in paragraphs if text.count('"') % 2] == []
    assert [text for text in paragraphs if not re.search(r'[.!?]"?$', text)] == []


def test_names_agree_with_boy_and_girl(train: list[str]) -> None:
    names = {kid: set(re.split(r",\s+", WORDS[f"{kid}_name"].strip())) for kid in ("girl", "boy")}
    assert not names["girl"] & names["boy"]
    pairs = {pair for story in train for pair in re.findall(r"\b(girl|boy) named (\w+)", story)}
    assert len(pairs) == len(names["girl"]) + len(names["boy"])
    assert [(kid, name) for kid, name in pairs if name not in names[kid]] == []


def test_only_the_hero_has_a_parent_and_one_pronoun(train: list[str]) -> None:
    mixed = []
    for story in train:
        owners = set(re.findall(r"\b([Hh]is|[Hh]er) (?:mom|dad|grandma|grandpa)\b", story))
        parents = set(re.findall(r"\b(?:mom|dad|grandma|grandpa)\b", story.lower()))
        pronoun = {"girl": "her", "boy": "his"}
        hero = re.search(r"\b(girl|boy) named", story)
        expected = {pronoun[hero[1]]} if hero and story.index(hero[0]) < 90 else set()
        seen = {owner.lower() for owner in owners}
        if len(seen | expected) > 1 or len(parents) > 1:
            mixed.append(story)
    assert mixed == []


def test_the_toy_that_is_lost_is_found(told: list[tuple[str, str]]) -> None:
    for story in (story for plot, story in told if plot == "lost_toy"):
        toy = re.search(r"took the (.+?) to ", story)
        assert toy, story
        before, gone, after = story.partition(f"the {toy[1]} was gone!")
        assert gone, story
        assert toy[1] in before, story
        assert f"hugged the {toy[1]}" in after, story
