"""Score one story token by token, and mark the tokens that top-k would keep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import torch

from tinyohem.config.ohem import OhemConfig
from tinyohem.data.parts import Part
from tinyohem.data.story_text import checked_text
from tinyohem.data.token_store import text_store
from tinyohem.data.tokenizer import tokenizer_hash
from tinyohem.errors import InputError, RunError
from tinyohem.evaluation.perplexity import exp_or_inf, finite_or_none, story_token_losses
from tinyohem.io.json import JsonObject
from tinyohem.models.source import Source
from tinyohem.ohem.selection import selection_weights
from tinyohem.progress import Progress

# Nats where a level ends and the next begins: 0.5 nats is a probability of 61 %, 8 of 0.03 %.
_LOSS_LEVELS = (0.5, 1, 1.5, 2, 3, 4, 5, 6, 8)
_DIFFERENCE_LEVELS = (-3, -1.5, -0.75, -0.25, 0.25, 0.75, 1.5, 3)
_CONTEXT_CHARACTERS = 40


@dataclass(frozen=True)
class InspectedToken:
    """A token, or the few that together spell a character.

    Attributes:
        text: what it adds to the story.
        loss: nats; summed, where several tokens share a character.
        kept: whether top-k keeps it (any of them).
        other_loss: nats under the second model, if two are compared.
    """

    text: str
    loss: float
    kept: bool
    other_loss: float | None = None

    @property
    def difference(self) -> float:
        """Nats that the second model saves; 0 without one."""
        return 0.0 if self.other_loss is None else self.loss - self.other_loss

    @property
    def level(self) -> int:
        """Return the shade: 0 (easy) to 9 (hard); compared, 0 to 8, where 4 is no difference."""
        if self.other_loss is None:
            return int(np.digitize(self.loss, _LOSS_LEVELS))
        return int(np.digitize(self.difference, _DIFFERENCE_LEVELS))

    @property
    def title(self) -> str:
        """Return the tooltip."""
        kept = ", kept" if self.kept else ""
        if self.other_loss is None:
            return f"{self.loss:.2f} nats, probability {math.exp(-self.loss):.2%}{kept}"
        return f"{self.loss:.2f} against {self.other_loss:.2f} nats{kept}"

    def to_json(self) -> JsonObject:
        """Return text, loss and kept, and where two models are compared `other_loss`."""
        plain = {"text": self.text, "loss": self.loss, "kept": self.kept}
        return plain if self.other_loss is None else {**plain, "other_loss": self.other_loss}


@dataclass(frozen=True)
class InspectedStory:
    """A story under a model, or under two.

    Attributes:
        title: the heading.
        ratio: share of the story's tokens that are kept.
        tokens: in order; their texts joined are the story.
        num_tokens: tokens of the model.
        num_kept: how many of them are kept.
        threshold: nats, the smallest loss that is kept.
        kept_loss: share of the story's nats that the kept tokens hold.
        text_lost: whether the ids do not give the story back.
        num_unknown: how many tokens stand for text that the vocabulary lacks.
        names: of the two models, if two are compared.
    """

    title: str
    ratio: float
    tokens: tuple[InspectedToken, ...]
    num_tokens: int
    num_kept: int
    threshold: float
    kept_loss: float
    text_lost: bool = False
    num_unknown: int = 0
    names: tuple[str, str] = ("first", "second")

    @property
    def scale(self) -> str:
        """Return what the levels show, `loss` or `difference`."""
        return "loss" if self.tokens[0].other_loss is None else "difference"

    @property
    def loss(self) -> float:
        """Nats per token."""
        return sum(token.loss for token in self.tokens) / self.num_tokens

    @property
    def other_loss(self) -> float | None:
        """Nats per token under the second model; None without one."""
        if self.scale == "loss":
            return None
        return sum(token.other_loss or 0 for token in self.tokens) / self.num_tokens

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Return each level with its range in nats."""
        bounds = [f"{b:g}" for b in (_LOSS_LEVELS if self.scale == "loss" else _DIFFERENCE_LEVELS)]
        between = [f"{low} to {high}" for low, high in pairwise(bounds)]
        return list(enumerate([f"under {bounds[0]}", *between, f"over {bounds[-1]}"]))

    @property
    def summary(self) -> list[str]:
        """Summarise the story, a statement a line."""
        lines = [
            f"{self.num_tokens:,} tokens, {self.loss:.3f} nats each "
            f"(perplexity {exp_or_inf(self.loss):,.4g})",
            f"kept at ratio {self.ratio:g}: the hardest {self.num_kept:,}, from "
            f"{self.threshold:.2f} nats up, with {self.kept_loss:.1%} of the loss",
        ]
        if self.other_loss is not None:
            lines[0] += (
                f" under {self.names[0]}, against {self.other_loss:.3f} "
                f"(perplexity {exp_or_inf(self.other_loss):,.4g}) under {self.names[1]}"
            )
        if self.text_lost:
            unknown = f": {self.num_unknown:,} of them are unknown" if self.num_unknown else ""
            lines.insert(1, f"the tokenizer loses text: the tokens do not give it back{unknown}")
        return lines

    def differences(self, count: int) -> list[tuple[str, list[tuple[str, InspectedToken]]]]:
        """Return a heading and the most different tokens for each direction; empty for one model.

        Each token comes with the text ahead of it, the widest difference first.
        """
        widest = []
        first, second = self.names
        for sign, ahead in ((1, second), (-1, first)):
            better = [i for i, token in enumerate(self.tokens) if sign * token.difference > 0]
            better.sort(key=lambda i: -abs(self.tokens[i].difference))
            if better:
                found = [(self._ahead_of(i), self.tokens[i]) for i in better[:count]]
                widest.append((f"{ahead} predicts better", found))
        return widest

    def _ahead_of(self, index: int) -> str:
        ahead = "".join(token.text for token in self.tokens[:index])
        return ahead[-_CONTEXT_CHARACTERS:]

    def to_json(self) -> JsonObject:
        """Return every figure, and the tokens."""
        figures = {
            "title": self.title,
            "loss": self.loss,
            "perplexity": finite_or_none(exp_or_inf(self.loss)),
            "ratio": self.ratio,
            "num_tokens": self.num_tokens,
            "num_kept": self.num_kept,
            "threshold": self.threshold,
            "kept_loss": self.kept_loss,
            "text_lost": self.text_lost,
            "num_unknown": self.num_unknown,
        }
        if self.other_loss is not None:
            figures |= {"other_loss": self.other_loss, "names": self.names}
        return {**figures, "tokens": [token.to_json() for token in self.tokens]}


def inspect_story(
    source: Source, text: str, *, ratio: float = 0.5, title: str = ""
) -> InspectedStory:
    """Score every token of a story, and mark those that top-k keeps of this story alone.

    In training top-k ranks the tokens of a whole batch, so it keeps fewer of an easy story.

    Args:
        ratio: share of the tokens to keep, in (0, 1].

    Raises:
        InputError: the text holds no token, or characters that UTF-8 cannot encode.
        RunError: a loss is not finite: the model's weights are broken.
    """
    store, spans = text_store(checked_text(text, "the text"), source.tokenizer)
    if not spans:
        raise InputError("the text is empty", "give a story of at least one word")
    ((_, losses),) = story_token_losses(source.model, store, seq_len=source.max_seq_len)
    loss_BT = torch.from_numpy(losses[None, 1:])
    if not loss_BT.isfinite().all():
        raise RunError("the model's loss on this story is not finite", "its weights are broken")
    weight_BT = selection_weights(
        loss_BT, torch.zeros_like(loss_BT, dtype=torch.int64), ratio, OhemConfig(select="topk")
    )
    loss_T, kept_T = loss_BT[0].double().numpy(), weight_BT[0].numpy() > 0
    return InspectedStory(
        title=title,
        ratio=ratio,
        tokens=tuple(
            InspectedToken(piece, float(loss_T[part].sum()), bool(kept_T[part].any()))
            for piece, part in pieces(text, spans)
        ),
        num_tokens=len(loss_T),
        num_kept=int(kept_T.sum()),
        threshold=float(loss_T[kept_T].min()),
        kept_loss=float(loss_T[kept_T].sum() / (loss_T.sum() or 1)),
        text_lost=bool(store.text_loss),
        num_unknown=store.text_loss.unknown_tokens,
    )


def compare_stories(
    source: Source,
    other: Source,
    text: str,
    *,
    ratio: float = 0.5,
    title: str = "",
    names: tuple[str, str] = ("first", "second"),
) -> InspectedStory:
    """Score a story under two models; the losses of the first decide which tokens are kept.

    Args:
        names: of the models, for a person to read.

    Raises:
        InputError: the models have different tokenizers.
    """
    if tokenizer_hash(source.tokenizer) != tokenizer_hash(other.tokenizer):
        raise InputError(
            "the two models cut text into different tokens",
            "compare runs that share a tokenizer: train one with --tokenizer RUN/model",
        )
    first, second = (inspect_story(s, text, ratio=ratio, title=title) for s in (source, other))
    tokens = tuple(
        replace(mine, other_loss=theirs.loss)
        for mine, theirs in zip(first.tokens, second.tokens, strict=True)
    )
    return replace(first, tokens=tokens, names=names)


def nth_story(part: Part, number: int, progress: Progress) -> str:
    """Return the text of a story, counted from 0.

    Raises:
        InputError: there are fewer.
    """
    texts = [story.text for story in islice(part.stories(progress), number, number + 1)]
    if not texts:
        raise InputError(
            f"{part.corpus.name} holds no story {number:,} to validate on",
            "stories count from 0; choose a smaller number",
        )
    return texts[0]


def pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, slice]]:
    """Cut a text where its tokens do, but never inside a character.

    Args:
        spans: (T,) the first and the end of the characters that each token covers, in order.

    Returns:
        Pieces that joined are the text, each with the tokens that spell it.
    """
    cut, first, start = [], 0, 0
    for index, (_, end) in enumerate(spans):
        if index + 1 == len(spans):
            end = len(text)  # with what the tokenizer dropped at the end
        elif spans[index + 1][0] < end or end <= start:
            continue  # the next token spells the rest of this character, or this one spells none
        cut.append((text[start:end], slice(first, index + 1)))
        first, start = index + 1, end
    return cut
