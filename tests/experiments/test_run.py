"""Whole comparisons, as tiny as they come: fairness, resumption, budgets, the command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from tinyohem.config.recipes import assign, overlay
from tinyohem.config.run import CHANGES_NO_FIGURE
from tinyohem.errors import InputError
from tinyohem.evaluation.open import open_evaluation
from tinyohem.evaluation.perplexity import story_token_losses
from tinyohem.experiments import run as compare
from tinyohem.experiments.folder import FinishedRun
from tinyohem.experiments.jobs import jobs_of
from tinyohem.experiments.run import run_comparison
from tinyohem.experiments.shared import prepare_comparison
from tinyohem.experiments.spec import Arm, Budget, Comparison, check
from tinyohem.experiments.table import summarise, to_json
from tinyohem.io.json import read_json, write_json
from tinyohem.progress import SILENT
from tinyohem.training import arithmetic

ARMS = (
    Arm("full", {"ohem": {"ratio": 1.0}}),
    Arm("random", {"ohem": {"ratio": 0.5, "select": "random", "schedule": "constant"}}),
)


def comparison(corpus: Path, budget: Budget = "equal-tokens", seeds: int = 2) -> Comparison:
    common: dict[str, Any] = {}
    for key, value in {**tiny.RECIPE, "data.dataset": str(corpus)}.items():
        assign(common, key, value)
    return Comparison(ARMS, tuple(range(seeds)), common, budget)


def figures(results: list[FinishedRun]) -> list[Any]:
    """What a repetition must give again: all but seconds."""
    rows = to_json(summarise(results))
    for row in rows:
        del row["halfway"]["seconds"], row["baseline"]["seconds"]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    out = tmp_path_factory.mktemp("compare")
    return out, run_comparison(comparison(corpus), out, workers=1)


def test_no_arm_tries_which_arithmetic_is_faster(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial could end differently for two arms."""
    plan = comparison(corpus)
    job = jobs_of(plan, plan.arms, [0], tmp_path, prepare_comparison(plan, SILENT))[0]
    monkeypatch.setattr(arithmetic, "_try_rivals", lambda *_: pytest.fail("tried"))
    assert compare._train_and_measure(job).config["training"]["compile"] is False


def test_arms_in_order_seeds_within(finished: tuple[Path, list[Any]]) -> None:
    _, results = finished
    runs = [(run.arm, run.seed) for run in results]
    assert runs == [("full", 0), ("full", 1), ("random", 0), ("random", 1)]
    assert [run.tokens_selected / run.tokens_seen for run in results] == [1, 1, 0.5, 0.5]


def test_the_plan_is_written(finished: tuple[Path, list[Any]]) -> None:
    out, results = finished
    plan = json.loads((out / "comparison.json").read_text())
    runs = [(arm, seed) for arm in plan["arms"] for seed in plan["seeds"]]
    assert runs == [(run.arm, run.seed) for run in results]


@pytest.mark.usefixtures("one_process")
def test_arms_of_a_seed_start_alike_and_see_the_same_data(
    corpus: Path, tmp_path: Path, finished: tuple[Path, list[Any]]
) -> None:
    out, _ = finished
    plan = comparison(corpus)
    assign(plan.common, "training.log_every", 1)
    run_comparison(plan, tmp_path, workers=1)
    first_losses = {
        path.name: tiny.read_metrics(path)[0]["train/loss"] for path in tmp_path.glob("*-seed*")
    }
    for seed in (0, 1):  # before the first update, so weights and windows alone decide
        full, random = (first_losses[f"{arm}-seed{seed}"] for arm in ("full", "random"))
        assert full == pytest.approx(random, rel=1e-5)
    assert first_losses["full-seed0"] != pytest.approx(first_losses["full-seed1"], rel=1e-4)
    records = [read_json(out / f"{arm}-seed0" / "config.json") for arm in ("full", "random")]
    for name in ("train", "valid", "num_steps", "num_parameters"):
        assert records[0][name] == records[1][name]


def test_the_baseline_reaches_its_own_final_loss(finished: tuple[Path, list[Any]]) -> None:
    _, results = finished
    assert [run.steps_to_baseline for run in results if run.arm == "full"] == [20, 20]


def test_hardest_tenth_and_easy_half_frame_the_mean(finished: tuple[Path, list[Any]]) -> None:
    for result in finished[1]:
        assert result.easiest_half < result.to_json()["loss"] < result.hardest_tenth
        assert 0 < result.gini < 1


def test_the_tail_and_the_easy_half_are_of_all_tokens_but_the_starts(
    finished: tuple[Path, list[Any]],
) -> None:
    out, (result, *_) = finished
    evaluation = open_evaluation(str(out / "full-seed0"), device="cpu")
    store = evaluation.store
    ((_, losses),) = story_token_losses(evaluation.source.model, store, seq_len=32)
    ranked = np.sort(np.delete(losses, store.offsets[:-1]).astype(np.float64))
    assert len(ranked) == result.to_json()["tokens"]
    tenth, half = len(ranked) // 10, len(ranked) // 2
    assert result.hardest_tenth == pytest.approx(ranked[-tenth:].mean(), rel=1e-5)
    assert result.easiest_half == pytest.approx(ranked[:half].mean(), rel=1e-5)


def test_each_run_is_compared_with_the_baseline_of_its_own_seed(tmp_path: Path) -> None:
    curves = {("full", 0): (4, 2, 3), ("full", 1): (5, 4.5, 4), ("x", 0): (4, 3, 2.9)}
    curves[("x", 1)] = (9, 8, 7)
    for (arm, seed), losses in curves.items():
        (tmp_path / f"{arm}-seed{seed}").mkdir()
        rows = [
            {"step": 10 * n, "val/loss": loss, "train/seconds": 1.5 * n}
            for n, loss in enumerate(losses, 1)
        ]
        text = "".join(json.dumps(row) + "\n" for row in ({"step": 1, "train/loss": 0}, *rows))
        (tmp_path / f"{arm}-seed{seed}" / "metrics.jsonl").write_text(text)
    results = [FinishedRun(config={}, arm=arm, seed=seed, steps=30) for arm, seed in curves]
    results = compare._with_milestones(results, "full", tmp_path)
    found = [(run.steps_to_baseline, run.seconds_to_baseline) for run in results]
    assert found == [(15, 2.25), (30, 4.5), (20, 3.0), (None, None)]


@pytest.mark.parametrize("lost", ["all", "last line", "end of the last line"])
def test_a_finished_runs_log_that_was_cut_is_refused(
    corpus: Path, tmp_path: Path, finished: tuple[Path, list[Any]], lost: str
) -> None:
    """The baseline's final loss would be that of an earlier step, or an arm `never` reach it."""
    shutil.copytree(finished[0], tmp_path / "out")
    log = tmp_path / "out" / "random-seed0" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    kept = {"all": "", "last line": "".join(lines[:-1])}
    log.write_text(kept.get(lost, "".join(lines)[:-9]))
    with pytest.raises(InputError, match=r"random-seed0/metrics\.jsonl lacks the validation"):
        run_comparison(comparison(corpus), tmp_path / "out", workers=1)


@pytest.mark.parametrize("content", ['{"format": 2, "tok', "3", "full"])
def test_a_damaged_result_is_refused(
    corpus: Path, tmp_path: Path, finished: tuple[Path, list[Any]], content: str
) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    path = tmp_path / "out" / "full-seed1" / "result.json"
    if content == "full":
        content = json.dumps({k: v for k, v in read_json(path).items() if k != "config"})
    path.write_text(content)
    with pytest.raises(InputError, match=r"full-seed1/result\.json is damaged"):
        run_comparison(comparison(corpus), tmp_path / "out", workers=1)


def test_bad_input_is_refused_before_any_run(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file"):
        run_comparison(comparison(corpus), tmp_path / "file", workers=1)
    plan = comparison(corpus)
    assign(plan.common, "training.device", "tpu")
    with pytest.raises(InputError, match="tpu"):
        run_comparison(plan, tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_run_does_not_stop_the_others(
    corpus: Path, tmp_path: Path, finished: tuple[Path, list[Any]]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    shutil.rmtree(out / "full-seed1")
    (out / "full-seed1").mkdir()
    (out / "full-seed1" / "notes.txt").write_text("mine")
    (out / "random-seed1" / "result.json").unlink()
    with pytest.raises(InputError, match=r"^1 run\(s\) failed, .* full-seed1: .* no run$"):
        run_comparison(comparison(corpus), out, workers=1)
    assert (out / "random-seed1" / "result.json").exists()
    assert (out / "full-seed1" / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("one_process")
def test_a_killed_comparison_ends_in_the_same_table(
    corpus: Path, tmp_path: Path, finished: tuple[Path, list[Any]]
) -> None:
    out = tmp_path / "again"
    shutil.copytree(finished[0], out)
    # One run killed in the middle, one before it began; the others must not be touched.
    killed = out / "random-seed1"
    (killed / "result.json").unlink()
    shutil.rmtree(killed / "model")
    shutil.rmtree(killed / "checkpoints" / "step_000020")
    shutil.rmtree(out / "full-seed1")
    untouched = (out / "full-seed0" / "result.json").stat().st_mtime_ns
    results = run_comparison(comparison(corpus), out, workers=1)
    assert figures(results) == figures(finished[1])
    assert (out / "full-seed0" / "result.json").stat().st_mtime_ns == untouched


def test_a_result_of_another_config_is_refused(
    corpus: Path, finished: tuple[Path, list[Any]]
) -> None:
    before = tiny.snapshot(finished[0])
    other = comparison(corpus, seeds=1)
    assign(other.common, "optim.lr", 1e-4)
    budgets: tuple[Budget, ...] = ("equal-tokens", "equal-seconds")
    for budget in budgets:
        with pytest.raises(InputError, match="another config"):
            run_comparison(replace(other, budget=budget), finished[0], workers=1)
    assert tiny.snapshot(finished[0]) == before


OTHER_WAYS_TO_RECORD = {
    "data.licence": "cc-by-4.0",
    "training.log_every": 3,
    "training.samples": True,
    "training.save_every": 7,
    "training.keep_last": 1,
    "tracking.wandb": "offline",
    "tracking.project": "other",
}


@pytest.mark.usefixtures("one_process")
def test_keys_that_change_no_figure_repeat_no_run(
    corpus: Path, tmp_path: Path, finished: tuple[Path, list[Any]]
) -> None:
    """Finished runs are read whatever they are, and a run with other ones has the same figures."""
    assert OTHER_WAYS_TO_RECORD.keys() == CHANGES_NO_FIGURE
    before = {path: path.stat().st_mtime_ns for path in finished[0].glob("*/*.json")}
    for key, value in OTHER_WAYS_TO_RECORD.items():
        other = comparison(corpus)
        assign(other.common, key, value)
        check(replace(other, arms=(ARMS[0], Arm("random", overlay(ARMS[1].tree, other.common)))))
        assert figures(run_comparison(other, finished[0], workers=1)) == figures(finished[1]), key
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = comparison(corpus)
    for key, value in OTHER_WAYS_TO_RECORD.items():
        if key != "tracking.wandb":  # tests of its own compare its runs
            assign(other.common, key, value)
    assert figures(run_comparison(other, tmp_path, workers=1)) == figures(finished[1])


def test_a_key_that_a_result_lacks_has_its_default(
    corpus: Path, tmp_path: Path, finished: tuple[Path, list[Any]]
) -> None:
    """Results outlive a release that adds an option."""
    out = tmp_path / "older"
    shutil.copytree(finished[0], out)
    for path in out.glob("*/result.json"):
        result = read_json(path)
        del result["config"]["ohem"]["variance"]
        result["config"]["curriculum"]["metric"] = "length"  # of a curriculum that is off
        write_json(path, result)
    assert figures(run_comparison(comparison(corpus), out, workers=1)) == figures(finished[1])
    # Of a run from before stories were kept apart.
    training = {k: v for k, v in result["config"]["training"].items() if k != "attention"}
    write_json(path, result | {"config": result["config"] | {"training": training}})
    with pytest.raises(InputError, match="another config"):
        run_comparison(comparison(corpus), out, workers=1)
    ohem, curriculum = (dict(result["config"][name]) for name in ("ohem", "curriculum"))
    for change in ({"ohem": ohem | {"floor": 0.3}}, {"curriculum": curriculum | {"enabled": True}}):
        write_json(path, result | {"config": result["config"] | change})
        with pytest.raises(InputError, match="another config"):
            run_comparison(comparison(corpus), out, workers=1)


@pytest.mark.usefixtures("one_process")
def test_a_comparison_killed_by_a_signal_goes_on(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command, finished: tuple[Path, list[Any]]
) -> None:
    out = tmp_path / "killed"
    arms = ["--arm", "full:ohem.ratio=1.0", "--arm", "random:ohem.schedule=constant"]
    command = ["compare", *arms, "--seeds", "2", "--workers", "1", "--out", str(out),
               *tiny.flags(corpus)]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tinyohem_cli", *command],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(out.glob("*/result.json")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    first = out / "full-seed0" / "result.json"
    assert first.exists()
    written = first.stat().st_mtime_ns
    assert len(list(out.glob("*/result.json"))) < 4
    rest = tinyohem(*command)
    assert rest.code == 0, rest.err
    assert first.stat().st_mtime_ns == written
    ours, theirs = read_json(out / "table.json"), to_json(summarise(finished[1]))
    for mine, his in zip(ours, theirs, strict=True):
        for name in ("arm", "bits_per_byte", "perplexity", "difference", "gini", "kept"):
            assert mine[name] == his[name], name


def test_ctrl_c_stops_the_current_run_and_starts_no_other(corpus: Path, tmp_path: Path) -> None:
    """A terminal sends it to every process of the command."""
    arms = ["--arm", "full:ohem.ratio=1.0", "--arm", "random"]
    command = [sys.executable, "-m", "tinyohem_cli", "compare", *arms, "--seeds", "2",
               "--workers", "1", "--out", str(tmp_path),
               *tiny.flags(corpus, training__steps=50_000, training__eval_every=50_000,
                           training__save_every=50_000)]  # fmt: skip
    log = tmp_path / "full-seed0" / "metrics.jsonl"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not (log.exists() and log.read_text()) and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        while process.poll() is None and len(list(tmp_path.glob("*-seed*"))) == 1:
            time.sleep(0.02)
        assert [path.name for path in tmp_path.glob("*-seed*")] == ["full-seed0"]
        assert process.wait() == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert tiny.steps_kept(tmp_path / "full-seed0")  # nothing is lost


def test_sigterm_where_one_worker_trains_and_another_is_idle(corpus: Path, tmp_path: Path) -> None:
    """Fewer runs are left than there are workers, and a scheduler tells the parent alone."""
    out, log = tmp_path / "out", tmp_path / "log"
    (out / "full-seed0").mkdir(parents=True)
    (out / "full-seed0" / "notes.txt").write_text("mine")  # so its worker has nothing to do
    arms = ["--arm", "full:ohem.ratio=1.0", "--arm", "random"]
    command = [sys.executable, "-m", "tinyohem_cli", "compare", *arms, "--seeds", "1",
               "--workers", "2", "--out", str(out),
               *tiny.flags(corpus, training__steps=50_000, training__eval_every=50_000,
                           training__save_every=50_000)]  # fmt: skip
    metrics = out / "random-seed0" / "metrics.jsonl"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream)
    try:
        while not ("full-seed0" in log.read_text() and metrics.exists() and metrics.read_text()):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        process.terminate()
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
    assert "stopping: 1 run(s) save where they are" in log.read_text()
    assert tiny.steps_kept(out / "random-seed0")


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("equal-seconds", [10, 11, 12]), ("equal-seconds-free-selection", [8, 9, 10])],
)
def test_each_seed_gets_the_seconds_of_its_own_baseline(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget: Budget,
    expected: list[float],
) -> None:
    """A baseline that selects too is given no more than what it spent on the rest."""
    given: list[tuple[str, int, float | None]] = []

    def run_all(jobs: list[Any], *_: Any, **__: Any) -> list[FinishedRun]:
        given.extend((job.arm, job.seed, job.config.training.seconds) for job in jobs)
        return [
            FinishedRun(config={}, arm=job.arm, seed=job.seed, tokens_seen=1,
                        train_seconds=10.0 + job.seed, select_seconds=2.0)
            for job in jobs
        ]  # fmt: skip

    monkeypatch.setattr(compare, "_run_all", run_all)
    monkeypatch.setattr(compare, "_with_milestones", lambda results, *_: results)
    monkeypatch.setattr(compare, "write_tables", lambda *_: None)
    listener = tiny.Listener()
    results = run_comparison(comparison(corpus, budget, seeds=3), tmp_path, 2, listener)
    first, second, third = ((arm, s, None) for arm, s in (("full", 0), ("full", 1), ("full", 2)))
    timed = [("random", seed, seconds) for seed, seconds in enumerate(expected)]
    assert given == [first, second, *timed[:2], third, timed[2]]  # as close as workers allow
    assert [(run.arm, run.seed) for run in results] == [
        (arm, seed) for arm in ("full", "random") for seed in range(3)
    ]
    assert any("--workers 1" in warning for warning in listener.warnings)


@pytest.mark.usefixtures("one_process")
def test_selection_does_not_count_where_it_is_free(corpus: Path, tmp_path: Path) -> None:
    plan = comparison(corpus, "equal-seconds-free-selection", seeds=1)
    assign(plan.common, "training.log_every", 1)
    baseline, mined = run_comparison(plan, tmp_path, workers=1)
    assert baseline.select_seconds == 0 < mined.select_seconds
    assert mined.train_seconds - mined.select_seconds >= baseline.train_seconds
    rows = tiny.read_metrics(tmp_path / "random-seed0")
    for before in [row for row in rows if "train/loss" in row][:-1]:
        assert before["train/seconds"] - before["train/select_seconds"] < baseline.train_seconds


@pytest.mark.usefixtures("one_process")
def test_a_result_on_other_stories_is_refused(corpus: Path, tmp_path: Path) -> None:
    stories = tmp_path / "stories"
    shutil.copytree(corpus, stories)
    plan = comparison(stories, seeds=1)
    run_comparison(plan, tmp_path / "out", workers=1)
    lines = (stories / "valid.jsonl").read_text().splitlines(keepends=True)
    (stories / "valid.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="other stories"):
        run_comparison(plan, tmp_path / "out", workers=1)


@pytest.mark.usefixtures("one_process")
def test_arms_may_train_on_other_stories_where_all_are_scored_on_the_same(
    corpus: Path, tmp_path: Path
) -> None:
    lines = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    (half := tmp_path / "half.jsonl").write_text("".join(lines[: len(lines) // 2]))
    plan = comparison(corpus, seeds=1)
    arms = (*ARMS[:1], Arm("half", {"data": {"dataset": str(half)}}))
    with pytest.raises(InputError, match="the arm 'half' has other data"):
        check(replace(plan, arms=arms))
    assign(plan.common, "data.dataset", str(corpus / "train.jsonl"))
    assign(plan.common, "data.valid", str(corpus / "valid.jsonl"))
    check(replace(plan, arms=arms))
    full, other = run_comparison(replace(plan, arms=arms), tmp_path / "out", workers=1)
    assert (full.bytes, full.tokens_seen) == (other.bytes, other.tokens_seen)
    assert full.bits_per_byte != other.bits_per_byte
    alone = Arm("alone", {"data": {"dataset": str(half)}})
    (again, _) = run_comparison(replace(plan, arms=(alone, ARMS[1])), tmp_path / "alone", workers=1)
    assert again.bits_per_byte == other.bits_per_byte


def test_an_arm_with_more_tokens_is_refused(corpus: Path, tmp_path: Path) -> None:
    plan = comparison(corpus)
    longer = Arm("longer", {"training": {"steps": 21}})
    unfair = Comparison((*ARMS, longer), plan.seeds, plan.common)
    with pytest.raises(InputError, match="'longer' trains on 2,688 tokens, the baseline on 2,560"):
        run_comparison(unfair, tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_process")
def test_equal_seconds_end_within_one_step_of_the_baselines(corpus: Path, tmp_path: Path) -> None:
    plan = comparison(corpus, "equal-seconds", seeds=1)
    assign(plan.common, "training.log_every", 1)
    baseline, timed = run_comparison(plan, tmp_path, workers=1)
    budget = read_json(tmp_path / "random-seed0" / "config.json")["config"]["training"]["seconds"]
    assert budget == baseline.train_seconds
    rows = tiny.read_metrics(tmp_path / "random-seed0")
    seconds = [row["train/seconds"] for row in rows if "train/loss" in row]
    assert all(before < budget for before in seconds[:-1])
    assert budget <= seconds[-1] == timed.train_seconds


def test_the_command_writes_the_tables(
    tinyohem: tiny.Command, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "table"
    command = ["compare", "--arm", "full:ohem.ratio=1.0", "--arm", "ohem", "--seeds", 1,
               "--workers", 1, "--out", out, *tiny.flags(corpus, training__steps=4)]  # fmt: skip
    shown = tinyohem(*command, "--json")
    assert shown.code == 0, shown.err
    rows = json.loads(shown.out)
    assert [row["arm"] for row in rows] == ["full", "ohem"]
    assert rows == read_json(out / "table.json")
    assert "random" in shown.err
    assert "1 seed" in shown.err
    assert (out / "table.md").read_text().startswith("| arm |")
    again = tinyohem(*command)
    assert again.code == 0
    assert "too few seeds" in again.out
    assert "of it selection" in " ".join(again.out.split())
    assert "…" not in again.out  # nothing is cut at 80 columns

    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    judged = tinyohem(*command, "--equivalence", 0.005)
    assert "within ±0.005" in " ".join(judged.out.split())
    assert "…" not in judged.out
    found = json.loads(tinyohem(*command, "--equivalence", 0.005, "--json").out)
    assert found[0]["equivalence"] is None
    assert (found[1]["margin"], found[1]["equivalence"]["shown"]) == (0.005, None)
    assert found == read_json(out / "table.json")
    assert read_json(out / "comparison.json")["margin"] == 0.005
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    for bad in ("0", "-1", "nan", "inf"):
        refused = tinyohem(*command, "--equivalence", bad)
        assert refused.code == 2
        assert "is no margin above 0" in refused.err
