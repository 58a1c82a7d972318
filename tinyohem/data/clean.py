"""Clean a stream of stories, for `--clean`: repair stories or drop them, and count both."""

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from tinyohem.data.corpus import Story
from tinyohem.data.story_hash import story_hash
from tinyohem.data.tokenizer import END_OF_TEXT

# Raise it when a change cleans the same stories otherwise.
CLEAN_FORMAT = 3

TEXT, MARKER = "encoding, quotes, control characters", f"a stray {END_OF_TEXT}"
REPAIRS = (TEXT, MARKER)
EMPTY, NO_BEGINNING, NO_END = "empty", "begins inside a sentence", "ends inside a sentence"
REPEATED, VALIDATION = "repeats an earlier story", "is a validation story"
# In order: the first that applies drops a story.
RULES = (EMPTY, NO_BEGINNING, NO_END, REPEATED, VALIDATION)

_EXAMPLES = 3  # of each rule
_EXAMPLE_CHARACTERS = 40


@dataclass
class Cleaning:
    """Counts of stories by `clean_stories`; `read` = `kept` + all `dropped`.

    A repaired story may still be dropped.
    """

    read: int = 0
    kept: int = 0
    repaired: Counter[str] = field(default_factory=Counter)  # by `REPAIRS`
    dropped: Counter[str] = field(default_factory=Counter)  # by `RULES`
    examples: dict[str, list[str]] = field(default_factory=dict)  # first texts by rule

    def drop(self, rule: str, text: str) -> None:
        """Count a dropped story and keep the first few texts."""
        self.dropped[rule] += 1
        shown = self.examples.setdefault(rule, [])
        if len(shown) < _EXAMPLES:
            shown.append(text)

    def lines(self) -> Iterator[str]:
        """Yield lines of text: the counts, then each rule with its count and examples."""
        yield f"{self.read:,} stories read, {self.kept:,} kept"
        yield "repaired: " + ", ".join(f"{self.repaired[kind]:,} ({kind})" for kind in REPAIRS)
        for rule in RULES:
            shown = [_excerpt(rule, text) for text in self.examples.get(rule, ()) if text]
            examples = f": {', '.join(shown)}" if shown else ""
            yield f"dropped: {self.dropped[rule]:,} ({rule}){examples}"


def clean_stories(
    stories: Iterable[Story], cleaning: Cleaning, validation: Container[int] = ()
) -> Iterator[Story]:
    """Yield the stories worth training on, repaired, in order and with their rows.

    Memory grows by about 100 bytes per kept story, for the hash that finds repeats.

    Args:
        cleaning: counts, complete once the stream has ended.
        validation: hashes (see `story_hash`) of stories to drop.
    """
    seen: set[int] = set()
    for story in stories:
        cleaning.read += 1
        text = _repaired(story.text, cleaning)
        found = story_hash(text)
        if not text:
            cleaning.drop(EMPTY, text)
        elif begins_inside(text):
            cleaning.drop(NO_BEGINNING, text)
        elif ends_inside(text):
            cleaning.drop(NO_END, text)
        elif found in seen:
            cleaning.drop(REPEATED, text)
        elif found in validation:
            cleaning.drop(VALIDATION, text)
        else:
            seen.add(found)
            cleaning.kept += 1
            yield Story(story.row, text)


def _repaired(text: str, cleaning: Cleaning) -> str:
    import ftfy

    # Stories are not HTML: what looks like an entity is text.
    repaired = ftfy.fix_text(text, unescape_html=False, explain=False)
    cleaning.repaired[TEXT] += repaired != text
    if END_OF_TEXT in repaired:
        cleaning.repaired[MARKER] += 1
        # A line break, because the marker may have separated two stories.
        repaired = repaired.replace(END_OF_TEXT, "\n")
    return repaired.strip()


# Beginnings of whole stories in small letters.
_OPENING = re.compile(r"(?:once|one|there|long ago)\b")
_NEXT_SENTENCE = re.compile(r"[.!?][\"')]*\s+[\"'(]*(\w)")


def begins_inside(text: str) -> bool:
    """Tell whether a story lacks its beginning: it starts with a small letter or a comma.

    A story in small letters throughout, or one that begins as fairy tales do, lacks nothing.
    """
    head = text.lstrip("\"'([*_ ")
    if head.startswith((",", ";", ":", "!", "?", ")", "]")):
        return True
    if not head[:1].islower() or _OPENING.match(head):
        return False
    return any(sentence[1].isupper() for sentence in _NEXT_SENTENCE.finditer(text))


# Final marks of the scripts of children's stories; Unicode's Sentence_Terminal has more.
_FINAL_MARKS = frozenset(".!?…‼⁇⁈⁉。！？｡।॥؟۔։።")
_EMOTICON = re.compile(r"(?:^|[\s.!?])(?:[:;=]['-]?[)\](DPpo3*]+|<3+|\^[_.]?\^|[xX]D+)[\s\"'*_~]*$")
_THE_END = re.compile(
    r"(?:^|[.!?…\n])\W*(?:(?:the )?end(?: of (?:the|this|my|our) (?:story|tale))?|fin)\W*$",
    re.IGNORECASE,
)
_MORAL = re.compile(
    r"(?:^|[.!?…])\W*(?:the |our )?(?:moral|lesson)(?: learned| of (?:the|this|our) story)?"
    r"(?: is| was)?\W+\w.*$",
    re.IGNORECASE,
)
_TAIL = 400  # characters to search, because these patterns backtrack


def ends_inside(text: str) -> bool:
    """Tell whether a story lacks its end.

    It has one if it ends in a final mark or an emoji, perhaps followed by closing quotes and
    brackets, or if its last line says "The End" or begins a sentence with "Moral: …".
    """
    tail = text[-_TAIL:]
    last_line = tail.rpartition("\n")[2]
    if _EMOTICON.search(last_line) or _THE_END.search(tail) or _MORAL.search(last_line):
        return False
    for character in reversed(text):
        if character in _FINAL_MARKS or _is_emoji(character):
            return False
        if not _closes(character):
            return True
    return True


def _is_emoji(character: str) -> bool:
    return unicodedata.category(character) in ("So", "Me") or "🏻" <= character <= "🏿"


def _closes(character: str) -> bool:
    """Tell whether it may follow the final mark: quotes, brackets, emphasis, spaces, invisibles."""
    kind = unicodedata.category(character)
    return kind in ("Pe", "Pf", "Pi", "Mn", "Cf", "Cc", "Zs", "Zl") or character in "\"'*_~"


def _excerpt(rule: str, text: str) -> str:
    """Return the part of a story that shows why a rule dropped it: its end or its beginning."""
    line = " ".join(text.split())
    if len(line) <= _EXAMPLE_CHARACTERS:
        return f'"{line}"'
    if rule == NO_END:
        return f'"…{line[-_EXAMPLE_CHARACTERS:]}"'
    return f'"{line[:_EXAMPLE_CHARACTERS]}…"'
