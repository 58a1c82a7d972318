"""Words and sentences of English stories, for a whole batch of stories at once.

Finding words is most of the time that scoring a corpus takes. One `bytes.translate` over the batch
lower-cases it and blanks out everything between words, Arrow splits and interns what is left, and
from there on a story is a row of integers: no Python object per word.

A **word** is a run of letters, digits and apostrophes, lower-cased, without leading and trailing
apostrophes; it holds at least one letter or digit. Hyphens separate: "well-known" is two words.

A **sentence** ends at a run of `.`, `!`, `?` (and `…`), unless
  - a letter or digit follows at once ("3.5", "www.example.org"),
  - it is the one dot of a title ("Mr.", "Mrs.", "Ms.", "Dr.", "St."),
  - it stands in quotes and the sentence goes on in lower case: `"Stop!" said Tom.` is one,
and it holds at least one word: "Wait... !" is one sentence, "..." none. Words after the last
terminator are a sentence too.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int64]

# The sample writes one story in forty with typographic quotes; they must not change its words.
_TYPOGRAPHIC = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"', "…": "..."}
)
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")

_OTHER, _WORD, _TERMINATOR = 0, 1, 2
_KIND = bytes(
    _WORD if code >= 0x80 or chr(code).isalnum() else _TERMINATOR if chr(code) in ".!?" else _OTHER
    for code in range(256)
)
_LOWER_WORDS = bytes(
    ord(chr(code).lower())
    if code < 0x80 and chr(code).isalnum()
    else code
    if code >= 0x80 or chr(code) == "'"
    else ord(" ")
    for code in range(256)
)
_TITLES = ("Mr", "Mrs", "Ms", "Dr", "St")
_MARGIN = b"\n" * 4  # around a batch: looking around a terminator never leaves the buffer


@dataclass(frozen=True)
class TextBatch:
    """Normalised stories as one UTF-8 buffer with a margin; each story ends with one newline.

    Attributes:
        data: the bytes of all stories.
        offsets: (stories + 1,) where each story starts in `data`; the last one ends there.
    """

    data: bytes
    offsets: IntArray


@dataclass(frozen=True)
class Words:
    """The words of a batch, as integers.

    Attributes:
        ids: (words,) index into `vocabulary`, story after story.
        offsets: (stories + 1,) where each story starts in `ids`.
        vocabulary: the distinct words of this batch.
    """

    ids: npt.NDArray[np.int32]
    offsets: IntArray
    vocabulary: list[str]

    @property
    def counts(self) -> IntArray:
        """Return the number of words of each story, (stories,)."""
        return np.diff(self.offsets)


def plain_quotes(text: str) -> str:
    """Return `text` with typographic quotes and ellipses in their ASCII form."""
    return text.translate(_TYPOGRAPHIC)


def encode(text: str) -> bytes:
    """Return the UTF-8 bytes; half a surrogate pair, which JSON can hold, becomes "?"."""
    return text.encode("utf-8", "replace")


def normalise(text: str) -> str:
    """Return `text` with plain quotes, composed letters, and a space for any other symbol.

    ASCII text comes back as it is, with its case: sentences need it.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", plain_quotes(text))
    return _NON_ASCII.sub(_letters_or_spaces, text)


def _letters_or_spaces(run: re.Match[str]) -> str:
    return "".join(char if char.isalnum() else " " for char in run.group().lower())


def pack(texts: Sequence[str]) -> TextBatch:
    """Normalise stories and lay them out in one buffer."""
    encoded = [encode(normalise(text)) for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded)) + 1
    data = b"\n".join([*encoded, b""]).join([_MARGIN, _MARGIN])
    return TextBatch(data, _offsets(lengths) + len(_MARGIN))


def split_words(batch: TextBatch) -> Words:
    """Find the words of each story and intern them."""
    stories = len(batch.offsets) - 1
    lowered = batch.data.translate(_LOWER_WORDS)
    buffers = [None, pa.py_buffer(batch.offsets), pa.py_buffer(lowered)]
    lists = pc.ascii_split_whitespace(pa.Array.from_buffers(pa.large_string(), stories, buffers))
    encoded = lists.flatten().dictionary_encode()

    # What Arrow splits still carries outer apostrophes, and blank stories yield empty strings.
    known: dict[str, int] = {}
    word_ids = [
        known.setdefault(word, len(known)) if (word := token.strip("'")) else -1
        for token in encoded.dictionary.to_pylist()
    ]
    ids = np.array(word_ids, np.int32)[encoded.indices.to_numpy()]
    is_word = ids >= 0
    return Words(
        ids=ids[is_word],
        offsets=_offsets(is_word)[lists.offsets.to_numpy()],
        vocabulary=list(known),
    )


def words(text: str) -> list[str]:
    """Return the words of one text."""
    found = split_words(pack([text]))
    return [found.vocabulary[word] for word in found.ids]


def count_sentences(batch: TextBatch) -> IntArray:
    """Count the sentences of each story, (stories,); a story without a word has none."""
    kind = np.frombuffer(batch.data.translate(_KIND), np.uint8)
    word_starts = np.flatnonzero((kind[1:] == _WORD) & (kind[:-1] != _WORD)) + 1

    # Two terminators with no word between them end the same sentence, so a sentence border is
    # the index of the word that follows. Borders at the start of a story do not divide it.
    following = np.searchsorted(word_starts, _sentence_ends(batch.data, kind))
    following = following[np.diff(following, prepend=-1) > 0]
    story_borders = np.searchsorted(word_starts, batch.offsets)
    first, after_last = story_borders[:-1], story_borders[1:]
    inner = np.searchsorted(following, after_last) - np.searchsorted(following, first, "right")
    return np.where(after_last > first, inner + 1, 0)


def sentences(text: str) -> int:
    """Count the sentences of one text."""
    return int(count_sentences(pack([text]))[0])


def _sentence_ends(data: bytes, kind: npt.NDArray[np.uint8]) -> IntArray:
    """Return the last byte of each run of terminators that ends a sentence."""
    is_terminator = kind == _TERMINATOR
    run_ends = np.flatnonzero(is_terminator[:-1] & ~is_terminator[1:])
    characters = np.frombuffer(data, np.uint8)
    after, second, third = (characters[run_ends + ahead] for ahead in (1, 2, 3))

    goes_on_at_once = kind[run_ends + 1] == _WORD
    closes_quote = (after == ord('"')) | (after == ord("'"))
    lower_case = (third >= ord("a")) & (third <= ord("z"))
    goes_on_after_quote = closes_quote & (second == ord(" ")) & lower_case
    goes_on = goes_on_at_once | goes_on_after_quote | _is_title_dot(characters, kind, run_ends)
    return run_ends[~goes_on]


def _is_title_dot(
    characters: npt.NDArray[np.uint8], kind: npt.NDArray[np.uint8], dots: IntArray
) -> npt.NDArray[np.bool_]:
    """Tell which terminators are the dot of a title such as "Mr."."""
    found = np.zeros(len(dots), bool)
    for title in _TITLES:
        pattern = f"{title}.".encode()
        starts = dots - len(pattern) + 1
        matches = kind[starts - 1] != _WORD
        for index, char in enumerate(pattern):
            matches &= characters[starts + index] == char
        found |= matches
    return found


def _offsets(counts: npt.NDArray[np.generic]) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
