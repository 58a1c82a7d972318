"""Preparing data: splits, caches, and a vocabulary without held-out stories."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tinyohem.config.data import DataConfig, TokenizerConfig
from tinyohem.data.parts import HOLDOUT_EVERY
from tinyohem.data.prepare import Prepared, part_store, prepare_data
from tinyohem.data.sample.stories import tell
from tinyohem.data.sources import evaluation_part
from tinyohem.data.story_hash import story_hash
from tinyohem.data.token_store import TokenStore
from tinyohem.data.tokenizer import tokenizer_hash
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


def held_out_rows(texts: list[str]) -> list[int]:
    """Return which of these texts, all distinct, are held out."""
    limit = 2**64 // HOLDOUT_EVERY
    return [row for row, text in enumerate(texts) if story_hash(text) <= limit]


def test_without_a_split_one_story_in_50_is_held_out(tmp_path: Path) -> None:
    texts = texts_of(COUNT)
    recorder = Recorder()
    data = DataConfig(dataset=write(tmp_path / "all.jsonl", texts))
    prepared = prepare_data(data, SMALL, recorder)
    train, valid = prepared.train.rows.tolist(), prepared.valid.rows.tolist()
    assert valid == held_out_rows(texts)
    assert valid
    assert sorted(train + valid) == list(range(COUNT))
    assert decoded(prepared, prepared.train) == [texts[row] for row in train]
    assert decoded(prepared, prepared.valid) == [texts[row] for row in valid]
    assert any(f"1 story in {HOLDOUT_EVERY} is held out" in note for note in recorder.notes)


@pytest.mark.parametrize("clean", [False, True])
def test_no_copy_of_a_held_out_story_trains(tmp_path: Path, clean: bool) -> None:
    texts = texts_of(COUNT)
    row = held_out_rows(texts)[0]
    copies = [texts[row].upper(), texts[row].replace(" ", "\n"), texts[row]]
    path = write(tmp_path / "all.jsonl", [copies[0], *texts, *copies[1:]])
    prepared = prepare_data(DataConfig(dataset=path, clean=clean), SMALL)
    assert prepared.valid.rows.tolist() == [0, *(r + 1 for r in held_out_rows(texts)[1:])]
    assert not {0, row + 1, COUNT + 1, COUNT + 2} & set(prepared.train.rows.tolist())
    assert prepared.train.num_stories == COUNT - prepared.valid.num_stories


def test_copies_that_only_cleaning_shows_do_not_train(tmp_path: Path) -> None:
    texts = texts_of(COUNT)
    row = held_out_rows(texts)[0]
    curly = texts[row].replace('"', "\u201c").replace("'", "\u2019")
    assert story_hash(curly) != story_hash(texts[row])
    path = write(tmp_path / "all.jsonl", [*texts, curly])
    prepared = prepare_data(DataConfig(dataset=path, clean=True), SMALL)
    assert COUNT not in prepared.train.rows
    assert prepared.valid.rows.tolist() == held_out_rows(texts)


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
    row = held_out_rows(texts)[0]
    tries = ("zyzzyva " * 1000 + str(number) for number in count())
    texts[row] = next(text for text in tries if held_out_rows([text]))
    other = prepare_data(DataConfig(dataset=write(tmp_path / "b.jsonl", texts)), SMALL)
    assert decoded(other, other.valid)[0] == texts[row]
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


def test_stories_prepared_under_another_name_are_called_by_their_own(tmp_path: Path) -> None:
    for name in ("tales", "fables"):
        (tmp_path / name).mkdir()
        prepared = prepare_data(
            DataConfig(
                dataset=write(tmp_path / name / f"{name}.jsonl", texts_of(COUNT)),
                valid=write(tmp_path / name / f"held-out-{name}.jsonl", texts_of(7, "validation")),
            ),
            SMALL,
        )
        stores = (prepared.train, prepared.valid)
        names = [Path(store.manifest.to_json()["name"]).name for store in stores]
        assert names == [f"{name}.jsonl", f"held-out-{name}.jsonl"]


def test_a_folder_with_both_splits_keeps_them_apart(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus" / "train.jsonl", texts_of(COUNT))
    write(tmp_path / "corpus" / "valid.jsonl", texts_of(7, "validation"))
    prepared = prepare_data(DataConfig(dataset=str(tmp_path / "corpus")), SMALL)
    assert (prepared.train.num_stories, prepared.valid.num_stories) == (COUNT, 7)
    assert decoded(prepared, prepared.valid) == texts_of(7, "validation")


def test_clean_drops_from_both_splits_and_says_so(tmp_path: Path) -> None:
    train, valid = texts_of(COUNT), texts_of(7, "validation")
    train[1] = train[0]
    train[2] = "This story just"
    valid[3] = "And this one"
    files = {
        "dataset": write(tmp_path / "train.jsonl", train),
        "valid": write(tmp_path / "v.jsonl", valid),
    }
    recorder = Recorder()
    prepared = prepare_data(DataConfig(**files, clean=True), SMALL, recorder)
    assert prepared.train.rows.tolist() == [0, *range(3, COUNT)]
    assert prepared.valid.rows.tolist() == [0, 1, 2, 4, 5, 6]
    told = [note for note in recorder.notes if note.startswith(f"cleaned {files['dataset']}")]
    assert len(told) == 2 + 5  # what was read and repaired, and the rules: once
    assert told[0].endswith(f"{COUNT} stories read, {COUNT - 2} kept")
    assert 'dropped: 1 (ends inside a sentence): "This story just"' in told[4]
    assert any('sentence): "And this one"' in note for note in recorder.notes)
    plain = prepare_data(DataConfig(**files), SMALL)
    assert plain.train.num_stories == COUNT  # the caches are kept apart


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


def test_one_story_cannot_train_and_validate(tmp_path: Path) -> None:
    data = DataConfig(dataset=write(tmp_path / "all.jsonl", ["Tom ran.", "tom  RAN."]))
    with pytest.raises(InputError, match="no story is left to train on") as caught:
        prepare_data(data, SMALL)
    assert "--valid" in (caught.value.hint or "")


def test_a_run_with_its_own_validation_stories_keeps_its_identity(tmp_path: Path) -> None:
    """Records of runs are found by these keys, whatever the way of holding out."""
    files = {
        "dataset": write(tmp_path / "train.jsonl", texts_of(COUNT)),
        "valid": write(tmp_path / "v.jsonl", texts_of(7, "validation")),
    }
    prepared = prepare_data(DataConfig(**files), SMALL)
    for store in (prepared.train, prepared.valid):
        manifest = store.manifest.to_json()
        assert (manifest["part"], manifest["clean"]) == ("all", False)
    assert prepared.train.manifest.to_json()["corpus"] == prepared.corpus.fingerprint


def test_an_empty_corpus_builds_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="holds no story"):
        prepare_data(DataConfig(dataset=write(tmp_path / "all.jsonl", [" ", ""])), SMALL)
    assert files_of(cache) == {}
