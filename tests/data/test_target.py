"""Target stories: parts that share no story, the same for any order of the file."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data.corpus import open_corpus
from tinyohem.data.parts import Part
from tinyohem.data.story_hash import story_hash
from tinyohem.data.target import TargetStories, open_target
from tinyohem.errors import InputError

NAMES = [first + second for first in "abcdefghij" for second in "klmnopqrst"]
STORIES = [f"Tom met {name}, {n * 7 % 13} dogs and a cat." for n, name in enumerate(NAMES)]


def part_of(path: Path, stories: Sequence[str], clean: bool = False) -> Part:
    return Part(open_corpus(str(tiny.write_stories(path, stories))), clean)


def parts(target: TargetStories) -> list[set[str]]:
    return [set(target.fit), set(target.calibrate), set(target.validate)]


def test_a_fifth_calibrates_and_a_fifth_of_all_validates(tmp_path: Path) -> None:
    path = tiny.write_stories(tmp_path / "good.jsonl", STORIES)
    target = open_target(str(path), valid=part_of(tmp_path / "valid.jsonl", ["Another."]))
    assert [len(part) for part in parts(target)] == [80, 20, 0]
    target = open_target(str(path))
    assert [len(part) for part in parts(target)] == [64, 16, 20]
    assert set.union(*parts(target)) == set(STORIES)
    assert target.hashes == {story_hash(text) for text in STORIES}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), own=st.booleans())
def test_neither_order_nor_copies_change_the_parts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, own: bool
) -> None:
    folder = tmp_path_factory.mktemp("target")
    rng = random.Random(seed)
    mixed = STORIES + rng.choices(STORIES, k=30)
    rng.shuffle(mixed)
    valid = part_of(folder / "valid.jsonl", STORIES[:20]) if own else None
    one = open_target(str(tiny.write_stories(folder / "a.jsonl", STORIES)), valid=valid)
    other = open_target(str(tiny.write_stories(folder / "b.jsonl", mixed)), valid=valid)
    assert (one.fit, one.calibrate, one.validate) == (other.fit, other.calibrate, other.validate)
    assert one.fingerprint == other.fingerprint


def test_the_fingerprint_tells_texts_and_splits_apart(tmp_path: Path) -> None:
    path = tiny.write_stories(tmp_path / "a.jsonl", STORIES)
    valid = part_of(tmp_path / "valid.jsonl", ["Another."])
    found = {open_target(str(path), valid=given).fingerprint for given in (None, valid)}
    for number, texts in enumerate((STORIES[1:], [*STORIES, "More."], [*STORIES[1:], "Other."])):
        changed = tiny.write_stories(tmp_path / f"{number}.jsonl", texts)
        found.add(open_target(str(changed)).fingerprint)
    assert len(found) == 5


def test_copies_with_other_case_and_spaces_are_one_story(tmp_path: Path) -> None:
    twice = [*STORIES, *(text.upper().replace(" ", "\n") for text in STORIES)]
    path = tiny.write_stories(tmp_path / "a.jsonl", twice)
    assert set.union(*parts(open_target(str(path)))) == set(STORIES)


@settings(max_examples=20, deadline=None)
@given(shared=st.sets(st.integers(0, 99), max_size=50), clean=st.booleans())
def test_stories_that_the_users_own_validation_holds_are_not_learned_from(
    tmp_path_factory: pytest.TempPathFactory, shared: set[int], clean: bool
) -> None:
    folder, heard = tmp_path_factory.mktemp("target"), tiny.Listener()
    path = tiny.write_stories(folder / "good.jsonl", STORIES)
    # Told otherwise, with marks that cleaning changes or not.
    copies = [f"“{STORIES[n].upper()}”" for n in sorted(shared)]
    valid = part_of(folder / "valid.jsonl", ["Another story.", *copies], clean)
    target = open_target(str(path), valid=valid, progress=heard)
    left = {text for n, text in enumerate(STORIES) if n not in shared}
    assert set.union(*parts(target)) == left
    assert target.hashes == {story_hash(text) for text in left}
    assert [note.split(" stories of the target")[0] for note in heard.notes] == (
        [str(len(shared))] if shared else []
    )


def test_those_that_validate_do_not_count_to_the_fifty(tmp_path: Path) -> None:
    path = tiny.write_stories(tmp_path / "good.jsonl", STORIES)
    valid = part_of(tmp_path / "valid.jsonl", STORIES[:51])
    with pytest.raises(InputError, match="49 distinct stories besides those that validate"):
        open_target(str(path), valid=valid)


def test_fewer_than_fifty_stories_are_too_few(tmp_path: Path) -> None:
    path = tiny.write_stories(tmp_path / "few.jsonl", STORIES[:49] * 3)
    with pytest.raises(InputError, match=r"few\.jsonl holds 49 distinct stories, too few") as error:
        open_target(str(path))
    assert "at least 50" in (error.value.hint or "")
