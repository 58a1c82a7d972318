"""Time difficulty scoring against the libraries that people would chain instead, and in full.

    python scripts/bench_difficulty.py [stories.jsonl.zst]

Without a file it takes the one that $TINYOHEM_STORIES names, else the built-in sample, whose text
is synthetic. Needs the extra `dev`. Every round times every variant on the same stories, one after
another, so that a busy machine slows all of them. CPU seconds are the process's own, which other
programs disturb less than the clock.
"""

import argparse
import importlib
import os
import resource
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import zstandard

from tinyohem.data.blocks import Block
from tinyohem.data.corpus import SAMPLE, open_corpus
from tinyohem.difficulty.mtld import mtld_of_each
from tinyohem.difficulty.ngram import NgramModel
from tinyohem.difficulty.score_batch import ScoringRules, score_batch
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.sentences import count_sentences
from tinyohem.difficulty.shards import SHARD_ROWS
from tinyohem.difficulty.syllables import count_syllables
from tinyohem.difficulty.text import pack, split_words

TINYSTORIES_V2 = 2_717_699  # stories of TinyStoriesV2-GPT4-train
FUSED, CHAIN = "all three, fused, with flags and hashes", "textstat + LexicalRichness + zlib"
NGRAM = "target_ngram, words at hand"
TARGET_STORIES = 640  # that its model is fitted on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", nargs="?", default=os.environ.get("TINYOHEM_STORIES", SAMPLE))
    parser.add_argument("--stories", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20, help="of the corpus, for a whole pass")
    parser.add_argument("--passes", type=int, default=2, help="whole passes by each count of cores")
    options = parser.parse_args()
    corpus = open_corpus(options.dataset)
    texts = [story.text for story in islice(corpus.stories(), options.stories)]
    size = sum(len(text.encode()) for text in texts) / len(texts)
    print(f"{options.dataset}: {len(texts):,} stories of {size:,.0f} bytes")
    _one_core(texts, options.rounds)
    _every_core(_Repeated(list(corpus.blocks()), options.repeats), options.passes)


def _one_core(texts: list[str], rounds: int) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    variants = _variants() | {NGRAM: _ngram(texts)}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):  # the first one warms up
        for name, run in variants.items():
            began = time.process_time()
            run(texts)
            seconds[name].append(time.process_time() - began)
    os.sched_setaffinity(0, cores)
    rates = {name: [len(texts) / s for s in times[1:]] for name, times in seconds.items()}
    print(f"\n{'one core, stories per CPU second':42}{'best':>10}{'median':>10}")
    for name, measured in rates.items():
        print(f"{name:42}{max(measured):10,.0f}{statistics.median(measured):10,.0f}")
    ratios = [a / b for a, b in zip(rates[FUSED], rates[CHAIN], strict=True)]
    print(f"fused over the chain, each round: {min(ratios):.1f} to {max(ratios):.1f} times")
    shares = [a / b for a, b in zip(rates[FUSED], rates[NGRAM], strict=True)]
    print(f"target_ngram's time over fused's, each round: {min(shares):.3f} to {max(shares):.3f}")


def _every_core(corpus: "_Repeated", passes: int) -> None:
    """Time whole passes from blocks of rows to score table, start of the processes included."""
    cores = len(os.sched_getaffinity(0))
    print(
        f"\n{'whole pass':12}{'stories/s':>12}{'CPU µs a story':>18}{f'for {TINYSTORIES_V2:,}':>18}"
    )
    for workers in (1, cores) * passes:
        cpu = _cpu_seconds()
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            table = score_corpus(corpus, Path(folder) / "scores", workers=workers)
            rate = table.stories / (time.perf_counter() - began)
        micros = 1e6 * (_cpu_seconds() - cpu) / table.stories
        minutes = f"{TINYSTORIES_V2 / rate / 60:.1f} min"
        print(f"{f'{workers} workers':12}{rate:12,.0f}{micros:18.1f}{minutes:>18}")


def _cpu_seconds() -> float:
    """Return what this process and the workers that have ended took, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@dataclass(frozen=True)
class _Repeated:
    """A corpus several times over: long enough that starting processes does not count."""

    once: list[tuple[Block, float]]
    times: int
    name = split = fingerprint = "repeated"

    def blocks(self) -> Iterator[tuple[Block, float]]:
        for done in range(self.times):
            for block, share in self.once:
                yield block, (done + share) / self.times


def _variants() -> dict[str, Callable[[list[str]], object]]:
    rules = ScoringRules()
    flesch, mtld = _textstat_flesch(), importlib.import_module("lexicalrichness").LexicalRichness
    compressor = zstandard.ZstdCompressor(level=3)

    def fused(texts: list[str]) -> None:
        for batch in _batches(texts):
            score_batch(batch, rules)

    def chain(texts: list[str]) -> None:
        for text in texts:
            flesch(text)
            mtld(text).mtld(threshold=0.72)
            len(zlib.compress(text.encode())) / len(text.encode())

    def ours(part: Callable) -> Callable[[list[str]], None]:
        def run(texts: list[str]) -> None:
            for batch in _batches(texts):
                part(pack(batch))

        return run

    return {
        FUSED: fused,
        CHAIN: chain,
        "ours: words": ours(split_words),
        "ours: sentences": ours(count_sentences),
        "ours: words, MTLD": ours(lambda batch: mtld_of_each(split_words(batch), rules.mtld)),
        "zstd level 3": lambda texts: [compressor.compress(text.encode()) for text in texts],
        "zlib level 6": lambda texts: [zlib.compress(text.encode()) for text in texts],
        "textstat": lambda texts: [flesch(text) for text in texts],
        "LexicalRichness": lambda texts: [mtld(text).mtld(threshold=0.72) for text in texts],
    }


def _ngram(texts: Sequence[str]) -> Callable[[list[str]], None]:
    model = NgramModel.fit(texts[:TARGET_STORIES])
    split = [split_words(pack(batch)) for batch in _batches(texts)]

    def run(_texts: list[str]) -> None:
        for words in split:
            model.nats_per_word(words)

    return run


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(texts), SHARD_ROWS):
        yield list(texts[at : at + SHARD_ROWS])


def _textstat_flesch() -> Callable[[str], float]:
    """Return textstat's reading ease without the dictionary that it would download.

    A look-up costs the same, and its caches of whole texts would serve every later round.
    """
    metric = importlib.import_module("textstat.backend.metrics._flesch_reading_ease")
    syllables = importlib.import_module("textstat.backend.counts._count_syllables")
    known = _Phones()
    syllables.get_cmudict = lambda _: known  # type: ignore[attr-defined]

    def flesch(text: str) -> float:
        return float(metric.flesch_reading_ease(text, "en_US"))

    return flesch


class _Phones(dict):
    def __missing__(self, word: str) -> list[list[str]]:
        self[word] = [["AA1"] * count_syllables(word.strip("'") or word)]
        return self[word]


if __name__ == "__main__":
    main()
