import numpy as np
import pytest

from tinyohem.difficulty.batch import ScoringRules, score_batch
from tinyohem.difficulty.flags import Flag

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
        (LONG + "Itâ€™s a dog.", "mojibake"),
        (LONG + "It\ufffds a dog.", "mojibake"),
        (LONG + "The end.<|endoftext|>", "unfinished,stray_end"),
    ],
)
def test_labels(text: str, label: str) -> None:
    assert Flag(int(score_batch([text], ScoringRules())["flags"][0])).label == label


def test_hostile_text_is_scored_or_undefined_and_flagged(hostile: str) -> None:
    scores = score_batch([hostile], ScoringRules())
    has_words = scores["words"][0] > 0
    assert np.isnan(scores["mtld"][0]) == np.isnan(scores["flesch_reading_ease"][0]) != has_words
    flags = Flag(int(scores["flags"][0]))
    assert (Flag.EMPTY in flags or Flag.NO_WORDS in flags) != has_words
