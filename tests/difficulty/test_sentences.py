import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data.orthography import normalise
from tinyohem.difficulty.sentences import count_sentences, goes_on_after_dot, sentences
from tinyohem.difficulty.text import pack, words

# The rules of the module docstring once more, as a pattern over one normalised text.
END = re.compile(
    r"(?P<run>[.!?]++)"
    r"(?![^\W_])"  # a letter or digit follows at once
    r"(?! [.!?])"  # the next run decides
    r"(?![\"'] [a-zßé])"  # the sentence goes on after the quote
    r"(?!(?:(?<=\.\.)|(?<=\. \.)) [a-zßé])"  # or after the ellipsis
)


def sentences_by_pattern(text: str) -> int:
    text = normalise(text)
    parts, start = [], 0
    for end in END.finditer(text):
        one_dot = end["run"] == "." and re.search(r"[^\W_]$", text[: end.start()])
        before = text[: end.start()].encode("utf-8", "replace")[-64:].decode(errors="ignore")
        after = text[end.end() :].encode("utf-8", "replace")[:48].decode(errors="ignore")
        if not (one_dot and goes_on_after_dot(before, after)):
            parts.append(text[start : end.end()])
            start = end.end()
    return sum(bool(re.search(r"[^\W_]", part)) for part in [*parts, text[start:]])


story_like = st.lists(
    st.sampled_from(
        [
            *"aZé9'\"“’.!?… \n-_",
            *("Mr.", "Mrs.", " said", "St", '." h', "3.5", "ß", "e\u0301", "🎉", ". ", " p.m. "),
            *(" I. ", " A. ", " e.g. ", "U.S.", " etc.", " He ", " Tom ", "\n1. ", "No. ", "At "),
        ]
    ),
    max_size=30,
).map("".join)


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
        ("«Arrêtez !» élan said. “Stop!” émile said.", 2),
        ("He said mr. That was it... MMr. Then", 4),
        ("It cost 3.5 coins at www.example.org. Wow.", 2),
        ("he ran. then he hid.", 2),
        ("我喜欢猫。我跑！你呢？", 3),
        ("यह बिल्ली है। वह दौड़ी।", 2),
        ("هل تحب القطط؟ نعم.", 2),
    ],
)
def test_sentences_follow_the_rules(text: str, expected: int) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("At 5 p.m. Mr. Brown met Prof. Green and Dr. Lee, e.g. for tea.", 1),
        ("I got up at 5 p.m. Then I ate.", 2),
        ("I got up at 5 p.m. Tom got up at 6 a.m., as he likes to.", 2),
        ("At 5 a.m. Mr. Smith left. He came back at 6 P.M. Mr. Smith then slept.", 3),
        ("At 5 p.m. I ate. It was 5 p. m. when I came.", 2),
        ("Mr. Fox met Mrs. Hen, Ms. Ant and Dr. Owl. St. Nick came.", 2),
        ("MR. FOX RAN. 'Mr. Fox ran,' he said.", 2),
        ("Capt. Hook saw Mt. Blue. Rev. Lee and Sgt. Day did not.", 2),
        ("J. R. R. Tolkien wrote it. J.R.R. Tolkien did. George W. Bush read it.", 3),
        ("É. Zola came. This is Samuel L. He is ten.", 3),
        ("Tom and I. We ran.", 2),
        ("It was a big, up-side X. Tim saw the letter S. Repeat after me.", 3),
        ("I read a book by J. Smith. We met the A. Brown.", 3),
        ("She lives in the U.S. Her dad is in the U.S. Army.", 2),
        ("Tom Jr. ran, and Tom Sr. sat with Green Inc. Tom Jr. He is big.", 2),
        ("She has a Ph.D. in cats. He has a Ph.D. He is old.", 3),
        ("We saw cats, dogs, etc. We ran. Cats, dogs, etc. are fun.", 3),
        ("It is Red vs. Blue, i.e. us and them.", 1),
        ("1. Wash your hands. 2. Sit down. 10. Eat.", 3),
        ("We need:\n1. Flour.\n2. Milk.\na. Cold.\nb. Fresh.\niii. White.", 5),
        ("He is 5. Tom is 6. It cost 3.50. It was dear. Call 911. He did.", 6),
        ("No. 5 is alive. No. He is not. See p. 5 and fig. 3.", 4),
        ("She came on Jan. 5. I met Jan. She was kind.", 3),
        ("It's. Don't. The dog's. He's.", 4),
        ("I saw... a cat. Wait. . . what? Well... Then he ran. Oh… and me.", 5),
        ('He said, "Come at 5 p.m." Tom came. He said, "Come at 5 p.m." and left.', 3),
    ],
)
def test_abbreviations_initials_and_lists_counted_by_hand(text: str, expected: int) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(("quote", "end"), ['""', "“”", "„“", "«»", "''", "‘’", "「」", "＂＂"])
def test_quotes_of_every_make(quote: str, end: str) -> None:
    assert sentences(f"{quote}Stop!{end} said Tom. He ran.") == 2


@settings(deadline=None)
@given(story_like)
def test_sentences_equal_the_pattern(text: str) -> None:
    assert sentences(text) == sentences_by_pattern(text)


@settings(deadline=None)
@given(st.lists(st.text(max_size=40) | story_like, max_size=8))
def test_a_batch_is_its_stories_one_by_one(texts: list[str]) -> None:
    np.testing.assert_array_equal(count_sentences(pack(texts)), [sentences(t) for t in texts])


def test_real_stories_equal_the_pattern(real_stories: list[str]) -> None:
    for text in real_stories:
        assert sentences(text) == sentences_by_pattern(text)


def test_hostile_text_has_words_and_sentences_or_neither(hostile: str) -> None:
    assert (len(words(hostile)) > 0) == (sentences(hostile) > 0)
