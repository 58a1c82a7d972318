"""The grammar behind the sample: notation, weights, articles."""

import re
from collections import Counter

import pytest

from tinyohem.data.sample.grammar import Teller, WordList, parse, polish
from tinyohem.data.sample.stories import PHRASES, PLOTS, WORDS

CAST = {
    *("hero", "friend", "parent", "kid", "friend_kid", "home", "elder", "hand"),
    *(f"{who}{case}" for who in ("", "friend_", "parent_") for case in ("he", "him", "his")),
}
LISTS = {
    "toy": WordList(["ball", "kite"]),
    "place": WordList(["the park/at"]),
    "mood": WordList(["glad", "proud"]),
}


def tell(template: str, seed: str = "0") -> str:
    return Teller(seed, LISTS).render(parse(template))


def test_a_slot_keeps_its_value_and_a_numbered_one_differs() -> None:
    for seed in map(str, range(20)):
        first, again, other = tell("{toy} {toy} {toy2}", seed).split()
        assert first == again
        assert {first, other} == {"ball", "kite"}


def test_fields_and_capitals() -> None:
    assert tell("{place.1} {place}. {Place.1} {Place}") == "at the park. At The park"
    assert tell("<Mood>", "0") in {"Glad", "Proud"}


def test_a_draw_is_fresh_and_choices_nest() -> None:
    assert len({tell("<mood><mood>", str(seed)) for seed in range(50)}) == 4
    assert {tell("[a|b[c|d]|]", str(seed)) for seed in range(80)} == {"a", "bc", "bd", ""}
    assert {tell("[a]", str(seed)) for seed in range(50)} == {"a", ""}


@pytest.mark.parametrize("bad", ["[a|b", "a]", "a|b", "{toy", "<mood", "a}b", "]["])
def test_a_bad_template_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="bad template near character"):
        parse(bad)


def test_early_entries_are_drawn_more_often() -> None:
    words = WordList([str(k) for k in range(16)])
    teller = Teller("weights", {"n": words})
    counts = Counter(teller.draw("n") for _ in range(20_000))
    total = sum(1 / (k + 4) for k in range(16))
    for k in (0, 5, 15):
        assert counts[str(k)] / 20_000 == pytest.approx(1 / (k + 4) / total, rel=0.1)


@pytest.mark.parametrize(
    ("raw", "polished"),
    [
        ("a apple and a pear", "an apple and a pear"),
        ("A old, an big  one ", "An old, a big one"),
        (
            "a hour, a unicorn, an useful thing, a uncle",
            "an hour, a unicorn, a useful thing, an uncle",
        ),
        ("a one, a Owl, banana a day", "a one, an Owl, banana a day"),
    ],
)
def test_polish_corrects_articles_and_spaces(raw: str, polished: str) -> None:
    assert polish(raw) == polished


def test_every_name_in_a_template_has_a_list_and_no_list_is_dead() -> None:
    text = "\n".join([*WORDS.values(), *PHRASES.values(), *PLOTS.values()])
    used = {name.lower().rstrip("23") for name in re.findall(r"[{<](\w+)", text)}
    lists = WORDS.keys() | PHRASES.keys()
    assert used - lists - CAST == set()
    by_cast = {"girl_name", "boy_name", "species", "child_home", "animal_home"}
    assert lists - used == by_cast | {"child_surname", "animal_surname"}
