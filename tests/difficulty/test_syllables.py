import unicodedata

import pytest

from tinyohem.difficulty.syllables import _exceptions, count_by_rule, count_syllables


@pytest.mark.parametrize(
    ("word", "syllables"),
    [
        ("cat", 1),
        ("make", 1),
        ("little", 2),
        ("walked", 1),
        ("wanted", 2),
        ("settled", 2),
        ("wishes", 2),
        ("makes", 1),
        ("didn't", 2),
        ("don't", 1),
        ("carefully", 3),
        ("playing", 2),
        ("mia", 2),
        ("beautiful", 3),
        ("zzz", 1),
        ("3", 1),
        ("é", 1),
        ("rosé", 2),
        ("anaïs", 3),
    ],
)
def test_the_rule_counts_by_spelling(word: str, syllables: int) -> None:
    assert count_by_rule(word) == syllables


@pytest.mark.parametrize(
    ("word", "syllables"),
    [("something", 2), ("people", 2), ("idea", 3), ("every", 3), ("quiet", 2), ("mr", 2)],
)
def test_the_dictionary_has_the_last_word(word: str, syllables: int) -> None:
    assert count_by_rule(word) != syllables or word == "every"
    assert count_syllables(word) == syllables


# Counted by hand; a dictionary's hyphens: ré-su-mé, fi-an-cée, ja-la-pe-ño.
ACCENTED = """
    crème née fête déjà:2 café:2 naïve:2 rosé:2 touché:2 olé:2 cliché:2 façade:2 über:2 élan:2
    éclair:2 entrée:2 purée:2 soufflé:2 sautéed:2 cafés:2 josé:2 renée:2 andré:2 señor:2 noël:2
    zoë:2 zoé:2 chloë:2 häuser:2 œuvre:2 résumé:3 fiancé:3 fiancée:3 piñata:3 protégé:3
    beyoncé:3 pokémon:3 citroën:3 anaïs:3 coöperate:4 jalapeño:4 señorita:4 o’clock:2 don’t
"""


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("pair", ACCENTED.split())
def test_words_with_accents_counted_by_hand(pair: str, form: str) -> None:
    word, _, syllables = pair.partition(":")
    assert count_syllables(unicodedata.normalize(form, word)) == int(syllables or 1)


@pytest.mark.parametrize("word", ["привет", "猫", "γάτα", "قطة"])
def test_a_word_of_another_script_has_one(word: str) -> None:
    assert count_syllables(word) == 1


def test_every_exception_is_one() -> None:
    exceptions = _exceptions()
    assert len(exceptions) > 11_000
    assert all(count_by_rule(word) != count > 0 for word, count in exceptions.items())


def test_a_megabyte_without_a_space_is_counted_and_not_kept() -> None:
    from tinyohem.difficulty.syllables import _count

    before = _count.cache_info().currsize
    assert count_syllables("ba" * 500_000) == 500_000
    assert _count.cache_info().currsize == before
