import importlib.resources
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.difficulty import mtld as module
from tinyohem.difficulty.mtld import MtldRule, mtld, mtld_of_each
from tinyohem.difficulty.text import Words, pack, split_words, words
from tinyohem.errors import InputError

LEXICAL_RICHNESS = MtldRule()
LEXICAL_DIVERSITY = MtldRule(closing="below", min_segment=10)

word_lists = st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=200)
rules = st.builds(
    MtldRule,
    threshold=st.sampled_from([0.5, 0.66, 0.72, 0.75]),
    closing=st.sampled_from(["at_or_below", "below"]),
    min_segment=st.sampled_from([1, 2, 10]),
)


def by_definition(tokens: list[str], rule: MtldRule) -> float:
    """Return MTLD by counting the types of each segment anew."""

    def factors(tokens: list[str]) -> float:
        complete, start, ratio = 0, 0, 1.0
        for end in range(1, len(tokens) + 1):
            ratio = len(set(tokens[start:end])) / (end - start)
            if rule.closing == "at_or_below":
                closes = ratio <= rule.threshold
            else:
                closes = ratio < rule.threshold and end < len(tokens)
            if closes and end - start >= rule.min_segment:
                complete, start, ratio = complete + 1, end, 1.0
        return complete + (1 - ratio) / (1 - rule.threshold)

    both = [factors(tokens), factors(tokens[::-1])]
    return sum(len(tokens) / found if found else len(tokens) for found in both) / 2


@pytest.fixture(scope="session")
def lexical_richness() -> Callable[[list[str]], float]:
    package = pytest.importorskip("lexicalrichness")

    def oracle(tokens: list[str]) -> float:
        text = package.LexicalRichness("-", preprocessor=None, tokenizer=lambda _: tokens)
        return float(text.mtld(threshold=0.72))

    return oracle


@pytest.fixture(scope="session")
def lexical_diversity() -> Callable[[list[str]], float]:
    # The package finds its data through pkg_resources, which setuptools no longer brings.
    stub = types.ModuleType("pkg_resources")
    stub.resource_filename = lambda package, name: str(importlib.resources.files(package) / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pkg_resources", stub)
        package = pytest.importorskip("lexical_diversity.lex_div")
    return lambda tokens: float(package.mtld(tokens))


def test_a_hand_counted_text() -> None:
    # Forwards "a b a a" falls to 2/4 at its fourth word, and "b c" repeats nothing: one factor.
    # Backwards "c b a a b" falls to 3/5, and "a" is left: one factor.
    assert mtld(list("abaabc"), MtldRule(threshold=0.6)) == pytest.approx(6.0)
    # Backwards "c b a a" is still at 3/4 = 0.75; "b" makes 3/5; the last "a" leaves no part.
    assert mtld(list("abab"), MtldRule(threshold=0.5)) == pytest.approx(4.0)


def test_no_words_is_none_and_all_unique_is_the_length() -> None:
    assert mtld([]) is None
    assert mtld(["cat"]) == 1
    assert mtld(list("abcdefgh")) == 8
    assert mtld(list("abcdefgh"), LEXICAL_DIVERSITY) == 8


@settings(deadline=None)
@given(word_lists, rules)
def test_equals_the_definition(tokens: list[str], rule: MtldRule) -> None:
    assert mtld(tokens, rule) == pytest.approx(by_definition(tokens, rule), rel=1e-12)


@settings(deadline=None)
@given(st.lists(word_lists | st.just([]), max_size=12), rules)
def test_lanes_equal_the_loop(texts: list[list[str]], rule: MtldRule) -> None:
    together = _intern(texts)
    side_by_side = mtld_of_each(together, rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_LANE_WORDS", 0)
        one_by_one = mtld_of_each(together, rule)
        patch.setattr(module, "_MAX_LANE_WORDS", 50)
        mixed = mtld_of_each(together, rule)
    np.testing.assert_array_equal(side_by_side, one_by_one)
    np.testing.assert_array_equal(side_by_side, mixed)


@settings(deadline=None)
@given(word_lists)
def test_equals_lexical_richness(
    lexical_richness: Callable[[list[str]], float], tokens: list[str]
) -> None:
    assert mtld(tokens, LEXICAL_RICHNESS) == pytest.approx(lexical_richness(tokens), abs=1e-9)


@settings(deadline=None)
@given(word_lists)
def test_equals_lexical_diversity(
    lexical_diversity: Callable[[list[str]], float], tokens: list[str]
) -> None:
    expected = lexical_diversity(tokens) or len(tokens)  # it returns 0 where no word repeats
    assert mtld(tokens, LEXICAL_DIVERSITY) == pytest.approx(expected, abs=1e-9)


def test_equals_both_on_made_up_stories(
    made_up: list[str],
    lexical_richness: Callable[[list[str]], float],
    lexical_diversity: Callable[[list[str]], float],
) -> None:
    _compare_with_both(made_up[:100], lexical_richness, lexical_diversity)


def test_equals_both_on_real_stories(
    real_stories: list[str],
    lexical_richness: Callable[[list[str]], float],
    lexical_diversity: Callable[[list[str]], float],
) -> None:
    _compare_with_both(real_stories, lexical_richness, lexical_diversity)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0}, {"threshold": 1}, {"closing": "at"}, {"min_segment": 0}]
)
def test_a_wrong_rule_is_an_input_error(wrong: dict) -> None:
    with pytest.raises(InputError):
        MtldRule(**wrong)


def _compare_with_both(texts: list[str], richness: Callable, diversity: Callable) -> None:
    found = split_words(pack(texts))
    tokens = [words(text) for text in texts]
    np.testing.assert_allclose(
        mtld_of_each(found, LEXICAL_RICHNESS), [richness(each) for each in tokens], atol=1e-9
    )
    expected = [diversity(each) or len(each) for each in tokens]
    np.testing.assert_allclose(mtld_of_each(found, LEXICAL_DIVERSITY), expected, atol=1e-9)


def _intern(texts: list[list[str]]) -> Words:
    known: dict[str, int] = {}
    ids = [known.setdefault(word, len(known)) for text in texts for word in text]
    offsets = np.cumsum([0, *map(len, texts)])
    return Words(np.array(ids, np.int32), offsets, list(known))
