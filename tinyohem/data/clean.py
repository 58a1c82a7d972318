"""Cleaning a stream of stories, for `--clean`: repair what can be, drop what cannot, count both."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tinyohem.data.corpus import Story
from tinyohem.data.tokenizer import END_OF_TEXT

_FINAL_PUNCTUATION = (".", "!", "?", "…", "。")
# What may follow the last sentence's final mark: quotes and brackets that it closes.
_CLOSERS = "\"'”’»)]*_ \t\n"
_DIGEST_BYTES = 16


@dataclass
class CleanCounts:
    """What `clean_stories` did, in stories; `read` = `kept` + the three kinds of dropped ones.

    A repaired story may still be dropped, so the repairs are not part of that sum.
    """

    read: int = 0
    kept: int = 0
    repaired_markers: int = 0  # held a stray <|endoftext|>
    repaired_text: int = 0  # mojibake, control characters, ligatures, curly quotes
    dropped_empty: int = 0
    dropped_cut_off: int = 0  # the last sentence does not end
    dropped_duplicate: int = 0  # equal to an earlier story, after the repairs


def clean_stories(stories: Iterable[Story], counts: CleanCounts) -> Iterator[Story]:
    """Yield the stories worth training on, repaired, in order and with their rows.

    Memory grows by about 100 bytes for each story kept: duplicates are found by a 16-byte digest.
    They are sought in this stream only: a story may stand in the training and the validation split.

    Args:
        counts: updated as the stream goes; final once it has ended.
    """
    seen: set[bytes] = set()
    for story in stories:
        counts.read += 1
        text = _repaired(story.text, counts)
        digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
        if not text:
            counts.dropped_empty += 1
        elif not text.rstrip(_CLOSERS).endswith(_FINAL_PUNCTUATION):
            counts.dropped_cut_off += 1
        elif digest in seen:
            counts.dropped_duplicate += 1
        else:
            seen.add(digest)
            counts.kept += 1
            yield Story(story.row, text)


def _repaired(text: str, counts: CleanCounts) -> str:
    import ftfy

    # Stories are not HTML: what looks like an entity is what the story says.
    repaired = ftfy.fix_text(text, unescape_html=False, explain=False)
    counts.repaired_text += repaired != text
    if END_OF_TEXT in repaired:
        counts.repaired_markers += 1
        # A line break, for the marker may have been all that kept two stories apart.
        repaired = repaired.replace(END_OF_TEXT, "\n")
    return repaired.strip()
