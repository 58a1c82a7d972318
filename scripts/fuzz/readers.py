"""Coverage-guided fuzzing of every reader of files that may come from a stranger.

    python scripts/fuzz/readers.py 600             every reader, so many seconds each
    python scripts/fuzz/readers.py 600 json pool   these
    python scripts/fuzz/readers.py 0 json FILE     one input again, to see its traceback

A reader may refuse its input by the errors that its docstring names. Whatever else it raises is a
finding: libFuzzer stops and leaves the input beside the seeds, under `$TMPDIR/tinyohem-fuzz/`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tinyohem.errors import TinyohemError

WORK = Path(tempfile.gettempdir()) / "tinyohem-fuzz"
RUN = {
    "config": {"training": {"batch_size": 4, "seq_len": 32}, "ohem": {"ratio": 0.5}},
    "num_parameters": 10,
    "num_steps": 20,
    "train": {"ids_sha256": "1", "stories": 3, "tokens": 9},
    "valid": {"ids_sha256": "2", "corpus": "3", "tokenizer": "4"},
    "environment": {"packages": {"torch": "2"}},
}
STATE = {"step": 20, "tokens_seen": 1, "tokens_selected": 1, "train_seconds": 0.5}
STATE |= {"select_seconds": 0.1, "best_loss": None, "pool_step": 0, "sha256": {"a": "b"}}
POOL = {"format": 1, "tokenizer": "7", "ids_sha256": "1", "tokens": 9, "weights_sha256": "5"}
POOL |= {"context": {"rule": "windows", "seq_len": 2}, "tokens_seen": 3, "shard_windows": 2}
POOL |= {"shards": ["1", "2"]}
ORIGIN = {"curriculum": {}, "weights": {"flesch": 1.0}, "seq_len": 2, "scores_sha256": "6"}
ORIGIN |= {"corpus": {"name": "a", "split": "train", "fingerprint": "f"}}


def _drain(items: Iterable[object]) -> None:
    for _ in items:
        pass


def _file(name: str, data: bytes) -> Path:
    path = WORK / "input" / str(os.getpid()) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def corpus(suffix: str) -> Callable[[bytes], None]:
    """Read a story file both ways: as texts, and in blocks that are parsed later."""

    def read(data: bytes) -> None:
        from tinyohem.data.blocks import read_blocks
        from tinyohem.data.readers import read_texts

        path = _file(f"stories{suffix}", data)
        _drain(read_texts(path))
        for block, _ in read_blocks(path, "text"):
            _drain(block.texts())

    return read


def recipe(data: bytes) -> None:
    """Read a recipe as `train --recipe` does."""
    from tinyohem.config.recipes import load_config

    load_config(str(_file("a.toml", data)))


def comparison(data: bytes) -> None:
    """Read a comparison file as `compare` does, short of its data."""
    from tinyohem.experiments.spec import check, plan_comparison

    check(plan_comparison(_file("a.toml", data), (), None, None, {}))


def json_file(data: bytes) -> None:
    """Read one JSON value, then JSON lines."""
    from tinyohem.io.json import read_json, read_jsonl

    read_jsonl(_file("a.jsonl", data))
    read_json(_file("a.json", data))


def run_folder(data: bytes) -> None:
    """Read a run for the report: record, log and evaluation stand one after the other."""
    from tinyohem.report.run_logs import read_input
    from tinyohem.report.tables import environment_table, runs_table, settings_table

    record, log, evaluation, *_ = [*data.split(b"\0"), b"", b""]
    _file("run/config.json", record)
    _file("run/metrics.jsonl", log)
    material = read_input([_file("run/eval.json", evaluation).parent])
    runs_table(material.groups)
    settings_table(material.groups)
    environment_table(material.runs)
    for run in material.runs:
        run.series("train/loss")
        run.series("val/loss", "seconds")


def results(data: bytes) -> None:
    """Read the table of a comparison's runs."""
    from tinyohem.report.run_logs import read_input

    arm = _file("compared/a-seed0/config.json", json.dumps(RUN).encode()).parent
    (arm / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    read_input([_file("compared/runs.parquet", data).parent])


def checkpoint(data: bytes) -> None:
    """Read what points to a checkpoint, and its state."""
    from tinyohem.progress import SILENT
    from tinyohem.runs.checkpoints import latest_checkpoint, newest_sound_checkpoint, read_state

    pointer, _, state = data.partition(b"\0")
    step = _file("run/checkpoints/step_000020/state.json", state).parent
    _file("run/checkpoints/latest", pointer)
    named = latest_checkpoint(step.parents[1])
    assert named is None or named.parent == step.parent
    newest_sound_checkpoint(step.parents[1], SILENT)
    read_state(step)


def pool(data: bytes) -> None:
    """Read a pool's manifest and one shard."""
    from tinyohem.ohem.loss_pool import read_manifest, read_shard

    manifest, _, frame = data.partition(b"\0")
    folder = _file("pool/manifest.json", manifest).parent
    known = read_manifest(folder)
    if known.tokens < 10_000:
        shard = known.files()[0]
        _file(f"pool/{shard.path(folder).name}", frame)
        read_shard(folder, shard)


def scores(data: bytes) -> None:
    """Read a score folder whose manifest agrees with its table."""
    from tinyohem.difficulty.score_table import open_scores, read_examples
    from tinyohem.difficulty.summary import summarise
    from tinyohem.io.hashing import hash_file

    manifest, examples, table, *_ = [*data.split(b"\0\0\0\0", 2), b"", b""]
    path = _file("scores/scores.parquet", table)
    try:
        known = json.loads(manifest)
        manifest = json.dumps({**known, "scores_sha256": hash_file(path)}).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    _file("scores/manifest.json", manifest)
    _file("scores/examples.json", examples)
    opened = open_scores(path.parent)
    opened.column("row")
    read_examples(opened)
    summarise(opened).to_json()


def plan(data: bytes) -> None:
    """Read a saved curriculum."""
    from tinyohem.difficulty.curriculum import load_plan

    described, _, order = data.partition(b"\0")
    _file("plan/plan.json", described)
    load_plan(_file("plan/order.safetensors", order).parent)


def tokens(data: bytes) -> None:
    """Read a token store: the parts stand one after the other."""
    from tinyohem.data.token_store import open_store

    parts = [*data.split(b"\0\0\0\0", 2), b"", b""]
    for name, part in zip(("manifest.json", "offsets.npy", "ids.bin"), parts, strict=False):
        path = _file(f"store/{name}", part)
    for name in ("rows", "bytes", "words", "hashes"):
        _file(f"store/{name}.npy", parts[1])
    open_store(path.parent)


READERS: dict[str, Callable[[bytes], None]] = {
    "txt": corpus(".txt"),
    "jsonl": corpus(".jsonl"),
    "array": corpus(".json"),
    "parquet": corpus(".parquet"),
    "jsonl.gz": corpus(".jsonl.gz"),
    "jsonl.zst": corpus(".jsonl.zst"),
    "recipe": recipe,
    "comparison": comparison,
    "json": json_file,
    "run": run_folder,
    "results": results,
    "checkpoint": checkpoint,
    "pool": pool,
    "scores": scores,
    "plan": plan,
    "tokens": tokens,
}
# What a reader's docstring lets it raise beside the project's own errors.
ALSO: dict[str, tuple[type[Exception], ...]] = {
    "json": (ValueError,),
    "checkpoint": (ValueError,),
    "pool": (ValueError,),
}


def _seeds(name: str, folder: Path) -> None:
    """Write valid inputs for libFuzzer to begin with."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    from tinyohem.data.corpus import open_corpus
    from tinyohem.difficulty.score_corpus import score_corpus
    from tinyohem.io.atomic import atomic_folder
    from tinyohem.io.compressed import compress

    def stored(table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return sink.getvalue().to_pybytes()

    def packed(codec: str, content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()

    lines = b'{"text": "One day."}\n\n{"text": "The end \\ud83d\\ude00.", "n": [1, 2.5]}\n'
    run = json.dumps(RUN).encode()
    log = b'{"step": 1, "train/loss": 2.0, "train/seconds": 0.5}\n{"step": 2, "val/loss": 1.5}\n'
    seeds = {
        "txt": b"One day.<|endoftext|>The end.",
        "jsonl": lines,
        "array": b'[{"text": "One day."}, {"story": "The end."}]',
        "parquet": stored(pa.table({"text": ["One day.", "The end."]})),
        "jsonl.gz": packed("gzip", lines),
        "jsonl.zst": packed("zstd", lines),
        "recipe": b'extends = "ohem"\n[ohem]\nratio = 0.5\nschedule = "0:1,1:0.5"\n[training]\n'
        b'tokens = "4M"\nseconds = 2.5\n[curriculum]\nmetric = "mtld=2,flesch=1"\n',
        "comparison": b'seeds = [0, 1]\nbudget = "equal-tokens"\n[common.training]\nsteps = 3\n'
        b"[arms.full.ohem]\nratio = 1.0\n[arms.random.ohem]\nratio = 0.5\n",
        "json": b'{"a": [1, -2.5e3, null, true, "\\ud83d\\ude00"]}\n',
        "run": run + b"\0" + log + b'\0{"loss": 1.5, "perplexity": 4.5, "bits_per_byte": 1.0}',
        "results": stored(
            pa.table({"arm": ["a"], "seed": [0], "bits_per_byte": [1.0], "tokens_seen": [1]})
        ),
        "checkpoint": b"step_000020\n\0" + json.dumps(STATE).encode(),
        "pool": json.dumps(POOL).encode() + b"\0" + compress(np.ones(4, np.float16).tobytes()),
        "plan": json.dumps({"hash": "1", "origin": ORIGIN}).encode()
        + b"\0"
        + save({"order": np.arange(4)}),
    }
    if name == "scores":
        table = WORK / "scored"
        if not (table / "manifest.json").exists():
            with atomic_folder(WORK / "stories") as partial:
                (partial / "a.jsonl").write_bytes(lines)
            score_corpus(open_corpus(str(WORK / "stories")), table, workers=1)
        names = ("manifest.json", "examples.json", "scores.parquet")
        seeds["scores"] = b"\0\0\0\0".join((table / n).read_bytes() for n in names)
    if name == "tokens":
        path = WORK / "offsets.npy"
        np.save(path, np.array([0, 2, 4]))
        known = {"dtype": "uint16", "tokens": 4, "stories": 2, "ids_sha256": "", "tokenizer": ""}
        parts = (json.dumps(known).encode(), path.read_bytes(), bytes(range(8)))
        seeds["tokens"] = b"\0\0\0\0".join(parts)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seed").write_bytes(seeds[name])


def fuzz(name: str, arguments: list[str]) -> None:
    """Hand one reader to libFuzzer; returns never."""
    import atheris

    read, allowed = READERS[name], (TinyohemError, *ALSO.get(name, ()))
    with atheris.instrument_imports(include=["tinyohem"]):
        try:
            read((WORK / name / "seed").read_bytes())  # imports what it needs
        except allowed:
            pass

    def one_input(data: bytes) -> None:
        try:
            read(data)
        except allowed:
            pass

    atheris.Setup([sys.argv[0], *arguments], one_input)
    atheris.Fuzz()


def main() -> int:
    """Run every reader in a process of its own, which libFuzzer ends; print one line each."""
    seconds, *names = sys.argv[1:]
    if len(names) == 2 and Path(names[1]).is_file():
        _seeds(names[0], WORK / names[0])
        fuzz(names[0], [names[1]])
    if os.environ.get("TINYOHEM_FUZZ") == "1":
        seeds = WORK / names[0]
        _seeds(names[0], seeds)
        limits = [f"-max_total_time={seconds}", "-max_len=16384", "-rss_limit_mb=4096"]
        fuzz(names[0], [*limits, "-timeout=30", f"-artifact_prefix={seeds}/found-", str(seeds)])
    findings = 0
    for name in names or READERS:
        command = [sys.executable, __file__, seconds, name]
        run = subprocess.run(
            command, env={**os.environ, "TINYOHEM_FUZZ": "1"}, capture_output=True, text=True
        )
        done = re.findall(r"Done (\d+) runs in (\d+) second", run.stderr)
        told = f"{int(done[0][0]):,} inputs in {done[0][1]} s" if done else "stopped"
        print(f"{name}: {told}, {'no finding' if run.returncode == 0 else 'FINDING'}", flush=True)
        if run.returncode:
            findings += 1
            print(run.stderr[-4_000:], flush=True)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
