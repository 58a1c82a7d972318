"""A model by any name, scored and asked to write."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tinyohem.errors import InputError
from tinyohem.io.json import read_json
from tinyohem.models.generate import generate
from tinyohem.models.source import Source, load_source
from tinyohem.training.loop import train

GREEDY: dict[str, Any] = {
    "max_new_tokens": 20,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
}
SAMPLED = GREEDY | {"temperature": 1.0}


def texts(source: Source, prompts: list[str], **options: Any) -> list[str]:
    """Return what a model writes."""
    return [story.text for story in generate(source, prompts, **options)]


@pytest.fixture(scope="module")
def source(finished_run: Path) -> Source:
    return load_source(str(finished_run), "cpu")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class TestNames:
    def test_every_name_of_a_model_leads_to_its_weights(self, finished_run: Path) -> None:
        checkpoints = finished_run / "checkpoints"
        last = checkpoints / (checkpoints / "latest").read_text().strip()
        assert last.name == (checkpoints / "best").read_text().strip() == "step_000020"
        names = [finished_run, last, checkpoints / "latest", checkpoints / "best", last / "model"]
        expected = load_source(str(finished_run / "model"), "cpu")
        assert expected.max_seq_len == 32
        for name in names:
            found = load_source(str(name), "cpu")
            assert found.max_seq_len == 32
            assert found.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
            for key, weight in expected.model.state_dict().items():
                assert torch.equal(found.model.state_dict()[key], weight), (name, key)

    def test_an_older_checkpoint_is_another_model(self, finished_run: Path) -> None:
        older = load_source(str(finished_run / "checkpoints" / "step_000015"), "cpu")
        newer = load_source(str(finished_run), "cpu")
        weights = (model.get_input_embeddings().weight for model in (older.model, newer.model))
        assert not torch.equal(*weights)

    def test_a_damaged_checkpoint_is_refused(self, finished_run: Path, tmp_path: Path) -> None:
        shutil.copytree(finished_run, tmp_path / "run")
        last = tmp_path / "run" / "checkpoints" / "step_000020"
        weights = last / "model" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        for name in (last, last.parent / "latest"):
            with pytest.raises(InputError, match=r"safetensors was cut short or changed"):
                load_source(str(name), "cpu")

    def test_an_unfinished_run_says_how_to_go_on(self, corpus: Path, tmp_path: Path) -> None:
        run_dir = tmp_path / "run"
        train(tiny.config(corpus, training__stop_at_step=3), run_dir)
        with pytest.raises(InputError, match=r"run .*/run has not finished") as caught:
            load_source(str(run_dir))
        assert str(run_dir / "checkpoints" / "latest") in str(caught.value.hint)
        assert load_source(str(run_dir / "checkpoints" / "latest")).max_seq_len == 32

    @pytest.mark.usefixtures("offline")
    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("no/model", "no/model is no file or folder, and the Hub cannot be reached"),
            ("/no/where", "there is no file or folder /no/where"),
            ("no model", "no model is no file or folder here, and no public model on the Hub"),
        ],
    )
    def test_an_unknown_name_is_refused(self, name: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            load_source(name)

    @pytest.mark.usefixtures("offline")
    def test_weights_cut_short_are_named(self, finished_run: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(finished_run / "model", folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(InputError, match="cannot load a language model from"):
            load_source(str(folder))


class TestEvaluate:
    def test_a_run_is_scored_on_its_own_validation_stories(
        self, finished_run: Path, corpus: Path
    ) -> None:
        recorded = read_json(finished_run / "eval.json")
        assert recorded["stories"] == 12
        by_default = tiny.evaluate(finished_run, stride=16)
        assert by_default.to_json() == pytest.approx(recorded, rel=1e-12)
        for name in (corpus, corpus / "valid.jsonl"):
            named = tiny.evaluate(str(finished_run / "checkpoints" / "best"), dataset=str(name))
            assert named.to_json() == pytest.approx(recorded, rel=1e-12)

    def test_more_context_than_the_model_has_is_refused(self, finished_run: Path) -> None:
        with pytest.raises(InputError, match="33 tokens is beyond the model's 32") as caught:
            tiny.evaluate(finished_run, seq_len=33)
        assert caught.value.hint == "use --seq-len 32 or less"
        with pytest.raises(InputError, match="stride of 33 tokens is beyond the context of 32"):
            tiny.evaluate(finished_run, stride=33)

    def test_less_context_costs_perplexity_but_counts_the_same(self, finished_run: Path) -> None:
        whole = tiny.evaluate(finished_run)
        short = tiny.evaluate(finished_run, seq_len=2)
        assert (short.tokens, short.bytes) == (whole.tokens, whole.bytes)
        assert short.nats != whole.nats

    def test_without_a_data_set_only_a_run_knows_one(self, finished_run: Path) -> None:
        with pytest.raises(InputError, match="no data set to score on") as caught:
            tiny.evaluate(finished_run / "model")
        assert "--dataset" in str(caught.value.hint)

    def test_a_checkpoint_knows_what_its_run_does(self, finished_run: Path) -> None:
        whole = tiny.evaluate(finished_run)
        checkpoints = finished_run / "checkpoints"
        for name in (checkpoints / "latest", checkpoints / "step_000020"):
            assert tiny.evaluate(name) == whole


class TestGenerate:
    def test_greedy_is_the_likeliest_token_each_time(self, source: Source) -> None:
        ids = [0, *source.tokenizer("One day")["input_ids"]]
        prompt_length = len(ids)
        with torch.no_grad():
            while len(ids) < prompt_length + 12:
                ids.append(int(source.model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected = source.tokenizer.decode(ids[1:])
        assert "<|endoftext|>" not in expected
        for seed in (0, 1):
            found = texts(source, ["One day"], **GREEDY | {"max_new_tokens": 12, "seed": seed})
            assert found == [expected]

    def test_a_prompt_that_spells_the_end_of_text_is_text(self, source: Source) -> None:
        prompt = "One <|endoftext|> day"
        (found,) = texts(source, [prompt], **GREEDY | {"max_new_tokens": 4})
        assert found.startswith(prompt)  # an end of text would not be shown

    def test_a_seed_repeats_a_story(self, source: Source) -> None:
        first, again, other = (
            texts(source, ["Once"], **SAMPLED | {"seed": seed})[0] for seed in (3, 3, 4)
        )
        assert first == again != other
        assert first.startswith("Once")

    def test_each_prompt_has_its_own_seed(self, source: Source) -> None:
        found = texts(source, ["Once", "Once", "Tom"], **SAMPLED | {"seed": 5})
        alone = [
            texts(source, [prompt], **SAMPLED | {"seed": 5 + index})[0]
            for index, prompt in enumerate(["Once", "Once", "Tom"])
        ]
        assert found == alone
        assert len(set(found)) == 3

    def test_every_story_has_the_next_seed(self, source: Source) -> None:
        found = generate(source, ["Once", "Tom"], **SAMPLED | {"seed": 5, "num_samples": 3})
        told = [(story.prompt, story.seed) for story in found]
        assert told == [("Once", 5), ("Once", 6), ("Once", 7), ("Tom", 8), ("Tom", 9), ("Tom", 10)]
        for story in found:
            assert texts(source, [story.prompt], **SAMPLED | {"seed": story.seed}) == [story.text]
        assert len({story.text for story in found}) == 6

    def test_the_pieces_make_up_the_stories(self, source: Source) -> None:
        pieces: list[tuple[int, str]] = []
        found = generate(
            source,
            ["Once", "Tom"],
            **SAMPLED | {"num_samples": 2},
            on_text=lambda story, piece: pieces.append((story, piece)),
        )
        for number, story in enumerate(found):
            own = [piece for index, piece in pieces if index == number]
            assert "".join(own) == story.text
        assert len(pieces) > 10 * len(found)  # one a token, not one a story
        assert [story for story, _ in pieces] == sorted(story for story, _ in pieces)

    @pytest.mark.parametrize(
        "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")]
    )
    def test_a_reader_that_leaves_is_no_fault_of_the_model(
        self, source: Source, error: OSError
    ) -> None:
        def fails(story: int, piece: str) -> None:
            raise error

        with pytest.raises(type(error), match=re.escape(str(error))):
            generate(source, ["Once"], **GREEDY, on_text=fails)

    def test_it_stops_at_the_end_of_text(
        self, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        letter = source.tokenizer.convert_tokens_to_ids("k")
        prompt_length = 1 + len(source.tokenizer("Once")["input_ids"])
        forward = source.model.forward

        def four_letters_and_the_end(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            seen = output.past_key_values.get_seq_length()
            output.logits[:, -1, letter if seen < prompt_length + 4 else 0] = 1e4
            return output

        monkeypatch.setattr(source.model, "forward", four_letters_and_the_end)
        assert texts(source, ["Once"], **SAMPLED) == ["Oncekkkk"]
        assert texts(source, ["Once"], **SAMPLED | {"max_new_tokens": 3}) == ["Oncekkk"]

    def test_the_context_ends_a_story(
        self, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, lengths = source.model.generate, []

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = whole(*args, **kwargs | {"eos_token_id": None})
            lengths.append(output.shape[1])
            return output

        monkeypatch.setattr(source.model, "generate", watched)
        texts(source, ["Once"], **GREEDY | {"max_new_tokens": 1_000})
        assert lengths == [32]

    def test_a_prompt_that_fills_the_context_is_refused(self, source: Source) -> None:
        with pytest.raises(InputError, match=r"prompt 2 has \d+ tokens, .* context 32") as caught:
            texts(source, ["fine", "one two three " * 20], **GREEDY)
        assert caught.value.hint == "shorten it"

    @pytest.mark.parametrize("only", [{"top_k": 1}, {"top_p": 1e-9}])
    def test_sampling_from_one_token_is_greedy(self, source: Source, only: dict[str, Any]) -> None:
        greedy = texts(source, ["Once"], **GREEDY)
        assert texts(source, ["Once"], **SAMPLED | only | {"temperature": 5.0}) == greedy

    @pytest.mark.parametrize(
        ("limits", "allowed"),
        [
            ({"top_k": 2}, {7, 8}),
            ({"top_p": 0.5}, {7}),  # 0.6 of the probability
            ({"top_p": 0.8}, {7, 8}),
            ({"top_k": 0, "top_p": 1.0}, {7, 8, 9}),
            # transformers' own default of 50 must not cut the tail.
            ({"top_k": 0, "top_p": 1.0, "temperature": 1e6}, set(range(320))),
        ],
    )
    def test_top_k_and_top_p_limit_the_sampled_tokens(
        self,
        source: Source,
        monkeypatch: pytest.MonkeyPatch,
        limits: dict[str, Any],
        allowed: set[int],
    ) -> None:
        forward = source.model.forward

        def three_tokens(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            output.logits.fill_(-1e3)
            for token, share in ((7, 0.6), (8, 0.3), (9, 0.1)):
                output.logits[..., token] = torch.tensor(share).log()
            return output

        monkeypatch.setattr(source.model, "forward", three_tokens)
        seen: list[int] = []
        monkeypatch.setattr(
            type(source.tokenizer), "decode", lambda _, ids, **kw: seen.extend(ids) or ""
        )
        texts(source, [""] * 12, **SAMPLED | {"max_new_tokens": 31} | limits)
        assert set(seen) <= allowed
        assert len(set(seen)) >= min(len(allowed), 150)
