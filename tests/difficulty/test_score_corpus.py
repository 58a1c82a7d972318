import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from tinyohem.config.difficulty import METRICS
from tinyohem.data.blocks import TextBlock
from tinyohem.data.corpus import open_corpus
from tinyohem.difficulty import corpus_percentiles as finish
from tinyohem.difficulty import shards
from tinyohem.difficulty.metrics import CompressionRule
from tinyohem.difficulty.score_batch import ScoringRules, score_batch
from tinyohem.difficulty.score_corpus import UNFINISHED, score_corpus
from tinyohem.difficulty.shards import opening_of, shards_of
from tinyohem.errors import InputError, RunError
from tinyohem.io.manifest import read_sealed


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 50)
    monkeypatch.setattr(finish, "SHARDS_PER_ROW_GROUP", 3)


@pytest.fixture
def corpus(made_up: list[str], all_hostile: list[str], fake_corpus):
    return fake_corpus((*made_up[:150], *all_hostile, *made_up[150:], made_up[3]))


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("small_shards")
def test_the_table_holds_each_story_in_order_with_its_scores(corpus, tmp_path: Path) -> None:
    table = score_corpus(corpus, tmp_path / "scores", workers=1)
    stored = pq.read_table(table.folder / "scores.parquet")
    assert stored.column_names == [
        "row",
        "text_sha",
        "bytes",
        "words",
        "sentences",
        "syllables",
        "compressed_over_original",
        "mtld",
        "flesch_reading_ease",
        *(f"difficulty_{m}" for m in ("compression_ratio", "mtld", "flesch", "length")),
        *(f"percentile_{m}" for m in ("compression_ratio", "mtld", "flesch", "length")),
        "flags",
    ]
    assert stored.column("row").to_pylist() == list(range(len(corpus.texts)))
    scores = score_batch([text.strip() for text in corpus.texts], ScoringRules())
    for name in ("bytes", "words", "sentences", "syllables", "mtld", "flesch_reading_ease"):
        np.testing.assert_array_equal(stored.column(name).to_numpy(), scores[name])
    valid = corpus.texts[0]
    assert stored.column("text_sha")[0].as_py() == hashlib.sha256(valid.encode()).hexdigest()
    expected = np.where(scores["bytes"] > 0, scores["bytes"], np.nan)
    np.testing.assert_array_equal(table.difficulty("length"), expected)
    np.testing.assert_array_equal(table.difficulty("flesch"), -scores["flesch_reading_ease"])


@pytest.mark.usefixtures("small_shards")
def test_undefined_is_null_never_zero(corpus, tmp_path: Path) -> None:
    table = score_corpus(corpus, tmp_path / "scores", workers=1)
    stored = pq.read_table(table.folder / "scores.parquet").to_pylist()
    blank = stored[150]
    assert blank["flags"] == "empty"
    assert blank["mtld"] is blank["flesch_reading_ease"] is blank["percentile_mtld"] is None
    assert blank["compressed_over_original"] is blank["difficulty_length"] is None
    emoji = stored[151]
    assert emoji["flags"] == "no_words,short,unfinished"
    # Its raw ratio is that of a frame header: too few bytes to say how hard they are.
    assert emoji["compressed_over_original"] > 1
    assert emoji["difficulty_compression_ratio"] is None
    assert stored[-1]["flags"].split(",")[-1] == "duplicate"
    assert table.manifest.flags["duplicate"] == 1
    assert table.manifest.metrics["mtld"].undefined == 3


@pytest.mark.usefixtures("small_shards")
def test_examples_open_with_their_own_stories(corpus, tmp_path: Path) -> None:
    score_corpus(corpus, tmp_path, workers=2)
    examples = read_sealed(tmp_path / "examples.json")
    shown = [story for ends in examples.values() for end in ends.values() for story in end]
    assert len({story["row"] // 50 for story in shown}) > 4  # of many shards
    for story in shown:
        text = corpus.texts[story["row"]].strip()
        beginning = story["opening"].removesuffix(" …")
        assert text.encode("utf-8", "replace").decode().startswith(beginning)
        assert (beginning != story["opening"]) == (len(text) > 300)
        assert set(story) == {"row", "value", "difficulty", "opening"}


def test_a_story_not_in_latin_has_every_score_but_the_reading_ease(
    fake_corpus, tmp_path: Path
) -> None:
    table = score_corpus(fake_corpus(("Кот сидит. " * 30, "A cat sat. " * 30)), tmp_path, workers=1)
    stored = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    cyrillic, english = stored
    assert cyrillic["flags"] == "not_latin"
    assert (cyrillic["words"], cyrillic["sentences"]) == (60, 30)
    for name in ("flesch_reading_ease", "difficulty_flesch", "percentile_flesch"):
        assert cyrillic[name] is None
        assert english[name] is not None
    assert cyrillic["percentile_mtld"] is not None
    assert english["percentile_flesch"] == 50  # ranked among those that have one
    assert table.manifest.flags["not_latin"] == 1
    assert table.manifest.metrics["flesch"].undefined == 1


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        ("a" * 300, "a" * 300),
        ("A cat. " * 42 + "1234 6", "A cat. " * 42 + "1234 6"),
        ("A cat. " * 42 + "123456 8", "A cat. " * 42 + "123456 …"),
        ("A cat. " * 42 + "1234567", ("A cat. " * 42).rstrip() + " …"),
        ("a" * 301, "a" * 300 + " …"),
    ],
)
def test_an_opening_ends_between_words(text: str, opening: str) -> None:
    assert opening_of(text) == opening


def test_empty_rows_are_rows_and_no_copies(fake_corpus, tmp_path: Path) -> None:
    table = score_corpus(fake_corpus(("", "A cat.", " \n", "A cat.", "")), tmp_path, workers=1)
    assert table.stories == 5
    flags = pq.read_table(tmp_path / "scores.parquet").column("flags").to_pylist()
    assert [flag.split(",")[-1] for flag in flags] == [
        "empty",
        "short",
        "empty",
        "duplicate",
        "empty",
    ]
    assert table.manifest.flags["empty"] == 3
    assert table.manifest.flags["duplicate"] == 1
    for metric in table.metrics:
        assert np.isnan(table.difficulty(metric)[[0, 2, 4]]).all()


@pytest.mark.usefixtures("small_shards")
def test_the_residual_does_not_go_with_length(corpus, tmp_path: Path) -> None:
    residual = score_corpus(corpus, tmp_path / "residual", workers=1)
    raw_rules = ScoringRules(compression=CompressionRule(length_control="raw"))
    raw = score_corpus(corpus, tmp_path / "raw", rules=raw_rules, workers=1)
    long_enough = residual.column("bytes") >= METRICS["compression_ratio"].min_bytes
    size = np.log(residual.column("bytes")[long_enough])
    ratio = raw.difficulty("compression_ratio")[long_enough]
    slope, intercept = np.polyfit(size, ratio, 1)
    np.testing.assert_allclose(
        residual.difficulty("compression_ratio")[long_enough],
        ratio - intercept - slope * size,
        atol=1e-9,
    )


@pytest.mark.usefixtures("small_shards")
def test_one_and_three_workers_write_the_same_bytes(corpus, tmp_path: Path) -> None:
    score_corpus(corpus, tmp_path / "one", workers=1)
    score_corpus(corpus, tmp_path / "three", workers=3)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "three")


def test_a_file_is_the_same_table_and_the_same_errors_for_any_number_of_workers(
    made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 50)
    monkeypatch.setattr("tinyohem.data.blocks.BLOCK_ROWS", 20)
    texts = [*made_up[:70], " \n", *made_up[70:200]]
    content = "\n".join(json.dumps({"text": text}) for text in texts)
    path = tmp_path / "stories.jsonl"
    path.write_text(content)
    one = score_corpus(open_corpus(str(path)), tmp_path / "one", workers=1)
    score_corpus(open_corpus(str(path)), tmp_path / "two", workers=2)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    assert one.column("row").tolist() == list(range(201))
    assert np.flatnonzero(one.column("bytes") == 0).tolist() == [70]

    path.write_bytes(content.encode() + b"\xff")
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"stories\.jsonl:201: not UTF-8") as caught:
            score_corpus(open_corpus(str(path)), tmp_path / f"bad{workers}", workers=workers)
        assert caught.value.hint == "convert the file to UTF-8"


@pytest.mark.usefixtures("small_shards")
def test_a_stopped_pass_goes_on_without_scoring_again(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    def counting(shard, folder, rules, score: Callable = shards.score_shard) -> None:
        if len(scored) == 4:
            raise KeyboardInterrupt
        scored.append(shard.index)
        score(shard, folder, rules)

    monkeypatch.setattr(shards, "score_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        score_corpus(corpus, tmp_path / "stopped", workers=1)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "stopped" / UNFINISHED).iterdir()}
    assert scored == [0, 1, 2, 3]

    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_ROWS", 50)
    monkeypatch.setattr(finish, "SHARDS_PER_ROW_GROUP", 3)
    seen = []
    original = shards.score_shard
    monkeypatch.setattr(
        shards, "score_shard", lambda s, f, r: (seen.append(s.index), original(s, f, r))
    )
    score_corpus(corpus, tmp_path / "stopped", workers=1)
    assert min(seen) == 4
    assert len(before) == 5  # four shards and what they belong to
    score_corpus(corpus, tmp_path / "whole", workers=1)
    assert folder_bytes(tmp_path / "stopped") == folder_bytes(tmp_path / "whole")


@pytest.mark.usefixtures("small_shards")
def test_shards_of_another_corpus_are_not_reused(
    corpus, fake_corpus, made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tinyohem.difficulty.score_corpus.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_corpus(corpus, tmp_path / "scores", workers=1)
    other = fake_corpus(tuple(made_up[200:]), fingerprint="0" * 64)
    score_corpus(other, tmp_path / "scores", workers=1)
    score_corpus(other, tmp_path / "fresh", workers=1)
    assert folder_bytes(tmp_path / "scores") == folder_bytes(tmp_path / "fresh")


def test_finished_scores_are_reused_or_refused_but_never_overwritten(
    fake_corpus, made_up: list[str], tmp_path: Path
) -> None:
    corpus = fake_corpus(tuple(made_up[:20]))
    score_corpus(corpus, tmp_path, workers=1)
    before = folder_bytes(tmp_path)
    score_corpus(corpus, tmp_path, workers=1)
    with pytest.raises(InputError, match="another corpus"):
        score_corpus(fake_corpus(corpus.texts, fingerprint="0" * 64), tmp_path, workers=1)
    rules = ScoringRules(compression=CompressionRule(length_control="raw"))
    with pytest.raises(InputError, match="other rules"):
        score_corpus(corpus, tmp_path, rules=rules, workers=1)
    assert folder_bytes(tmp_path) == before


def test_an_empty_corpus_and_no_workers_are_input_errors(fake_corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stories"):
        score_corpus(fake_corpus(()), tmp_path, workers=1)
    with pytest.raises(InputError, match="workers"):
        score_corpus(fake_corpus(("a",)), tmp_path, workers=0)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_shard_is_named_and_scored_again_once_deleted(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tinyohem.difficulty.score_corpus.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_corpus(corpus, tmp_path / "scores", workers=1)
    shard = tmp_path / "scores" / UNFINISHED / "shard_0000002.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.write_bytes(content if damage == "flip" else content[:-100])
    with pytest.raises(RunError, match="shard_0000002"):
        score_corpus(corpus, tmp_path / "scores", workers=1)
    shard.unlink()
    score_corpus(corpus, tmp_path / "scores", workers=1)
    score_corpus(corpus, tmp_path / "whole", workers=1)
    assert folder_bytes(tmp_path / "scores") == folder_bytes(tmp_path / "whole")


def test_long_stories_end_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 10)
    texts = ["abc", "x" * 6, "yy", "z" * 50, "", "a"]
    blocks = [(TextBlock([text]), number / 5) for number, text in enumerate(texts)]
    found = list(shards_of(blocks))
    values = [[text for block in shard.blocks for text in block.texts()] for shard in found]
    assert values == [["abc", "x" * 6], ["yy"], ["z" * 50], ["", "a"]]
    assert [(s.index, s.first_row, s.rows) for s in found] == [
        (0, 0, 2),
        (1, 2, 1),
        (2, 3, 1),
        (3, 4, 2),
    ]
    assert [shard.share for shard in found] == [0.2, 0.4, 0.6, 1.0]


def test_ten_megabytes_in_one_story(fake_corpus, tmp_path: Path) -> None:
    rng = random.Random(0)
    long = " ".join(rng.choices(["cat", "dog", "ran.", "Mr.", "said"], k=2_300_000))
    began = time.perf_counter()
    table = score_corpus(fake_corpus(("A cat sat.", long, "x" * 10_000_000)), tmp_path, workers=1)
    assert table.column("words").tolist() == [3, 2_300_000, 1]
    assert time.perf_counter() - began < 60


_PROGRAM = """
import json, sys, time
from pathlib import Path
from types import SimpleNamespace

from tinyohem.config.difficulty import METRICS
from tinyohem.data.blocks import TextBlock
from tinyohem.data.corpus import open_corpus
from tinyohem.difficulty import shards
from tinyohem.difficulty.score_corpus import score_corpus

texts = json.loads(Path(__file__).with_name("stories.json").read_text())

def blocks():
    for at in range(0, len(texts), 20):
        time.sleep(0.2)
        yield TextBlock(texts[at : at + 20]), at / len(texts)

if __name__ == "__main__":
    shards.SHARD_ROWS = 20
    corpus = SimpleNamespace(name="fake", split="train", fingerprint="f" * 64, blocks=blocks)
    score_corpus(corpus, Path(sys.argv[1]), workers=2)
"""


def test_kill_9_leaves_no_process_and_shards_that_the_next_pass_completes(
    made_up: list[str], fake_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stories.json").write_text(json.dumps(made_up))
    program = tmp_path / "score.py"
    program.write_text(_PROGRAM)
    command = [sys.executable, str(program), str(tmp_path / "killed")]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE)
    unfinished = tmp_path / "killed" / UNFINISHED
    while not list(unfinished.glob("shard_*")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.communicate(timeout=tiny.PATIENCE)  # returns once no worker holds the pipe either
    finished = {int(path.stem.removeprefix("shard_")) for path in unfinished.glob("shard_*")}
    assert 1 <= len(finished) < 20

    def remember(shard, folder, rules, score: Callable = shards.score_shard) -> None:
        scored.add(shard.index)
        score(shard, folder, rules)

    scored: set[int] = set()
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    monkeypatch.setattr(shards, "score_shard", remember)
    corpus = fake_corpus(tuple(made_up))
    score_corpus(corpus, tmp_path / "killed", workers=1)
    assert scored == set(range(20)) - finished
    score_corpus(corpus, tmp_path / "whole", workers=1)
    assert folder_bytes(tmp_path / "killed") == folder_bytes(tmp_path / "whole")
