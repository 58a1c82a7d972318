"""A model's diagnosis against sums over the text itself, and scores that fit or do not."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from tinyohem.data.corpus import open_corpus
from tinyohem.data.parts import HOLDOUT_EVERY
from tinyohem.data.sources import validation_part
from tinyohem.data.story_hash import story_hash
from tinyohem.difficulty.score_corpus import score_corpus
from tinyohem.difficulty.score_table import SCORES_FILE
from tinyohem.errors import InputError
from tinyohem.evaluation import diagnose as module
from tinyohem.evaluation.diagnose import Diagnosis, diagnose, keep_perplexity
from tinyohem.evaluation.open import Evaluation, open_evaluation
from tinyohem.evaluation.perplexity import story_token_losses
from tinyohem.progress import SILENT
from tinyohem.training.loop import train


@pytest.fixture(scope="module")
def evaluation(finished_run: Path) -> Evaluation:
    return open_evaluation(str(finished_run), device="cpu")


@pytest.fixture(scope="module")
def everything(evaluation: Evaluation) -> Diagnosis:
    return diagnose(evaluation, by=["difficulty", "frequency", "loss", "position", "role"])


@pytest.fixture(scope="module")
def losses(evaluation: Evaluation) -> np.ndarray:
    ((_, losses),) = story_token_losses(evaluation.source.model, evaluation.store, seq_len=32)
    return losses


class TestGroups:
    def test_each_way_adds_up_to_the_whole(self, everything: Diagnosis) -> None:
        assert list(everything.by) == ["loss", "frequency", "difficulty", "role", "position"]
        for groups in everything.by.values():
            assert sum(group.tokens for group in groups) == everything.perplexity.tokens
            nats = sum(group.loss * group.tokens for group in groups)
            assert nats == pytest.approx(everything.perplexity.nats, rel=1e-12)

    def test_frequency_counts_the_tokens_of_the_training_text(
        self, everything: Diagnosis, evaluation: Evaluation, corpus: Path, losses: np.ndarray
    ) -> None:
        """Tokenize the training file again and count by hand."""
        tokenizer = evaluation.source.tokenizer
        counts = [0] * len(tokenizer)
        for story in open_corpus(str(corpus), "train").stories():
            for token in tokenizer(story.text)["input_ids"]:
                counts[token] += 1
        top = sorted(range(len(counts)), key=lambda token: (-counts[token], token))[:10]
        ids = evaluation.store.ids
        members = np.isin(ids, top) & (losses > 0)  # start tokens cost nothing
        assert 0 not in top
        found = everything.by["frequency"][0]
        assert (found.name, found.tokens) == ("top 10", members.sum())
        assert found.loss == pytest.approx(losses[members].mean(), rel=1e-6)

    def test_roles_are_those_of_the_stories_on_disk(
        self, everything: Diagnosis, evaluation: Evaluation, corpus: Path, losses: np.ndarray
    ) -> None:
        """Find the words of names in the decoded tokens again, and add up their losses."""
        store, tokenizer = evaluation.store, evaluation.source.tokenizer
        nats, tokens = 0.0, 0
        stories = list(open_corpus(str(corpus), "validation").stories())
        for story, first, end in zip(stories, store.offsets[:-1], store.offsets[1:], strict=True):
            inside = r"(?:(?<=[\w,] )|(?<=Mr\. )|(?<=Mrs\. )|(?<=Ms\. )|(?<=Dr\. ))[A-Z][\w']*"
            names = {name.removesuffix("'s") for name in re.findall(inside, story.text)}
            names -= {"I", "I'm", "I'll"}
            spans = tokenizer(story.text, return_offsets_mapping=True)["offset_mapping"]
            for (left, right), loss in zip(spans, losses[first + 1 : end], strict=True):
                around = [
                    word.group().removesuffix("'s")
                    for word in re.finditer(r"[\w']+", story.text)
                    if word.start() < right and left < word.end()
                ]
                if any(word in names for word in around):
                    nats, tokens = nats + float(loss), tokens + 1
        found = [group for group in everything.by["role"] if group.name.startswith("name")]
        assert len(found) == 2
        assert sum(group.tokens for group in found) == tokens > 0
        assert sum(group.loss * group.tokens for group in found) == pytest.approx(nats, rel=1e-6)

    def test_the_hardest_tenth_of_the_stories(
        self, evaluation: Evaluation, losses: np.ndarray
    ) -> None:
        """By length: of 12 stories the longest is the hardest decile, the next is in the ninth."""
        found = diagnose(evaluation, by=["difficulty"], metric="length").by["difficulty"]
        offsets, longest = evaluation.store.offsets, int(evaluation.store.story_bytes.argmax())
        story = losses[offsets[longest] + 1 : offsets[longest + 1]]
        assert (found[-1].name, found[-1].tokens) == ("10 (hardest)", len(story))
        assert found[-1].loss == pytest.approx(story.mean(), rel=1e-6)

    def test_only_what_was_asked_for_is_measured(self, evaluation: Evaluation) -> None:
        found = diagnose(evaluation)
        assert (found.by, found.calibration) == ({}, None)
        assert found.to_json() == found.perplexity.to_json()


class TestScores:
    def test_a_table_of_these_stories_gives_the_same_groups(
        self, evaluation: Evaluation, everything: Diagnosis, corpus: Path, tmp_path: Path
    ) -> None:
        table = score_corpus(open_corpus(str(corpus), "validation"), tmp_path, workers=1)
        found = diagnose(evaluation, by=["difficulty"], scores=table.folder)
        assert found.by["difficulty"] == everything.by["difficulty"]
        weighted = diagnose(
            evaluation, by=["difficulty"], scores=table.folder, metric="mtld=2,flesch=1"
        )
        assert weighted.by["difficulty"] != everything.by["difficulty"]

    def test_the_table_of_other_stories_is_refused(
        self, evaluation: Evaluation, corpus: Path, tmp_path: Path
    ) -> None:
        score_corpus(open_corpus(str(corpus), "train"), tmp_path, workers=1)
        told = rf"holds scores of {corpus} \(train\), not of {corpus} \(validation\)"
        with pytest.raises(InputError, match=told) as caught:
            diagnose(evaluation, by=["difficulty"], scores=tmp_path)
        assert "leave out --scores" in str(caught.value.hint)

    def test_a_metric_that_the_table_lacks_is_refused(self, evaluation: Evaluation) -> None:
        with pytest.raises(InputError, match="has no metric 'depth'") as caught:
            diagnose(evaluation, by=["difficulty"], metric="depth")
        assert "mtld" in str(caught.value.hint)

    def test_bad_input_is_refused_before_the_model_runs(
        self, evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(module, "evaluate_perplexity")
        with pytest.raises(InputError, match="is no score folder"):
            diagnose(evaluation, by=["difficulty"], scores=tmp_path)

    def test_stories_held_out_of_a_corpus_get_a_table_of_their_own(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        """The table of the whole corpus fits as well; ranks among other stories may differ."""
        path = Path(shutil.copy(corpus / "train.jsonl", tmp_path / "all.jsonl"))
        run_dir = tmp_path / "run"
        config = tiny.config(path, training__steps=1, tokenizer__vocab_size=300)
        train(config, run_dir)
        evaluation = open_evaluation(str(run_dir), device="cpu")
        own = validation_part(config.data, SILENT).as_corpus(SILENT)
        texts = {story.row: story.text for story in open_corpus(str(path)).stories()}
        held_out = [row for row in texts if story_hash(texts[row]) <= 2**64 // HOLDOUT_EVERY]
        assert {story.row: story.text for story in own.stories()} == {
            row: texts[row] for row in held_out
        }
        by_own_scores = diagnose(evaluation, by=["difficulty"], metric="length")
        whole = score_corpus(open_corpus(str(path)), tmp_path / "scores", workers=1)
        by_all = diagnose(evaluation, by=["difficulty"], metric="length", scores=whole.folder)
        assert by_all.by == by_own_scores.by
        assert len(by_all.by["difficulty"]) == len(held_out) > 1

    def test_a_table_with_missing_rows(
        self, evaluation: Evaluation, corpus: Path, tmp_path: Path
    ) -> None:
        import pyarrow.parquet as pq

        from tinyohem.io.hashing import hash_file
        from tinyohem.io.json import write_json
        from tinyohem.io.manifest import read_sealed

        table = score_corpus(open_corpus(str(corpus), "validation"), tmp_path, workers=1)
        path = tmp_path / SCORES_FILE
        pq.write_table(pq.read_table(path).slice(0, 9), path)
        manifest = {**read_sealed(tmp_path / "manifest.json"), "stories": 9}
        manifest["scores_sha256"] = hash_file(path)
        write_json(tmp_path / "manifest.json", manifest)
        with pytest.raises(InputError, match="lacks scores of 3 stories, the first at row 9"):
            diagnose(evaluation, by=["difficulty"], scores=table.folder)


class TestTrainingCounts:
    def test_only_a_run_knows_its_training_split(self, finished_run: Path, corpus: Path) -> None:
        folder = str(finished_run / "model")
        evaluation = open_evaluation(folder, dataset=str(corpus), device="cpu")
        for way in ("frequency", "role"):
            with pytest.raises(InputError, match="is no run") as caught:
                diagnose(evaluation, by=[way])
            hint = f"name the folder of a run, or leave out --by {way}"
            assert caught.value.hint == hint

    def test_counts_of_other_stories_than_the_run_saw_are_refused(
        self, finished_run: Path, corpus: Path, tmp_path: Path
    ) -> None:
        stories, run_dir = tmp_path / "stories", tmp_path / "run"
        shutil.copytree(corpus, stories)
        train(tiny.config(stories, training__steps=1), run_dir)
        lines = (stories / "train.jsonl").read_text().splitlines(keepends=True)
        (stories / "train.jsonl").write_text("".join(lines[:-1]))
        evaluation = open_evaluation(str(run_dir), device="cpu")
        with pytest.raises(InputError, match=r"training stories of .* have changed since"):
            diagnose(evaluation, by=["frequency"])


@pytest.mark.parametrize(
    ("place", "options", "kept"),
    [
        (".", {}, True),
        (".", {"stride": 16}, False),
        (".", {"seq_len": 32}, False),
        (".", {"dataset": "corpus"}, False),
        ("checkpoints/latest", {}, False),
    ],
)
def test_only_a_run_scored_as_in_training_gets_its_eval_json(
    finished_run: Path,
    corpus: Path,
    tmp_path: Path,
    place: str,
    options: dict[str, Any],
    kept: bool,
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    record = (run_dir / "eval.json").read_bytes()
    (run_dir / "eval.json").unlink()
    if "dataset" in options:
        options = {"dataset": str(corpus)}
    evaluation = open_evaluation(str(run_dir / place), device="cpu", **options)
    keep_perplexity(evaluation, diagnose(evaluation).perplexity)
    assert (run_dir / "eval.json").exists() == kept
    if kept:
        assert (run_dir / "eval.json").read_bytes() == record
