"""What is wrong with a story's text, and which of its scores to trust less."""

import re
from collections.abc import Sequence
from enum import IntFlag

import numpy as np
import numpy.typing as npt
from ftfy.badness import is_bad

from tinyohem.data.orthography import APOSTROPHES, QUOTES, is_mostly_latin, normalise
from tinyohem.data.tokenizer import END_OF_TEXT

SHORT_CHARACTERS = 100
FEW_WORDS = 50  # MTLD is unstable below (McCarthy & Jarvis 2010 work with 100 and more)
_CLOSERS = " \t\r\n\"'`)]}*_"
_TYPOGRAPHIC = re.compile(f"[{APOSTROPHES}{QUOTES}…]")


class Flag(IntFlag):
    """Properties of a story, by the names that the score table's `flags` column uses."""

    EMPTY = 1  # nothing but white space
    NO_WORDS = 2  # text, but no word: only compression ratio and length are defined
    FEW_WORDS = 4  # 1 to 49 words
    SHORT = 8  # 1 to 99 characters
    UNFINISHED = 16  # no final punctuation
    MOJIBAKE = 32  # decoded with the wrong character set
    STRAY_END = 64  # holds the end-of-text marker as text
    NOT_LATIN = 128  # most letters are of another script: the reading ease is undefined
    DUPLICATE = 256  # a copy of an earlier story, byte by byte

    @property
    def label(self) -> str:
        """Return the names of the flags that are set, joined by commas."""
        return ",".join(str(flag.name).lower() for flag in Flag if flag in self)


def flags_of_each(texts: Sequence[str], words: npt.NDArray[np.integer]) -> npt.NDArray[np.uint16]:
    """Return the flags of each story but `DUPLICATE`, (stories,), given its number of words."""
    flags = np.array([_text_flags(text) for text in texts], np.uint16)
    flags[(words == 0) & (flags != int(Flag.EMPTY))] |= int(Flag.NO_WORDS)
    flags[(words > 0) & (words < FEW_WORDS)] |= int(Flag.FEW_WORDS)
    return flags


def _text_flags(text: str) -> int:
    bare = text.strip()
    if not bare:
        return int(Flag.EMPTY)
    flags = 0
    if len(bare) < SHORT_CHARACTERS:
        flags |= Flag.SHORT
    if normalise(bare).rstrip(_CLOSERS)[-1:] not in (".", "!", "?"):
        flags |= Flag.UNFINISHED
    if END_OF_TEXT in bare:
        flags |= Flag.STRAY_END
    # Nearly all that is not ASCII is typographic quotes, and ftfy is slow: 150 µs a story.
    if not bare.isascii() and not _TYPOGRAPHIC.sub("", bare).isascii():
        if "\ufffd" in bare or is_bad(bare):
            flags |= Flag.MOJIBAKE
        if not is_mostly_latin(bare):
            flags |= Flag.NOT_LATIN
    return int(flags)
