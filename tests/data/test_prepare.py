"""From a name to tokens: splits, caches, and nothing of the held-out stories in the vocabulary."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tinyohem.config import DataConfig, TokenizerConfig
from tinyohem.data.prepare import HOLDOUT_EVERY, Prepared, evaluation_part, part_store, prepare_data
from tinyohem.data.sample import tell
from tinyohem.data.tokenizer import tokenizer_hash
from tinyohem.data.tokens import TokenStore
from tinyohem.errors import InputError
from tinyohem.progress import SILENT

SMALL = TokenizerConfig(vocab_size=300)
COUNT = 120


class Recorder:
    """A progress listener that remembers stages and notes."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.notes.append(text)

    def start(self, stage: str, total: int | None, unit: str, **_: object) -> None:
        self.stages.append(stage)

    def advance(self, done: int, fields: Mapping[str, float] | None = None) -> None: ...

    def finish(self) -> None: ...


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TINYOHEM_DATA", str(folder))
    return folder


def texts_of(count: int, split: Any = "train") -> list[str]:
    return [tell(split, index)[1] for index in range(count)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def decoded(prepared: Prepared, store: TokenStore) -> list[str]:
    bounds = zip(store.offsets[:-1] + 1, store.offsets[1:], strict=True)
    return [prepared.tokenizer.decode(store.ids[a:b]) for a, b in bounds]


def files_of(cache: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in cache.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def test_without_a_split_every_50th_story_is_held_out(tmp_path: Path) -> None:
    texts = texts_of(COUNT)
    recorder = Recorder()
    data = DataConfig(dataset=write(tmp_path / "all.jsonl", texts))
    prepared = prepare_data(data, SMALL, recorder)
    train, valid = prepared.train.rows.tolist(), prepared.valid.rows.tolist()
    assert valid == [49, 99]
    assert sorted(train + valid) == list(range(COUNT))
    assert decoded(prepared, prepared.train) == [texts[row] for row in train]
    assert decoded(prepared, prepared.valid) == [texts[row] for row in valid]
    assert f"no validation split: every {HOLDOUT_EVERY}th story is held out" in recorder.notes


def test_a_second_call_builds_nothing(tmp_path: Path, cache: Path) -> None:
    data = DataConfig(dataset=write(tmp_path / "all.jsonl", texts_of(COUNT)))
    first, recorder = Recorder(), Recorder()
    built = prepare_data(data, SMALL, first)
    assert "tokenize" in first.stages
    files = files_of(cache)
    again = prepare_data(data, SMALL, recorder)
    assert files_of(cache) == files
    assert "tokenize" not in recorder.stages
    assert not any("vocabulary" in stage for stage in recorder.stages)
    assert tokenizer_hash(again.tokenizer) == tokenizer_hash(built.tokenizer)
    assert again.train.ids.tolist() == built.train.ids.tolist()


def test_a_copy_elsewhere_uses_the_same_cache(tmp_path: Path, cache: Path) -> None:
    texts = texts_of(COUNT)
    prepare_data(DataConfig(dataset=write(tmp_path / "a.jsonl", texts)), SMALL)
    files = files_of(cache)
    prepare_data(DataConfig(dataset=write(tmp_path / "b.jsonl", texts)), SMALL)
    assert files_of(cache) == files


def test_other_content_or_another_vocabulary_is_built_anew(tmp_path: Path) -> None:
    texts = texts_of(COUNT)
    path = tmp_path / "all.jsonl"
    data = DataConfig(dataset=write(path, texts))
    first = prepare_data(data, SMALL)
    bigger = prepare_data(data, TokenizerConfig(vocab_size=320))
    assert (len(first.tokenizer), len(bigger.tokenizer)) == (300, 320)
    assert bigger.train.num_tokens < first.train.num_tokens
    write(path, ["A new story.", *texts[1:]])
    changed = prepare_data(data, SMALL)
    assert decoded(changed, changed.train)[0] == "A new story."


def test_held_out_stories_do_not_shape_the_vocabulary(tmp_path: Path) -> None:
    texts = texts_of(COUNT)
    first = prepare_data(DataConfig(dataset=write(tmp_path / "a.jsonl", texts)), SMALL)
    texts[49] = "zyzzyva " * 1000
    other = prepare_data(DataConfig(dataset=write(tmp_path / "b.jsonl", texts)), SMALL)
    assert decoded(other, other.valid)[0] == texts[49].strip()
    assert tokenizer_hash(other.tokenizer) == tokenizer_hash(first.tokenizer)
    assert other.train.ids.tolist() == first.train.ids.tolist()


def test_valid_names_the_stories_to_validate_on(tmp_path: Path, cache: Path) -> None:
    train, valid = texts_of(COUNT), texts_of(7, "validation")
    data = DataConfig(
        dataset=write(tmp_path / "train.jsonl", train), valid=write(tmp_path / "v.jsonl", valid)
    )
    prepared = prepare_data(data, SMALL)
    assert decoded(prepared, prepared.train) == train
    assert decoded(prepared, prepared.valid) == valid
    files = files_of(cache)
    store = part_store(
        evaluation_part(str(tmp_path / "v.jsonl"), "text", SILENT), prepared.tokenizer, SILENT
    )
    assert store.ids.tolist() == prepared.valid.ids.tolist()
    assert files_of(cache) == files  # evaluation finds the run's own tokens


def test_a_folder_with_both_splits_keeps_them_apart(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus" / "train.jsonl", texts_of(COUNT))
    write(tmp_path / "corpus" / "valid.jsonl", texts_of(7, "validation"))
    prepared = prepare_data(DataConfig(dataset=str(tmp_path / "corpus")), SMALL)
    assert (prepared.train.num_stories, prepared.valid.num_stories) == (COUNT, 7)
    assert decoded(prepared, prepared.valid) == texts_of(7, "validation")


def test_clean_drops_from_both_splits_and_says_so(tmp_path: Path) -> None:
    texts = texts_of(COUNT)
    texts[1] = texts[0]  # a duplicate
    texts[2] = "This story just"  # cut off
    texts[99] = "And this one"  # cut off, held out
    path = write(tmp_path / "all.jsonl", texts)
    recorder = Recorder()
    prepared = prepare_data(DataConfig(dataset=path, clean=True), SMALL, recorder)
    assert prepared.train.rows.tolist()[:3] == [0, 3, 4]
    assert prepared.train.num_stories == COUNT - 2 - 2
    assert prepared.valid.rows.tolist() == [49]
    assert any("1 dropped_cut_off, 1 dropped_duplicate" in note for note in recorder.notes)
    assert any("2 read, 1 kept" in note for note in recorder.notes)
    plain = prepare_data(DataConfig(dataset=path), SMALL)
    assert plain.train.num_stories == COUNT - 2  # the caches are kept apart


def test_a_tokenizer_by_name_is_used_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", texts_of(COUNT))
    own = prepare_data(DataConfig(dataset=path), SMALL).tokenizer
    own.save_pretrained(tmp_path / "tokenizer")
    named = TokenizerConfig(name=str(tmp_path / "tokenizer"), vocab_size=4096)
    prepared = prepare_data(DataConfig(dataset=path), named)
    assert tokenizer_hash(prepared.tokenizer) == tokenizer_hash(own)


def test_everything_is_written_under_tinyohem_data(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "all.jsonl", texts_of(COUNT))
    prepare_data(DataConfig(dataset=path), SMALL)
    assert {entry.name for entry in tmp_path.iterdir()} == {"all.jsonl", "cache"}
    assert {entry.name for entry in cache.iterdir()} == {"tokenizers", "tokens"}


def test_too_few_stories_to_hold_one_out_is_an_error_that_says_so(tmp_path: Path) -> None:
    data = DataConfig(dataset=write(tmp_path / "all.jsonl", texts_of(HOLDOUT_EVERY - 1)))
    with pytest.raises(InputError, match="no story is left for validation") as caught:
        prepare_data(data, SMALL)
    assert "--valid" in (caught.value.hint or "")


def test_an_empty_corpus_builds_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="holds no story"):
        prepare_data(DataConfig(dataset=write(tmp_path / "all.jsonl", [" ", ""])), SMALL)
    assert files_of(cache) == {}
