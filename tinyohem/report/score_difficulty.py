"""Run `score-difficulty` from end to end: score, add metrics, summarise, write the page.

The pass over the corpus is `difficulty.score_corpus`; the metrics that a tokenizer and a model add
are in `evaluation.story_metrics`. All happens under one lock, so the order of steps is here.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tinyohem.config.data import DataConfig
from tinyohem.data.corpus import Corpus, open_corpus
from tinyohem.data.fingerprint import EachFile
from tinyohem.data.target import open_target
from tinyohem.difficulty.remote_scores import scores_at
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_corpus import Engine, is_started, score_corpus, score_here
from tinyohem.difficulty.score_table import MANIFEST_FILE, SCORES_FILE, ScoreTable
from tinyohem.difficulty.summary import ScoreSummary, summarise
from tinyohem.difficulty.target_rule import TargetRule
from tinyohem.difficulty.target_scores import check_script
from tinyohem.errors import InputError
from tinyohem.io.json import JsonObject
from tinyohem.io.locks import sole_writer
from tinyohem.io.remote import is_url
from tinyohem.progress import SILENT, Progress
from tinyohem.report.difficulty_page import write_page
from tinyohem.system.processes import usable_cores

_Addition = Callable[[ScoreTable, Corpus], ScoreTable]


@dataclass(frozen=True)
class DifficultyReport:
    """What a score folder says, and where it is."""

    summary: ScoreSummary
    place: str  # the folder or its URL, as the user wrote it
    pages: list[str]  # files in it that show the summary; none without the extra `plots`
    stories_per_second: float | None = None  # of the pass; None where no whole pass was made

    def to_json(self) -> JsonObject:
        """Return every figure, the easiest and hardest stories by each metric, and the files."""
        names = (SCORES_FILE, MANIFEST_FILE, *self.pages)
        return {
            **self.summary.to_json(),
            "examples": {name: ends.to_json() for name, ends in self.summary.examples.items()},
            "stories_per_second": self.stories_per_second,
            "files": [f"{self.place}/{name}" for name in names],
        }


def score_difficulty(
    data: DataConfig,
    out: str,
    rules: ScoringRules,
    *,
    engine: str = "local",
    workers: int | None = None,
    tokenizer: str | None = None,
    model: str | None = None,
    target: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> DifficultyReport:
    """Write, complete or reuse the score folder of a corpus, and report on it.

    Args:
        out: the score folder or its URL.
        engine: `local`: this machine; `ray`: a Ray cluster.
        workers: processes; by default one for each core.
        tokenizer: name of one whose fertility is added to the scores.
        model: name of one whose loss is added.
        target: name of stories of the wanted kind, with which each story is compared.
        device: for the model.

    Raises:
        InputError: see `open_corpus`, `score_corpus`, `add_fertility` and `add_model_loss`.
        RunError: a worker process died, or the model's loss is not finite.
    """
    with _open_engine(engine, workers) as (score, each_file):
        corpus = open_corpus(
            data.dataset, text_field=data.text_field, progress=progress, each=each_file
        )
        additions = _additions(tokenizer, model, device, progress)
        wanted = target and open_target(target, text_field=data.text_field, progress=progress)
        if wanted:
            rules = replace(rules, target=TargetRule.fit(wanted))
        place = scores_at(out, score, progress) if is_url(out) else nullcontext((Path(out), score))
        with place as (folder, score_into), sole_writer(folder, progress=progress):
            began, anew = time.perf_counter(), not is_started(folder)
            table = score_corpus(
                corpus, folder, rules=rules, engine=score_into, workers=workers, progress=progress
            )
            seconds = time.perf_counter() - began
            if wanted:
                check_script(table, wanted)
            for add in additions:
                table = add(table, corpus)
            return report_on(table, out, table.stories / seconds if anew else None, progress)


def report_on(
    table: ScoreTable,
    place: str,
    stories_per_second: float | None = None,
    progress: Progress = SILENT,
) -> DifficultyReport:
    """Summarise a score table, and write the pages beside it.

    Raises:
        InputError: the table is damaged.
    """
    summary = summarise(table)
    for metric, rho in summary.confounded.items():
        progress.warn(f"{metric} goes with length (Spearman {rho:.2f}): it mostly sorts by length")
    pages: list[Path] = []
    try:
        pages = write_page(summary, table.folder)
    except InputError as error:  # without the extra `plots`
        progress.note(f"no HTML report: {error.message}; {error.hint}")
    return DifficultyReport(summary, place, [page.name for page in pages], stories_per_second)


@contextmanager
def _open_engine(name: str, workers: int | None) -> Iterator[tuple[Engine, EachFile]]:
    """Yield the function that scores a corpus, and the one that hashes its files."""
    if name == "local":
        yield score_here, map
    elif name == "ray":
        from tinyohem.difficulty.ray_engine import each_on_ray, ray_cluster, score_on_ray

        with ray_cluster(usable_cores() if workers is None else workers):
            yield score_on_ray, each_on_ray
    else:
        raise InputError(f"there is no engine {name}", "--engine local or --engine ray")


def _additions(
    tokenizer: str | None, model: str | None, device: str, progress: Progress
) -> list[_Addition]:
    """Load what the added metrics need, so that a wrong name fails before the corpus is scored."""
    add: list[_Addition] = []
    if tokenizer is not None:
        from tinyohem.data.tokenizer import load_tokenizer
        from tinyohem.evaluation.story_metrics import add_fertility

        loaded = load_tokenizer(tokenizer)
        add.append(partial(add_fertility, tokenizer=loaded, name=tokenizer, progress=progress))
    if model is not None:
        from tinyohem.evaluation.story_metrics import add_model_loss
        from tinyohem.models.source import load_source

        source = load_source(model, device)
        add.append(partial(add_model_loss, source=source, name=model, progress=progress))
    return add
