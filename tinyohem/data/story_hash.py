"""A hash that is equal for two texts if they are the same story.

They are if they differ only in white space, case, invisible characters such as a soft hyphen, and
the way Unicode spells their letters: the compatibility caseless match of the Unicode Standard 15
(section 3.13, definition D146). Changing this changes `STORE_FORMAT`, `SPLIT_FORMAT` and
`CLEAN_FORMAT`.
"""

import hashlib
import re
from unicodedata import normalize

from tinyohem.data.orthography import UNSEEN

_SPACE = re.compile(r"\s+")
_ASCII_SPACE = bytes(code for code in range(128) if chr(code).isspace())
_NO_LETTERS = re.compile(r"[\W\d_]+")
_ASCII_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())


def story_hash(text: str) -> int:
    """Return evenly spread 64 bits, equal for texts that are the same story."""
    if text.isascii():  # the same result, eight times as fast
        letters = text.encode().lower().translate(None, _ASCII_SPACE)
    else:
        folded = normalize("NFKD", normalize("NFD", text).casefold()).casefold()
        letters = _SPACE.sub("", UNSEEN.sub("", normalize("NFKD", folded))).encode()
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest(), "little")


def near_hash(text: str) -> int:
    """Return 64 bits that are equal for texts with the same letters in the same order.

    Digits, marks, white space and case do not count; a text without a letter has its story hash.
    """
    if text.isascii():  # the same result, several times as fast
        letters = text.encode().lower().translate(None, _ASCII_NO_LETTERS)
    else:
        letters = _NO_LETTERS.sub("", text.casefold()).encode()
    if not letters:
        return story_hash(text)
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest(), "little")
