"""Normalise spelling for counting words: no invisible characters, ASCII quotes and apostrophes.

Every word count uses it: word perplexity, whose words stand between white space, and difficulty,
whose words are letters and digits (`difficulty.text`).
"""

import re
import unicodedata
from functools import lru_cache

# Invisible code points (Unicode's Default_Ignorable_Code_Point): soft hyphen, zero-width space and
# joiners, directions, byte order mark, variation selectors, tags.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
# Typographic, modifier letters, full width, prime, acute and grave accent, Hebrew and Armenian.
APOSTROPHES = "‘’‚‛ʹʻʼʽʾʿˈˊˋ´′‵＇｀❛❜׳״՚᾽᾿῾ꞌ"
QUOTES = "“”„‟«»‹›＂″‶〝〞〟「」『』❝❞"
_C1_APOSTROPHES, _C1_QUOTES = "\x91\x92", "\x93\x94"  # what Windows wrote, read as Latin-1
_TERMINATORS = {
    **dict.fromkeys("．․", "."),
    **dict.fromkeys("！﹗", "!"),
    **dict.fromkeys("？﹖؟‽", "?"),
    **dict.fromkeys("。｡।॥۔።။។", ". "),
    "…": "...",
    "‼": "!!",
    "⁇": "??",
    "⁈": "?!",
    "⁉": "!?",
}
_MARKS = {
    **dict.fromkeys(APOSTROPHES + _C1_APOSTROPHES, "'"),
    **dict.fromkeys(QUOTES + _C1_QUOTES, '"'),
    **_TERMINATORS,
}
# Written without spaces; by default each of them is a word (Unicode Standard Annex 29, WB999).
_IDEOGRAPH = re.compile(
    "[\u3005-\u3007\u3041-\u309f\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")


def without_unseen(text: str) -> str:
    """Return `text` without invisible characters, such as soft hyphens."""
    return text if text.isascii() else UNSEEN.sub("", text)


def count_words(text: str) -> int:
    """Count the words between white space, as perplexity per word does."""
    return len(without_unseen(text).split())


def normalise(text: str) -> str:
    """Return `text` with ASCII quotes, apostrophes and terminators, and composed letters.

    Letters keep their case, and combining accents stay with their letter. Other characters beyond
    ASCII, letters and digits become a space. ASCII text is unchanged.
    """
    if text.isascii():
        return text
    return _NON_ASCII.sub(_plain, unicodedata.normalize("NFC", without_unseen(text)))


def is_mostly_latin(text: str) -> bool:
    """Tell whether at least half of the letters are Latin; true without letters."""
    letters = [char for char in unicodedata.normalize("NFKC", text) if char.isalpha()]
    return 2 * sum(map(_is_latin, letters)) >= len(letters)


def _plain(run: re.Match[str]) -> str:
    """Return the plain form of a run of characters beyond ASCII."""
    in_word = run.start() > 0 and run.string[run.start() - 1].isalnum()
    found = []
    for char in run.group():
        is_accent, plain = _form(char)
        if is_accent:
            plain = plain if in_word else ""
        else:
            in_word = plain[-1:].isalnum()
        found.append(plain)
    return "".join(found)


@lru_cache(1 << 14)
def _form(char: str) -> tuple[bool, str]:
    """Return whether a character is an accent of the previous one, and its plain form."""
    if plain := _MARKS.get(char):
        return False, plain
    if unicodedata.category(char) in ("Mn", "Mc"):
        return True, char
    if _IDEOGRAPH.match(char):
        return False, f" {char} "
    if char.isalpha() or char.isdecimal():  # the ligature ﬁ, full-width letters
        return False, unicodedata.normalize("NFKC", char)
    return False, char if char.isalnum() else " "


@lru_cache(1 << 14)
def _is_latin(char: str) -> bool:
    return char.isascii() or "LATIN" in unicodedata.name(char, "")
