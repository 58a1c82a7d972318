"""Training on what is like a target in a dirty pool, through the real command line."""

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

from tinyohem.config.run import RunConfig
from tinyohem.data.choice import ChoiceRecord
from tinyohem.data.corpus import open_corpus
from tinyohem.data.prepare import Prepared
from tinyohem.data.sample.stories import sample_stories
from tinyohem.data.sources import open_sources
from tinyohem.data.story_hash import story_hash
from tinyohem.data.tokenizer import tokenizer_hash, train_tokenizer
from tinyohem.difficulty.choose import prepare_chosen
from tinyohem.errors import InputError
from tinyohem.experiments.run import run_comparison
from tinyohem.experiments.spec import Arm, Budget, Comparison
from tinyohem.io.json import read_json
from tinyohem.progress import SILENT
from tinyohem.training import loop
from tinyohem.training.inputs import open_inputs
from tinyohem.training.loop import train
from tinyohem.training.prepare import prepare_run

OWN = 7  # stories of the target that are in the pool too


@dataclass(frozen=True)
class Pool:
    """A pool of stories among junk, with a target, and what each row is."""

    path: Path
    target: Path
    kinds: list[str]

    def flags(self, **overrides: Any) -> list[str]:
        return tiny.flags(self.path, target__stories=str(self.target), **overrides)

    def config(self, **overrides: Any) -> RunConfig:
        return tiny.config(self.path, target__stories=str(self.target), **overrides)


def junk(stories: Iterator[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield stories with their words shuffled, and pages of a shop."""
    names = ["basket", "cookie", "newsletter", "password", "price", "delivery", "voucher"]
    for story in stories:
        words = story.split()
        rng.shuffle(words)
        yield "shuffled", " ".join(words)
        yield "shop", ". ".join(" ".join(rng.choices(names, k=7)) for _ in range(12))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder, rng = tmp_path_factory.mktemp("pool"), random.Random(0)
    stories = sample_stories("train")
    target = list(islice(stories, 150))
    rows = [("story", story) for story in islice(stories, 150)]
    rows += [("own", story.upper()) for story in target[:OWN]]
    rows += [("copy", f"{story} 7") for _, story in rows[:4]]
    rows += islice(junk(stories, rng), 200)
    rng.shuffle(rows)
    return Pool(
        tiny.write_stories(folder / "pool.jsonl", (text for _, text in rows)),
        tiny.write_stories(folder / "good.jsonl", target),
        [kind for kind, _ in rows],
    )


@pytest.fixture(scope="module")
def chosen(pool: Pool) -> Prepared:
    """The data of the tiny run on the pool."""
    return prepare_chosen(pool.config())


def test_stories_are_kept_and_junk_is_not(pool: Pool, chosen: Prepared) -> None:
    kept = Counter(pool.kinds[row] for row in chosen.train.rows)
    assert kept["story"] + kept["copy"] >= 0.85 * 150
    assert kept["shop"] == 0
    assert kept["shuffled"] <= 5
    assert kept["own"] == 0
    assert chosen.choice is not None
    assert chosen.train.rows.tolist() == chosen.choice.rows.tolist()
    dropped = chosen.choice.record.dropped
    assert dropped["the target's own"] + dropped.get("a validation story", 0) == OWN
    assert 0 < dropped["repeats a kept one"] <= 4  # some may be beyond the line, with their copy


@pytest.mark.parametrize("how", [{}, {"target__when": "finish"}, {"data__clean": True}])
@pytest.mark.parametrize("names_valid", [False, True])
def test_no_validation_story_is_trained_on(
    pool: Pool, tmp_path: Path, how: dict[str, Any], names_valid: bool
) -> None:
    texts = [story.text for story in open_corpus(str(pool.path)).stories()]
    if names_valid:  # some of which are in the pool, and some in the target
        stories = [t for t, kind in zip(texts, pool.kinds, strict=True) if kind == "story"][:9]
        stories += [story.text for story in open_corpus(str(pool.target)).stories()][:9]
        path = tiny.write_stories(tmp_path / "valid.jsonl", [s.lower() for s in stories])
        how = {**how, "data__valid": str(path)}
    config = pool.config(**how)
    data = prepare_chosen(config)
    valid = set(data.valid.story_hashes.tolist())
    assert not valid & set(data.train.story_hashes.tolist())
    sources = open_sources(config.data, config.target, SILENT)
    assert sources.target is not None
    assert valid == sources.valid.hashes()
    assert names_valid == (not sources.target.validate)
    # Nor does a vocabulary learn from one.
    assert not valid & set(map(story_hash, sources.target.fit))
    assert not valid & set(map(story_hash, sources.target.calibrate))


def test_the_vocabulary_is_that_of_the_kept_stories_and_the_targets(
    pool: Pool, chosen: Prepared
) -> None:
    config = pool.config()
    sources = open_sources(config.data, config.target, SILENT)
    assert sources.target is not None
    texts = [story.text for story in open_corpus(str(pool.path)).stories()]
    kept = [texts[row] for row in chosen.train.rows]
    expected = train_tokenizer([*sources.target.fit, *kept], 320)
    assert tokenizer_hash(chosen.tokenizer) == tokenizer_hash(expected)


class TestPhases:
    """`target.when`: the windows of the whole pool and those of the kept stories, in turn."""

    @pytest.mark.parametrize(("when", "step"), [("finish", 16), ("start", 4)])
    def test_the_plan_changes_where_the_rate_falls(
        self, pool: Pool, chosen: Prepared, when: str, step: int
    ) -> None:
        config = pool.config(target__when=when, optim__decay_fraction=0.2)
        prepared = prepare_run(config, open_inputs(config))
        store, plan = prepared.inputs.data.train, prepared.plan
        kept = chosen.train.num_tokens
        assert store.ids[:kept].tolist() == chosen.train.ids.tolist()
        assert store.num_stories == len(pool.kinds) - OWN
        order = plan.windows(0, 20 * 4)
        before, after = order[: 4 * step], order[4 * step :]
        only, whole = (after, before[-12:]) if when == "finish" else (before, after[:12])
        last = (kept - 1) // 32
        assert only.max() < last
        assert whole.max() >= last  # of the three steps beside the change
        assert prepared.num_steps == 20

    def test_a_dry_run_shows_it(self, pool: Pool, tinyohem: tiny.Command) -> None:
        flags = pool.flags(target__when="finish", optim__decay_fraction=0.4)
        command = ["train", *flags, "--dry-run"]
        shown = tinyohem(*command)
        assert shown.code == 0
        assert "\nchosen: " in shown.out
        assert "\nphases: all " in shown.out
        assert " windows until step 12, then " in shown.out
        outline = json.loads(tinyohem(*command, "--json").out)
        assert f"plan {outline['plan_hash']}" in shown.out
        assert outline["phases"].endswith("windows of kept stories")

    def test_a_changed_plan_is_refused(self, pool: Pool, tmp_path: Path) -> None:
        settings = {"target__when": "finish", "optim__decay_fraction": 0.4}
        train(pool.config(**settings, training__stop_at_step=5), tmp_path / "run")
        saved = tmp_path / "run" / "plan" / "phases.json"
        assert read_json(saved)["hash"] == read_json(tmp_path / "run" / "config.json")["plan"]
        assert '"switch": 48' in saved.read_text()
        saved.write_text(saved.read_text().replace('"switch": 48', '"switch": 44'))
        with pytest.raises(Exception, match="holds no plan that can be read"):
            train(pool.config(**settings), tmp_path / "run", resume="must")


@pytest.mark.parametrize("when", ["always", "finish"])
def test_a_killed_run_goes_on_bit_for_bit(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    config = pool.config(target__when=when)
    train(config, tmp_path / "whole")
    for name, stops in {"stopped": (5, 12, 18), "killed": (11, 13)}.items():
        for stop in stops:
            if name == "stopped":
                how = pool.config(target__when=when, training__stop_at_step=stop)
                train(how, tmp_path / name, resume="auto")
                continue
            take = loop.take_step

            def dies(run: Any, *rest: Any, stop: int = stop, take: Any = take) -> None:
                if run.state.step == stop:
                    raise OSError("killed")
                take(run, *rest)

            with monkeypatch.context() as patch:
                patch.setattr(loop, "take_step", dies)
                with pytest.raises(OSError, match="killed"):
                    train(config, tmp_path / name, resume="auto")
        train(config, tmp_path / name, resume="must")
        assert tiny.saved_hashes(tmp_path / name) == tiny.saved_hashes(tmp_path / "whole")
        for file in ("eval.json", "chosen.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_run_says_what_it_kept_and_other_commands_know_its_stories(
    pool: Pool, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    run = tmp_path / "run"
    result = tinyohem("train", *pool.flags(), "--ohem-ratio", "0.5", "--out", run, "--json")
    assert result.code == 0, result.err
    choice = json.loads(result.out)["choice"]
    record = read_json(run / "chosen.json")
    assert choice["identity"] == record["identity"] == read_json(run / "config.json")["choice"]
    assert choice["kept"] + sum(choice["dropped"].values()) == choice["stories"] == 361
    assert set(record) == set(ChoiceRecord.model_fields)
    assert record["kept_examples"]
    assert record["dropped_examples"]
    line = f"{choice['kept']:,} of 361 stories of {pool.path} kept ("
    assert line in result.err

    scored = tinyohem("eval-perplexity", run, "--by", "frequency,difficulty", "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["stories"] == 30  # a fifth of the target
    shown = tinyohem("inspect", run, "--story", "3")
    assert shown.code == 0, shown.err
    row = record["dropped_examples"][0]["row"]
    shown = tinyohem("inspect", run, "--dataset", pool.path, "--story", row)
    assert shown.code == 0, shown.err
    mined = tinyohem("mine", run, "--out", tmp_path / "pool")
    assert mined.code == 0, mined.err

    page = tmp_path / "report.html"
    assert tinyohem("report", run, "--out", page).code == 0
    text = page.read_text()
    assert "Chosen stories" in text
    assert "the target&#39;s own" in text
    for example in (record["kept_examples"][0], record["dropped_examples"][0]):
        assert example["opening"][:30].split('"')[0] in text
    assert "scores-of-the-pool-1.svg" in text


def test_prepared_data_serve_the_run_and_name_the_choice(
    pool: Pool, tmp_path: Path, tinyohem: tiny.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "data"))
    flags = [f for f in pool.flags() if f.startswith(("--set=data.", "--set=target.", "--set=tok"))]
    told = tinyohem("prepare-data", *flags, "--json")
    assert told.code == 0, told.err
    facts = json.loads(told.out)
    assert facts["choice"]["kept"] == facts["train"]["stories"]
    before = tiny.snapshot(tmp_path / "data")
    assert tinyohem("train", *pool.flags(), "--out", tmp_path / "run").code == 0
    assert tiny.snapshot(tmp_path / "data") == before


def comparison(pool: Pool, budget: Budget, **target: Any) -> Comparison:
    common: dict[str, Any] = {}
    for key, value in {**tiny.RECIPE, "data.dataset": str(pool.path)}.items():
        section, _, name = key.partition(".")
        common.setdefault(section, {})[name] = value
    common["target"] = {"stories": str(pool.target)}
    arms = (Arm("every", {"target": {"keep": "1"}}), Arm("chosen", {"target": target}))
    return Comparison(arms, (0, 1), common, budget)


@pytest.mark.usefixtures("one_process")
def test_arms_with_and_without_a_choice_are_validated_on_the_same_stories(
    pool: Pool, tmp_path: Path
) -> None:
    results = run_comparison(comparison(pool, "equal-tokens"), tmp_path, workers=1)
    records = {r.arm: read_json(tmp_path / f"{r.arm}-seed0" / "config.json") for r in results}
    every, chosen = records["every"], records["chosen"]
    assert every["valid"]["corpus"] == chosen["valid"]["corpus"]
    assert every["train"]["stories"] == 361 - OWN
    assert every["train"]["stories"] > chosen["train"]["stories"]
    assert every["train"]["tokenizer"] != chosen["train"]["tokenizer"]
    assert len({r.to_json()["bytes"] for r in results}) == 1
    times = {r.arm: r.choose_seconds for r in results}
    assert times["every"] == 0 < times["chosen"]
    baseline = next(r for r in results if r.arm == "every")
    assert baseline.steps_to_baseline == 20
    assert "choosing s" in (tmp_path / "table.md").read_text()
    # Finished runs are not repeated.
    again = run_comparison(comparison(pool, "equal-tokens"), tmp_path, workers=1)
    assert [r.to_json() for r in again] == [r.to_json() for r in results]


@pytest.mark.usefixtures("one_process")
def test_choosing_counts_as_seconds_of_the_budget(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "data"))

    def choosing_takes(seconds: float) -> None:
        """Let scoring the pool, and choosing after it, take so long each."""
        clock = SimpleNamespace(time=time.time, perf_counter=count(0, seconds).__next__)
        monkeypatch.setattr("tinyohem.difficulty.choose.time", clock)

    plan = comparison(pool, "equal-seconds", quantile=0.1)
    plan.common["training"] |= {"steps": 100, "eval_every": 50, "log_every": 50}
    plan = replace(plan, seeds=(0,))
    choosing_takes(0.05)
    every, chosen = results = run_comparison(plan, tmp_path / "out", workers=1)
    assert chosen.choose_seconds == pytest.approx(0.1)
    budget = chosen.config["training"]["seconds"]
    assert budget == pytest.approx(every.train_seconds - 0.1)
    shutil.rmtree(tmp_path / "data")  # choosing again takes other seconds; the runs keep theirs
    choosing_takes(0.07)
    again = run_comparison(plan, tmp_path / "out", workers=1)
    assert [r.to_json() for r in again] == [r.to_json() for r in results]


@pytest.mark.usefixtures("one_process")
def test_choosing_may_not_take_longer_than_the_baseline_trains(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYOHEM_DATA", str(tmp_path / "data"))
    clock = SimpleNamespace(time=time.time, perf_counter=count(0, 1000).__next__)
    monkeypatch.setattr("tinyohem.difficulty.choose.time", clock)
    with pytest.raises(
        InputError, match=r"'chosen' took 2,000\.0 s, the baseline's whole training"
    ):
        run_comparison(comparison(pool, "equal-seconds"), tmp_path / "out", workers=1)


def test_a_filter_leaves_out_stories_by_their_difficulty(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    how = {"curriculum__enabled": True, "curriculum__pacing": "filter", "curriculum__keep": "0-80"}
    command = ["train", *tiny.flags(corpus, **how), "--out", tmp_path / "run", "--json"]
    result = tinyohem(*command)
    assert result.code == 0, result.err
    choice = json.loads(result.out)["choice"]
    assert (choice["kept"], choice["dropped"]) == (96, {"outside the range": 24})
    assert "96 of 120 stories of" in result.err
    data = prepare_chosen(tiny.config(corpus, **how))
    plain = prepare_chosen(tiny.config(corpus))
    assert data.valid.rows.tolist() == plain.valid.rows.tolist()
    assert set(data.train.rows.tolist()) < set(plain.train.rows.tolist())
    assert not np.isin(data.train.story_hashes, data.valid.story_hashes).any()
