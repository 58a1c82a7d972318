"""Validation stories that are training stories too: refused, reported, or dropped by --clean."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

TRAIN = [f"Once, Tom saw {n} dogs. He was glad." for n in range(60)]
VALID = [f"One day, Sue saw {n} cats. She ran." for n in range(10)]
Check = Callable[..., tiny.Outcome]


@pytest.fixture
def check(tinyohem: tiny.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Prepare `train.jsonl` with a validation file and more flags."""
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "cache"))
    tiny.write_stories(tmp_path / "train.jsonl", TRAIN)

    def prepare(valid: str, *more: str) -> tiny.Outcome:
        files = ("--dataset", tmp_path / "train.jsonl", "--valid", tmp_path / valid)
        return tinyohem("prepare-data", *files, "--set=tokenizer.vocab_size=270", "--json", *more)

    return prepare


def _write(path: Path, stories: list[str]) -> None:
    lines = "".join(json.dumps({"text": story}) + "\n" for story in stories)
    match "".join(path.suffixes):
        case ".jsonl":
            path.write_text(lines)
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".txt":
            path.write_text("<|endoftext|>\n".join(stories))
        case ".parquet":
            pq.write_table(pa.table({"text": stories}), path)


@pytest.mark.parametrize("clean", [(), ("--clean",)])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("v.jsonl", lambda stories: stories[::-1]),
        ("v.jsonl.gz", list),
        ("v.parquet", lambda stories: stories[30:] + stories[:30]),
        ("v.txt", lambda stories: [story.upper() for story in stories]),
        ("v.jsonl", lambda stories: [*stories, stories[0].replace(" ", "  ")]),
    ],
)
def test_the_same_stories_in_any_form_are_refused(
    check: Check,
    tmp_path: Path,
    name: str,
    change: Callable[[list[str]], list[str]],
    clean: tuple[str, ...],
) -> None:
    _write(tmp_path / name, change(TRAIN))
    outcome = check(name, *clean)
    assert outcome.code == 2
    told = f"error: the validation stories {tmp_path / name} are the training stories"
    assert told in outcome.err
    assert "hint: name held-out stories with --valid" in outcome.err


@pytest.mark.parametrize("left_out", [[0], [59], list(range(1, 60))])
def test_a_part_of_the_training_stories_is_refused_unless_it_is_taken_out(
    check: Check, tmp_path: Path, left_out: list[int]
) -> None:
    part = [story for row, story in enumerate(TRAIN) if row not in left_out]
    _write(tmp_path / "v.jsonl", part)
    outcome = check("v.jsonl")
    assert outcome.code == 2
    both = f"{len(part)} of {len(part)} validation stories are training stories too"
    assert both in outcome.err
    assert "--clean" in outcome.err
    outcome = check("v.jsonl", "--clean")
    assert outcome.code == 0
    assert json.loads(outcome.out)["train"]["stories"] == len(left_out)


def test_shared_stories_are_counted_and_reported_and_clean_drops_them(
    check: Check, tmp_path: Path
) -> None:
    shared = [TRAIN[3].lower(), TRAIN[40].replace(" ", "\n"), TRAIN[40]]
    _write(tmp_path / "v.jsonl", [*VALID, *shared])
    told = "warning: 3 of 13 validation stories are training stories too"
    for _ in range(2):  # the second time everything is there already
        outcome = check("v.jsonl")
        assert outcome.code == 0
        assert told in outcome.err
        assert json.loads(outcome.out)["train"]["stories"] == 60
    cleaned = check("v.jsonl", "--clean")
    assert cleaned.code == 0
    assert told not in cleaned.err
    assert "dropped: 2 (is a validation story)" in cleaned.err
    sizes = {split: store["stories"] for split, store in json.loads(cleaned.out).items()}
    assert sizes == {"train": 58, "valid": 12}  # one of the validation stories came twice


def test_splits_without_shared_stories_give_no_warning(check: Check, tmp_path: Path) -> None:
    _write(tmp_path / "v.jsonl", VALID)
    outcome = check("v.jsonl")
    assert outcome.code == 0
    assert "too" not in outcome.err
    assert "repeat" not in outcome.err


def test_training_stories_that_repeat_are_counted(check: Check, tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", [*TRAIN, *(story.upper() for story in TRAIN[:7])])
    _write(tmp_path / "v.jsonl", VALID)
    assert "7 of 67 training stories repeat an earlier one" in check("v.jsonl").err


def test_the_splits_of_a_folder_are_compared(tinyohem: tiny.Command, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    _write(tmp_path / "corpus/train.txt", TRAIN)
    _write(tmp_path / "corpus/valid.parquet", [*VALID, *TRAIN[:2]])
    arguments = ("--dataset", tmp_path / "corpus", "--set=tokenizer.vocab_size=270")
    outcome = tinyohem("prepare-data", *arguments)
    assert outcome.code == 0
    assert "2 of 12 validation stories are training stories too" in outcome.err
