"""Two engines, one table: what a Ray cluster scores is what this machine scores, byte for byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tinyohem.data.corpus import Corpus, open_corpus
from tinyohem.data.target import TargetStories
from tinyohem.difficulty import ray_engine
from tinyohem.difficulty.ray_engine import each_on_ray, ray_cluster, score_on_ray
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_corpus import UNFINISHED, score_corpus, score_here
from tinyohem.difficulty.target_rule import TargetRule
from tinyohem.errors import InputError, RunError
from tinyohem.io.compressed import compress

# Ray's own, about its own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

ROWS = 19_000  # in six shards of at most 4,096


def ray_processes() -> list[psutil.Process]:
    words = ("raylet", "gcs_server", "ray::", "default_worker")
    children = psutil.Process().children(recursive=True)
    return [child for child in children if any(w in " ".join(child.cmdline()) for w in words)]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Two cores of this machine; nothing is left of it."""
    pytest.importorskip("ray")
    handler = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        for attempt in range(3):
            try:
                stack.enter_context(ray_cluster(2))
                break
            except RunError:  # Ray gives a busy machine half a minute
                if attempt == 2:
                    raise
        assert signal.getsignal(signal.SIGTERM) is handler
        started = ray_processes()
        yield
        started = list({*started, *ray_processes()})
    assert len(started) >= 3
    assert psutil.wait_procs(started, timeout=tiny.PATIENCE)[1] == []


@pytest.fixture(scope="session")
def stories(made_up: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every kind, whose borders are not those of shards."""
    texts = [f"{made_up[n % 400]} {n}" if n % 50 == 0 else f"Cat {n}." for n in range(ROWS)]
    texts[7] = " "
    folder = tmp_path_factory.mktemp("stories")
    tiny.write_stories(folder / "a.jsonl", texts[:3000])
    (folder / "b.txt").write_text("<|endoftext|>".join(texts[3000:12_000]) + "<|endoftext|>")
    tiny.write_stories(folder / "c.jsonl", texts[12_000:12_001])
    pq.write_table(pa.table({"text": texts[12_001:14_000]}), folder / "d.parquet")
    last = "".join(json.dumps({"text": text}) + "\n" for text in texts[14_000:])
    (folder / "e.jsonl.zst").write_bytes(compress(last.encode()))
    return folder


@pytest.fixture(scope="session")
def expected(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process of this machine makes of them."""
    out = tmp_path_factory.mktemp("expected")
    assert score_corpus(open_corpus(str(stories)), out, workers=1).stories == ROWS
    return files_in(out)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Stop:
    """Progress that does something once, when the first shard is stored."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act, self.stage, self.shares = act, "", []

    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def finish(self) -> None: ...

    def start(self, stage: str, total: int | None, unit: str, **_: object) -> None:
        self.stage = stage

    def advance(self, done: int, fields: Mapping[str, float] | None = None) -> None:
        if self.stage == "scoring":
            self.shares.append(done)
            if len(self.shares) == 1:
                self.act()


def score_with_ray(corpus: Corpus, out: Path, act: Callable[[], None] = lambda: None) -> Stop:
    progress = Stop(act)
    score_corpus(corpus, out, engine=score_on_ray, workers=1, progress=progress)
    return progress


@pytest.mark.usefixtures("cluster")
def test_scores_by_a_target_are_the_same_to_the_last_byte(
    stories: Path, made_up: list[str], tmp_path: Path
) -> None:
    target = tuple(made_up[:80]), tuple(made_up[80:100]), ()
    rule = TargetRule.fit(TargetStories("good", "9" * 64, *target, frozenset()))
    corpus = open_corpus(str(stories / "b.txt"))
    for folder, engine in (("here", score_here), ("ray", score_on_ray)):
        rules = ScoringRules(target=rule)
        score_corpus(corpus, tmp_path / folder, rules=rules, engine=engine, workers=1)
    assert files_in(tmp_path / "ray") == files_in(tmp_path / "here")
    assert "target.json" in files_in(tmp_path / "ray")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("shards_per_run", [16, 1])
def test_the_folder_is_the_same_to_the_last_byte(
    stories: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shards_per_run: int,
) -> None:
    monkeypatch.setattr(ray_engine, "SHARDS_PER_RUN", shards_per_run)
    monkeypatch.setattr(ray_engine, "RUNS_PER_FILE", 3)
    corpus = open_corpus(str(stories), each=each_on_ray)
    progress = score_with_ray(corpus, tmp_path)
    assert files_in(tmp_path) == expected
    assert progress.shares == sorted(progress.shares)
    assert len(progress.shares) == 6
    assert progress.shares[-1] == 100


@pytest.mark.usefixtures("cluster")
def test_a_pass_goes_on_with_either_engine(
    stories: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[int] = []

    def storing(content: bytes, folder: Path, index: int, store=ray_engine.store_shard) -> None:
        stored.append(index)
        store(content, folder, index)

    monkeypatch.setattr(ray_engine, "store_shard", storing)
    corpus = open_corpus(str(stories))
    for out in (tmp_path / "here", tmp_path / "ray"):
        stored.clear()
        with pytest.raises(KeyboardInterrupt):
            score_with_ray(corpus, out, interrupt)
        assert len(stored) == 1
        assert len(list((out / UNFINISHED).glob("shard_*"))) == 1
    score_corpus(corpus, tmp_path / "here", workers=1)
    score_with_ray(corpus, tmp_path / "ray")
    assert sorted(stored) == [0, 1, 2, 3, 4, 5]  # each once
    assert files_in(tmp_path / "here") == files_in(tmp_path / "ray") == expected


@pytest.mark.usefixtures("cluster")
def test_workers_that_die_are_replaced(
    stories: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, marks = ray_engine._score, tmp_path / "marks"
    marks.mkdir()

    def dying(run, **rest):
        for done, scored in enumerate(score(run, **rest)):
            mark = marks / str(run.index)
            if done == 1 and not mark.exists():  # after its first shard, the first time
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield scored

    monkeypatch.setattr(ray_engine, "_score", dying)
    progress = score_with_ray(open_corpus(str(stories)), tmp_path / "scores")
    assert len(list(marks.iterdir())) == 2  # the runs of more than one shard
    assert len(progress.shares) == 6
    assert files_in(tmp_path / "scores") == expected


@pytest.mark.usefixtures("cluster")
def test_a_killed_command_resumes_and_the_named_cluster_stays_up(
    stories: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    arguments = ["score-difficulty", "--engine=ray", f"--dataset={stories}", f"--out={tmp_path}"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "tinyohem_cli", *arguments],
        env={**os.environ, "RAY_ADDRESS": address},
        stderr=subprocess.PIPE,
    )
    while not list((tmp_path / UNFINISHED).glob("shard_*")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "manifest.json").exists()
    score_with_ray(open_corpus(str(stories)), tmp_path)
    assert files_in(tmp_path) == expected


@pytest.mark.usefixtures("cluster")
def test_the_command_reads_urls_and_writes_to_one(
    stories: Path, expected: dict[str, bytes], tinyohem: tiny.Command
) -> None:
    url = f"{stories.as_uri()}/*.*"  # workers are other processes: they share no memory://
    out = "memory://ray/scores"
    outcome = tinyohem("score-difficulty", "--engine=ray", f"--dataset={url}", "--out", out)
    assert outcome.code == 0, outcome.err
    memory = fsspec.filesystem("memory")
    table = pq.read_table(pa.BufferReader(memory.cat("/ray/scores/scores.parquet")))
    assert table.equals(pq.read_table(pa.BufferReader(expected["scores.parquet"])))
    assert memory.cat("/ray/scores/scores.parquet") == expected["scores.parquet"]
    assert not memory.exists(f"/ray/scores/{UNFINISHED}")
    memory.rm("/ray", recursive=True)


@pytest.mark.usefixtures("cluster")
def test_a_bad_row_gives_the_same_error_as_the_local_engine(
    stories: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes((stories / "a.jsonl").read_bytes() + b'{"text": 3}\n')
    told = [
        tinyohem("score-difficulty", "--engine", engine, "--dataset", bad, "--out", tmp_path / "x")
        for engine in ("local", "ray")
    ]
    assert told[0].code == told[1].code == 2
    assert told[0].err.splitlines()[-2:] == told[1].err.splitlines()[-2:]
    assert "bad.jsonl:3001: the story is of type int" in told[1].err


@pytest.mark.usefixtures("cluster")
def test_workers_with_other_libraries_are_refused(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = shutil.copytree(stories, tmp_path / "stories")  # else its hashes are remembered
    versions = {**ray_engine.library_versions(), "zstandard": "0.0.1"}
    monkeypatch.setattr(ray_engine, "library_versions", lambda: versions)
    with pytest.raises(InputError, match=r"zstandard .*, the machine that asks has 0\.0\.1"):
        open_corpus(str(unknown), each=each_on_ray)


@pytest.mark.usefixtures("cluster")
def test_a_corpus_without_files_is_refused(tmp_path: Path, tinyohem: tiny.Command) -> None:
    outcome = tinyohem(
        "score-difficulty", "--engine=ray", "--dataset=sample", "--out", tmp_path / "scores"
    )
    assert outcome.code == 2
    assert "reads story files" in outcome.err
    assert not (tmp_path / "scores" / "manifest.json").exists()


def test_without_ray_it_says_how_to_install_it(
    tinyohem: tiny.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = tinyohem("score-difficulty", "--engine=ray", "--dataset=sample", "--out", tmp_path)
    assert outcome.code == 2
    assert "hint: pip install 'tinyohem[ray]'" in outcome.err
    assert tinyohem("score-difficulty", "--engine=rya", "--dataset=sample").code == 2
