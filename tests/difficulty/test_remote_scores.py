"""A score folder at a URL: what is stored, and how a pass resumes after its machine is lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import tiny

from tinyohem.data.target import TargetStories
from tinyohem.difficulty import corpus_percentiles as finish
from tinyohem.difficulty import shards
from tinyohem.difficulty.remote_scores import scores_at
from tinyohem.difficulty.score_batch import ScoringRules
from tinyohem.difficulty.score_corpus import UNFINISHED, score_corpus, score_here
from tinyohem.difficulty.target_rule import TargetRule
from tinyohem.errors import InputError
from tinyohem.progress import SILENT

URL = "memory://far/scores"


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    monkeypatch.setattr(finish, "SHARDS_PER_ROW_GROUP", 3)


@pytest.fixture(autouse=True)
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    if memory.exists("/far"):
        memory.rm("/far", recursive=True)


def files_at(memory: fsspec.AbstractFileSystem) -> dict[str, bytes]:
    return {name.removeprefix("/far/scores/"): memory.cat(name) for name in memory.find("/far")}


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def score_far(corpus, rules: ScoringRules | None = None) -> None:
    with scores_at(URL, score_here, SILENT) as (folder, engine):
        score_corpus(corpus, folder, rules=rules, engine=engine, workers=1)


def test_the_results_equal_those_of_a_local_folder(
    made_up: list[str], fake_corpus, tmp_path: Path, memory
) -> None:
    corpus = fake_corpus(tuple(made_up))
    score_corpus(corpus, tmp_path / "here", workers=1)
    score_far(corpus)
    assert files_at(memory) == files_in(tmp_path / "here")


def test_so_they_do_by_a_target_whose_first_pass_is_not_kept_there(
    made_up: list[str], fake_corpus, tmp_path: Path, memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, parts = fake_corpus(tuple(made_up)), (tuple(made_up[:60]), tuple(made_up[60:100]))
    rules = ScoringRules(target=TargetRule.fit(TargetStories("good", "9", *parts, (), frozenset())))
    score_corpus(corpus, tmp_path / "here", rules=rules, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr("tinyohem.difficulty.score_corpus.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_far(corpus, rules)
    assert {name.split("/")[1][:5] for name in files_at(memory)} == {"shard", "descr"}
    score_far(corpus, rules)
    assert files_at(memory) == files_in(tmp_path / "here")


def test_a_lost_pass_resumes_with_the_stored_shards(
    made_up: list[str], fake_corpus, tmp_path: Path, memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = fake_corpus(tuple(made_up))
    scored = []

    def counting(shard, folder, rules, score=shards.score_shard) -> None:
        if len(scored) == 7:
            raise KeyboardInterrupt
        scored.append(shard.index)
        score(shard, folder, rules)

    monkeypatch.setattr(shards, "score_shard", counting)
    with pytest.raises(KeyboardInterrupt):
        score_far(corpus)
    left = files_at(memory)
    assert set(left) == {f"{UNFINISHED}/shard_{n:07d}.parquet" for n in range(7)} | {
        f"{UNFINISHED}/description.json"
    }
    del scored[:3]
    monkeypatch.setattr(shards, "score_shard", lambda s, f, r: counting(s, f, r))
    with pytest.raises(KeyboardInterrupt):  # after three more
        score_far(corpus)
    assert scored == [3, 4, 5, 6, 7, 8, 9]
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    monkeypatch.setattr(finish, "SHARDS_PER_ROW_GROUP", 3)
    score_far(corpus)
    score_corpus(corpus, tmp_path / "here", workers=1)
    assert files_at(memory) == files_in(tmp_path / "here")


def test_shards_of_another_corpus_are_thrown_away(
    made_up: list[str], fake_corpus, tmp_path: Path, memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tinyohem.difficulty.score_corpus.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_far(fake_corpus(tuple(made_up)))
    other = fake_corpus(tuple(made_up[200:]), fingerprint="0" * 64)
    with (  # this one is lost before its first shard
        pytest.raises(ZeroDivisionError),
        scores_at(URL, lambda *_: 1 / 0, SILENT) as (folder, engine),
    ):
        score_corpus(other, folder, engine=engine, workers=1)
    assert [name for name in files_at(memory) if "shard" in name] == []
    score_far(other)
    score_corpus(other, tmp_path / "here", workers=1)
    assert files_at(memory) == files_in(tmp_path / "here")


def test_a_shard_that_cannot_be_kept_ends_the_pass(
    made_up: list[str], fake_corpus, memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = memory.put_file

    def refuse(path: str, to: str) -> None:
        if "shard_0000003" in to:
            raise PermissionError("access denied")
        put(path, to)

    monkeypatch.setattr(memory, "put_file", refuse)
    with pytest.raises(InputError, match="memory://far/scores cannot be reached: Permission"):
        score_far(fake_corpus(tuple(made_up)))
    assert not memory.exists("/far/scores/manifest.json")


def test_finished_scores_are_reused_or_refused(made_up: list[str], fake_corpus, memory) -> None:
    score_far(fake_corpus(tuple(made_up[:50])))
    before = files_at(memory)
    with scores_at(URL, score_here, SILENT) as (folder, _):
        table = score_corpus(
            fake_corpus(tuple(made_up[:50])), folder, engine=lambda *_: 1 / 0, workers=1
        )
        assert table.stories == 50
    with pytest.raises(InputError, match="another corpus"):
        score_far(fake_corpus(tuple(made_up), fingerprint="0" * 64))
    assert files_at(memory) == before


def test_the_command_reads_and_writes_elsewhere(
    tinyohem: tiny.Command, made_up: list[str], tmp_path: Path, memory
) -> None:
    stories = tiny.write_stories(tmp_path / "stories.jsonl", made_up)
    memory.put(str(stories), "/far/corpus/stories.jsonl")
    outcome = tinyohem(
        *("score-difficulty", "--dataset", "memory://far/corpus", "--out", URL),
        *("--workers", 1, "--json"),
    )
    assert outcome.code == 0, outcome.err
    files = json.loads(outcome.out)["files"]
    assert files[:2] == [f"{URL}/scores.parquet", f"{URL}/manifest.json"]
    assert all(memory.exists(file.removeprefix("memory:/")) for file in files)
    here = tinyohem("score-difficulty", "--dataset", stories, "--out", tmp_path / "here")
    assert here.code == 0
    assert (
        memory.cat("/far/scores/scores.parquet") == (tmp_path / "here/scores.parquet").read_bytes()
    )
