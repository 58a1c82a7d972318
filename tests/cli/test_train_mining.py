"""`tinyohem train` with every way of mining, end to end: what the log says was kept."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tinyohem.training.reference import EmaReference

STEPS, TOKENS = 4, 4 * 32  # a step

# Flags, and the share of tokens that each of the steps must keep (None: drawn at random).
WAYS: dict[str, tuple[str, float | None]] = {
    "topk": ("--ohem-select topk --ohem-score loss_x_gradnorm --ohem-weight focal", 0.5),
    # Every token's loss is above the first limit, none above the second.
    "threshold": (
        "--ohem-select threshold --set ohem.loss_threshold=1e-9 --ohem-weight class_balanced",
        1.0,
    ),
    "fallback": ("--ohem-select threshold --set ohem.prob_threshold=1e-9", 0.5),
    "band": ("--ohem-select band --ohem-score loss", 0.5),
    "random": ("--ohem-select random --ohem-score gradnorm --ohem-weight ghm", 0.5),
    "importance": ("--ohem-select importance --ohem-score entropy", None),
    "stratified": ("--ohem-select stratified --ohem-score focal --ohem-weight none", 0.5),
    "mixed": ("--ohem-select mixed --ohem-score loss --ohem-scope sequence", 0.5),
}


def mine(
    tinyohem: tiny.Command, corpus: Path, run_dir: Path, *flags: str, **recipe: Any
) -> list[dict[str, Any]]:
    """Train for a few steps and return the log's row of each."""
    rhythm = {
        "training__log_every": 1,
        "training__eval_every": STEPS,
        "training__save_every": STEPS,
    }
    given = tiny.flags(corpus, training__steps=STEPS, **rhythm, **recipe)
    result = tinyohem("train", *given, *flags, "--out", run_dir, "--json")
    assert result.code == 0, result.err
    rows = [row for row in tiny.read_metrics(run_dir) if "train/loss" in row]
    assert json.loads(result.out)["tokens_selected"] == rows[-1]["train/tokens_selected"]
    return rows


@pytest.mark.parametrize("name", WAYS)
def test_every_selection_score_and_weight_trains_and_logs_what_it_kept(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command, name: str
) -> None:
    text, share = WAYS[name]
    constant = ("--ohem-ratio", "0.5", "--ohem-schedule", "constant")
    rows = mine(tinyohem, corpus, tmp_path / "run", *constant, *text.split())
    kept = [row["train/keep_ratio"] for row in rows]
    if share is None:
        expected = pytest.approx(0.5, abs=0.25)  # 5 standard deviations of so many coins
        assert len(set(kept)) > 1
    else:
        expected = share
    assert kept == [expected] * STEPS
    assert rows[-1]["train/tokens_selected"] == pytest.approx(sum(kept) * TOKENS)
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        assert 0 < row["train/effective_sample_size"] <= 1 + 1e-6
        assert 0 < row["train/kept_loss_share"] <= 1 + 1e-6
        buckets = ("below_1", "1_to_3", "3_to_5", "above_5")
        assert sum(row[f"train/kept_{bucket}"] for bucket in buckets) == pytest.approx(1)


def test_interrupt_trains_on_all_tokens_every_so_many_steps(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    ohem = {"ohem__ratio": 0.25, "ohem__schedule": "constant", "ohem__full_step_every": 2}
    rows = mine(tinyohem, corpus, tmp_path / "run", **ohem)
    assert [row["train/keep_ratio"] for row in rows] == [0.25, 1.0, 0.25, 1.0]


def test_adaptive_logs_the_ratio_that_it_chose(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    """Untrained, tokens have much the same gradient: 1/(1 + variance) of them are needed."""
    for variance, share in ((0.1, 1 / 1.1), (1.0, 0.5), (9.0, 0.3)):
        ohem = {"ohem__ratio": 0.3, "ohem__schedule": "adaptive", "ohem__variance": variance}
        rows = mine(tinyohem, corpus, tmp_path / f"run-{variance}", **ohem)
        kept = sum(row["train/keep_ratio"] for row in rows) / STEPS
        assert kept == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("select", ["topk", "importance"])
def test_a_score_that_breaks_ends_the_run_at_its_step(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tinyohem: tiny.Command,
    select: str,
) -> None:
    """All losses and gradients stay finite: without a check, NaN would pick the tokens."""
    original, calls = EmaReference.losses, []

    def losses(*arguments: Any) -> list[torch.Tensor]:
        calls.append(original(*arguments))
        if len(calls) == 3:
            calls[-1][0][1, 7] = math.nan
        return calls[-1]

    monkeypatch.setattr(EmaReference, "losses", losses)
    flags = tiny.flags(corpus, ohem__ratio=0.5, ohem__schedule="constant", training__log_every=5)
    mining = ("--ohem-score", "excess_loss", "--ohem-select", select)
    result = tinyohem("train", *flags, *mining, "--out", tmp_path / "run")
    assert result.code == 1
    assert "not finite at step 5;" in result.err.splitlines()[-2]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_reference_is_asked_only_where_tokens_are_ranked(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tinyohem: tiny.Command
) -> None:
    original, calls = EmaReference.losses, []

    def losses(*arguments: Any) -> list[torch.Tensor]:
        calls.append(None)
        return original(*arguments)

    monkeypatch.setattr(EmaReference, "losses", losses)
    ohem = {"ohem__ratio": 0.5, "ohem__schedule": "constant", "ohem__full_step_every": 2}
    flags = ("--ohem-score", "excess_loss", "--ohem-weight", "ghm")
    rows = mine(tinyohem, corpus, tmp_path / "run", *flags, **ohem)
    assert [row["train/keep_ratio"] for row in rows] == [1.0, 1.0, 0.5, 1.0]
    assert len(calls) == 1


def test_recover_returns_to_all_tokens_where_the_learning_rate_begins_to_fall(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    settings = {"ohem__ratio": 0.5, "ohem__schedule": "recover", "optim__decay_fraction": 0.5}
    rows = mine(tinyohem, corpus, tmp_path / "run", **settings)
    assert [row["train/keep_ratio"] for row in rows] == [1.0, 0.5, 1.0, 1.0]
    flags = tiny.flags(corpus, training__steps=STEPS, **settings)
    outlined = json.loads(tinyohem("train", *flags, "--dry-run", "--json").out)
    assert outlined["keep_ratios"] == [1.0, 1.0, 0.7, 0.5, 0.5] + [1.0] * 6


@pytest.mark.parametrize(("ratio", "told"), [(0.5, ["87.5%"]), (1.0, [])])
def test_the_end_says_how_many_tokens_got_a_gradient_in_all(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command, ratio: float, told: list[str]
) -> None:
    settings = {"ohem__ratio": ratio, "optim__decay_fraction": 0.5, "training__steps": STEPS}
    shown = tinyohem("train", *tiny.flags(corpus, **settings), "--out", tmp_path / "run")
    assert shown.code == 0, shown.err
    assert re.findall(r"(\S+) of the tokens got a gradient", shown.err) == told


@pytest.mark.parametrize("score", ["excess_loss", "lag"])
def test_a_running_mean_ranks_tokens_once_it_has_seen_its_horizon(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command, score: str
) -> None:
    ohem = {"ohem__ratio": 0.5, "ohem__schedule": "constant", "ohem__ema_horizon": 0.75}
    rows = mine(tinyohem, corpus, tmp_path / "run", "--ohem-score", score, **ohem)
    assert [row["train/keep_ratio"] for row in rows] == [1.0, 1.0, 1.0, 0.5]
    flags = tiny.flags(corpus, training__steps=STEPS, **ohem)
    outlined = tinyohem("train", *flags, "--ohem-score", score, "--dry-run", "--json")
    assert json.loads(outlined.out)["keep_ratios"] == [1.0] * 8 + [0.5] * 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--ohem-select threshold", "select threshold goes with loss_threshold"),
        ("--ohem-schedule adaptive", "schedule adaptive needs ratio < 1"),
        ("--recipe ohem --ohem-schedule adaptive", "schedule adaptive needs select = importance"),
        ("--set ohem.mix=topk=2", "mix 'topk=2': shares must not be negative"),
    ],
)
def test_options_that_contradict_each_other_give_one_error(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command, flags: str, message: str
) -> None:
    result = tinyohem("train", "--dataset", corpus, *flags.split(), "--out", tmp_path / "run")
    assert result.code == 2
    error, hint = result.err.splitlines()
    assert error.startswith(f"error: [ohem]: {message}")
    assert hint.startswith("hint: ")
    assert not (tmp_path / "run").exists()


def test_a_rate_that_falls_all_the_time_leaves_recover_no_step_to_mine(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    command = ["train", *tiny.flags(corpus, optim__decay_fraction=1), "--out", tmp_path / "run"]
    refused = tinyohem(*command, "--ohem-ratio", 0.5)
    assert refused.code == 2
    assert refused.err.startswith("error: ohem.schedule = recover keeps all tokens while the ")
    assert "with optim.decay_fraction = 1 no step is left to mine" in refused.err
    assert not (tmp_path / "run").exists()
    assert tinyohem(*command, "--dry-run").code == 0
    assert (
        tinyohem(*command, "--ohem-ratio", 0.5, "--ohem-schedule", "anneal", "--dry-run").code == 0
    )


def test_a_way_of_mining_without_a_ratio_is_warned_of(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    command = ("train", *tiny.flags(corpus, training__steps=1), "--out", tmp_path / "run")
    warned = tinyohem(*command, "--ohem-select", "band", "--ohem-schedule", "anneal", "--dry-run")
    assert warned.code == 0
    told = "every step keeps all tokens, so nothing comes of ohem.select, ohem.schedule; --ohem-r"
    assert told in " ".join(warned.err.split())
    silent = tinyohem(*command, "--ohem-select", "band", "--ohem-ratio", "0.5", "--dry-run")
    assert "nothing comes of" not in silent.err
    assert "nothing reads the pool" not in silent.err
    unread = tinyohem(*command, "--ohem-reference", "pool", "--ohem-ratio", "0.5", "--dry-run")
    assert "nothing reads the pool" in " ".join(unread.err.split())


def test_two_budgets_are_refused(corpus: Path, tmp_path: Path, tinyohem: tiny.Command) -> None:
    (recipe := tmp_path / "five.toml").write_text("[training]\nsteps = 5\n")
    for steps in (("--steps", "5"), ("--recipe", recipe)):
        result = tinyohem("train", "--tokens", "10k", *steps, "--out", tmp_path / "run")
        assert result.code == 2
        assert result.err.splitlines() == [
            "error: --tokens and training.steps are two budgets",
            "hint: give one of them",
        ]
    flags = tiny.flags(corpus, training__steps=5)  # by --set, which wins over flags
    outlined = tinyohem("train", *flags, "--tokens", "10k", "--dry-run", "--json")
    assert json.loads(outlined.out)["num_steps"] == 5


def test_a_dry_run_says_where_the_ratio_is_a_floor(
    corpus: Path, tmp_path: Path, tinyohem: tiny.Command
) -> None:
    command = ("train", *tiny.flags(corpus, training__steps=1), "--dry-run", "--ohem-ratio", "0.2")
    limit = ("--ohem-select", "threshold", "--set", "ohem.loss_threshold=2")
    for flags in (("--ohem-schedule", "adaptive"), limit):
        assert "tokens kept, at least" in tinyohem(*command, *flags).out
    queue = ("--ohem-select", "threshold", "--set", "ohem.queue_steps=2")  # which aims at the ratio
    for more in ((), queue, (*limit, "--set", "ohem.dedup=bigram")):
        assert "tokens kept, at least" not in tinyohem(*command, *more).out
