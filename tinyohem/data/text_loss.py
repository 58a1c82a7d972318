"""Measure the text that a tokenizer loses: stories that do not come back from their ids.

This is not a model's loss in nats. A model never predicts the lost text, so figures per byte and
per word are too low to compare.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from tinyohem.data.tokenizer import foreign_files, unknown_id
from tinyohem.io.manifest import Count, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextLoss(Record):
    """The text that a tokenizer lost of some stories, in counts.

    Attributes:
        stories: number of stories measured.
        lost_stories: number of stories that do not come back from their ids.
        tokens: number of ids, start tokens excluded.
        unknown_tokens: number of ids for text that the vocabulary lacks.
    """

    stories: Count = 0
    lost_stories: Count = 0
    tokens: Count = 0
    unknown_tokens: Count = 0

    def __bool__(self) -> bool:
        """Tell whether anything is lost."""
        return self.lost_stories > 0

    def __add__(self, other: Self) -> "TextLoss":
        """Return the text loss of both sets of stories."""
        return TextLoss(
            stories=self.stories + other.stories,
            lost_stories=self.lost_stories + other.lost_stories,
            tokens=self.tokens + other.tokens,
            unknown_tokens=self.unknown_tokens + other.unknown_tokens,
        )

    def shares(self) -> dict[str, float]:
        """Return the share of lost stories and of unknown ids."""
        return {
            "lost_story_share": self.lost_stories / max(1, self.stories),
            "unknown_token_share": self.unknown_tokens / max(1, self.tokens),
        }

    def __str__(self) -> str:
        """Describe the loss in a sentence."""
        share = self.unknown_tokens / max(1, self.tokens)
        unknown = f", {self.unknown_tokens:,} of {self.tokens:,} ids ({share:.1%}) are unknown"
        return (
            f"the tokenizer loses text: {self.lost_stories:,} of {self.stories:,} stories do not "
            f"come back from their ids{unknown if self.unknown_tokens else ''}"
        )


class TextLossMeter:
    """Compare stories with what their ids decode to, in batches, on every core."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        """Take the tokenizer that made the ids."""
        self._decoder = tokenizer.backend_tokenizer
        self._unknown = unknown_id(tokenizer)

    def measure(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> TextLoss:
        """Return the text loss of these stories.

        A space before the first word is no loss, because some tokenizers add one.

        Args:
            texts: whole stories.
            ids: ids of each story, without the start token.
        """
        with foreign_files("this tokenizer cannot decode its ids", "choose another one"):
            decoded = self._decoder.decode_batch(ids, skip_special_tokens=False)
        unknown = [story.count(self._unknown) for story in ids]
        lost = [
            count > 0 or back not in (text, f" {text}")
            for text, back, count in zip(texts, decoded, unknown, strict=True)
        ]
        return TextLoss(
            stories=len(texts),
            lost_stories=sum(lost),
            tokens=sum(map(len, ids)),
            unknown_tokens=sum(unknown),
        )
