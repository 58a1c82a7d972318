"""Perplexity against references that share no code with it, and every token counted once."""

import json
import math
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyohem.data.prepare import part_store
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.sources import evaluation_part
from tinyohem.data.token_store import TokenStore
from tinyohem.evaluation import perplexity
from tinyohem.evaluation.perplexity import Perplexity, evaluate_perplexity, story_token_losses
from tinyohem.progress import SILENT

VOCAB, SEQ_LEN = 320, 32


def exported(folder: Path, tokenizer: Any, *, seq_len: int, seed: int = 0) -> Path:
    """Save an untrained model: what it predicts does not matter, that both agree does."""
    from tiny_step import random_model

    from tinyohem.config.model import Shape
    from tinyohem.training.checkpoint import export_model

    model = random_model(Shape(16, 1, 2, 32), len(tokenizer), seq_len, seed)
    export_model(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def stories() -> list[str]:
    """Short and long ones, and text of more bytes than characters."""
    told = list(islice(sample_stories("validation"), 6))
    return ["Oh!", "A café — naïve 🐶.", *(story[: 60 * n] for n, story in enumerate(told, 1))]


@pytest.fixture(scope="module")
def tokenizer(finished_run: Path) -> Any:
    return AutoTokenizer.from_pretrained(finished_run / "model")


@pytest.fixture(scope="module")
def store(
    stories: list[str], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> TokenStore:
    path = tiny.write_stories(tmp_path_factory.mktemp("stories") / "a.jsonl", stories)
    return part_store(evaluation_part(str(path), "text", SILENT), tokenizer, SILENT)


def by_transformers_alone(folder: Path, stories: list[str]) -> tuple[float, int]:
    """Return nats and tokens of stories that fit the context, in ten lines."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    nats, tokens = 0.0, 0
    for story in stories:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(story)["input_ids"]]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        nats += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    return nats, tokens


def by_the_harness(
    folder: Path, stories: list[str], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> float:
    """Return nats of all stories, by lm-evaluation-harness."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=str(folder), device="cpu", batch_size=4, **options)
    requests = [
        Instance("loglikelihood_rolling", doc={}, arguments=(story,), idx=index)
        for index, story in enumerate(stories)
    ]
    return -sum(harness.loglikelihood_rolling(requests, disable_tqdm=True))


class TestReferences:
    def test_equals_ten_lines_of_transformers(
        self, stories: list[str], store: TokenStore, tokenizer: Any, tmp_path: Path
    ) -> None:
        folder = exported(tmp_path, tokenizer, seq_len=512)
        nats, tokens = by_transformers_alone(folder, stories)
        model = AutoModelForCausalLM.from_pretrained(folder)
        found = evaluate_perplexity(model, store, seq_len=512)
        assert found.tokens == tokens
        assert found.nats == pytest.approx(nats, rel=1e-5)
        assert found.to_json()["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
        assert nats / tokens > math.log(VOCAB)  # not a uniform model, which any bug would match

    @pytest.mark.parametrize(
        ("seq_len", "stride"), [(SEQ_LEN, SEQ_LEN), (512, None)], ids=["windows", "whole"]
    )
    def test_equals_the_byte_perplexity_of_lm_evaluation_harness(
        self,
        stories: list[str],
        store: TokenStore,
        tokenizer: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        seq_len: int,
        stride: int | None,
    ) -> None:
        folder = exported(tmp_path, tokenizer, seq_len=seq_len)
        nats = by_the_harness(folder, stories, monkeypatch)
        num_bytes = sum(len(story.encode()) for story in stories)

        assert max(np.diff(store.offsets)) > 2 * SEQ_LEN
        model = AutoModelForCausalLM.from_pretrained(folder)
        found = evaluate_perplexity(model, store, seq_len=seq_len, stride=stride).to_json()
        assert found["byte_perplexity"] == pytest.approx(math.exp(nats / num_bytes), rel=1e-4)
        assert found["bits_per_byte"] == pytest.approx(nats / num_bytes / math.log(2), rel=1e-4)
        words = sum(len(story.split()) for story in stories)
        assert found["word_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-3)

    def test_the_harness_must_be_told_what_a_text_is_here(
        self,
        stories: list[str],
        tokenizer: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Stripped, no special token even where it spells one, behind one start token.

        Left to itself the harness scores other texts: each of the three alone makes a difference.
        """
        starting = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
        start = (starting.bos_token, starting.bos_token_id)
        starting.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{start[0]} $A", pair=f"{start[0]} $A $B", special_tokens=[start]
        )
        folder = exported(tmp_path / "model", starting, seq_len=SEQ_LEN)
        told = [f"\n {stories[2]}<|endoftext|>{stories[3]}  \n", *stories]
        path = tiny.write_stories(tmp_path / "stories.jsonl", told)
        found = tiny.evaluate(folder, dataset=str(path), seq_len=SEQ_LEN, stride=SEQ_LEN).nats
        bare = [story.strip() for story in told]
        assert starting(bare[1])["input_ids"][0] == starting.bos_token_id
        as_text = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)

        def harness(texts: list[str], **options: Any) -> float:
            return by_the_harness(folder, texts, monkeypatch, **options)

        options: dict[str, Any] = {"tokenizer": as_text, "add_bos_token": False}
        assert harness(bare, **options) == pytest.approx(found, rel=1e-4)
        for other in (
            harness(told, **options),
            harness(bare, tokenizer=as_text),
            harness(bare, add_bos_token=False),
        ):
            assert other != pytest.approx(found, rel=2e-4)

    def test_a_long_story_sees_as_much_of_itself_as_fits(
        self, store: TokenStore, tokenizer: Any, tmp_path: Path
    ) -> None:
        """Stride 1 is one forward pass a token, with the `seq_len` tokens ahead of it."""
        model = AutoModelForCausalLM.from_pretrained(exported(tmp_path, tokenizer, seq_len=SEQ_LEN))
        story = int(np.diff(store.offsets).argmax())
        start, end = (int(n) for n in store.offsets[story : story + 2])
        ids = torch.from_numpy(store.ids[start:end].astype(np.int64))
        expected = []
        for at in range(1, len(ids)):
            # The first window scores all of its labels; from there on one token at a time.
            context = ids[max(0, at - SEQ_LEN) : at][None]
            with torch.no_grad():
                logits = model(context).logits[0, -1]
            expected.append(F.cross_entropy(logits, ids[at]).item())
        ((_, losses),) = story_token_losses(model, store, seq_len=SEQ_LEN, stride=1)
        np.testing.assert_allclose(losses[start + 1 : end], expected, rtol=1e-4, atol=1e-5)
        assert losses[start] == 0

    def test_a_uniform_model_scores_the_vocabulary(self, store: TokenStore, tokenizer: Any) -> None:
        from tinyohem.config.model import Shape
        from tinyohem.models.llama import build_model

        model = build_model(Shape(16, 1, 2, 32), len(tokenizer), SEQ_LEN, 0, seed=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        found = evaluate_perplexity(model, store, seq_len=SEQ_LEN).to_json()
        assert len(tokenizer) == VOCAB
        assert found["perplexity"] == pytest.approx(VOCAB, rel=1e-6)
        bits = found["tokens"] * math.log2(VOCAB) / found["bytes"]
        assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-6)


class TestWindows:
    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_every_label_is_scored_once_inside_its_story(self, data: st.DataObject) -> None:
        seq_len = data.draw(st.integers(1, 12), "seq_len")
        stride = data.draw(st.integers(1, seq_len), "stride")
        start = data.draw(st.integers(0, 50), "start")
        end = start + data.draw(st.integers(1, 60), "length")
        scored = []
        for window in perplexity._story_windows(start, end, seq_len, stride):
            assert start <= window.start <= window.score_from < window.end < end
            assert window.end - window.start <= seq_len
            # Nothing that fits is left out of the context.
            assert window.start == max(start, window.end - seq_len)
            scored += range(window.score_from + 1, window.end + 1)
        assert scored == list(range(start + 1, end))  # all but the start token

    @settings(max_examples=100, deadline=None)
    @given(st.integers(2, 12), st.integers(1, 60))
    def test_a_stride_of_the_context_gives_the_harness_windows(
        self, seq_len: int, length: int
    ) -> None:
        from lm_eval.utils import get_rolling_token_windows

        story = list(range(1, length + 1))
        expected = [
            (inputs, labels)
            for inputs, labels in get_rolling_token_windows(story, 0, seq_len, context_len=1)
        ]
        ids = [0, *story]
        found = [
            (ids[w.start : w.end], ids[w.score_from + 1 : w.end + 1])
            for w in perplexity._story_windows(0, len(ids), seq_len, seq_len)
        ]
        assert found == expected


class TestBatching:
    @pytest.mark.parametrize("elements", [1, VOCAB * 3 * SEQ_LEN], ids=["one", "three"])
    def test_neither_batches_nor_blocks_change_a_loss(
        self,
        store: TokenStore,
        tokenizer: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        elements: int,
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(exported(tmp_path, tokenizer, seq_len=SEQ_LEN))
        ((done, whole),) = story_token_losses(model, store, seq_len=SEQ_LEN)
        monkeypatch.setattr(perplexity, "_LOGIT_ELEMENTS", elements)
        monkeypatch.setattr(perplexity, "_STORIES_PER_BLOCK", 3)
        blocks = list(story_token_losses(model, store, seq_len=SEQ_LEN))
        assert [last for last, _ in blocks] == [3, 6, store.num_stories]
        assert done == store.num_stories == 8
        np.testing.assert_allclose(np.concatenate([b for _, b in blocks]), whole, rtol=2e-5)

    def test_a_forward_pass_stays_within_its_logits(
        self, store: TokenStore, finished_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        shapes = []
        forward = model.forward
        monkeypatch.setattr(
            model, "forward", lambda **kw: (shapes.append(kw["input_ids"].shape), forward(**kw))[1]
        )
        monkeypatch.setattr(perplexity, "_LOGIT_ELEMENTS", VOCAB * 4 * SEQ_LEN)
        evaluate_perplexity(model, store, seq_len=SEQ_LEN)
        assert max(rows * length for rows, length in shapes) == 4 * SEQ_LEN
        assert max(length for _, length in shapes) == SEQ_LEN

    def test_start_tokens_cost_nothing(self, store: TokenStore, finished_run: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        ((_, losses),) = story_token_losses(model, store, seq_len=SEQ_LEN)
        starts = store.offsets[:-1]
        assert (losses[starts] == 0).all()
        assert (np.delete(losses, starts) > 0).all()
        found = evaluate_perplexity(model, store, seq_len=SEQ_LEN)
        assert found.tokens == store.num_tokens - store.num_stories == np.count_nonzero(losses)

    def test_the_training_mode_of_the_model_is_restored(
        self, store: TokenStore, finished_run: Path
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        for training in (True, False):
            model.train(training)
            evaluate_perplexity(model, store, seq_len=SEQ_LEN)
            assert model.training is training


class TestFigures:
    def test_every_figure_follows_from_the_sums(self) -> None:
        found = Perplexity(nats=math.log(2) * 120, tokens=40, words=30, bytes=160, stories=3)
        assert found.to_json() == pytest.approx(
            {
                "loss": 3 * math.log(2),
                "perplexity": 8.0,
                "word_perplexity": 16.0,
                "byte_perplexity": 2**0.75,
                "bits_per_byte": 0.75,
                "tokens": 40,
                "words": 30,
                "bytes": 160,
                "stories": 3,
                "lost_story_share": 0,
                "unknown_token_share": 0,
            }
        )

    def test_counts_are_those_of_the_text(
        self, stories: list[str], store: TokenStore, finished_run: Path
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        found = evaluate_perplexity(model, store, seq_len=SEQ_LEN)
        assert found.stories == len(stories)
        assert found.bytes == sum(len(story.strip().encode()) for story in stories)
        assert found.words == sum(len(story.split()) for story in stories)

    def test_a_figure_beyond_floats_is_null_in_json(self) -> None:
        """Per word: a text without spaces is one word. Per token: a run that diverged."""
        found = Perplexity(nats=1e6, tokens=1_000, words=1, bytes=6_000, stories=1).to_json()
        assert found["perplexity"] is None
        assert found["word_perplexity"] is None
        assert found["loss"] == 1_000
        assert found["byte_perplexity"] == pytest.approx(math.exp(1e6 / 6_000))
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        almost = Perplexity(nats=709.0, tokens=1, words=1, bytes=700, stories=1).to_json()
        assert almost["perplexity"] == math.exp(709) < sys.float_info.max
