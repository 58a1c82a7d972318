"""The smallest corpus, recipe and command line that still go through every stage."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tinyohem.config.recipes import load_config
from tinyohem.config.run import RunConfig
from tinyohem.evaluation.diagnose import diagnose
from tinyohem.evaluation.open import open_evaluation
from tinyohem.evaluation.perplexity import Perplexity
from tinyohem.io.hashing import hash_file

# Seconds that a test waits for another process before it gives up, where many share the cores.
PATIENCE = 1800

RECIPE: dict[str, Any] = {
    "tokenizer.vocab_size": 320,
    "model.hidden_size": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.intermediate_size": 32,
    "training.steps": 20,
    "training.batch_size": 4,
    "training.seq_len": 32,
    "training.device": "cpu",
    "optim.optimizer": "adamw",
    "optim.lr": 4e-3,
    "optim.schedule": "cosine",
    "training.log_every": 2,
    "training.eval_every": 10,
    "training.eval_tokens": 2_000,
    "training.save_every": 5,
}


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@contextmanager
def one_process() -> Iterator[None]:
    """Let comparisons train in this process: a worker's imports take longer than a tiny run."""

    def in_turn(
        jobs: Sequence[Any], work: Callable[[Any], Any], *_: Any
    ) -> Iterator[tuple[Any, Any]]:
        yield from ((job, work(job)) for job in jobs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyohem.experiments.run.in_parallel", in_turn)
        patch.setattr("tinyohem.experiments.dry_run.outcomes", in_turn)
        yield


def write_stories(path: Path, stories: Iterable[str], field: str = "text") -> Path:
    """Write one JSON object a story."""
    path.write_text("".join(json.dumps({field: story}) + "\n" for story in stories))
    return path


def config(corpus: Path, **overrides: Any) -> RunConfig:
    """Return the tiny recipe on `corpus`; `training__steps=3` sets `training.steps`."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(overrides={**RECIPE, "data.dataset": str(corpus), **given})


def flags(corpus: Path, **overrides: Any) -> list[str]:
    """Return the arguments of `tinyohem train` that give the same."""
    tree = config(corpus, **overrides).model_dump()
    keys = {*RECIPE, "data.dataset", *(name.replace("__", ".") for name in overrides)}
    values = {key: tree[key.partition(".")[0]][key.partition(".")[2]] for key in sorted(keys)}
    return [f"--set={key}={json.dumps(value)}" for key, value in values.items()]


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file under `folder` with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def saved_hashes(run_dir: Path, step: int = 20) -> list[str]:
    """Return the hashes of a checkpoint's tensor files."""
    folder = run_dir / "checkpoints" / f"step_{step:06d}"
    return [
        hash_file(folder / "model" / "model.safetensors"),
        hash_file(folder / "optimizer.safetensors"),
    ]


def steps_kept(run_dir: Path) -> list[int]:
    """Return the steps whose checkpoints are there."""
    return sorted(int(p.name.removeprefix("step_")) for p in run_dir.glob("checkpoints/step_*"))


def evaluate(name: Path | str, **options: Any) -> Perplexity:
    """Score a model by its name on the CPU."""
    return diagnose(open_evaluation(str(name), device="cpu", **options)).perplexity


class Listener:
    """A `Progress` that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.stages: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def start(self, stage: str, total: int | None, unit: str, **_: object) -> None:
        self.stages.append(stage)

    def advance(self, done: int, fields: object = None) -> None: ...

    def finish(self) -> None: ...
