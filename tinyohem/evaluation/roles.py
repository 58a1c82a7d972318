"""Group tokens by the role of their word in its story, or by their place in it.

A **word** is a run of letters and digits with the apostrophes inside it: "don't" is one,
"well-known" two. Capitals and a "'s" at its end make no other word of it. A token counts with the
first word that it touches, so all parts of a word have its role.

A word is a **name** where it begins with a capital letter, and the story also writes it so away
from the beginning of a sentence: the "Lily" that opens a sentence is one if "saw Lily" stands
anywhere in the story. "I" is none. A sentence begins with the story, after `.`, `!`, `?`, `…`, `:`,
a double quotation mark or a new line; not after the dot of "Mr." (`goes_on_after_dot`).

Each token has the first of these roles that fits, so they partition the tokens:

- `name, first mention`: the first time that the story names it;
- `name, named before`;
- `word seen before`: the word stands earlier in the story;
- `rare word`: one of its tokens is rare in training, which means of the rarest types that together
  make up at most a tenth of the training tokens;
- `other new word`: every other word where it stands first;
- `no word`: punctuation and white space.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyohem.data.token_store import TokenStore
from tinyohem.difficulty.sentences import goes_on_after_dot
from tinyohem.evaluation.loss_groups import Group

ROLES = (
    *("name, first mention", "name, named before", "word seen before"),
    *("rare word", "other new word", "no word"),
)
_FIRST, _NAMED, _SEEN, _RARE, _OTHER, _NONE = range(len(ROLES))
POSITION_BOUNDS = (16, 64, 256)  # tokens of the story before this one
POSITIONS = ("1-16", "17-64", "65-256", "257 and later")
_RARE_SHARE = 0.1  # of the training tokens
_MIN_STORIES = 3  # for an interval, as in a comparison

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_BEGINS_SENTENCE = re.compile(r'[.!?…:\n"“”«»]')
_BEFORE_DOT = 64  # characters that are looked at for an abbreviation


@dataclass(frozen=True)
class StoryGroup(Group):
    """Some of the scored tokens, and how far their loss varies from story to story."""

    share_of_tokens: float  # 0 to 1
    stories: int  # that hold such a token
    low: float | None  # nats per token, of the 95 % interval; None below three stories
    high: float | None


@dataclass(frozen=True)
class _Word:
    start: int  # characters
    end: int
    key: str  # the same for the same word
    capital: bool
    begins: bool  # a sentence


def by_position(store: TokenStore, losses: NDArray[np.floating]) -> list[StoryGroup]:
    """Group tokens by their place in the story, the first token after the start being 1.

    Args:
        losses: nats of each id of the store; those of the start tokens do not count.
    """
    place = np.arange(store.num_tokens) - np.repeat(store.offsets[:-1], np.diff(store.offsets))
    band = np.digitize(place - 1, POSITION_BOUNDS)
    band[store.offsets[:-1]] = -1
    return _over_stories(POSITIONS, band, store, losses)


def by_role(
    store: TokenStore, losses: NDArray[np.floating], roles: NDArray[np.integer]
) -> list[StoryGroup]:
    """Group tokens by the role of their word.

    Args:
        losses: nats of each id of the store.
        roles: index into `ROLES` of each id, −1 for start tokens.
    """
    return _over_stories(ROLES, roles, store, losses)


def store_roles(
    store: TokenStore,
    stories: Iterable[tuple[str, Sequence[tuple[int, int]]]],
    train_counts: NDArray[np.integer],
) -> NDArray[np.int8]:
    """Return the role of every id of a store, −1 for start tokens.

    Args:
        stories: each text with the characters (first, end) that each of its tokens covers.
        train_counts: (V,) how often each type is a label in the training split.
    """
    rare = rare_types(train_counts)
    roles = np.full(store.num_tokens, -1, np.int8)
    for (first, end), (text, spans) in zip(
        zip(store.offsets[:-1], store.offsets[1:], strict=True), stories, strict=True
    ):
        roles[first + 1 : end] = story_roles(text, spans, rare[store.ids[first + 1 : end]])
    return roles


def rare_types(train_counts: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark the rarest types (V,) that together make up at most a tenth of the training tokens.

    Types of equal count are rare together or not at all.
    """
    counts, number = np.unique(train_counts, return_counts=True)
    share = np.cumsum(counts * number) / max(1, int(train_counts.sum()))
    rare_counts = counts[share <= _RARE_SHARE]
    return np.isin(train_counts, rare_counts)


def story_roles(
    text: str, spans: Sequence[tuple[int, int]], rare_T: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Return the role of each token of a story, (T,) indices into `ROLES`.

    Args:
        spans: (T,) the first and the end of the characters that each token covers, in order.
        rare_T: whether the token's type is rare.
    """
    words = _words(text)
    ends = [word.end for word in words]
    word_T = [bisect_right(ends, first) for first, _ in spans]  # the first that ends later
    word_T = [
        index if index < len(words) and words[index].start < end else len(words)
        for index, (_, end) in zip(word_T, spans, strict=True)
    ]
    is_rare = np.zeros(len(words) + 1, dtype=bool)
    is_rare[np.asarray(word_T, dtype=np.int64)[rare_T]] = True
    roles = [*_word_roles(words, is_rare), _NONE]
    return np.asarray(roles, np.int8)[word_T]


def _word_roles(words: Sequence[_Word], is_rare: NDArray[np.bool_]) -> list[int]:
    names = {word.key for word in words if word.capital and not word.begins}
    names = {name for name in names if name != "i" and not name.startswith("i'")}
    named: set[str] = set()
    seen: set[str] = set()
    roles = []
    for word, rare in zip(words, is_rare[:-1], strict=True):
        if word.capital and word.key in names:
            roles.append(_NAMED if word.key in named else _FIRST)
            named.add(word.key)
        elif word.key in seen:
            roles.append(_SEEN)
        else:
            roles.append(_RARE if rare else _OTHER)
        seen.add(word.key)
    return roles


def _words(text: str) -> list[_Word]:
    words: list[_Word] = []
    before = 0
    for match in _WORD.finditer(text):
        start, end = match.span()
        key = match.group().lower().replace("’", "'").removesuffix("'s")
        begins = not words or _begins_sentence(text, before, start)
        words.append(_Word(start, end, key, match.group()[0].isupper(), begins))
        before = end
    return words


def _begins_sentence(text: str, before: int, start: int) -> bool:
    """Tell whether a sentence begins between the end of a word and the start of the next."""
    gap = text[before:start]
    if gap.startswith(".") and not _BEGINS_SENTENCE.search(gap[1:]):
        ahead = text[max(0, before - _BEFORE_DOT) : before]
        return not goes_on_after_dot(ahead, text[before + 1 : start + _BEFORE_DOT])
    return bool(_BEGINS_SENTENCE.search(gap))


def _over_stories(
    names: Sequence[str],
    group: NDArray[np.integer],
    store: TokenStore,
    losses: NDArray[np.floating],
) -> list[StoryGroup]:
    """Sum losses by group and story; groups without a token are left out, as is group −1.

    The 95 % interval is that of a ratio of sums over stories, whose tokens are not independent:
    loss ± t(0.975, S − 1) · √(S/(S − 1) · Σ (nats − loss · tokens)²) / Σ tokens over the S stories
    that hold such tokens (Cochran, Sampling Techniques, 1977, section 2.11).
    """
    story = np.repeat(np.arange(store.num_stories), np.diff(store.offsets))
    scored = group >= 0
    total_tokens = int(scored.sum())
    total_nats = float(losses[scored].sum(dtype=np.float64)) or 1.0
    found = []
    for index, name in enumerate(names):
        own = group == index
        tokens = np.bincount(story[own], minlength=store.num_stories)
        weights = losses[own].astype(np.float64)
        nats = np.bincount(story[own], weights, store.num_stories).astype(np.float64)
        held = tokens > 0
        if not held.any():
            continue
        count, total = int(tokens.sum()), float(nats.sum())
        low, high = _interval(nats[held], tokens[held].astype(np.float64))
        shares = total / total_nats, count / total_tokens
        found.append(StoryGroup(name, count, total / count, *shares, int(held.sum()), low, high))
    return found


def _interval(
    nats: NDArray[np.float64], tokens: NDArray[np.float64]
) -> tuple[float, float] | tuple[None, None]:
    number = len(nats)
    if number < _MIN_STORIES:
        return None, None
    from scipy import stats

    loss = nats.sum() / tokens.sum()
    spread = np.sqrt(number / (number - 1) * np.square(nats - loss * tokens).sum())
    half = stats.t.ppf(0.975, number - 1) * spread / tokens.sum()
    return float(loss - half), float(loss + half)
