"""Malformed input through the real command line: an error, a hint, exit code 2, nothing lost.

Every artefact that may come from a stranger is built once, then damaged by a seeded generator and
handed to the commands that read it. What still is valid may succeed; all else must be refused.
"""

import os
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import mutations
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import zstandard

from tinyohem.data.sample.stories import sample_stories
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import read_json, write_json

Arguments = list[object]
GENERATED = 450  # in all; a sample of them is in the ordinary suite
SAMPLE = 12

COMPARISON = """
seeds = [0, 1]
budget = "equal-tokens"
[common.data]
dataset = "nowhere.jsonl"
[common.training]
tokens = "4k"
steps = 20
[arms.full.ohem]
ratio = 1.0
[arms.random.ohem]
ratio = 0.5
select = "random"
"""
RECIPE = """
description = "a stranger's"
extends = "ohem"
[training]
steps = 20
seq_len = 32
tokens = "4k"
[optim]
lr = 0.004
[ohem]
ratio = 0.5
schedule = "0:1,0.5:0.5,1:1"
score = "loss"
"""


@dataclass
class Workshop:
    """Valid artefacts, and how each is handed to a command."""

    corpus: Path
    run: Path
    stock: Path  # artefacts that are copied before they are damaged
    commands: dict[str, Callable[[Path], Arguments]] = field(default_factory=dict)

    def case(self, name: str, folder: Path) -> tuple[Path, Arguments]:
        """Copy an artefact into `folder`; return the copy and the command that reads it."""
        kind, _, _ = name.partition(":")
        source = self.stock / kind
        copy = folder / source.name
        shutil.copytree(source, copy)
        return copy, self.commands[name](copy)


@pytest.fixture(scope="module")
def workshop(
    corpus: Path, finished_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workshop:
    from tinyohem.data.corpus import open_corpus
    from tinyohem.difficulty.score_corpus import score_corpus
    from tinyohem.training.mine_run import mine_run

    stock = tmp_path_factory.mktemp("stock")
    shop = Workshop(corpus, finished_run, stock)
    _write_corpora(stock / "corpora")
    (stock / "recipe").mkdir()
    (stock / "recipe" / "a.toml").write_text(RECIPE)
    (stock / "comparison").mkdir()
    (stock / "comparison" / "a.toml").write_text(COMPARISON)
    score_corpus(open_corpus(str(corpus)), stock / "scores", workers=1)
    mine_run(str(finished_run), stock / "pool", data={}, device="cpu")
    shutil.copytree(finished_run, stock / "run")
    for other in ("model", "compared"):
        shutil.rmtree(stock / other, ignore_errors=True)
    shutil.copytree(finished_run / "model", stock / "model")
    _write_comparison(stock / "compared", finished_run)
    _write_records(stock / "records", stock / "compared")

    train: Arguments = ["train", *tiny.flags(corpus), "--out", "new", "--dry-run"]
    for kind in ("jsonl", "json", "txt", "parquet", "jsonl.gz", "jsonl.zst", "parquet.zst"):
        shop.commands[f"corpora:{kind}"] = lambda folder, kind=kind: [  # type: ignore[misc]
            *("prepare-data", "--dataset", folder / f"stories.{kind}"),
            *("--set", "tokenizer.vocab_size=300", "--json"),
        ]
    data = ("--dataset", corpus, "--set=tokenizer.vocab_size=320")
    shop.commands |= {
        "recipe": lambda folder: [
            *("train", "--recipe", folder / "a.toml", *data, "--out", "new", "--dry-run")
        ],
        "comparison": lambda folder: ["compare", folder / "a.toml", "--out", "new"],
        "scores:show": lambda folder: ["score-difficulty", "--show", folder, "--json"],
        "scores:train": lambda folder: [
            *train,
            *("--curriculum", "--set", f"curriculum.scores={folder}"),
        ],
        "pool": lambda folder: [
            *train,
            *("--ohem-ratio=0.5", "--ohem-score=excess_loss", "--ohem-reference", folder),
        ],
        "run:resume": lambda folder: [
            *("train", *tiny.flags(corpus), "--out", folder, "--resume", "must"),
        ],
        "run:report": lambda folder: ["report", folder, "--out", folder.parent / "new" / "a.html"],
        "run:latest": lambda folder: [
            *("generate", folder / "checkpoints" / "latest", "--max-new-tokens=2"),
        ],
        "run:mine": lambda folder: [
            *("mine", folder, "--device=cpu", "--out", folder.parent / "new"),
        ],
        "model": lambda folder: ["generate", folder, "--max-new-tokens=2", "--json"],
        "compared": lambda folder: ["report", folder, "--out", folder.parent / "new" / "a.html"],
        "records": lambda folder: ["report", folder, "--out", folder.parent / "new" / "a.html"],
    }
    return shop


def _write_corpora(folder: Path) -> None:
    folder.mkdir()
    stories = list(islice(sample_stories("train"), 60))
    plain = tiny.write_stories(folder / "stories.jsonl", stories)
    lines = plain.read_text().splitlines()
    (folder / "stories.json").write_text(f"[{','.join(lines)}]")
    (folder / "stories.txt").write_text("<|endoftext|>".join(stories))
    pq.write_table(pa.table({"text": stories}), folder / "stories.parquet")
    for name in ("jsonl", "parquet"):
        content = (folder / f"stories.{name}").read_bytes()
        (folder / f"stories.{name}.zst").write_bytes(zstandard.compress(content))
        with pa.CompressedOutputStream(str(folder / f"stories.{name}.gz"), "gzip") as stream:
            stream.write(content)


def _write_comparison(folder: Path, run: Path) -> None:
    """Write what `compare` leaves behind, without models: nothing then is scored."""
    figures = {"bits_per_byte": 1.0, "perplexity": 9.0, "hardest_tenth": 7.0, "easiest_half": 0.6}
    figures |= {"gini": 0.5, "tokens_seen": 100, "tokens_selected": 50, "train_seconds": 1.0}
    figures |= {"select_seconds": 0.1, "steps_to_baseline": 3, "seconds_to_baseline": 0.5}
    figures |= {"steps_to_halfway": 2, "seconds_to_halfway": 0.3}
    results = []
    for arm in ("full", "random"):
        for seed in (0, 1):
            (folder / f"{arm}-seed{seed}").mkdir(parents=True)
            for name in ("config.json", "metrics.jsonl", "eval.json"):
                shutil.copy(run / name, folder / f"{arm}-seed{seed}" / name)
            results.append({"arm": arm, "seed": seed, **figures})
    pq.write_table(pa.Table.from_pylist(results), folder / "runs.parquet")


def _write_records(folder: Path, compared: Path) -> None:
    """Write a comparison as its records alone: no table, and no other file of a run but its log."""
    for result in pq.read_table(compared / "runs.parquet").to_pylist():
        run = f"{result['arm']}-seed{result['seed']}"
        (folder / run).mkdir(parents=True)
        shutil.copy(compared / run / "metrics.jsonl", folder / run)
        known = {k: v for k, v in result.items() if "_to_" not in k}
        known["config"] = read_json(compared / run / "config.json")["config"]
        write_json(folder / run / "result.json", known)


# Files of each artefact that a generated case may damage.
TARGETS: dict[str, list[str]] = {
    **{
        f"corpora:{kind}": [f"stories.{kind}"]
        for kind in ("jsonl", "json", "txt", "parquet", "jsonl.gz", "jsonl.zst", "parquet.zst")
    },
    "recipe": ["a.toml"],
    "comparison": ["a.toml"],
    "scores:show": ["manifest.json", "scores.parquet", "examples.json"],
    "scores:train": ["manifest.json", "scores.parquet"],
    "pool": ["manifest.json", "shard_0000000.f16.zst"],
    "run:resume": [
        *("config.json", "metrics.jsonl", "checkpoints/step_000020/state.json"),
        "checkpoints/step_000020/optimizer.safetensors",
    ],
    "run:report": ["config.json", "metrics.jsonl", "eval.json"],
    "run:latest": ["checkpoints/latest"],
    "run:mine": ["config.json", "checkpoints/step_000020/state.json"],
    "model": [
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        "model.safetensors",
    ],
    "compared": ["runs.parquet", "full-seed0/config.json", "random-seed1/metrics.jsonl"],
    "records": ["full-seed0/result.json", "random-seed1/metrics.jsonl"],
}


def _unsealed(path: Path) -> dict[str, Any]:
    """Read a file without the hash of itself, which earlier versions did not write."""
    known = dict(read_json(path))
    known.pop("seal", None)
    return known


def _rehash(folder: Path, rng: random.Random) -> None:
    """Now and then make a manifest agree with the damage, as a stranger would."""
    if rng.random() < 0.5:
        return
    manifest, scores = folder / "manifest.json", folder / "scores.parquet"
    try:
        if scores.exists():
            _set(manifest, scores_sha256=hash_file(scores))
        for state in folder.glob("checkpoints/*/state.json"):
            listed = _unsealed(state)["sha256"]
            _set(state, sha256={name: hash_file(state.parent / name) for name in listed})
        for sealed in ("examples.json", "manifest.json"):
            if (folder / sealed).exists():
                _set(folder / sealed)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return


@pytest.fixture
def hand_over(
    tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Arguments], str]:
    """Run a command on malformed input and return its error, empty where it is valid."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")

    def run(arguments: Arguments) -> str:
        before = tiny.snapshot(tmp_path)
        result = tinyohem(*arguments)
        assert "Traceback" not in result.err
        if result.code == 0:
            return ""
        *_, error, hint = result.err.splitlines()
        assert error.startswith("error: "), result.err
        assert hint.startswith("hint: "), result.err
        assert len(error) < 1_100, "nobody reads that"
        assert "\x1b" not in result.err
        # Weights may be whole and well-formed and yet give no finite loss: the run failed.
        if not (result.code == 1 and "its weights are broken" in hint):
            assert (result.code, result.out) == (2, ""), result.err
        assert tiny.snapshot(tmp_path) == before
        return error.removeprefix("error: ")

    return run


def _generated(
    numbers: range, workshop: Workshop, hand_over: Callable[[Arguments], str], tmp_path: Path
) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    told: list[str] = []
    names = list(TARGETS)
    for number in numbers:
        rng = random.Random(number)
        name = names[number % len(names)]
        folder = tmp_path / f"case_{number}"
        copy, arguments = workshop.case(name, folder)
        target = copy / rng.choice(TARGETS[name])
        mutations.damage_file(target, rng)
        _rehash(copy, rng)
        try:
            counts[name, "refused" if hand_over(arguments) else "valid"] += 1
        except Exception as error:  # the others are still worth knowing
            where = traceback.format_exc(limit=-3)
            told.append(f"case {number}: {name}, {target.relative_to(copy)}: {error!r}\n{where}")
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert not told, f"{len(told)} of {len(numbers)}:\n\n" + "\n\n".join(told)
    return counts


@pytest.mark.slow
def test_generated(
    workshop: Workshop, hand_over: Callable[[Arguments], str], tmp_path: Path
) -> None:
    first = GENERATED * int(os.environ.get("CHAOS_SEED", "0"))
    cases = range(first, first + GENERATED)
    counts = _generated(cases, workshop, hand_over, tmp_path)
    print(f"\nmalformed inputs: {counts.total()} generated")
    for name in TARGETS:
        refused, valid = counts[name, "refused"], counts[name, "valid"]
        print(f"  {name}: {refused} refused, {valid} still valid")
    assert counts.total() == GENERATED
    assert sum(n for (_, outcome), n in counts.items() if outcome == "refused") >= 300


def test_a_sample_of_the_generated(
    workshop: Workshop, hand_over: Callable[[Arguments], str], tmp_path: Path
) -> None:
    counts = _generated(range(10**6, 10**6 + SAMPLE), workshop, hand_over, tmp_path)
    assert counts.total() == SAMPLE


def _set(path: Path, **keys: Any) -> None:
    write_json(path, {**_unsealed(path), **keys})


HAND_MADE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a pointer out of its folder": (
        "run:latest",
        lambda f: (f / "checkpoints" / "latest").write_text("../../../elsewhere"),
        "latest names no checkpoint",
    ),
    "an absolute pointer": (
        "run:latest",
        lambda f: (f / "checkpoints" / "latest").write_text("/etc"),
        "latest names no checkpoint",
    ),
    "a pointer that is no text": (
        "run:latest",
        lambda f: (f / "checkpoints" / "latest").write_bytes(b"\xff\xfe"),
        "latest names no checkpoint",
    ),
    "checkpoints that lie elsewhere": (
        "run:resume",
        lambda f: (
            (f / "checkpoints").rename(f.parent / "elsewhere"),
            (f / "checkpoints").symlink_to(f.parent / "elsewhere"),
        ),
        "checkpoints is a link",
    ),
    "a record that is a list": (
        "run:mine",
        lambda f: (f / "config.json").write_text("[1]"),
        "config.json is damaged: ",
    ),
    "a state without a step": (
        "run:resume",
        lambda f: [write_json(p, {"sha256": {}}) for p in f.glob("checkpoints/*/state.json")],
        "is damaged",
    ),
    "weights in a pickle": (
        "model",
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no file named model.safetensors",
    ),
    "a model that brings code": (
        "model",
        lambda f: _set(
            f / "config.json", model_type="own", auto_map={"AutoConfig": "a/b--code.Config"}
        ),
        "cannot load",
    ),
    "attention from the Hub": (
        "model",
        lambda f: _set(f / "config.json", attn_implementation="someone/kernel"),
        "is code from the Hub",
    ),
    "an adapter to another model": (
        "model",
        lambda f: write_json(f / "adapter_config.json", {"base_model_name_or_path": "a/b"}),
        "an adapter",
    ),
    "a thousand times its weights": (
        "model",
        lambda f: _set(f / "config.json", intermediate_size=2**24),
        "parameters, its files hold only",
    ),
    "layers without end": (
        "model",
        lambda f: _set(f / "config.json", num_hidden_layers=2**40),
        "layers",
    ),
    "layers that its files lack": (
        "model",
        lambda f: _set(f / "config.json", num_hidden_layers=2),
        "its files lack model.layers.1",
    ),
    "a context of no length": (
        "model",
        lambda f: _set(f / "config.json", max_position_embeddings=-1),
        "has no length of context",
    ),
    "a metric with a path for a name": (
        "scores:show",
        lambda f: _set(
            f / "manifest.json",
            metrics={"../x": {"raw": "mtld", "harder": "higher", "undefined": 0}},
        ),
        "cannot be read: metrics.../x",
    ),
    "a pool of windows without end": (
        "pool",
        lambda f: _set(f / "manifest.json", shard_windows=10**30),
        "too large a number",
    ),
    "a recipe nested too deeply": (
        "recipe",
        lambda f: (f / "a.toml").write_text(f"[ohem]\nmix = {'[' * 9_000}"),
        "nested too deeply",
    ),
    "a recipe that extends no name": (
        "recipe",
        lambda f: (f / "a.toml").write_text("extends = 5"),
        "extends 5, not a name",
    ),
    "a budget of a thousand digits": (
        "recipe",
        lambda f: (f / "a.toml").write_text(f'[training]\ntokens = "{"9" * 1_000}"'),
        "is too large",
    ),
    "a batch beyond any memory": (
        "recipe",
        lambda f: (f / "a.toml").write_text("[training]\nbatch_size = 1_000_000_000_000"),
        "training.batch_size = 1000000000000: ",
    ),
    "more seeds than there is memory": (
        "comparison",
        lambda f: (f / "a.toml").write_text(COMPARISON.replace("[0, 1]", "100_000_000_000")),
        "seeds",
    ),
    "an arm that leaves the folder": (
        "comparison",
        lambda f: (f / "a.toml").write_text(COMPARISON.replace("arms.full", 'arms."../full"')),
        "cannot name a folder",
    ),
    "a line nested too deeply": (
        "corpora:jsonl",
        lambda f: (f / "stories.jsonl").write_text(f'{{"text": {"[" * 100_000}'),
        "broken JSON: ",
    ),
    "an array nested too deeply": (
        "corpora:json",
        lambda f: (f / "stories.json").write_text(f'[{{"text": {"[" * 100_000}'),
        "broken JSON: ",
    ),
    "a parquet file that is none": (
        "corpora:parquet",
        lambda f: (f / "stories.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
        "cannot be read",
    ),
    "a field of numbers": (
        "corpora:parquet",
        lambda f: pq.write_table(pa.table({"text": [1, 2]}), f / "stories.parquet"),
        "is int64, not text",
    ),
    "a step that is text": (
        "run:report",
        lambda f: (f / "metrics.jsonl").write_text('{"step": "1"}\n'),
        "line 1 is not a row of figures: step",
    ),
    "a table of runs that repeats itself": (
        "compared",
        lambda f: pq.write_table(pa.table({"arm": ["a"] * 100_000}), f / "runs.parquet"),
        "it has 100,000 rows",
    ),
}


@pytest.mark.parametrize("what", HAND_MADE)
def test_hand_made(
    workshop: Workshop, hand_over: Callable[[Arguments], str], tmp_path: Path, what: str
) -> None:
    name, damage, told = HAND_MADE[what]
    copy, arguments = workshop.case(name, tmp_path / "case")
    damage(copy)
    assert told in hand_over(arguments)
