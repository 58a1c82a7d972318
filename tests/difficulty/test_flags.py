import numpy as np
import pytest

from tinyohem.difficulty.flags import Flag
from tinyohem.difficulty.score_batch import ScoringRules, score_batch

LONG = "The cat sat on the mat. " * 10


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (LONG, ""),
        (" \n", "empty"),
        ("", "empty"),
        ("🎉🎉", "no_words,short,unfinished"),
        ("Cat", "few_words,short,unfinished"),
        ("A cat. " * 20, "few_words"),
        ("A cat. " * 25, ""),
        (LONG + "And then", "unfinished"),
        (LONG + '“The end!”)"\n', ""),
        (LONG + "The end…", ""),
        (LONG + "It’s a big — dog, Zoë.", ""),
        (LONG + "The end 。", ""),
        (LONG + "The end!\u200b ❤️", ""),
        (LONG + "Itâ€™s a dog.", "mojibake"),
        (LONG + "It\ufffds a dog.", "mojibake"),
        ("Кот сидит на коврике. " * 13, "not_latin"),
        ("고양이가 매트에 앉았다. " * 17, "not_latin"),
        ("我的猫坐在垫子上。" * 12, "not_latin"),
        ("Ça alors, un château fort à Übersee! " * 8, ""),
        ("abc где. " * 25, ""),  # not most
        ("abc где д. " * 25, "not_latin"),
        (LONG + "The end.<|endoftext|>", "unfinished,stray_end"),
    ],
)
def test_labels(text: str, label: str) -> None:
    assert Flag(int(score_batch([text], ScoringRules())["flags"][0])).label == label


def test_hostile_text_is_scored_or_undefined_and_flagged(hostile: str) -> None:
    scores = score_batch([hostile], ScoringRules())
    has_words = scores["words"][0] > 0
    flags = Flag(int(scores["flags"][0]))
    assert np.isnan(scores["mtld"][0]) != has_words
    is_english = has_words and Flag.NOT_LATIN not in flags
    assert np.isnan(scores["flesch_reading_ease"][0]) != is_english
    assert (Flag.EMPTY in flags or Flag.NO_WORDS in flags) != has_words


def test_the_reading_ease_is_undefined_where_most_letters_are_not_latin() -> None:
    scores = score_batch(["Кот сидит. A cat.", "A big cat sat. Кот."], ScoringRules())
    assert np.isnan(scores["flesch_reading_ease"]).tolist() == [True, False]
    assert scores["words"].tolist() == [4, 5]
    assert scores["sentences"].tolist() == [2, 2]
    assert np.isfinite(scores["mtld"]).all()
