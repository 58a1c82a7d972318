"""Corpora to score: made up and seeded; real ones where there are any."""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tinyohem.data.blocks import TextBlock
from tinyohem.io.streams import open_binary

_NAMES = ["Lily", "Tom", "Mr. Brown", "Mrs. Bell", "Zoë", "St. Nick"]
_VOCABULARY = """
    the a little big red cat dog ball tree house was went saw found happy sad very suddenly wanted
    didn't couldn't playing together beautiful idea because another well-known 3.5 10 o'clock
"""
_WORDS = _VOCABULARY.split()

REAL_SAMPLE = Path(__file__).parents[2].parent / "shared/data/tinystories/train.jsonl.zst"


@dataclass(frozen=True)
class FakeCorpus:
    """What scoring asks of a corpus."""

    texts: tuple[str, ...]
    fingerprint: str = "f" * 64
    name: str = "fake"
    split: str = "train"

    def blocks(self) -> Iterator[tuple[TextBlock, float]]:
        for at in range(0, len(self.texts), 10):
            yield TextBlock(list(self.texts[at : at + 10])), min(1, (at + 10) / len(self.texts))


def _sentence(rng: random.Random) -> str:
    words = " ".join(rng.choices(_WORDS, k=rng.randint(2, 14)))
    name = rng.choice(_NAMES)
    forms = (
        f"{name} {words}.",
        f'"{words.capitalize()}!" said {name}.',
        f"“{words.capitalize()}?” {name} asked…",
        f"{words.capitalize()}!!",
        f"'{words}' — {name}",
    )
    return rng.choice(forms)


def make_story(rng: random.Random) -> str:
    return rng.choice([" ", "\n\n"]).join(_sentence(rng) for _ in range(rng.randint(1, 30)))


@pytest.fixture(scope="session")
def made_up() -> list[str]:
    """Return 400 different stories."""
    rng = random.Random(0)
    return [make_story(rng) for _ in range(400)]


@pytest.fixture(scope="session")
def real_stories() -> list[str]:
    """Return 2,000 real stories, or skip."""
    path = Path(os.environ.get("TINYOHEM_STORIES", REAL_SAMPLE))
    if not path.exists():
        pytest.skip(f"there are no real stories at {path}; $TINYOHEM_STORIES may name others")
    stories = []
    with open_binary(path) as stream:
        for line in stream:
            stories.append(json.loads(line)["text"])
            if len(stories) == 2000:
                break
    return stories


@pytest.fixture(scope="session")
def fake_corpus() -> type[FakeCorpus]:
    return FakeCorpus


HOSTILE = {
    "blank": " \n\t",
    "emoji": "👩‍👩‍👧 👋🏽 🎉",
    "one word": "Cat",
    "punctuation": "... !? '' -",
    "mojibake": "Itâ€™s a â€œbigâ€\x9d dog. CafÃ© Ã  la carte.",
    "half a surrogate": "Broken \ud83d pair.",
    "control characters": "\x00\x01\x02 a\x7fb",
    "no space": "x" * 100_000,
    "many words": "the cat sat on a mat. " * 20_000,
    "right to left": "שלום עולם. مرحبا",
    "end marker": "The end. <|endoftext|>",
}


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE.keys())
def hostile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def all_hostile() -> list[str]:
    return list(HOSTILE.values())
