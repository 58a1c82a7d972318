"""`tinyohem compare`: its help, and `--dry-run`, which tells of a comparison and trains nothing."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import tiny

from tinyohem.config.recipes import assign
from tinyohem.config.run import RunConfig
from tinyohem.errors import InputError
from tinyohem.experiments import dry_run
from tinyohem.experiments.spec import Arm, Comparison
from tinyohem.training.dry_run import DryRun
from tinyohem.training.pauses import Pauses


def arguments(corpus: Path, out: Path, *more: object) -> list[object]:
    arms = ("--arm", "full:ohem.ratio=1.0", "--arm", "random", "--arm", "ohem")
    flags = tiny.flags(corpus, training__steps=12, training__save_every=3)
    return ["compare", *arms, "--workers", 2, "--out", out, *flags, *more]


@pytest.fixture
def a_second_a_step(one_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes a second for each step, two where a step mines."""
    real = dry_run.dry_run

    def timed(config: object) -> DryRun:
        plan = real(config)
        return replace(plan, seconds=plan.num_steps * (2.0 if min(plan.keep_ratios) < 1 else 1.0))

    monkeypatch.setattr(dry_run, "dry_run", timed)
    monkeypatch.setattr(Pauses, "share_of", lambda *_: 0.5)


def outlined(tinyohem: tiny.Command, *command: object) -> dict[str, object]:
    done = tinyohem(*command, "--dry-run", "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_dry_run_shows_arms_steps_and_time_and_writes_no_run(
    tinyohem: tiny.Command, corpus: Path, tmp_path: Path, a_second_a_step: None
) -> None:
    out = tmp_path / "out"
    outline = outlined(tinyohem, *arguments(corpus, out), "--seeds", "2")
    assert not out.exists()
    arms = {arm["arm"]: arm for arm in outline["arms"]}
    assert [arm["settings"] for arm in arms.values()] == [
        "",
        "ohem.ratio=0.5 ohem.select=random",
        "ohem.ratio=0.5",
    ]
    assert {(arm["steps"], arm["tokens"]) for arm in arms.values()} == {(12, 12 * 4 * 32)}
    assert [arm["seconds"] for arm in arms.values()] == [18, 36, 36]  # half as long again to score
    assert outline["seconds"] == 2 * (18 + 36 + 36) / 2  # two at a time
    assert (outline["seeds"], outline["workers"]) == ([0, 1], 2)

    shown = tinyohem(*arguments(corpus, out), "--seeds", "2", "--dry-run")
    row = r"random │ ohem.ratio=0.5 ohem.select=random │ 12 +│ 1,536 +│ 0:00:36"
    assert re.search(row, shown.out)
    assert "0 of 6 runs are finished; the other 6, 2 side by side, " in shown.out
    assert "take about 0:01:30 of training and scoring on this machine" in shown.out


@pytest.mark.parametrize(
    ("arms", "seeds", "workers", "together"),
    [(3, 2, 2, [0, 1, 2, 0]), (2, 1, 8, [0, 1]), (2, 3, 5, [0, 1, 0, 1, 0]), (2, 5, 1, [0, 1])],
)
def test_steps_are_timed_in_as_many_processes_as_will_train(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arms: int,
    seeds: int,
    workers: int,
    together: list[int],
) -> None:
    asked = []

    def in_turn(
        jobs: list[tuple[str, RunConfig]], work: object, workers: int
    ) -> Iterator[tuple[tuple[str, RunConfig], DryRun]]:
        asked.append(([name for name, _ in jobs], workers))
        for turn, job in enumerate(jobs):  # slower and slower
            yield job, replace(plan, seconds=float(turn))

    several = tuple(Arm(f"arm {n}", {"ohem": {"ratio": 1 - n / 10}}) for n in range(arms))
    comparison = Comparison(several, tuple(range(seeds)), common(corpus))
    plan = dry_run.dry_run(comparison.config(several[0], 0))
    monkeypatch.setattr(dry_run, "outcomes", in_turn)
    monkeypatch.setattr(Pauses, "share_of", lambda *_: 0.0)
    found = dry_run.outline_comparison(comparison, tmp_path / "out", workers)
    assert asked == [([f"arm {n}" for n in together], min(workers, arms * seeds))]
    turns = [[turn for turn, n in enumerate(together) if n == arm] for arm in range(arms)]
    assert [arm.seconds for arm in found.arms] == pytest.approx([mean(own) for own in turns])


def test_an_arm_that_cannot_train_is_refused_as_it_would_be_alone(
    corpus: Path, tmp_path: Path
) -> None:
    """In a process of its own, as the arms before it are timed."""
    pool = {"ratio": 0.5, "score": "excess_loss", "reference": str(tmp_path / "none")}
    arms = (Arm("full", {}), Arm("excess", {"ohem": pool}))
    outline = Comparison(arms, (0,), common(corpus))
    with pytest.raises(InputError, match="none") as refused:
        dry_run.outline_comparison(outline, tmp_path / "out", workers=1)
    assert "run(s) failed" not in refused.value.message
    assert "mine" in (refused.value.hint or "")


def common(corpus: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in {**tiny.RECIPE, "data.dataset": str(corpus)}.items():
        assign(tree, key, value)
    return tree


def test_a_dry_run_knows_what_is_finished_and_what_has_begun(
    tinyohem: tiny.Command, corpus: Path, tmp_path: Path, a_second_a_step: None
) -> None:
    out = tmp_path / "out"
    assert tinyohem(*arguments(corpus, out), "--seeds", "1").code == 0
    (out / "random-seed0" / "result.json").unlink()
    (out / "random-seed0" / "checkpoints" / "latest").write_text("step_000010")
    before = tiny.snapshot(out)
    outline = outlined(tinyohem, *arguments(corpus, out), "--seeds", "2")
    assert tiny.snapshot(out) == before
    told = {arm["arm"]: (arm["finished"], arm["begun"]) for arm in outline["arms"]}
    assert told == {"full": ([0], {}), "random": ([], {"0": 10}), "ohem": ([0], {})}
    assert outline["seconds"] == pytest.approx((18 + 36 + 36 + 36 / 6) / 2)
    shown = tinyohem(*arguments(corpus, out), "--seeds", "2", "--dry-run").out
    assert "0 (from step 10), 1" in shown
    assert "2 of 6 runs are finished" in shown

    refused = tinyohem(*arguments(corpus, out), "--set=optim.lr=0.1", "--dry-run")
    assert refused.code == 2
    assert "another config" in refused.err


def test_a_dry_run_of_equal_seconds_gives_the_others_the_baselines(
    tinyohem: tiny.Command, corpus: Path, tmp_path: Path, a_second_a_step: None
) -> None:
    command = [*arguments(corpus, tmp_path / "out"), "--seeds", "1", "--budget", "equal-seconds"]
    outline = outlined(tinyohem, *command)
    full, *others = outline["arms"]
    assert full["steps"] == 12
    assert all(arm["steps"] != 12 for arm in others)  # what fits into 12 s of a real step
