"""Score every story of a corpus once, in order, on every core; then rank the scores."""

import math
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyohem.config.curriculum import CurriculumConfig, parse_weights
from tinyohem.config.difficulty import METRICS
from tinyohem.data.corpus import Corpus
from tinyohem.difficulty.corpus_percentiles import write_scores
from tinyohem.difficulty.refit import refit
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_table import (
    MANIFEST_FILE,
    METRIC_VERSION,
    CorpusRecord,
    PassRecord,
    RulesRecord,
    ScoreTable,
    library_versions,
    open_scores,
)
from tinyohem.difficulty.shards import (
    Rules,
    ScoreShard,
    score_missing_shards,
    shard_path,
    shards_of,
)
from tinyohem.errors import InputError
from tinyohem.io.atomic import drop_leftovers, is_leftover
from tinyohem.io.data_dir import data_dir
from tinyohem.io.json import read_json, write_json
from tinyohem.io.locks import sole_writer
from tinyohem.progress import SILENT, Progress
from tinyohem.system.processes import usable_cores

UNFINISHED = "unfinished"
_FIRST = "first"  # below it: the shards of the first pass by a target
DESCRIPTION_FILE = "description.json"
# Scores the shards of a corpus that a folder lacks; yields every shard once it is there, and
# whether it was scored now. It may look at the whole corpus before it returns the iterator.
Scoring = Generator[tuple[ScoreShard[Any], bool], None, None]
Engine = Callable[[Corpus, Path, Rules, int, Progress], Scoring]


def score_here(
    corpus: Corpus, folder: Path, rules: Rules, workers: int, _progress: Progress
) -> Scoring:
    """Score with processes of this machine; see `Engine`."""
    return score_missing_shards(shards_of(corpus.blocks()), folder, rules, workers)


def score_corpus(
    corpus: Corpus,
    out: Path,
    *,
    rules: ScoringRules | None = None,
    engine: Engine = score_here,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> ScoreTable:
    """Write, complete or reuse the score folder of a corpus.

    Args:
        engine: what runs the pass over the text. The files are the same for any.
        workers: processes; by default one for each core that this process may use. The files are
            the same for any number.

    Raises:
        InputError: an empty corpus, a folder with scores of another corpus or other rules, or one
            that another process is writing into.
        RunError: a worker process died; finished shards are kept.
    """
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise InputError(f"workers is {workers}", "choose at least 1")
    rules = rules or ScoringRules()
    wanted = _describe(corpus, rules)
    unfinished = out / UNFINISHED
    with sole_writer(out, progress=progress):  # the caller may hold it already
        drop_leftovers(out)
        if (out / MANIFEST_FILE).exists():
            return _reuse(out, wanted, progress)
        _begin_or_resume(unfinished, wanted, progress)
        if rules.target is not None:
            first, found = unfinished / _FIRST, rules.target
            first.mkdir(exist_ok=True)
            scoring = engine(corpus, first, found, workers, progress)
            shards = _run_pass(corpus, first, scoring, progress, "first pass")
            rules = replace(rules, target=refit(found, corpus, shards))
            if rules.target is found:
                progress.warn("no second pass: too little that passed the first is like the target")
        scoring = engine(corpus, unfinished, rules, workers, progress)
        shards = _run_pass(corpus, unfinished, scoring, progress)
        write_scores(shards, out, wanted, rules, workers, progress)
        shutil.rmtree(unfinished)
        return open_scores(out, corpus.fingerprint)


def is_started(out: Path) -> bool:
    """Whether `score_corpus` would reuse or complete what is in a folder."""
    return (out / MANIFEST_FILE).exists() or (out / UNFINISHED).exists()


def _describe(corpus: Corpus, rules: ScoringRules) -> PassRecord:
    """Return everything that the scores depend on, as the manifest records it."""
    return PassRecord(
        corpus=CorpusRecord(name=corpus.name, split=corpus.split, fingerprint=corpus.fingerprint),
        metric_version=METRIC_VERSION,
        rules=RulesRecord.model_validate(rules.to_json()),
        versions=library_versions(),
    )


def _reuse(out: Path, wanted: PassRecord, progress: Progress) -> ScoreTable:
    table = open_scores(out, wanted.corpus.fingerprint)
    if table.manifest.rules.target != wanted.rules.target:
        raise InputError(
            f"{out} holds scores by another target, an earlier kind of model, or none",
            "choose another folder",
        )
    if table.manifest.rules.to_json() != wanted.rules.to_json():
        raise InputError(f"{out} holds scores under other rules", "choose another folder")
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # a kill can come just before that
    progress.note(f"reusing the scores in {out}")
    return table


def _begin_or_resume(unfinished: Path, wanted: PassRecord, progress: Progress) -> None:
    """Keep the shards of an earlier pass only if it scored the same corpus in the same way."""
    described = unfinished / DESCRIPTION_FILE
    begun = unfinished.exists() and not all(map(is_leftover, unfinished.iterdir()))
    if begun and not described.exists():  # a folder of the user's with that name
        raise InputError(f"{unfinished} holds no pass that was begun here", "choose another --out")
    try:
        same = read_json(described) == wanted.to_json()
    except (OSError, ValueError):  # none, or damaged
        same = False
    if same:
        progress.note(f"going on with the scores in {unfinished}")
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    write_json(described, wanted.to_json())


def _run_pass(
    corpus: Corpus, unfinished: Path, scoring: Scoring, progress: Progress, name: str = "scoring"
) -> list[Path]:
    """Drive the generator that scores the shards, and report progress.

    Returns:
        Their files, in the order of the corpus.
    """
    # In percent: the number of stories is known only once all have been read.
    progress.start(name, 100, "%")
    shards, rows, scored, reached, began = 0, 0, 0, 0.0, time.perf_counter()
    with closing(scoring):  # or an interrupted engine would go on
        for shard, scored_now in scoring:
            shards += 1
            rows += shard.rows
            scored += shard.rows if scored_now else 0
            rate = scored / (time.perf_counter() - began)
            reached = max(reached, shard.share)  # shards come in any order
            progress.advance(int(100 * reached), {"stories": rows, "stories/s": rate})
    if reached < 1:  # some corpora do not know their shares
        progress.advance(100)
    progress.finish()
    if not shards:
        what = f"the corpus {corpus.name} ({corpus.split}) holds no stories"
        raise InputError(what, "check the file and --text-field")
    return [shard_path(unfinished, index) for index in range(shards)]


def scores_for_curriculum(
    config: CurriculumConfig, corpus: Corpus, progress: Progress
) -> ScoreTable:
    """Return the scores of the training corpus: the folder named, or scored now and kept.

    Raises:
        InputError: a metric that no pass over the text yields, without a folder that holds it.
    """
    if config.scores is not None:
        return open_scores(Path(config.scores), corpus.fingerprint)
    for metric in parse_weights(config.metric):
        if metric not in METRICS:
            raise InputError(
                f"scoring the corpus yields no metric {metric!r}, only {', '.join(METRICS)}",
                "make a score folder that has it (`tinyohem score-difficulty --help`) and name "
                "that with --set curriculum.scores=FOLDER",
            )
    folder = data_dir() / "scores" / f"{corpus.fingerprint[:16]}-{METRIC_VERSION}"
    if not folder.exists():
        progress.note(f"no score table fits the corpus: scoring it into {folder}")
    with sole_writer(folder, patience=math.inf, progress=progress):  # runs share it
        return score_corpus(corpus, folder, progress=progress)  # which nests its own
