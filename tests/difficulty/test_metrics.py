import math
import unicodedata
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.difficulty.metrics import (
    CompressionRule,
    compressed_over_original,
    compression_ratios,
    fertility,
    flesch_reading_ease,
    windowed_ratio,
)
from tinyohem.difficulty.score_batch import ScoringRules, score_batch
from tinyohem.difficulty.syllables import count_syllables
from tinyohem.errors import InputError


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=2000))
def test_the_ratio_is_that_of_a_whole_zstd_frame(data: bytes) -> None:
    ratio = compressed_over_original(data, zstandard.ZstdCompressor(level=3))
    assert ratio == len(zstandard.compress(data, level=3)) / len(data)


def test_no_bytes_have_no_ratio() -> None:
    assert math.isnan(compressed_over_original(b"", zstandard.ZstdCompressor()))
    assert math.isnan(windowed_ratio(b"", zstandard.ZstdCompressor(), 256))


def test_length_controls_measure_what_they_say() -> None:
    compressor = zstandard.ZstdCompressor(level=3)
    story = bytes(range(256)) + b"a" * 256 + b"b" * 255

    def measure(**rule) -> float:
        return compression_ratios([story], CompressionRule(**rule))[1][0]

    whole = compressed_over_original(story, compressor)
    assert measure(length_control="raw") == measure(length_control="residual") == whole
    assert measure(length_control="prefix", prefix_bytes=100) == compressed_over_original(
        story[:100], compressor
    )
    halves = [compressed_over_original(story[at : at + 256], compressor) for at in (0, 256)]
    assert measure(length_control="windows") == sum(halves) / 2
    assert windowed_ratio(story[:10], compressor, 256) == compressed_over_original(
        story[:10], compressor
    )


def test_zstd_and_zlib_rank_real_stories_alike(real_stories: list[str]) -> None:
    from scipy.stats import spearmanr

    encoded = [story.encode() for story in real_stories]
    zstd = compression_ratios(encoded, CompressionRule())[0]
    deflate = [len(zlib.compress(story, 6)) / len(story) for story in encoded]
    assert spearmanr(zstd, deflate).statistic > 0.97


@pytest.mark.parametrize(
    ("text", "words", "sentences", "syllables"),
    [
        ("The cat sat on the mat.", 6, 1, 6),
        # The lit-tle la-dy wan-ted some-thing beau-ti-ful why asked mis-ter Fox
        ('The little lady wanted something beautiful. "Why?" asked Mr. Fox.', 10, 2, 17),
        ("Cat", 1, 1, 1),
    ],
)
def test_flesch_of_hand_counted_texts(
    text: str, words: int, sentences: int, syllables: int
) -> None:
    scores = score_batch([text], ScoringRules())
    assert [scores[name][0] for name in ("words", "sentences", "syllables")] == [
        words,
        sentences,
        syllables,
    ]
    expected = 206.835 - 1.015 * words / sentences - 84.6 * syllables / words
    assert scores["flesch_reading_ease"][0] == pytest.approx(expected, abs=1e-12)


def test_flesch_and_fertility_without_words_are_nan() -> None:
    np.testing.assert_array_equal(flesch_reading_ease([0], [0], [0]), [np.nan])
    np.testing.assert_array_equal(fertility([3, 0, 5], [2, 0, 0]), [1.5, np.nan, np.nan])


def test_flesch_ranks_real_stories_as_textstat_does(
    real_stories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("textstat")
    from importlib import import_module

    from scipy.stats import spearmanr
    from textstat.backend.metrics._flesch_reading_ease import flesch_reading_ease as theirs

    class OurSyllables(dict):
        """Stands in for the dictionary that textstat would download: what differs is the rest."""

        def __missing__(self, word: str) -> list[list[str]]:
            return [["AA1"] * count_syllables(word.strip("'") or word)]

    counts = import_module("textstat.backend.counts._count_syllables")
    monkeypatch.setattr(counts, "get_cmudict", lambda _: OurSyllables())
    ours = score_batch(real_stories, ScoringRules())["flesch_reading_ease"]
    reference = np.array([theirs(story, "en_US") for story in real_stories])
    assert spearmanr(ours, reference).statistic >= 0.97
    assert np.mean(ours - reference) == pytest.approx(0.14, abs=0.05)


@pytest.mark.parametrize(
    "wrong", [{"length_control": "none"}, {"prefix_bytes": 0}, {"window_bytes": 0}]
)
def test_a_wrong_rule_is_an_input_error(wrong: dict) -> None:
    with pytest.raises(InputError):
        CompressionRule(**wrong)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_accents_count_as_the_letters_below_them(form: str) -> None:
    """The ca-fé is na-ïve: 4 words, 6 syllables."""
    text = unicodedata.normalize(form, "The café is naïve.")
    scores = score_batch([text, "The cafe is naive."], ScoringRules())
    assert scores["words"].tolist() == [4, 4]
    assert scores["syllables"].tolist() == [6, 6]
    np.testing.assert_allclose(scores["flesch_reading_ease"], 75.875, atol=1e-9)


UNSEEN = [
    "\u00ad",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\ufe0f",
    "\U000e0100",
    "\u200e",
]
PLAIN = "Don't stop: the café isn't open, said Zoë. The boys' dog can't come in at 5 o'clock!"


@pytest.mark.parametrize("unseen", UNSEEN, ids=ascii)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_invisible_characters_change_no_score(unseen: str, form: str) -> None:
    plain = unicodedata.normalize(form, PLAIN)
    between = unseen.join(plain)  # between letters and their accents too
    _assert_same_scores([between, f"{unseen}{plain}{unseen}", PLAIN])


@pytest.mark.parametrize("apostrophe", "’ʼ＇‘´`′ʹʻˈ‛\x92", ids=ascii)
def test_apostrophes_of_every_make_are_one(apostrophe: str) -> None:
    _assert_same_scores([PLAIN.replace("'", apostrophe), PLAIN])


def _assert_same_scores(texts: list[str]) -> None:
    scores = score_batch(texts, ScoringRules())
    for name in ("words", "sentences", "syllables", "mtld", "flesch_reading_ease"):
        assert len(set(scores[name])) == 1, name
