"""The library in five calls: `train`, `evaluate`, `score_difficulty`, `compare`, `load_run`.

`import tinyohem` offers them by the same names. Each does what the command of that name does, with
the same files; settings are the recipe's keys (`tinyohem recipes show baseline` explains each):

    run = tinyohem.train("stories.jsonl", {"ohem.ratio": 0.5, "training.minutes": 5}, out="runs/a")
    print(run.evaluation["bits_per_byte"])

Wrong input raises `tinyohem.errors.InputError`, whose message and hint say what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinyohem.errors import InputError
from tinyohem.io.json import JsonObject, read_json, read_jsonl
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.layout import EVALUATION_FILE, METRICS_FILE

if TYPE_CHECKING:
    from tinyohem.difficulty.score_table import ScoreTable
    from tinyohem.evaluation.perplexity import Perplexity
    from tinyohem.experiments.table import Row
    from tinyohem.models.source import Source
    from tinyohem.runs.record import RunRecord
    from tinyohem.runs.resume import Resume

Settings = Mapping[str, object]  # such as {"ohem.ratio": 0.5, "optim.lr": 1e-3}

_SAMPLE = "sample"


@dataclass(frozen=True)
class TrainedRun:
    """A run folder."""

    folder: Path
    record: "RunRecord"  # its config, data, size and environment
    log: list[JsonObject]  # the rows of metrics.jsonl
    evaluation: JsonObject | None  # eval.json; None where it has not ended

    def load(self, device: str = "auto") -> "Source":
        """Return its model and tokenizer, both of transformers.

        Raises:
            InputError: the run has not ended.
        """
        from tinyohem.models.source import load_source

        return load_source(str(self.folder), device)


def train(
    dataset: str = _SAMPLE,
    settings: Settings | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | None = None,
    resume: "Resume" = "never",
    progress: Progress = SILENT,
) -> TrainedRun:
    """Train a model.

    Args:
        dataset: `sample`, a Hub id, files, a folder or a URL, as `--dataset` takes them.
        settings: keys of the recipe.
        out: the run folder; default: as the command names it, below `runs/`.
        recipe: a built-in recipe or a .toml file that the settings lie over.
        resume: `never`, `auto` or `must`.

    Raises:
        InputError: a setting, the data or the folder forbids the run.
        RunError: the loss stopped being finite.
    """
    from tinyohem.config.recipes import load_config
    from tinyohem.runs.resume import default_run_dir
    from tinyohem.training.loop import train as train_model

    config = load_config(recipe, {"data.dataset": dataset, **(settings or {})})
    folder = Path(out) if out is not None else default_run_dir(config, recipe)
    train_model(config, folder, resume=resume, progress=progress)
    return load_run(folder)


def load_run(folder: str | Path) -> TrainedRun:
    """Read a run folder, of a run that has ended or not.

    Raises:
        InputError: the folder holds no run, or its files are damaged.
    """
    from tinyohem.runs.record import run_record

    folder = Path(folder)
    record = run_record(str(folder))
    if record is None:
        raise InputError(f"{folder} holds no run", "name a folder that `train` wrote")
    log, evaluation = folder / METRICS_FILE, folder / EVALUATION_FILE
    return TrainedRun(
        folder,
        record,
        list(read_jsonl(log)) if log.exists() else [],
        read_json(evaluation) if evaluation.exists() else None,
    )


def evaluate(
    model: str | Path, dataset: str | None = None, *, progress: Progress = SILENT
) -> "Perplexity":
    """Score a model on every token of every story once.

    Args:
        model: a run, a checkpoint, a transformers folder or a Hub id.
        dataset: its validation split, or all of it where there are no splits; default: what the run
            was validated on.

    Raises:
        InputError: there is no such model or data set.
    """
    from tinyohem.evaluation.open import open_evaluation
    from tinyohem.evaluation.perplexity import evaluate_perplexity

    opened = open_evaluation(str(model), dataset=dataset, progress=progress)
    return evaluate_perplexity(
        opened.source.model,
        opened.store,
        seq_len=opened.seq_len,
        stride=opened.stride,
        progress=progress,
    )


def score_difficulty(
    dataset: str, out: str | Path = "scores", *, progress: Progress = SILENT
) -> "ScoreTable":
    """Score how hard every story of a corpus is, and return the table with its columns.

    Raises:
        InputError: there is no such corpus, or the folder holds scores of another one.
    """
    from tinyohem.data.corpus import open_corpus
    from tinyohem.difficulty.score_corpus import score_corpus

    return score_corpus(open_corpus(dataset, progress=progress), Path(out), progress=progress)


def compare(
    arms: Mapping[str, Settings],
    dataset: str = _SAMPLE,
    settings: Settings | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    out: str | Path = "runs/compare",
    workers: int | None = None,
    progress: Progress = SILENT,
) -> "list[Row]":
    """Train every arm on every seed with as many tokens, and test the differences.

    Args:
        arms: settings by name; the first is the baseline.
        settings: of all arms.
        seeds: how many, or which.
        workers: runs at a time; default: one for each GPU, else one for each core.

    Raises:
        InputError: a setting forbids a run, or `out` holds another comparison.
    """
    from tinyohem.config.recipes import config_tree
    from tinyohem.experiments.run import run_comparison
    from tinyohem.experiments.spec import Arm, Comparison
    from tinyohem.experiments.table import summarise

    common = config_tree(None, {"data.dataset": dataset, **(settings or {})}, ())
    comparison = Comparison(
        arms=tuple(Arm(name, config_tree(None, own, ())) for name, own in arms.items()),
        seeds=tuple(range(seeds) if isinstance(seeds, int) else seeds),
        common=common,
    )
    return summarise(run_comparison(comparison, Path(out), workers, progress))
