"""A small story grammar: templates with choices, word lists with Zipf-like weights, fixed slots.

Notation of the templates in `words.toml`, `phrases.toml` and `plots.toml`:

    {toy}        a slot: drawn from the list `toy` on first use, then fixed for the whole story;
                 `{toy2}` is another member of that list, `{place.1}` the second /-field of an entry
    <happy>      a fresh draw from the list `happy`, each time
    [a|b|c]      one of these, equally likely; nests
    [a]          a or nothing; how likely differs from story to story
    {He} <See>   a capital first letter capitalises the outcome

Articles are written `a` (or `A`) and corrected for the word that follows.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

_TOKEN = re.compile(r"([\[\]|])|\{(\w+)(?:\.(\d))?\}|<(\w+)>|([^\[\]|{}<>]+)")
_ARTICLE = re.compile(r"\b([Aa])n? (?=([A-Za-z]+))")
_SPACES = re.compile(r" +")
# Words whose first letter does not tell the first sound.
_CONSONANT_SOUND = re.compile(r"one\b|once\b|uni|use|usu|eu", re.IGNORECASE)
_VOWEL_SOUND = re.compile(r"[aeiou]|hour|honest|honor|heir", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Word:
    name: str
    field: int | None  # of a slot; None: a fresh draw
    capital: bool


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple["Template", ...]


@dataclass(frozen=True, slots=True)
class _Extra:
    content: "Template"


_Part = str | _Word | _Choice | _Extra
Template = tuple[_Part, ...]


def parse(text: str) -> Template:
    """Parse one template.

    Raises:
        ValueError: brackets do not match, or a character is outside the notation.
    """
    # A frame for each open bracket: its finished options and the option being read.
    frames: list[tuple[list[Template], list[_Part]]] = [([], [])]
    end = 0
    for match in _TOKEN.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        bracket, slot, field, draw, literal = match.groups()
        options, parts = frames[-1]
        if literal:
            parts.append(literal)
        elif name := slot or draw:
            place = int(field or 0) if slot else None
            parts.append(_Word(name.lower(), place, name[0].isupper()))
        elif bracket == "[":
            frames.append(([], []))
        else:
            options.append(tuple(parts))
            parts.clear()
            if bracket == "]":
                frames.pop()
                if not frames:
                    break
                chosen = _Choice(tuple(options)) if len(options) > 1 else _Extra(options[0])
                frames[-1][1].append(chosen)
    if end != len(text) or len(frames) != 1 or frames[0][0]:
        raise ValueError(f"bad template near character {end}: {text[:60]!r}")
    return tuple(frames[0][1])


class WordList:
    """A list of templates from common to rare: entry k is drawn with weight 1 / (k + 4)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.entries = [parse(" ".join(text.split())) for text in texts]
        # Integer weights, because summing floats differs between Python versions.
        self.cumulative = list(accumulate(100_000 // (k + 4) for k in range(len(texts))))

    def draw(self, rng: Random) -> Template:
        """Draw one entry."""
        return self.entries[bisect_right(self.cumulative, int(rng.random() * self.cumulative[-1]))]


class Teller:
    """The state of one story: its random stream and its slots."""

    def __init__(self, seed: str, lists: Mapping[str, WordList]) -> None:
        # In every Python version, only seeds from strings and `random()` give the same numbers.
        self.rng = Random(seed)
        self.lists = lists
        self.slots: dict[str, list[str]] = {}
        # The share of `[a]` that is kept makes stories short or long.
        self.richness = 0.1 + 0.4 * self.rng.random()

    def pick(self, count: int) -> int:
        """Return a number from 0 to `count` - 1, equally likely."""
        return int(self.rng.random() * count)

    def draw(self, name: str) -> str:
        """Return the text of a fresh entry of a list."""
        return self.render(self.lists[name].draw(self.rng))

    def slot(self, name: str) -> list[str]:
        """Return the fields of a slot; on first use draw a value that no other slot holds."""
        if name not in self.slots:
            taken = {fields[0] for fields in self.slots.values()}
            fields = self.draw(name.rstrip("23")).split("/")
            while fields[0] in taken:
                fields = self.draw(name.rstrip("23")).split("/")
            self.slots[name] = fields
        return self.slots[name]

    def render(self, template: Template) -> str:
        """Return the text of a template, articles not yet corrected."""
        out = []
        for part in template:
            match part:
                case str():
                    out.append(part)
                case _Choice(options):
                    out.append(self.render(options[self.pick(len(options))]))
                case _Extra(content):
                    if self.rng.random() < self.richness:
                        out.append(self.render(content))
                case _Word(name, field, capital):
                    text = self.draw(name) if field is None else self.slot(name)[field]
                    out.append(capitalize(text) if capital else text)
        return "".join(out)


def capitalize(text: str) -> str:
    """Capitalise the first letter and leave the rest."""
    return text[:1].upper() + text[1:]


def polish(text: str) -> str:
    """Correct `a` and `an`, and remove the spaces around omitted options."""
    return _SPACES.sub(" ", _ARTICLE.sub(_article, text)).strip()


def _article(match: re.Match[str]) -> str:
    article, word = match.groups()
    vowel = _VOWEL_SOUND.match(word) and not _CONSONANT_SOUND.match(word)
    return f"{article}n " if vowel else f"{article} "
