"""What a name means, which files are which split, fingerprints, and the Hub's code path."""

import http.server
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tinyohem.data import corpus, fingerprint
from tinyohem.data.corpus import Corpus, MissingSplitError, Story, open_corpus
from tinyohem.errors import InputError, RunError

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "tinystories"
Split = Literal["train", "validation"]


def write_lines(path: Path, texts: list[str], field: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


def texts_of(name: Path | str, split: Split = "train") -> list[str]:
    return [story.text for story in open_corpus(str(name), split).stories()]


def failure(name: Path | str, split: Split = "train", field: str = "text") -> InputError:
    with pytest.raises(InputError) as caught:
        list(open_corpus(str(name), split, text_field=field).stories())
    return caught.value


class TestStories:
    def test_stories_are_stripped_and_empty_rows_keep_their_number(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "a.jsonl", [" One.\n", "", "\u2003", "Four."])
        found = list(open_corpus(str(path)).stories())
        assert found == [Story(0, "One."), Story(3, "Four.")]

    def test_rows_go_on_from_file_to_file(self, tmp_path: Path) -> None:
        write_lines(tmp_path / "b.jsonl", ["Three."])
        (tmp_path / "a.txt").write_text("One.<|endoftext|>Two.<|endoftext|>\n")
        found = list(open_corpus(str(tmp_path)).stories())
        assert found == [Story(0, "One."), Story(1, "Two."), Story(2, "Three.")]

    def test_each_call_begins_anew(self, tmp_path: Path) -> None:
        opened = open_corpus(str(write_lines(tmp_path / "a.jsonl", ["One.", "Two."])))
        first, second = opened.stories(), opened.stories()
        assert next(first).text == next(second).text == "One."
        assert next(first).text == "Two."
        assert [story.text for story in opened.stories()] == ["One.", "Two."]
        assert next(second).text == "Two."

    def test_a_corpus_without_a_story_raises_at_its_end(self, tmp_path: Path) -> None:
        error = failure(write_lines(tmp_path / "a.jsonl", ["", " "]))
        assert error.message == f"{tmp_path}/a.jsonl holds no story"
        assert error.hint == "check the file and --text-field"

    def test_stories_before_a_broken_line_are_still_told_apart_from_it(
        self, tmp_path: Path
    ) -> None:
        path = write_lines(tmp_path / "a.jsonl", ["One."])
        path.write_text(path.read_text() + "{\n")
        stories = open_corpus(str(path)).stories()
        assert next(stories) == Story(0, "One.")
        with pytest.raises(InputError, match=r"a\.jsonl:2: broken JSON"):
            next(stories)

    def test_wrong_text_field_names_those_there_are(self, tmp_path: Path) -> None:
        error = failure(write_lines(tmp_path / "a.jsonl", ["One."]), field="tale")
        assert error.message == f'{tmp_path}/a.jsonl:1: no field "tale"; the fields are: text'
        assert error.hint == "name one with --text-field"


class TestNames:
    def test_file_folder_glob_and_home_lead_to_the_same_stories(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        write_lines(tmp_path / "sub" / "a.jsonl", ["One."])
        for name in ("sub/a.jsonl", "sub", "s*/*.jsonl", "**/*.jsonl", "~/sub", "./sub/"):
            opened = open_corpus(name)
            assert (opened.name, opened.split) == (name, "train")
            assert [story.text for story in opened.stories()] == ["One."]

    def test_a_folder_gives_known_files_sorted_and_no_hidden_ones(self, tmp_path: Path) -> None:
        for name in ("b.jsonl", "c/a.jsonl", "a.jsonl", ".d.jsonl", ".cache/e.jsonl"):
            write_lines(tmp_path / name, [name])
        (tmp_path / "notes.md").write_text("not a story")
        assert texts_of(tmp_path) == ["a.jsonl", "b.jsonl", "c/a.jsonl"]

    def test_a_file_whose_name_holds_glob_characters_is_that_file(self, tmp_path: Path) -> None:
        write_lines(tmp_path / "a[1].jsonl", ["One."])
        write_lines(tmp_path / "a1.jsonl", ["Two."])
        assert texts_of(tmp_path / "a[1].jsonl") == ["One."]

    @pytest.mark.parametrize("folder", ["data [v1]", "{a,b}", "what?", "a*b", "[!x]/[a-c]"])
    def test_a_glob_may_stand_below_a_folder_of_any_name(self, tmp_path: Path, folder: str) -> None:
        write_lines(tmp_path / folder / "a.jsonl", ["One."])
        write_lines(tmp_path / folder / "b{1}.jsonl", ["Two."])
        write_lines(tmp_path / "v" / "a.jsonl", ["Another."])
        assert texts_of(f"{tmp_path}/{folder}/*.jsonl") == ["One.", "Two."]
        assert texts_of(f"{tmp_path}/{folder}/b{{1}}*") == ["Two."]

    @pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere", "a.jsonl.gz", "a/b/c"])
    def test_what_looks_like_a_path_is_never_sought_on_the_hub(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        error = failure(name)
        assert error.message == f"there is no file or folder {name}"
        assert error.hint == "check the path"

    @pytest.mark.parametrize("name", ["", "/*", "/*.txt"])
    def test_nothing_to_read_lists_the_known_suffixes(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "notes.md").write_text("not a story")
        error = failure(f"{tmp_path}{name}")
        assert error.message == f"{tmp_path}{name} holds no story file"
        assert error.hint == (
            "known are .txt, .jsonl, .ndjson, .json, .parquet, .arrow, each also with .gz or .zst"
        )

    def test_unknown_suffix_lists_the_known_ones(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text\n")
        error = failure(tmp_path / "a.csv")
        assert error.message == f"{tmp_path}/a.csv is no story file"
        assert ".parquet" in str(error.hint)


class TestWhatIsTold:
    def told(self, name: Path | str, split: Split = "train") -> list[str]:
        listener = tiny.Listener()
        opened = open_corpus(str(name), split, progress=listener)
        for _ in range(2):  # training reads a corpus twice
            list(opened.stories())
        return listener.notes

    def test_rows_without_text_are_counted_once(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "One."}\n{"text": null}\n{"text": " "}\n')
        assert self.told(tmp_path / "a.jsonl") == [f"{tmp_path}/a.jsonl: 2 of 3 rows hold no text"]

    def test_a_text_file_without_a_marker_is_told_with_what_separates_stories(
        self, tmp_path: Path
    ) -> None:
        for name in ("novel.txt", "tale.TXT", "tales.txt"):
            (tmp_path / name).write_text("Once.\n\nTwice.\n")
        (tmp_path / "tales.txt").write_text("Once.<|endoftext|>Twice.")
        separates = "one story: a line <|endoftext|> separates stories in a .txt file"
        assert self.told(tmp_path / "novel.txt") == [f"{tmp_path}/novel.txt is {separates}"]
        assert self.told(tmp_path / "tales.txt") == []
        assert self.told(tmp_path)[1] == f"each of novel.txt, tale.TXT is {separates}"

    def test_a_folder_says_what_is_read_and_leaves_out_papers(self, tmp_path: Path) -> None:
        write_lines(tmp_path / "a.jsonl", ["One."])
        write_lines(tmp_path / "sub" / "licensed.jsonl", ["Two."])
        for name in ("LICENSE.txt", "README.md", "sub/readme.en.txt"):
            (tmp_path / name).write_text("No story.")
        said = "the train split is a.jsonl, sub/licensed.jsonl"
        left_out = "left out: LICENSE.txt, README.md, sub/readme.en.txt"
        assert self.told(tmp_path) == [f"{tmp_path}: {said}; {left_out}"]
        assert texts_of(tmp_path / "LICENSE.txt") == ["No story."]

    def test_of_many_files_the_first_are_named(self, tmp_path: Path) -> None:
        for number in range(8):
            write_lines(tmp_path / f"{number}.jsonl", ["One."])
        assert self.told(tmp_path)[0].endswith(
            "is 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl and 3 more"
        )

    def test_an_empty_split_is_named(self, tmp_path: Path) -> None:
        write_lines(tmp_path / "train.jsonl", ["One."])
        write_lines(tmp_path / "valid.jsonl", [])
        assert failure(tmp_path, "validation").message == f"{tmp_path} (validation) holds no story"


class TestSavedByDatasets:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        import datasets

        datasets.disable_progress_bars()
        train = datasets.Dataset.from_dict({"text": [f"Story {n}." for n in range(2_500)]})
        valid = datasets.Dataset.from_dict({"text": ["Held out.", None]})
        both = datasets.DatasetDict({"train": train, "validation": valid})
        both.save_to_disk(str(tmp_path / "both"), num_shards={"train": 3, "validation": 1})
        train.shuffle(seed=1).save_to_disk(str(tmp_path / "one"))
        return tmp_path

    def test_a_folder_of_splits_is_read_in_order(self, saved: Path) -> None:
        assert texts_of(saved / "both") == [f"Story {n}." for n in range(2_500)]
        assert texts_of(saved / "both", "validation") == ["Held out."]

    def test_a_single_data_set_is_a_train_split(self, saved: Path) -> None:
        import datasets

        assert texts_of(saved / "one") == datasets.load_from_disk(str(saved / "one"))["text"][:]
        with pytest.raises(MissingSplitError):
            open_corpus(str(saved / "one"), "validation")


class TestFingerprint:
    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fingerprint, "_hashed", {})
        monkeypatch.setattr(fingerprint, "_SETTLED_NS", -1)

    def test_a_file_is_hashed_once_and_reported_once(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "a.jsonl", ["One."])
        listener = tiny.Listener()
        first, second = (open_corpus(str(path), progress=listener) for _ in range(2))
        assert first.fingerprint == second.fingerprint
        assert listener.stages == ["fingerprint"]

    def test_another_content_of_the_same_size_and_date_is_noticed(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "a.jsonl", ["One."])
        before, stat = open_corpus(str(path)).fingerprint, path.stat()
        time.sleep(0.02)  # a tick of the file system's clock
        write_lines(path, ["Two."])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size
        assert open_corpus(str(path)).fingerprint != before

    def test_a_file_that_has_just_changed_is_not_relied_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Within a tick of the clock a second change would leave no trace."""
        monkeypatch.setattr(fingerprint, "_SETTLED_NS", 3_000_000_000)
        path = write_lines(tmp_path / "a.jsonl", ["One."])
        listener = tiny.Listener()
        for _ in range(2):
            open_corpus(str(path), progress=listener)
        assert listener.stages == ["fingerprint"] * 2


class TestSplits:
    @pytest.mark.parametrize(
        ("train", "validation"),
        [
            ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"),
            ("train.txt", "validation.txt"),
            ("data/train-00000-of-00001.txt", "data/validation-00000-of-00001.txt"),
            ("train/valid/0_train.txt", "train/1_dev.txt"),
            ("stories.txt", "VAL.txt"),
        ],
    )
    def test_names_tell_splits_apart(self, tmp_path: Path, train: str, validation: str) -> None:
        for name in (train, validation, "test.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        assert texts_of(tmp_path) == [train]
        assert texts_of(tmp_path, "validation") == [validation]
        assert texts_of(f"{tmp_path}/**/*.txt", "validation") == [validation]

    @pytest.mark.parametrize(
        "names",
        [
            ["a.txt", "b.txt"],
            ["retrain.txt", "validity.txt"],
            ["train-0.txt", "train-1.txt"],
            ["valid-0.txt", "valid-1.txt"],  # a folder passed as --valid
        ],
    )
    def test_names_of_one_kind_are_all_train(self, tmp_path: Path, names: list[str]) -> None:
        for name in names:
            (tmp_path / name).write_text(name)
        assert texts_of(tmp_path) == names
        with pytest.raises(MissingSplitError):
            open_corpus(str(tmp_path), "validation")

    def test_a_single_file_has_no_validation_split(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "valid.jsonl", ["One."])
        assert texts_of(path) == ["One."]
        error = failure(path, "validation")
        assert isinstance(error, MissingSplitError)
        assert error.message == f"{path} has no validation split, only: train"
        assert error.hint == "pass a file of stories with --valid"

    def test_a_folder_without_training_files_says_so(self, tmp_path: Path) -> None:
        for name in ("test.txt", "valid.txt"):
            (tmp_path / name).write_text(name)
        error = failure(tmp_path)
        assert error.message == f"{tmp_path} has no train split, only: test, validation"

    def test_files_left_out_are_reported(self, tmp_path: Path) -> None:
        class Notes:
            def __init__(self) -> None:
                self.notes: list[str] = []
                self.done: list[int] = []

            def note(self, text: str) -> None:
                self.notes.append(text)

            def warn(self, text: str) -> None: ...

            def start(self, stage: str, total: int | None, unit: str, **_: object) -> None: ...

            def advance(self, done: int, fields: object = None) -> None:
                self.done.append(done)

            def finish(self) -> None: ...

        for name in ("train-0.txt", "train-1.txt", "valid.txt"):
            (tmp_path / name).write_text(name)
        progress = Notes()
        open_corpus(str(tmp_path), progress=progress)
        assert progress.notes == [
            f"{tmp_path}: the train split is train-0.txt, train-1.txt, 2 of 3 files"
        ]
        assert progress.done == [1, 2]


class TestFingerprints:
    def test_a_fingerprint_depends_on_content_and_field_but_not_on_the_path(
        self, tmp_path: Path
    ) -> None:
        first = open_corpus(str(write_lines(tmp_path / "a.jsonl", ["One."])))
        moved = open_corpus(str(write_lines(tmp_path / "b.jsonl", ["One."])))
        other = open_corpus(str(write_lines(tmp_path / "c.jsonl", ["One"])))
        field = open_corpus(str(tmp_path / "a.jsonl"), text_field="tale")
        assert len(first.fingerprint) == 64
        assert int(first.fingerprint, 16) > 0
        assert moved.fingerprint == first.fingerprint
        assert len({first.fingerprint, other.fingerprint, field.fingerprint}) == 3

    def test_a_fingerprint_depends_on_the_format_of_the_same_bytes(self, tmp_path: Path) -> None:
        lines = write_lines(tmp_path / "a.jsonl", ["One."])
        (tmp_path / "a.txt").write_bytes(lines.read_bytes())
        found = {open_corpus(str(tmp_path / name)).fingerprint for name in ("a.txt", "a.jsonl")}
        assert len(found) == 2

    def test_a_fingerprint_depends_on_every_file_and_their_order(self, tmp_path: Path) -> None:
        found = []
        for names in (["a", "b"], ["b", "a"], ["a"], ["a", "b", "c"]):
            for position, name in enumerate(names):
                write_lines(tmp_path / "".join(names) / f"{position}.jsonl", [name])
            found.append(open_corpus(str(tmp_path / "".join(names))).fingerprint)
        assert len(set(found)) == 4


class TestSample:
    @pytest.fixture(autouse=True)
    def sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("tinyohem.data.sample.stories")
        module.SAMPLE_FINGERPRINT = {"train": "a1", "validation": "b2"}  # type: ignore[attr-defined]
        module.SAMPLE_COUNTS = {"train": 2, "validation": 2}  # type: ignore[attr-defined]
        module.sample_stories = lambda split: iter([f"{split} one.", " two. "])  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tinyohem.data.sample.stories", module)

    def test_the_sample_has_both_splits(self) -> None:
        assert texts_of("sample") == ["train one.", "two."]
        assert texts_of("sample", "validation") == ["validation one.", "two."]
        assert open_corpus("sample").fingerprint != open_corpus("sample", "validation").fingerprint

    def test_a_file_called_sample_needs_a_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_lines(tmp_path / "sample" / "a.jsonl", ["Mine."])
        assert texts_of("sample") == ["train one.", "two."]
        assert texts_of("./sample") == ["Mine."]


class HubHandler(http.server.BaseHTTPRequestHandler):
    """A server that answers as the Hub does for missing or private data sets."""

    def do_GET(self) -> None:
        status, code = (403, "GatedRepo") if "gated" in self.path else (404, "RepoNotFound")
        if "broken" in self.path:
            status, code = 500, "Internal"
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()
        thread.join()


class TestHub:
    """A folder laid out like a Hub repository goes through the very same `datasets` calls."""

    @pytest.fixture
    def repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(corpus, "latest_commit", lambda name: "0123456789abcdef")
        folder = tmp_path / "repository"
        self.write(folder, "train", [" One.", "", "Three."])
        self.write(folder, "validation", ["Four."])
        return folder

    def write(self, folder: Path, split: str, texts: list[str]) -> None:
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": texts, "id": range(len(texts))}), path)

    def open(self, folder: Path, split: Split = "train", field: str = "text") -> Corpus:
        return corpus._open_hub(str(folder), split, field, corpus.SILENT)

    def test_streams_each_split_again_and_again(self, repository: Path) -> None:
        train, validation = self.open(repository), self.open(repository, "validation")
        for _ in range(2):
            assert list(train.stories()) == [Story(0, "One."), Story(2, "Three.")]
            assert list(validation.stories()) == [Story(0, "Four.")]

    def test_the_card_may_say_which_files_are_which_split(self, repository: Path) -> None:
        self.write(repository, "extra", ["Five."])
        (repository / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n"
            "  - split: train\n    path: data/extra-*\n---\n"
        )
        assert [story.text for story in self.open(repository).stories()] == ["Five."]
        with pytest.raises(MissingSplitError, match="has no validation split, only: train"):
            self.open(repository, "validation")

    def test_fingerprint_follows_split_field_and_files(self, repository: Path) -> None:
        found = [
            self.open(repository).fingerprint,
            self.open(repository, "validation").fingerprint,
            self.open(repository, field="id").fingerprint,
        ]
        assert self.open(repository).fingerprint == found[0]
        self.write(repository, "train", ["Other."])
        os.utime(repository / "data" / "train-00000-of-00001.parquet", (1, 1))
        found.append(self.open(repository).fingerprint)
        assert len(set(found)) == 4

    def test_a_wrong_field_is_named(self, repository: Path) -> None:
        with pytest.raises(InputError) as caught:
            list(self.open(repository, field="tale").stories())
        assert caught.value.message == (
            f'{repository} (train): row 0: no field "tale"; the fields are: text, id'
        )
        with pytest.raises(InputError, match="row 0: the story is of type int, not text"):
            list(self.open(repository, field="id").stories())

    def test_a_stream_that_breaks_off_is_a_failed_run(self, repository: Path) -> None:
        opened = self.open(repository)
        (repository / "data" / "train-00000-of-00001.parquet").unlink()
        with pytest.raises(RunError, match=r"reading .* from the Hub failed") as caught:
            list(opened.stories())
        assert caught.value.hint == "run the command again"

    def test_a_repository_without_data_is_wrong_input(self, repository: Path) -> None:
        for path in (repository / "data").iterdir():
            path.unlink()
        with pytest.raises(InputError, match="cannot be opened from the Hub") as caught:
            self.open(repository)
        assert caught.value.hint == "download its files and pass one of them"

    def test_a_missing_network_is_reported_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")
        start = time.monotonic()
        error = failure("roneneldan/TinyStories")
        assert time.monotonic() - start < 5
        assert "and the Hub cannot be reached" in error.message
        assert error.hint == "use a local file, or --dataset sample"

    @pytest.mark.usefixtures("hub_server")
    @pytest.mark.parametrize("name", ["nobody/nothing", "nobody/gated", "not--valid"])
    def test_an_unknown_data_set_is_refused(self, name: str) -> None:
        error = failure(name)
        assert (
            error.message == f"{name} is no file or folder here, and no public data set on the Hub"
        )
        assert "`hf auth login`" in str(error.hint)

    @pytest.mark.usefixtures("hub_server")
    def test_an_error_of_the_hub_is_reported(self) -> None:
        error = failure("nobody/broken")
        assert "the Hub cannot be reached" in error.message
        assert "500" in error.message
        assert "\n" not in error.message


@pytest.mark.skipif(not SHARED.exists(), reason="no real TinyStories sample beside the checkout")
def test_real_stories_are_all_read() -> None:
    assert len(texts_of(SHARED)) == 19_956
    assert len(texts_of(SHARED, "validation")) == 1_000
