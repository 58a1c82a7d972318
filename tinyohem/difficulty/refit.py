"""Between the two passes of a target over a pool: which stories passed, and the models of these.

A model is fitted on at most `MAX_WORDS` words of the pool: time and memory then do not grow with
it. They are those of the passing stories with the lowest hashes, so no order of the pool matters,
and of stories with the same letters the first one counts. The target's own are left out: a
calibration story would draw the line by a model that knows it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinyohem.config.difficulty import TARGET_METRIC
from tinyohem.data.corpus import Corpus
from tinyohem.difficulty.shards import FIRST_SCHEMA, read_shard
from tinyohem.difficulty.target_rule import (
    FOLDS,
    QUANTILE,
    LineRecord,
    TargetRule,
    folds_of,
    keys_of,
    line_at,
)

# Some 12,000 TinyStories; the tables of a model take 60 MB then, in every worker. More words tell
# replaced ones better, but ever less so: LOG.md, 2026-11-28.
MAX_WORDS = 2_000_000
# Of what passed. Where fewer are like the target the models learn the junk: LOG.md, 2026-11-28.
_LEAST_SHARE = 0.5
_FOUND = np.dtype([("key", np.uint64), ("row", np.int64), ("words", np.int64)])
_Found = npt.NDArray[np.void]


def refit(rule: TargetRule, corpus: Corpus, shards: Sequence[Path]) -> TargetRule:
    """Return the rule of the second pass.

    It is that of the first where nothing passed it, or where less than half of what passed is like
    the target by `share_like_target`.

    Args:
        rule: of the first pass.
        corpus: the pool, which is read once more for the stories to fit on.
        shards: what the first pass wrote.
    """
    line, median = (line_at(rule.calibration, quantile) for quantile in (QUANTILE, 0.5))
    typical, passed, found = 0, 0, np.empty(0, _FOUND)
    target = rule.stories
    own = keys_of([*target.fit, *target.calibrate, *target.validate])
    for path in shards:
        table = read_shard(path, FIRST_SCHEMA)
        scores = table.column(TARGET_METRIC).to_numpy()
        passes = scores <= line
        typical += int(np.count_nonzero(scores <= median))
        passed += int(np.count_nonzero(passes))
        here = np.empty(len(table), _FOUND)
        for name in _FOUND.names or ():
            here[name] = table.column(name).to_numpy()
        here = here[passes & ~np.isin(here["key"], own)]
        found = _lowest(np.concatenate([found, here]))
    if not len(found) or share_like_target(typical, passed) < _LEAST_SHARE:
        return rule
    texts = _read(corpus, found["row"])
    folds = folds_of(found["key"])
    of_folds = [[texts[row] for row in found["row"][folds == fold]] for fold in range(FOLDS)]
    return rule.refit(of_folds, LineRecord(line=line, passed=passed))


def share_like_target(num_typical: int, num_passed: int) -> float:
    """Estimate the share of the stories that passed the first pass that are like the target.

    Of stories like it half score at most the median of those that calibrate, and all but
    `QUANTILE` pass. Other stories that pass score near the line. So those up to the median tell how
    many of the wanted there are.

    Args:
        num_typical: stories of the pool that score at most the median.
        num_passed: stories that passed, at least one.
    """
    return min(1.0, 2 * num_typical * (1 - QUANTILE) / num_passed)


def _lowest(found: _Found) -> _Found:
    """Return of each fold the stories with the lowest keys, up to `MAX_WORDS` words, once each.

    The one that reaches the limit is the last, so that the same ones are left however the pool is
    cut into shards.
    """
    found = found[np.unique(found["key"], return_index=True)[1]]
    folds = folds_of(found["key"])
    parts = [found[folds == fold] for fold in range(FOLDS)]
    return np.concatenate([p[np.cumsum(p["words"]) - p["words"] < MAX_WORDS] for p in parts])


def _read(corpus: Corpus, rows: npt.NDArray[np.int64]) -> dict[int, str]:
    """Return the stories at some rows of a corpus; blocks without one are not parsed."""
    texts: dict[int, str] = {}
    ordered, first = np.sort(rows), 0
    for block, _ in corpus.blocks():
        low, high = np.searchsorted(ordered, [first, first + block.rows])
        if low < high:
            values = [text.strip() for text in block.texts()]
            texts |= {row: values[row - first] for row in ordered[low:high].tolist()}
        first += block.rows
    return texts
