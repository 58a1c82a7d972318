"""What a tokenizer loses, compared with decoding the same texts in Python."""

import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import tokenizers_of_others as others
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import Listener, write_stories
from tokenizers import Tokenizer, models, pre_tokenizers

from tinyohem.config.data import DataConfig, TokenizerConfig
from tinyohem.data.corpus import Story
from tinyohem.data.prepare import prepare_data
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.text_loss import TextLoss, TextLossMeter
from tinyohem.data.token_store import build_store, open_store, text_store
from tinyohem.errors import InputError

TEXTS = [
    "the cat sat, the cat ran",
    "The Cat sat.",
    "a na\u00efve caf\u00e9",
    "a nai\u0308ve cafe\u0301",
    "the \ufb01nal \u2460 plan",
    "two  spaces",
    "one\n\nline",
    "\u732b 🐈",
]
KEPT: dict[str, Callable[[str], bool]] = {
    "lower": lambda text: text == text.lower(),
    "bert": lambda text: (
        not (
            any(unicodedata.combining(c) for c in unicodedata.normalize("NFD", text))
            or "\n" in text  # white space becomes a space
            or "\u732b" in text  # and a space stands on both sides of each ideograph
        )
    ),
    "nfkc": lambda text: text == unicodedata.normalize("NFKC", text),
    "spaces": lambda text: "  " not in text,
}


def stored(tokenizer: Tokenizer, texts: list[str], folder: Path) -> TextLoss:
    stories = [Story(row, text) for row, text in enumerate(texts)]
    return build_store(stories, others.as_loaded(tokenizer), folder, {}).text_loss


@pytest.mark.parametrize("kind", KEPT)
def test_stories_that_do_not_come_back_are_counted(kind: str, tmp_path: Path) -> None:
    loss = stored(others.LOSSY[kind](TEXTS), TEXTS, tmp_path / "store")
    kept = [text for text in TEXTS if KEPT[kind](text)]
    assert 0 < len(kept) < len(TEXTS)
    assert (loss.stories, loss.lost_stories) == (len(TEXTS), len(TEXTS) - len(kept))
    assert loss.unknown_tokens == 0
    assert bool(loss)
    assert f"{loss.lost_stories} of 8 stories do not come back" in str(loss)
    assert open_store(tmp_path / "store").text_loss == loss


def test_unknown_words_are_counted(tmp_path: Path) -> None:
    texts = [" ".join(story.split()) for story in islice(sample_stories("train"), 20)]
    seen = Counter(word for text in texts for word in text.split())
    unknown = [sum(seen[word] < 2 for word in text.split()) for text in texts]
    loss = stored(others.word_level(texts), texts, tmp_path / "store")
    assert (loss.tokens, loss.unknown_tokens) == (seen.total(), sum(unknown))
    assert loss.lost_stories == sum(count > 0 for count in unknown) > 0
    assert loss.shares() == {
        "lost_story_share": loss.lost_stories / 20,
        "unknown_token_share": sum(unknown) / seen.total(),
    }
    share = f"{sum(unknown):,} of {seen.total():,} ids ({sum(unknown) / seen.total():.1%})"
    assert share in str(loss)


def test_an_unknown_word_that_is_spelled_like_the_token_for_it_is_lost(tmp_path: Path) -> None:
    """Its id decodes to the very text, and still stands for any other word as well."""
    loss = stored(others.word_level(["a a"]), ["a a", "a [UNK]"], tmp_path / "store")
    assert (loss.lost_stories, loss.unknown_tokens) == (1, 1)


def test_byte_level_loses_nothing(tmp_path: Path) -> None:
    tokenizer = others.byte_level(TEXTS)
    spelled = [*TEXTS, "a <s> [UNK] </s>"]
    assert stored(tokenizer, spelled, tmp_path / "a") == TextLoss(
        stories=9, tokens=_count(tokenizer, spelled)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not stored(tokenizer, TEXTS, tmp_path / "b")  # a space ahead is no loss


def _count(tokenizer: Tokenizer, texts: list[str]) -> int:
    tokenizer.encode_special_tokens = True
    return sum(len(tokenizer.encode(text).ids) for text in texts)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_any_text_comes_back_or_is_counted_as_lost(texts: list[str]) -> None:
    for normalizer, loses in ((None, False), ("lower", True)):
        build = others.LOSSY[normalizer] if normalizer else others.byte_level
        tokenizer = others.as_loaded(build(["a"]))
        ids = [tokenizer.backend_tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        loss = TextLossMeter(tokenizer).measure(texts, ids)
        decoded = [tokenizer.decode(story) for story in ids]
        assert loss.lost_stories == sum(a != b for a, b in zip(texts, decoded, strict=True))
        assert loses or not loss


def test_training_stories_are_not_measured(tmp_path: Path) -> None:
    texts = list(islice(sample_stories("train"), 60))
    name = others.save(others.word_level(texts), tmp_path / "tokenizer")
    data = DataConfig(dataset=str(write_stories(tmp_path / "a.jsonl", texts)))
    told = Listener()
    for _ in range(2):  # built, then read from the cache
        prepared = prepare_data(data, TokenizerConfig(name=str(name)), told)
        assert "text_loss" not in prepared.train.manifest.to_json()
        assert prepared.valid.text_loss.stories == prepared.valid.num_stories
    lossy = [line for line in told.warnings if "the tokenizer loses text" in line]
    assert len(lossy) == 2
    assert "bits per byte and perplexity per word and byte are left out" in lossy[0]


def test_one_text_in_memory_is_measured_too() -> None:
    tokenizer = others.as_loaded(others.LOSSY["lower"](TEXTS))
    assert text_store("the cat", tokenizer)[0].text_loss.lost_stories == 0
    assert text_store("The cat", tokenizer)[0].text_loss.lost_stories == 1


def test_a_tokenizer_that_has_no_ids_for_a_word_is_an_input_error(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="nowhere"))
    with pytest.raises(InputError, match="cannot encode the stories"):
        stored(tokenizer, ["b"], tmp_path / "store")
    assert not (tmp_path / "store").exists()
