"""Roles of words in hand-made stories, and intervals against the bootstrap."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyohem.data.token_store import TokenStore
from tinyohem.evaluation.roles import (
    POSITIONS,
    ROLES,
    by_position,
    by_role,
    rare_types,
    store_roles,
    story_roles,
)

FIRST, NAMED, SEEN, RARE, OTHER, NONE = range(len(ROLES))


def cut(text: str) -> list[tuple[int, int]]:
    """Return the spans of tokens as a byte-level tokenizer makes them: ` word`, marks alone."""
    return [match.span() for match in re.finditer(r" ?\w+|[^\w]", text)]


def told(text: str, rare: str = "") -> list[tuple[str, int]]:
    """Return the tokens that are no blanks with their roles; `rare` names the rare types."""
    spans = cut(text)
    pieces = [text[first:end].strip() for first, end in spans]
    marked = np.array([piece in rare.split() for piece in pieces], dtype=bool)
    roles = story_roles(text, spans, marked)
    return [(p, int(r)) for p, r in zip(pieces, roles, strict=True) if p]


class TestStoryRoles:
    def test_a_story_by_hand(self) -> None:
        text = "One day, a girl named Lily saw a quokka. Lily ran. The quokka saw Tim and Lily."
        assert told(text, rare="quokka ran day") == [
            *(("One", OTHER), ("day", RARE), (",", NONE), ("a", OTHER), ("girl", OTHER)),
            *(("named", OTHER), ("Lily", FIRST), ("saw", OTHER), ("a", SEEN), ("quokka", RARE)),
            *((".", NONE), ("Lily", NAMED), ("ran", RARE), (".", NONE), ("The", OTHER)),
            *(("quokka", SEEN), ("saw", SEEN), ("Tim", FIRST), ("and", OTHER), ("Lily", NAMED)),
            (".", NONE),
        ]

    def test_a_name_that_opens_a_sentence_is_one_if_it_also_stands_inside_one(self) -> None:
        assert told("Tim ran. We saw Tim.")[0] == ("Tim", FIRST)
        assert told("Tim ran. We saw Tim.")[-2] == ("Tim", NAMED)
        assert told("Tim ran. We ran.")[0] == ("Tim", OTHER)
        assert told("Tim ran. Tim hid.")[3] == ("Tim", SEEN)

    @pytest.mark.parametrize(
        "text",
        [
            *("Hi. Then we", "Hi! Then we", "Hi? Then we", "Hi… Then we", "Hi: Then we"),
            *('He said, "Then we', "He said, “Then we", "Hi\nThen we", 'Hi." Then we'),
        ],
    )
    def test_a_sentence_begins(self, text: str) -> None:
        assert told(text)[-2] == ("Then", OTHER)

    @pytest.mark.parametrize("text", ["so Then we", "so, Then we", "so - Then we", "Mr. Then we"])
    def test_a_sentence_goes_on(self, text: str) -> None:
        assert told(text)[-2] == ("Then", FIRST)

    def test_i_is_no_name(self) -> None:
        assert told("And so I ran") == [("And", OTHER), ("so", OTHER), ("I", OTHER), ("ran", OTHER)]
        assert {role for _, role in told("and so I'm here, but I'll go, and I’d go")} <= {
            *(OTHER, SEEN, NONE)
        }

    def test_words_are_the_same_in_capitals_and_with_an_s(self) -> None:
        assert told("The hat is the one. Hat")[3] == ("the", SEEN)
        assert told("The hat is the one. Hat")[-1] == ("Hat", SEEN)
        assert told("saw Tim and Tim's hat")[3:6] == [("Tim", NAMED), ("'", NAMED), ("s", NAMED)]

    def test_all_parts_of_a_word_have_its_role(self) -> None:
        text = "a quokka don't"
        spans = [(0, 1), (1, 4), (4, 6), (6, 8), (8, 12), (12, 13), (13, 14)]
        rare = np.array([False, False, True, False, False, False, False])  # "ok" of "quokka"
        roles = story_roles(text, spans, rare)
        assert roles.tolist() == [OTHER, RARE, RARE, RARE, OTHER, OTHER, OTHER]

    def test_bytes_of_one_character_share_its_word(self) -> None:
        text = "é!"
        roles = story_roles(text, [(0, 1), (0, 1), (1, 2)], np.zeros(3, dtype=bool))
        assert roles.tolist() == [OTHER, OTHER, NONE]

    @given(st.text(alphabet="aAbI .,!\"'’\n-é", max_size=60), st.integers(0, 2**32 - 1))
    def test_every_token_has_one_role_and_only_words_have_one(self, text: str, seed: int) -> None:
        spans = cut(text)
        rare = np.random.default_rng(seed).random(len(spans)) < 0.3
        roles = story_roles(text, spans, rare)
        assert roles.shape == (len(spans),)
        for (first, end), role in zip(spans, roles.tolist(), strict=True):
            piece = text[first:end]
            if any(character.isalnum() for character in piece):
                assert role != NONE
            elif "'" not in piece and "’" not in piece:
                assert role == NONE


class TestRareTypes:
    def test_the_rarest_types_make_up_a_tenth_at_most(self) -> None:
        assert rare_types(np.array([50, 40, 5, 4, 1])).tolist() == [False, False, True, True, True]
        assert rare_types(np.array([50, 40, 6, 4, 1])).tolist() == [False, False, False, True, True]

    def test_equal_counts_are_rare_together_and_unseen_types_always(self) -> None:
        assert rare_types(np.array([10, 10, 10, 0])).tolist() == [False, False, False, True]

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
    def test_no_rare_type_is_more_frequent_than_another(self, counts: list[int]) -> None:
        found, given_ = rare_types(np.array(counts)), np.array(counts)
        assert given_[found].sum() <= 0.1 * given_.sum() + 1e-9
        if found.any() and not found.all():
            assert given_[found].max() < given_[~found].min()


def store(*lengths: int) -> TokenStore:
    """Return stories of so many tokens after the start token."""
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)])
    counts = np.ones(len(lengths), dtype=np.uint32)
    ids = np.zeros(offsets[-1], dtype=np.uint16)
    return TokenStore(ids, offsets, np.arange(len(lengths)), counts, counts, {})


class TestGroups:
    def test_roles_of_a_store(self) -> None:
        texts = ["saw Tim.", "Tim saw Tim"]
        spans = [cut(text) for text in texts]
        given_ = store(*map(len, spans))
        roles = store_roles(given_, zip(texts, spans, strict=True), np.array([10, 90]))
        assert roles.tolist() == [-1, RARE, FIRST, NONE, -1, FIRST, RARE, NAMED]

    def test_losses_of_groups_by_hand(self) -> None:
        given_ = store(2, 1, 1)
        roles = np.array([-1, FIRST, NONE, -1, FIRST, -1, FIRST])
        losses = np.array([99, 1, 7, 99, 2, 99, 6], dtype=np.float32)
        first, none = by_role(given_, losses, roles)
        assert (first.name, first.tokens, first.loss) == (ROLES[FIRST], 3, 3.0)
        assert (first.share_of_tokens, first.share_of_loss) == (0.75, 9 / 16)
        assert (first.stories, none.stories) == (3, 1)
        # One token a story: the mean's own interval. sd of 1, 2, 6 is √7; t(0.975, 2) = 4.3026527.
        half = 4.3026527 * np.sqrt(7 / 3)
        assert (first.low, first.high) == pytest.approx((3 - half, 3 + half))
        assert (none.low, none.high) == (None, None)
        assert none.to_json()["low"] is None

    def test_places_by_hand(self) -> None:
        given_ = store(300, 16, 17)
        losses = np.ones(given_.num_tokens, dtype=np.float32)
        found = by_position(given_, losses)
        assert [(group.name, group.tokens) for group in found] == list(
            zip(POSITIONS, (48, 49, 192, 44), strict=True)
        )
        assert [group.stories for group in found] == [3, 2, 1, 1]

    @given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
    def test_the_groups_partition_the_tokens(self, lengths: list[int], seed: int) -> None:
        rng, given_ = np.random.default_rng(seed), store(*lengths)
        roles = rng.integers(0, len(ROLES), given_.num_tokens)
        roles[given_.offsets[:-1]] = -1
        losses = rng.gamma(1.0, size=given_.num_tokens).astype(np.float32)
        total = losses[roles >= 0].sum(dtype=np.float64)
        for groups in (by_role(given_, losses, roles), by_position(given_, losses)):
            assert sum(group.tokens for group in groups) == sum(lengths)
            assert sum(g.loss * g.tokens for g in groups) == pytest.approx(total, rel=1e-12)
            assert sum(group.share_of_loss for group in groups) == pytest.approx(1)
            assert sum(group.share_of_tokens for group in groups) == pytest.approx(1)

    def test_the_interval_is_as_wide_as_that_of_resampled_stories(self) -> None:
        """Stories differ in their loss, which makes intervals over single tokens too narrow."""
        rng = np.random.default_rng(0)
        lengths = rng.integers(20, 80, 200)
        given_ = store(*lengths)
        level = np.repeat(rng.normal(3, 0.5, 200), lengths + 1)
        losses = (level + rng.normal(0, 1, len(level))).astype(np.float32)
        roles = np.full(len(level), OTHER)
        roles[given_.offsets[:-1]] = -1
        (found,) = by_role(given_, losses, roles)
        scored = np.where(roles >= 0, losses.astype(np.float64), 0)
        nats = np.add.reduceat(scored, given_.offsets[:-1])
        drawn = rng.integers(0, 200, (4000, 200))
        means = nats[drawn].sum(1) / lengths[drawn].sum(1)
        low, high = np.quantile(means, [0.025, 0.975])
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.low == pytest.approx(high - low, rel=0.06)
        assert found.low == pytest.approx(low, abs=0.01)
