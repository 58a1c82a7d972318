"""The built-in sample corpus: synthetic stories from a seeded grammar, for quickstarts and tests.

A grammar in the manner of TinyStories makes them, so that every command runs without a download.
Results on them say nothing about real text.
"""

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Literal

from tinyohem.data.sample.grammar import Teller, Template, WordList, parse, polish
from tinyohem.io.hashing import hash_json

Split = Literal["train", "validation"]

SAMPLE_COUNTS: dict[Split, int] = {"train": 20_000, "validation": 500}
_FINGERPRINT_STORIES = 16


def _read(name: str) -> dict[str, str]:
    return tomllib.loads(files("tinyohem.data.sample").joinpath(name).read_text(encoding="utf-8"))


WORDS, PHRASES, PLOTS = _read("words.toml"), _read("phrases.toml"), _read("plots.toml")

_PRONOUNS = {"boy": ("he", "him", "his"), "girl": ("she", "her", "her")}
_PARENTS = (
    ("mom", "girl"),
    ("mom", "girl"),
    ("dad", "boy"),
    ("dad", "boy"),
    ("grandma", "girl"),
    ("grandpa", "boy"),
)


def sample_stories(split: Split) -> Iterator[str]:
    """Yield the stories of a split in order, the same on every machine and all distinct.

    Story i depends on (split, i) only. A blank line separates paragraphs.
    """
    for index in range(SAMPLE_COUNTS[split]):
        yield tell(split, index)[1]


def tell(split: Split, index: int) -> tuple[str, str]:
    """Return the plot's name and the text of one story."""
    teller = Teller(f"tinyohem/{split}/{index}", _lists())
    plots = _plots()
    plot, paragraphs = plots[teller.pick(len(plots))]
    _cast(teller)
    told = [polish(teller.render(part)) for part in paragraphs]
    return plot, "\n\n".join(paragraph for paragraph in told if paragraph)


def _cast(teller: Teller) -> None:
    """Fill the slots of hero, friend, parent and neighbour: names, pronouns, kind."""
    slots = teller.slots
    animals = teller.pick(10) < 3
    kind = "animal" if animals else "child"
    # A friend of the other gender keeps "he" and "she" unambiguous.
    hero, friend = [("girl", "boy"), ("boy", "girl")][teller.pick(2)]
    parent, parent_gender = _PARENTS[teller.pick(len(_PARENTS))]
    slots["parent"] = [parent]
    slots["hand"] = ["paw" if animals else "hand"]
    for role, gender in (("", hero), ("friend_", friend), ("parent_", parent_gender)):
        for case, pronoun in zip(("he", "him", "his"), _PRONOUNS[gender], strict=True):
            slots[role + case] = [pronoun]
    slots["hero"] = teller.slot("animal_name" if animals else f"{hero}_name")
    slots["friend"] = teller.slot("animal_name2" if animals else f"{friend}_name")
    slots["kid"] = teller.slot("species") if animals else [hero]
    slots["friend_kid"] = teller.slot("species2") if animals else [friend]
    slots["home"] = [teller.draw(f"{kind}_home")]
    slots["elder"] = [f"{('Mr.', 'Mrs.')[teller.pick(2)]} {teller.draw(f'{kind}_surname')}"]


@cache
def _lists() -> dict[str, WordList]:
    words = {name: text.split(",") for name, text in WORDS.items()}
    phrases = {name: text.strip().splitlines() for name, text in PHRASES.items()}
    return {name: WordList(entries) for name, entries in (words | phrases).items()}


@cache
def _plots() -> list[tuple[str, list[Template]]]:
    return [
        (name, [parse(" ".join(part.split())) for part in text.strip().split("\n\n")])
        for name, text in PLOTS.items()
    ]


def _fingerprint(split: Split) -> str:
    # The grammar's files reveal a changed word, the first stories a changed logic.
    stories = list(islice(sample_stories(split), _FINGERPRINT_STORIES))
    return hash_json([split, SAMPLE_COUNTS[split], WORDS, PHRASES, PLOTS, stories])


# Keys for caches, which change with the grammar.
SAMPLE_FINGERPRINT: dict[str, str] = {split: _fingerprint(split) for split in SAMPLE_COUNTS}
