"""Target stories: parts that share no story, the same for any order of the file."""

import random
from pathlib import Path

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyohem.data.story_hash import story_hash
from tinyohem.data.target import TargetStories, open_target
from tinyohem.errors import InputError

STORIES = [f"Tom saw {n} cats and {n * 7 % 13} dogs." for n in range(100)]


def parts(target: TargetStories) -> list[set[str]]:
    return [set(target.fit), set(target.calibrate), set(target.validate)]


def test_a_fifth_calibrates_and_a_fifth_of_all_validates(tmp_path: Path) -> None:
    path = tiny.write_stories(tmp_path / "good.jsonl", STORIES)
    target = open_target(str(path), holds_out=False)
    assert [len(part) for part in parts(target)] == [80, 20, 0]
    target = open_target(str(path), holds_out=True)
    assert [len(part) for part in parts(target)] == [64, 16, 20]
    assert set.union(*parts(target)) == set(STORIES)
    assert target.hashes == {story_hash(text) for text in STORIES}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), holds_out=st.booleans())
def test_neither_order_nor_copies_change_the_parts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, holds_out: bool
) -> None:
    folder = tmp_path_factory.mktemp("target")
    rng = random.Random(seed)
    mixed = STORIES + rng.choices(STORIES, k=30)
    rng.shuffle(mixed)
    one = open_target(str(tiny.write_stories(folder / "a.jsonl", STORIES)), holds_out=holds_out)
    other = open_target(str(tiny.write_stories(folder / "b.jsonl", mixed)), holds_out=holds_out)
    assert (one.fit, one.calibrate, one.validate) == (other.fit, other.calibrate, other.validate)
    assert one.fingerprint == other.fingerprint


def test_the_fingerprint_tells_texts_and_splits_apart(tmp_path: Path) -> None:
    path = tiny.write_stories(tmp_path / "a.jsonl", STORIES)
    found = {open_target(str(path), holds_out=holds).fingerprint for holds in (False, True)}
    for number, texts in enumerate((STORIES[1:], [*STORIES, "More."], [*STORIES[1:], "Other."])):
        changed = tiny.write_stories(tmp_path / f"{number}.jsonl", texts)
        found.add(open_target(str(changed), holds_out=True).fingerprint)
    assert len(found) == 5


def test_copies_with_other_case_and_spaces_are_one_story(tmp_path: Path) -> None:
    twice = [*STORIES, *(text.upper().replace(" ", "\n") for text in STORIES)]
    path = tiny.write_stories(tmp_path / "a.jsonl", twice)
    assert set.union(*parts(open_target(str(path), holds_out=True))) == set(STORIES)


def test_fewer_than_fifty_stories_are_too_few(tmp_path: Path) -> None:
    path = tiny.write_stories(tmp_path / "few.jsonl", STORIES[:49] * 3)
    with pytest.raises(InputError, match=r"few\.jsonl holds 49 distinct stories, too few") as error:
        open_target(str(path), holds_out=False)
    assert "at least 50" in (error.value.hint or "")
