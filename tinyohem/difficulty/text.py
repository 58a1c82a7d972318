"""Words of English stories, for a whole batch of stories at once.

Finding words is most of the time that scoring a corpus takes. One `bytes.translate` over the batch
lower-cases it and blanks out everything between words, Arrow splits and interns what is left, and
from there on a story is a row of integers: no Python object per word.

A **word** is a run of letters, digits and apostrophes, lower-cased, without leading and trailing
apostrophes; it holds at least one letter or digit. Hyphens separate: "well-known" is two words.
How it is written does not matter: see `normalise`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tinyohem.data.orthography import normalise

IntArray = npt.NDArray[np.int64]

_LOWER_WORDS = bytes(
    ord(chr(code).lower())
    if code < 0x80 and chr(code).isalnum()
    else code
    if code >= 0x80
    else ord("'")
    if chr(code) in "'`"
    else ord(" ")
    for code in range(256)
)
MARGIN = b"\n" * 8  # around a batch: looking around a terminator never leaves the buffer


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

    def of(self, stories: npt.NDArray[np.bool_]) -> "Words":
        """Return the words of some stories alone.

        Args:
            stories: (stories,) which.
        """
        ids = self.ids[np.repeat(stories, self.counts)]
        return Words(ids, _offsets(self.counts[stories]), self.vocabulary)


def encode(text: str) -> bytes:
    """Return the UTF-8 bytes; half a surrogate pair, which JSON can hold, becomes "?"."""
    return text.encode("utf-8", "replace")


def pack(texts: Sequence[str]) -> TextBatch:
    """Normalise stories and lay them out in one buffer."""
    encoded = [encode(normalise(text)) for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded)) + 1
    data = b"\n".join([*encoded, b""]).join([MARGIN, MARGIN])
    return TextBatch(data, _offsets(lengths) + len(MARGIN))


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
        known.setdefault(word if word.isascii() else word.lower(), len(known))
        if (word := token.strip("'"))
        else -1
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


def _offsets(counts: npt.NDArray[np.generic]) -> IntArray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
