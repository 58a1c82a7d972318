"""References of a target: their scores against transformers' own forward pass, and their use."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from tinyohem.config import reference
from tinyohem.config.model import model_shape
from tinyohem.config.recipes import load_config
from tinyohem.config.run import RunConfig
from tinyohem.data.corpus import Corpus, open_corpus
from tinyohem.data.parts import Part
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.sources import Sources
from tinyohem.data.target import open_target
from tinyohem.data.tokenizer import train_tokenizer
from tinyohem.difficulty import reference_scores as cache
from tinyohem.difficulty.reference_scores import reference_scores
from tinyohem.errors import InputError
from tinyohem.experiments.shared import prepare_comparison
from tinyohem.experiments.spec import Arm, Comparison
from tinyohem.io.data_dir import data_dir
from tinyohem.io.hashing import hash_json
from tinyohem.models.llama import build_model
from tinyohem.ohem.loss_pool import open_pool
from tinyohem.progress import SILENT
from tinyohem.training import inputs
from tinyohem.training import target_reference as module
from tinyohem.training.arithmetic import plain_arithmetic
from tinyohem.training.loop import train
from tinyohem.training.reference import PoolReference
from tinyohem.training.target_reference import (
    reference_steps,
    score_by_reference,
    target_data,
    train_reference,
)

SEQ_LEN = 24


def recipe(
    *_: object, seq_len: int = SEQ_LEN, attention: str = "story", **overrides: Any
) -> RunConfig:
    """A reference of seconds."""
    values = {k: v for k, v in tiny.RECIPE.items() if not k.startswith("data.")}
    more = {
        "training.seq_len": seq_len,
        "training.attention": attention,
        "training.steps": None,
        "training.tokens": "3000",
    }
    return load_config(overrides={**values, **more, **overrides})


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(cache, "reference_config", recipe)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A pool of stories and of the same words in disorder, with an empty row; and a target."""
    stories = sample_stories("train")
    target, rng = list(islice(stories, 80)), np.random.default_rng(0)
    real = list(islice(stories, 40))
    mixed = [" ".join(rng.permutation(story.split())) for story in real]
    rows = [real[0], "", *real[1:], *mixed]
    return (
        tiny.write_stories(tmp_path / "pool.jsonl", rows),
        tiny.write_stories(tmp_path / "good.jsonl", target),
    )


@pytest.fixture
def sources(files: tuple[Path, Path]) -> Sources:
    pool, good = map(str, files)
    target = open_target(good)
    return Sources(Part(open_corpus(pool), clean=False), validating(target.validate), target)


def validating(texts: Iterable[str]) -> Part:
    stories = list(texts)
    corpus = Corpus("valid", "validation", hash_json(stories), lambda: iter(stories))
    return Part(corpus, clean=False)


def config(**target: Any) -> RunConfig:
    values = {"score": "reference_loss", "stories": "good.jsonl", **target}
    return load_config(overrides={f"target.{key}": value for key, value in values.items()})


@torch.no_grad()
def slowly(model: Any, ids: list[int]) -> float:
    """Return the mean nats per token: each from as long a context as the windows give it."""
    losses, scored = [], 0
    while scored < len(ids) - 1:
        last = min(scored + (SEQ_LEN if not scored else SEQ_LEN // 2), len(ids) - 1)
        first = max(0, last - SEQ_LEN)
        logits = model(torch.tensor([ids[first:last]])).logits[0]
        nats = F.cross_entropy(logits, torch.tensor(ids[first + 1 : last + 1]), reduction="none")
        losses += nats[scored - first :].tolist()
        scored = last
    return float(np.mean(losses))


def test_a_score_is_the_mean_loss_of_a_story_by_transformers_itself(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def untrained(config: RunConfig, data: Any, *_: Any, **__: Any) -> Any:
        shape = model_shape(config.model)
        made.append(build_model(shape, len(data.tokenizer), SEQ_LEN, 0, seed=3))
        torch.nn.init.normal_(made[-1].model.layers[0].self_attn.o_proj.weight)
        return made[-1]

    monkeypatch.setattr(module, "train_reference", untrained)
    values, calibration = score_by_reference(recipe(), "target", sources, SILENT)
    assert sources.target is not None
    tokenizer = train_tokenizer(sources.target.fit, 320)

    def ids(text: str) -> list[int]:
        return [0, *tokenizer.backend_tokenizer.encode(text).ids]

    texts = {story.row: story.text for story in sources.train.corpus.stories()}
    assert [row for row, value in enumerate(values) if np.isnan(value)] == [1]
    for row in (0, 2, 17, 40, 63, 80):
        assert values[row] == pytest.approx(slowly(made[0], ids(texts[row])), rel=1e-5)
    expected = [slowly(made[0], ids(text)) for text in sources.target.calibrate]
    assert calibration == pytest.approx(expected, rel=1e-5)


def test_a_reference_has_the_weights_of_its_best_validation(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, seen = iter([3.0, 1.0, 2.0, *[5.0] * 7]), []

    def evaluate(model: Any, *_: Any, **__: Any) -> Any:
        seen.append([w.clone() for w in model.parameters()])
        return type("Result", (), {"loss": next(losses)})

    monkeypatch.setattr(module, "evaluate_perplexity", evaluate)
    assert sources.target is not None
    data = target_data(sources.target, train_tokenizer(sources.target.fit, 320))
    model = train_reference(recipe(), data, 20)
    assert len(seen) == 10
    for kept, best, last in zip(model.parameters(), seen[1], seen[-1], strict=True):
        assert torch.equal(kept, best)
        assert not torch.equal(kept, last)


def test_a_small_target_is_read_sixteen_times_at_most(sources: Sources) -> None:
    assert sources.target is not None
    data = target_data(sources.target, train_tokenizer(sources.target.fit, 320))
    a_step = 4 * SEQ_LEN
    assert reference_steps(recipe(), data) == 3000 // a_step
    long = recipe(**{"training.tokens": "1G"})
    assert reference_steps(long, data) == 16 * data.train.num_tokens // a_step


@pytest.mark.parametrize(("pool_tokens", "expected"), [(1 << 30, 31), (None, None)])
def test_the_pools_model_sees_as_many_tokens_and_no_window_twice(
    sources: Sources,
    monkeypatch: pytest.MonkeyPatch,
    pool_tokens: int | None,
    expected: int | None,
) -> None:
    asked: dict[str, Any] = {}
    original = train_reference

    def spy(config: RunConfig, data: Any, num_steps: int, **how: Any) -> Any:
        asked.update(data=data, num_steps=num_steps, **how)
        return original(config, data, num_steps, **how)

    monkeypatch.setattr(module, "train_reference", spy)
    tokens = "3000" if pool_tokens else "1G"
    score_by_reference(recipe(**{"training.tokens": tokens}), "pool", sources, SILENT)
    train_tokens = asked["data"].train.num_tokens
    assert asked["data"].train.num_stories == 80
    assert asked["num_steps"] == (expected or (train_tokens - 1) // (4 * SEQ_LEN))
    assert asked["keeps_best"] is False


def test_the_pools_model_learns_from_no_story_of_the_target_or_the_validation(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = sources.target
    assert target is not None
    own = [target.fit[0], target.calibrate[1], target.validate[2], "Named with valid."]
    others = [story.text for story in sources.train.corpus.stories()]
    texts = [own[0], "", *others[:3], own[1], own[2], *others[3:], own[3], own[0]]
    pool = tiny.write_stories(tmp_path / "mixed.jsonl", texts)
    mixed = replace(sources, train=Part(open_corpus(str(pool)), clean=False))
    mixed = replace(mixed, valid=validating([own[3], "Elsewhere."]))
    learned: list[Any] = []
    original = train_reference

    def spy(config: RunConfig, data: Any, *args: Any, **how: Any) -> Any:
        learned.append(data.train)
        return original(config, data, *args, **how)

    monkeypatch.setattr(module, "train_reference", spy)
    values, _ = score_by_reference(recipe(), "pool", mixed, SILENT)
    wanted = [row for row, text in enumerate(texts) if text and text not in own]
    assert learned[0].rows.tolist() == wanted
    assert np.flatnonzero(np.isnan(values)).tolist() == [1]  # the others' scores are there
    plain, _ = score_by_reference(recipe(), "pool", sources, SILENT)
    assert np.array_equal(learned[0].ids, learned[1].ids)
    assert values[wanted].tolist() == plain[~np.isnan(plain)].tolist()


def test_a_pool_of_the_targets_own_stories_teaches_no_model(sources: Sources) -> None:
    barred = replace(sources, valid=sources.train)
    with pytest.raises(InputError, match="too little text for a model to learn from: 0 tokens"):
        score_by_reference(recipe(), "pool", barred, SILENT)


def test_other_validation_stories_make_another_pools_model_only(sources: Sources) -> None:
    asked = []

    def score(_: RunConfig, learns_from: str, *__: Any) -> tuple[np.ndarray, np.ndarray]:
        asked.append(learns_from)
        return np.ones(3), np.ones(3)

    for valid in (sources.valid, validating(["Another."])):
        reference_scores(
            config(score="reference_gain"), replace(sources, valid=valid), score, SILENT
        )
    assert asked == ["target", "pool", "pool"]


@pytest.mark.parametrize("learns_from", ["target", "pool"])
def test_scores_are_the_same_every_time_and_follow_the_stories(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learns_from: Any
) -> None:
    first = score_by_reference(recipe(), learns_from, sources, SILENT)
    torch.manual_seed(7)
    torch.rand(5)
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "elsewhere"))
    again = score_by_reference(recipe(), learns_from, sources, SILENT)
    for one, other in zip(first, again, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_gain_is_the_loss_less_that_of_the_pools_model(sources: Sources) -> None:
    asked = []

    def score(_: RunConfig, learns_from: str, *__: Any) -> tuple[np.ndarray, np.ndarray]:
        asked.append(learns_from)
        values = {"target": [4.0, np.nan, 6.0], "pool": [3.0, np.nan, 7.5]}[learns_from]
        return np.array(values), np.array(values[::2]) + 1

    loss = reference_scores(config(), sources, score, SILENT)
    gain = reference_scores(config(score="reference_gain"), sources, score, SILENT)
    assert loss.values.tolist()[::2] == [4, 6]
    assert gain.values.tolist()[::2] == [1, -1.5]
    assert gain.calibration.tolist() == [1, -1.5]
    assert np.isnan(gain.values[1])
    assert asked == ["target", "pool"]  # the loss was kept
    assert gain.seconds > loss.seconds > 0
    assert reference_scores(config(), sources, None, SILENT).seconds == loss.seconds
    reference_scores(config(), sources, score, SILENT)
    assert asked == ["target", "pool"]


def test_all_that_decides_the_scores_is_in_their_name(
    sources: Sources, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def score(*_: Any) -> tuple[np.ndarray, np.ndarray]:
        asked.append(1)
        return np.ones(3), np.ones(3)

    def scores(sources: Sources) -> None:
        reference_scores(config(), sources, score, SILENT)

    scores(sources)
    pool, good = files
    whole = open_target(str(good), valid=validating(["Another story."]))
    scores(Sources(sources.train, sources.valid, whole))
    tiny.write_stories(pool, ["Another."])
    part = Part(open_corpus(str(pool)), clean=False)
    scores(Sources(part, sources.valid, sources.target))
    assert len(asked) == 3
    changes: list[dict[str, Any]] = [
        {"model.hidden_size": 32},
        {"tokenizer.vocab_size": 330},
        {"optim.lr": 1e-3},
        {"training.tokens": "4000"},
        {"training.batch_size": 8},
        {"training.seq_len": 32},
        {"training.attention": "window"},
        {"training.seed": 1},
        {"training.precision": "bfloat16"},
    ]
    for change in changes:
        made = recipe(**change)
        monkeypatch.setattr(cache, "reference_config", lambda *_, made=made: made)
        scores(sources)
    assert len(asked) == 3 + len(changes)
    monkeypatch.setattr(cache, "reference_config", recipe)
    for limit in ("MOST_EPOCHS", "VALIDATIONS"):
        with monkeypatch.context() as patch:
            patch.setattr(reference, limit, 7)
            scores(sources)
    assert len(asked) == 5 + len(changes)


@pytest.mark.parametrize(
    "change",
    [
        {"training.device": "cuda"},
        {"training.log_every": 7},
        {"training.samples": True},
        {"tracking.project": "other"},
        {"data.licence": "cc-by-4.0"},
        {"target.stories": "good.jsonl", "target.keep": "0.5"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_no_score_is_not_in_their_name(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    reference_scores(config(), sources, lambda *_: (np.ones(3), np.ones(3)), SILENT)
    monkeypatch.setattr(cache, "reference_config", lambda *_: recipe(**change))
    reference_scores(config(), sources, None, SILENT)


def test_a_reference_is_trained_in_float32_on_a_gpu_too() -> None:
    config = reference.reference_config("260k", "cuda")
    assert plain_arithmetic(config, torch.device("cuda")).precision == "float32"


def test_damaged_or_missing_scores_are_refused(sources: Sources) -> None:
    with pytest.raises(InputError, match="are not in") as error:
        reference_scores(config(), sources, None, SILENT)
    assert "prepare-data" in str(error.value.hint)
    assert not list(data_dir().glob("references/*"))
    reference_scores(config(), sources, lambda *_: (np.ones(3), np.ones(3)), SILENT)
    (path,) = data_dir().glob("references/*/values.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"are damaged: values\.npy was cut short"):
        reference_scores(config(), sources, score_by_reference, SILENT)


@pytest.mark.parametrize("dies_in", ["take_step", "story_losses"])
def test_a_kill_loses_nothing_but_time(
    sources: Sources, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dies_in: str
) -> None:
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "whole"))
    whole = reference_scores(config(), sources, score_by_reference, SILENT)
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "killed"))
    original, calls = getattr(module, dies_in), []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, dies_in, dies)
        with pytest.raises(KeyboardInterrupt):
            reference_scores(config(), sources, score_by_reference, SILENT)
    assert not list(data_dir().glob("references/*"))
    assert list(data_dir().glob("tokens/*"))  # which are not made again
    again = reference_scores(config(), sources, score_by_reference, SILENT)
    assert again.values.tobytes() == whole.values.tobytes()
    assert again.calibration.tobytes() == whole.calibration.tobytes()


def test_a_target_of_a_few_words_is_refused_in_a_line(tmp_path: Path) -> None:
    few = tiny.write_stories(tmp_path / "few.jsonl", (f"Cat {n}" for n in range(60)))
    part = Part(open_corpus(str(few)), clean=False)
    sources = Sources(part, part, open_target(str(few)))
    long = recipe(**{"training.seq_len": 4000})
    with pytest.raises(InputError, match="holds too little text for a model"):
        score_by_reference(long, "target", sources, SILENT)


class TestMinedByTheTarget:
    """`ohem.reference = target`: the losses of the run's own windows under a reference."""

    @pytest.fixture
    def mined(
        self, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., Any]:
        monkeypatch.setattr(inputs, "reference_config", recipe)
        pool, good = map(str, files)

        def config(**more: Any) -> RunConfig:
            how = {"ohem__score": "excess_loss", "ohem__ratio": 0.5, "ohem__reference": "target"}
            return tiny.config(
                Path(pool), target__stories=good, target__keep="1", **{**how, **more}
            )

        return config

    def test_its_losses_are_those_of_transformers_in_the_runs_windows(
        self, mined: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[Any] = []

        def untrained(_: RunConfig, data: Any, *__: Any, **___: Any) -> Any:
            made.append(build_model(model_shape(recipe().model), len(data.tokenizer), 32, 0, 3))
            torch.nn.init.normal_(made[-1].model.layers[0].self_attn.o_proj.weight)
            return made[-1]

        monkeypatch.setattr(inputs, "train_reference", untrained)
        config = mined(training__attention="window")
        opened = inputs.open_inputs(config)
        store = opened.data.train
        assert opened.pool is not None
        pool = open_pool(opened.pool, store, 32, "window")
        for window in (0, 7, 31):
            ids = torch.from_numpy(store.ids[window * 32 : window * 32 + 33].astype(np.int64))
            with torch.no_grad():
                logits = made[0](ids[None, :-1]).logits[0]
            expected = F.cross_entropy(logits, ids[1:], reduction="none").numpy()
            found = pool.of_windows(np.array([window]))[0]
            assert found == pytest.approx(expected, rel=2e-3)  # float16
        assert inputs.open_inputs(config).pool == opened.pool
        assert len(made) == 1

    @pytest.mark.parametrize("score", ["excess_loss", "lag"])
    def test_a_stopped_run_goes_on_bit_for_bit(
        self, mined: Callable[..., RunConfig], tmp_path: Path, score: str
    ) -> None:
        how = {"ohem__score": score}
        run, _ = train(mined(**how), tmp_path / "whole")
        assert isinstance(run.reference, PoolReference)
        train(mined(**how, training__stop_at_step=7), tmp_path / "stopped")
        shutil.rmtree(data_dir() / "pools")  # the same losses are mined again
        train(mined(**how), tmp_path / "stopped", resume="must")
        assert tiny.saved_hashes(tmp_path / "stopped") == tiny.saved_hashes(tmp_path / "whole")

    def test_a_kill_leaves_no_half_pool(
        self, mined: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dies(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(inputs, "mine_pool", dies)
            with pytest.raises(KeyboardInterrupt):
                inputs.open_inputs(mined())
        assert not list(data_dir().glob("pools/*"))
        assert inputs.open_inputs(mined()).pool is not None

    def test_its_seconds_count(
        self, mined: Callable[..., RunConfig], files: tuple[Path, Path]
    ) -> None:
        common = mined().model_dump()
        arms = (
            Arm("every", {"ohem": {"ratio": 1.0, "score": "loss", "reference": "ema"}}),
            Arm("excess", {}),
        )
        shared = prepare_comparison(Comparison(arms, (0,), common, "equal-tokens"), SILENT)
        assert shared.mine_seconds["every"] == 0 < shared.mine_seconds["excess"]
        assert shared.seconds_before("every") == 0
        assert shared.seconds_before("excess") == shared.mine_seconds["excess"]

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            ([], "ohem.reference = target needs stories"),
            (["--target=sample", "--pool-refresh-every=5"], "pool_refresh_every is for a pool"),
            (["--target=sample", "--pool-max-age=5"], "pool_max_age is for a pool"),
        ],
    )
    def test_bad_keys_are_refused_in_a_line(
        self, tinyohem: tiny.Command, flags: list[str], says: str
    ) -> None:
        mining = ("--ohem-ratio=0.5", "--ohem-score=excess_loss", "--ohem-reference=target")
        refused = tinyohem("train", "--dataset=sample", *mining, *flags)
        assert (refused.code, refused.out) == (2, "")
        assert says in refused.err
        assert len(refused.err.strip().splitlines()) == 2


class TestCommands:
    """The whole program by a model's scores."""

    @pytest.fixture
    def flags(self, files: tuple[Path, Path]) -> Callable[..., list[str]]:
        pool, good = files

        def flags(score: str = "reference_loss", **more: Any) -> list[str]:
            how = {"target__stories": str(good), "target__score": score, **more}
            return tiny.flags(pool, **how)

        return flags

    @pytest.mark.parametrize("score", ["reference_loss", "reference_gain"])
    def test_a_run_says_what_it_kept_and_other_commands_know_its_stories(
        self,
        flags: Callable[..., list[str]],
        tmp_path: Path,
        tinyohem: tiny.Command,
        score: str,
    ) -> None:
        run = tmp_path / "run"
        shown = tinyohem("train", *flags(score, target__keep="0.5"), "--dry-run")
        assert f"{score} among the best 0.5 of all" in shown.err, shown.err
        before = sorted((tmp_path / "data").glob("references/*"))
        assert len(before) == (2 if score == "reference_gain" else 1)
        result = tinyohem("train", *flags(score, target__keep="0.5"), "--out", run, "--json")
        assert result.code == 0, result.err
        choice = json.loads((run / "chosen.json").read_text())
        assert (choice["score"], choice["unit"]) == (score, "nats per token")
        assert choice["kept_examples"]
        assert choice["dropped_examples"]
        assert choice["seconds"] > 0
        assert sorted((tmp_path / "data").glob("references/*")) == before

        page = tmp_path / "report.html"
        assert tinyohem("report", run, "--out", page).code == 0
        assert score in page.read_text()
        assert tinyohem("mine", run, "--out", tmp_path / "pool").code == 0
        by = ("eval-perplexity", run, "--by", "frequency")
        assert tinyohem(*by).code == 0
        for folder in before:
            (folder / "manifest.json").unlink()
        lost = tinyohem(*by)
        assert (lost.code, lost.out) == (2, "")
        assert "hint: `tinyohem prepare-data`" in lost.err
        assert tinyohem("prepare-data", *flags(score, target__keep="0.5")).code == 0
        assert tinyohem(*by).code == 0

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ({"score": "wise"}, "target.score = 'wise'"),
            ({"target__scores": "folder"}, "score = reference_loss reads none"),
            ({"target__reference": "3m"}, "target.reference = '3m'"),
            ({"score": "ngram", "target__reference": "1m"}, "neither target.score"),
        ],
    )
    def test_a_bad_key_is_refused_in_a_line(
        self, files: tuple[Path, Path], tinyohem: tiny.Command, how: dict[str, Any], says: str
    ) -> None:
        pool, good = files
        given = {"target.stories": str(good), "target.score": "reference_loss"}
        given |= {f"target.{k.removeprefix('target__')}": v for k, v in how.items()}
        assignments = [f"--set={key}={value}" for key, value in given.items()]
        refused = tinyohem("train", "--dataset", pool, *assignments)
        assert (refused.code, refused.out) == (2, "")
        assert says in refused.err
        assert len(refused.err.strip().splitlines()) == 2

    def test_a_stopped_run_goes_on_bit_for_bit(
        self, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        pool, good = map(str, files)

        def config(**more: Any) -> RunConfig:
            how = {"target__stories": good, "target__score": "reference_loss"}
            return tiny.config(Path(pool), **how, target__keep="0.5", **more)

        train(config(), tmp_path / "whole")
        train(config(training__stop_at_step=7), tmp_path / "stopped")
        train(config(), tmp_path / "stopped", resume="must")
        assert tiny.saved_hashes(tmp_path / "stopped") == tiny.saved_hashes(tmp_path / "whole")
