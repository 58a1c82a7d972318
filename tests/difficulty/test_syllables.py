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


def test_every_exception_is_one() -> None:
    exceptions = _exceptions()
    assert len(exceptions) > 11_000
    assert all(count_by_rule(word) != count > 0 for word, count in exceptions.items())


def test_a_megabyte_without_a_space_is_counted_and_not_kept() -> None:
    from tinyohem.difficulty.syllables import _count

    before = _count.cache_info().currsize
    assert count_syllables("ba" * 500_000) == 500_000
    assert _count.cache_info().currsize == before
