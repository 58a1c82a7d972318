"""How well a text fits others: an n-gram model of words, fitted on those and applied to batches.

Interpolated Kneser-Ney smoothing of orders 1 to 3 (Kneser and Ney 1995; the interpolated form, Chen
and Goodman 1999, equations 4.34 to 4.36). With u v w three consecutive words, c the number of times
that they occur, N+(. v w) the number of distinct words before v w, and N+(u v .) after u v:

    P(w | u v) = [c(u v w) - D3]+ / c(u v .)       + D3 N+(u v .) / c(u v .)      P(w | v)
    P(w | v)   = [N+(. v w) - D2]+ / N+(. v .)     + D2 N+(v .) / N+(. v .)       P(w)
    P(w)       = [N+(. w) - D1]+ / N+(. .)         + D1 N+(.) / N+(. .)           S(w)

where a context that never occurred leaves all to the shorter one. D is n1 / (n1 + 2 n2), with n1
and n2 the number of grams of that order that were counted once and twice (Ney, Essen and Kneser
1994). Two marks stand before each story.

S spells a word, so that one never seen costs something finite, and the more, the stranger it looks:
the product over its UTF-8 bytes and an end of

    S(b | a) = [c(a b) - D]+ / c(a .) + D N+(a .) / c(a .) (c(b) + 1) / (c(.) + 257)

counted over the distinct words of the stories. All four sum to 1 over words or bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from tinyohem.difficulty.hash_table import HashTable
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.text import IntArray, Words, encode, pack, split_words
from tinyohem.errors import InputError

T = TypeVar("T", np.int32, np.int64)

_MARK = 0  # id of what stands before a story
_MARKS = 0  # two of them as a pair
_MAX_WORDS = 1 << 21  # distinct ones: a number of 63 bits names each triple
_END = 256  # of a word; also before its first byte
_SYMBOLS = 257
_DISCOUNT = 0.5  # where no gram was counted once
_MAX_SPELLING = 300.0  # nats; the exponential of more would be 0
_FIT_STORIES = 4096  # at a time
_CHUNK_TOKENS = 1 << 17


@dataclass(frozen=True)
class NgramModel:
    """A fitted model; n is the number of words + 2.

    Attributes:
        vocabulary: id of each word, from 1; n - 1 stands for all others.
        unigram: (n,) P(w).
        after_word: (n,) what the context v leaves to P(w): D2 N+(v .) / N+(. v .).
        pairs: places of all v n + w, as bigrams and as contexts.
        bigram: (pairs + 1,) first term of P(w | v); 0 for one never seen.
        after_pair: (pairs + 1,) what a context leaves to P(w | v); 1 for one never seen.
        triples: places of (u n + v) n + w.
        trigram: (triples + 1,) first term of P(w | u v); 0 for one never seen.
        spelling: what P(w) leaves to S(w).
        byte_nats: (257, 257) - log S(b | a).
    """

    vocabulary: dict[str, int] = field(repr=False)
    unigram: FloatArray = field(repr=False)
    after_word: FloatArray = field(repr=False)
    pairs: HashTable
    bigram: FloatArray = field(repr=False)
    after_pair: FloatArray = field(repr=False)
    triples: HashTable
    trigram: FloatArray = field(repr=False)
    spelling: float
    byte_nats: FloatArray = field(repr=False)

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """Return the model of some texts, at least one of which holds a word."""
        vocabulary, ids = _marked_ids(texts)
        n = len(vocabulary) + 2
        grams = (ids[:-2] * n + ids[1:-1]) * n + ids[2:]
        grams, counts = np.unique(grams[ids[2:] != _MARK], return_counts=True)
        contexts, context = np.unique(grams // n, return_inverse=True)
        trigram, after_context = _discounted(counts, context, len(contexts))
        triples = HashTable.of(grams)

        grams, counts = np.unique(grams % n**2, return_counts=True)
        first_term, after_word = _discounted(counts, grams // n, n)
        pairs = HashTable.of(np.union1d(contexts, grams))
        bigram, after_pair = np.zeros(len(pairs.keys)), np.ones(len(pairs.keys))
        bigram[pairs.find(grams)] = first_term
        after_pair[pairs.find(contexts)] = after_context

        words, counts = np.unique(grams % n, return_counts=True)  # every id from 1 to n - 2
        unigram, left = _discounted(counts, np.zeros_like(words), 1)
        byte_nats = _fit_spelling(list(vocabulary))
        unigram += left * np.exp(-_spelling_nats(list(vocabulary), byte_nats))
        return cls(
            vocabulary=vocabulary,
            unigram=np.concatenate([[0.0], unigram, [0.0]]),
            after_word=after_word,
            pairs=pairs,
            bigram=bigram,
            after_pair=after_pair,
            triples=triples,
            trigram=np.append(trigram, 0.0),
            spelling=float(left[0]),
            byte_nats=byte_nats,
        )

    def nats_per_word(self, words: Words) -> FloatArray:
        """Return the mean of - log P over the words of each story, (stories,); NaN without a word.

        The value of a story is the same to the last bit whatever stories are beside it.
        """
        ids, unigram = self._look_up(words.vocabulary)
        means = np.full(len(words.counts), np.nan)
        for stories in _chunks(words.offsets):
            starts = words.offsets[stories.start : stories.stop + 1]
            local = words.ids[starts[0] : starts[-1]]
            counts = np.diff(starts)
            filled = counts > 0
            firsts = (starts[:-1] - starts[0])[filled]
            logs = self._logs(ids.take(local), unigram.take(local), firsts)
            means[stories][filled] = -np.add.reduceat(logs, firsts) / counts[filled]
        return means

    def _look_up(self, vocabulary: Sequence[str]) -> tuple[IntArray, FloatArray]:
        """Return id and P(w) of each word."""
        unknown = len(self.vocabulary) + 1
        known = self.vocabulary.get
        ids = np.array([known(word, unknown) for word in vocabulary], np.int64)
        unigram, unseen = self.unigram[ids], np.flatnonzero(ids == unknown)
        nats = _spelling_nats([vocabulary[at] for at in unseen.tolist()], self.byte_nats)
        unigram[unseen] = self.spelling * np.exp(-nats)
        return ids, unigram

    def _logs(self, ids: IntArray, unigram: FloatArray, firsts: IntArray) -> FloatArray:
        """Return log P of each word of some stories, one after another.

        Args:
            ids: (words,) at least one.
            unigram: (words,) P(w).
            firsts: where each story begins.
        """
        n = len(self.unigram)
        before = _shifted(ids, firsts, _MARK)
        pair = before * n + ids
        place = self.pairs.find(pair)
        context = _shifted(place, firsts, int(self.pairs.find(np.array([_MARKS]))[0]))
        triple = self.triples.find(_shifted(pair, firsts, _MARKS) * n + ids)
        probability = self.after_word.take(before)
        probability *= unigram
        probability += self.bigram.take(place, mode="clip")
        probability *= self.after_pair.take(context, mode="clip")
        probability += self.trigram.take(triple, mode="clip")
        return np.log(probability, out=probability)


def _marked_ids(texts: Sequence[str]) -> tuple[dict[str, int], IntArray]:
    """Return the id of each word, and the ids of all texts with two marks before each.

    Raises:
        InputError: no text holds a word, or there are too many.
    """
    vocabulary: dict[str, int] = {}
    parts = [np.empty(0, np.int64)]
    for at in range(0, len(texts), _FIT_STORIES):
        words = split_words(pack(texts[at : at + _FIT_STORIES]))
        known = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words.vocabulary]
        marks = np.repeat(words.offsets[:-1], 2)
        parts.append(np.insert(np.array(known, np.int64)[words.ids], marks, _MARK))
    few = f"name at least one story with a word and fewer than {_MAX_WORDS:,} distinct words"
    if not 0 < len(vocabulary) < _MAX_WORDS - 2:
        raise InputError(f"the target stories hold {len(vocabulary):,} distinct words", few)
    return vocabulary, np.concatenate(parts)


def _discounted(
    counts: IntArray, contexts: IntArray, num_contexts: int
) -> tuple[FloatArray, FloatArray]:
    """Discount the counts of grams of one order.

    Args:
        counts: (grams,) at least 1.
        contexts: (grams,) of each.

    Returns:
        The first term of each gram's probability, (grams,), and what each context leaves to the
        shorter one, (num_contexts,).
    """
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    discount = once / (once + 2 * twice) if once else _DISCOUNT
    total = np.bincount(contexts, counts, num_contexts)
    followers = np.bincount(contexts, minlength=num_contexts)
    left = np.ones(num_contexts)
    np.divide(discount * followers, total, out=left, where=total > 0)
    return (counts - discount) / total[contexts], left


def _fit_spelling(words: Sequence[str]) -> FloatArray:
    """Return - log S(b | a), (257, 257), of distinct words."""
    before, after, _ = _symbols(words)
    pairs, counts = np.unique(before * _SYMBOLS + after, return_counts=True)
    terms, left = _discounted(counts, pairs // _SYMBOLS, _SYMBOLS)
    base = (np.bincount(after, minlength=_SYMBOLS) + 1) / (len(after) + _SYMBOLS)
    spelled = np.outer(left, base)
    spelled.flat[pairs] += terms
    return -np.log(spelled)


def _spelling_nats(words: Sequence[str], byte_nats: FloatArray) -> FloatArray:
    """Return - log S of each word, at most `_MAX_SPELLING`, (words,)."""
    before, after, firsts = _symbols(words)
    nats = np.add.reduceat(byte_nats[before, after], firsts) if len(firsts) else np.empty(0)
    return np.minimum(nats, _MAX_SPELLING)


def _symbols(words: Sequence[str]) -> tuple[IntArray, IntArray, IntArray]:
    """Return each byte's predecessor, the bytes and ends of all words, and where words begin."""
    encoded = [encode(word) for word in words]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded)) + 1
    after = np.frombuffer(b"".join(word + b"\0" for word in encoded), np.uint8).astype(np.int64)
    ends = np.cumsum(lengths) - 1
    after[ends] = _END
    return np.roll(after, 1), after, ends - lengths + 1  # what precedes a first byte is an end


def _shifted(values: npt.NDArray[T], firsts: IntArray, start: int) -> npt.NDArray[T]:
    """Return the value before each, `start` before the first of a story."""
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[firsts] = start
    return before


def _chunks(offsets: IntArray) -> Iterator[slice]:
    """Yield slices of stories of about `_CHUNK_TOKENS` words each, at least one story."""
    first, stories = 0, len(offsets) - 1
    while first < stories:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK_TOKENS, "right")) - 1
        last = min(stories, max(first + 1, last))
        yield slice(first, last)
        first = last
