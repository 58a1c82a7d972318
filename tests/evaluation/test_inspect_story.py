"""Inspected stories against transformers, a naive ranking, and the bytes of each token."""

import math
from dataclasses import replace
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tinyohem.data.corpus import open_corpus
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.token_store import text_store
from tinyohem.data.tokenizer import train_tokenizer
from tinyohem.errors import InputError, RunError
from tinyohem.evaluation.inspect_story import (
    InspectedToken,
    compare_stories,
    inspect_story,
    nth_story,
    pieces,
)
from tinyohem.evaluation.open import open_evaluation, stories_of
from tinyohem.models.source import Source, load_source
from tinyohem.progress import SILENT
from tinyohem.report.html import write_story_page
from tinyohem.report.style import PALETTES

SHORT = "A café saw 🐶."  # fits the context of 32, and some characters take several tokens


@pytest.fixture(scope="module")
def source(finished_run: Path) -> Source:
    return load_source(str(finished_run), "cpu")


@pytest.fixture(scope="module")
def older(finished_run: Path) -> Source:
    return load_source(str(finished_run / "checkpoints" / "step_000015"), "cpu")


def losses_by_transformers(source: Source, text: str) -> list[float]:
    ids = torch.tensor([[source.tokenizer.bos_token_id, *source.tokenizer(text)["input_ids"]]])
    assert ids.shape[1] <= 33
    with torch.no_grad():
        logits = source.model(ids[:, :-1]).logits[0]
    return F.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()


class TestPieces:
    @settings(max_examples=200, deadline=None)
    @given(text=st.text(min_size=1))
    def test_each_piece_is_spelled_by_its_tokens(self, source: Source, text: str) -> None:
        """The bytes of the tokens, decoded, are the text of the piece; together the whole text."""
        store, spans = text_store(text, source.tokenizer)
        cut = pieces(text, spans)
        assert "".join(piece for piece, _ in cut) == text
        assert [i for _, part in cut for i in range(len(spans))[part]] == list(range(len(spans)))
        ids = store.ids[1:]
        for piece, part in cut:
            assert source.tokenizer.decode(ids[part], skip_special_tokens=False) == piece

    def test_what_a_tokenizer_drops_goes_to_the_token_after_it(self) -> None:
        """Here: the blank between two words, what follows the last, and a token of no text."""
        cut = pieces("ab  cd ", [(0, 0), (0, 2), (4, 5), (5, 6)])
        assert cut == [("ab", slice(0, 2)), ("  c", slice(2, 3)), ("d ", slice(3, 4))]

    def test_a_special_token_in_the_text_is_text(self, source: Source) -> None:
        store, spans = text_store("<|endoftext|>", source.tokenizer)
        assert len(spans) > 1
        assert (store.ids == 0).tolist() == [True] + [False] * len(spans)


class TestStory:
    def test_losses_equal_transformers(self, source: Source) -> None:
        expected = losses_by_transformers(source, SHORT)
        found = inspect_story(source, SHORT)
        assert found.num_tokens == len(expected) == len(found.tokens) + 1 + 3  # bytes of é and 🐶
        assert found.loss == pytest.approx(np.mean(expected), rel=1e-5)
        dog = next(index for index, token in enumerate(found.tokens) if token.text == "🐶")
        bytes_of_dog = expected[-5:-1]  # four bytes, then the full stop
        assert found.tokens[dog].loss == pytest.approx(sum(bytes_of_dog), rel=1e-5)
        assert [t.loss for t in found.tokens[:2]] == pytest.approx(expected[:2], rel=1e-5)

    @pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 1.0])
    def test_the_hardest_are_kept(self, source: Source, ratio: float) -> None:
        text = next(sample_stories("validation"))
        assert len(text_store(text, source.tokenizer)[1]) > 64  # scored in overlapping windows
        found = inspect_story(source, text, ratio=ratio)
        assert "".join(token.text for token in found.tokens) == text
        losses = [token.loss for token in found.tokens]
        assert len(losses) == found.num_tokens  # ASCII: each token is its own piece
        count = math.ceil(ratio * len(losses) - 1e-9)
        hardest = sorted(range(len(losses)), key=lambda i: (-losses[i], i))[:count]
        assert [i for i, token in enumerate(found.tokens) if token.kept] == sorted(hardest)
        assert found.num_kept == count
        assert found.threshold == min(losses[i] for i in hardest)
        share = sum(losses[i] for i in hardest) / sum(losses)
        assert found.kept_loss == pytest.approx(share)

    def test_it_is_the_loss_of_eval_perplexity(self, source: Source, finished_run: Path) -> None:
        """Story 3 of the validation split, as tokenized for the run and as read back from it."""
        evaluation = open_evaluation(str(finished_run), device="cpu")
        text = nth_story(evaluation.part, 3, SILENT)
        start, end = evaluation.store.offsets[3:5]
        store, _ = text_store(text, source.tokenizer)
        assert store.ids.tolist() == evaluation.store.ids[start:end].tolist()
        assert (store.num_stories, int(store.story_bytes[0])) == (1, len(text.encode()))

    def test_an_empty_text_is_refused(self, source: Source) -> None:
        with pytest.raises(InputError, match="the text is empty"):
            inspect_story(source, "")

    def test_broken_weights_fail_the_run(self, finished_run: Path) -> None:
        broken = load_source(str(finished_run), "cpu")
        with torch.no_grad():
            broken.model.get_input_embeddings().weight.fill_(torch.nan)
        with pytest.raises(RunError, match="not finite"):
            inspect_story(broken, SHORT)

    def test_stories_are_counted_from_0(
        self, source: Source, finished_run: Path, corpus: Path
    ) -> None:
        part, _ = stories_of(str(finished_run), source, None, "text", SILENT)
        texts = [story.text for story in open_corpus(str(corpus), "validation").stories()]
        assert [nth_story(part, n, SILENT) for n in range(12)] == texts
        with pytest.raises(InputError, match="holds no story 12"):
            nth_story(part, 12, SILENT)


class TestCompare:
    def test_each_token_under_both(self, source: Source, older: Source) -> None:
        found = compare_stories(source, older, SHORT, ratio=0.3)
        first, second = (inspect_story(s, SHORT, ratio=0.3) for s in (source, older))
        assert [t.loss for t in found.tokens] == [t.loss for t in first.tokens]
        assert [t.other_loss for t in found.tokens] == [t.loss for t in second.tokens]
        assert [t.kept for t in found.tokens] == [t.kept for t in first.tokens]
        assert (found.loss, found.other_loss) == (first.loss, second.loss)
        assert found.loss != found.other_loss

    def test_widest_differences_either_way(self, source: Source, older: Source) -> None:
        text = next(sample_stories("validation"))
        found = compare_stories(source, older, text)
        (_, better), (_, worse) = found.differences(5)
        by_difference = sorted(found.tokens, key=lambda token: token.difference)
        assert [token for _, token in better] == by_difference[::-1][:5]
        assert [token for _, token in worse] == by_difference[:5]
        assert better[0][1].difference > 0 > worse[0][1].difference
        for ahead, token in (*better, *worse):
            assert len(ahead) <= 40
            assert ahead + token.text in text

    def test_a_model_does_not_differ_from_itself(self, source: Source) -> None:
        found = compare_stories(source, source, SHORT)
        assert found.differences(5) == []
        assert {token.level for token in found.tokens} == {4}

    def test_another_tokenizer_is_refused(self, source: Source) -> None:
        tokenizer = train_tokenizer(islice(sample_stories("train"), 40), 300)
        with pytest.raises(InputError, match="different tokens") as caught:
            compare_stories(source, replace(source, tokenizer=tokenizer), SHORT)
        assert "--tokenizer" in str(caught.value.hint)


class TestColours:
    def test_levels_start_at_their_bounds(self) -> None:
        at = [0, 0.49, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 30]
        levels = [InspectedToken("x", loss, False).level for loss in at]
        assert levels == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
        differences = [InspectedToken("x", 10, False, 10 - d).level for d in (-9, -1, 0, 1, 9)]
        assert differences == [0, 2, 4, 6, 8]

    def test_the_legend_names_every_level(self, source: Source, older: Source) -> None:
        for found in (inspect_story(source, SHORT), compare_stories(source, older, SHORT)):
            levels = [level for level, _ in found.legend]
            assert levels == list(range(len(PALETTES[found.scale])))

    def test_black_can_be_read_on_every_shade(self) -> None:
        """WCAG 2.2: a contrast of at least 4.5."""
        for shade in filter(None, (*PALETTES["loss"], *PALETTES["difference"])):
            channels = [int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
            luminance = np.dot(linear, [0.2126, 0.7152, 0.0722])
            assert (luminance + 0.05) / 0.05 > 4.5, shade


class _Page(HTMLParser):
    """What a browser would show inside `<div class="text">`, and every tag of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.spans: list[dict[str, str | None]] = []
        self.text = ""
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if ("class", "text") in attrs:
            self._inside = True
        elif self._inside and tag == "span":
            self.spans.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "div"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data


class TestPage:
    HOSTILE = "He said <script>alert('1')</script>\n\n & </div> \"so\"  <b>é🐶"

    def test_a_story_that_holds_html_stays_text(self, source: Source, tmp_path: Path) -> None:
        found = inspect_story(source, self.HOSTILE, title="<i>run</i>")
        # Some vocabulary has it all as one token.
        found = replace(found, tokens=(InspectedToken(self.HOSTILE, 1.0, True), *found.tokens))
        write_story_page(found, tmp_path / "story.html")
        page = _Page((tmp_path / "story.html").read_text(encoding="utf-8"))
        assert page.text == 2 * self.HOSTILE
        assert page.tags.isdisjoint({"script", "b", "i", "img", "link"})
        classes = [f"l{t.level}{' kept' if t.kept else ''}" for t in found.tokens]
        assert [span["class"] for span in page.spans] == classes
        assert [span["title"] for span in page.spans] == [token.title for token in found.tokens]

    def test_a_comparison(self, source: Source, older: Source, tmp_path: Path) -> None:
        found = compare_stories(source, older, self.HOSTILE)
        write_story_page(found, tmp_path / "story.html")
        html = (tmp_path / "story.html").read_text(encoding="utf-8")
        page = _Page(html)
        assert page.text == self.HOSTILE
        assert {str(span["class"])[0] for span in page.spans} == {"d"}
        assert "first predicts better" in html
        for shade in PALETTES["difference"]:
            assert shade is None or f"background: {shade}" in html
