"""`tinyohem eval-perplexity --by … --calibration`: what people and scripts read."""

import json
import shutil
from pathlib import Path

import pytest
import tiny

PLAIN = {
    *("loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"),
    *("tokens", "words", "bytes", "stories", "lost_story_share", "unknown_token_share"),
}
BY_ALL = ("--by", "difficulty,loss, frequency")


def test_json_holds_groups_and_calibration_beside_the_figures(
    tinyohem: tiny.Command, finished_run: Path
) -> None:
    result = tinyohem(
        "eval-perplexity", finished_run, *BY_ALL, "--calibration", "--stride=16", "--json"
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert set(found) == PLAIN | {"by", "calibration", "difficulty_metric"}
    assert found["difficulty_metric"] == "flesch"
    assert list(found["by"]) == ["loss", "frequency", "difficulty"]
    for groups in found["by"].values():
        assert sum(group["tokens"] for group in groups) == found["tokens"]
        assert set(groups[0]) == {"name", "tokens", "loss", "share_of_loss", "perplexity"}
    assert found["calibration"]["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert found["calibration"]["loss_at_best"] <= found["loss"]


def test_roles_and_places_have_shares_and_intervals(
    tinyohem: tiny.Command, finished_run: Path
) -> None:
    result = tinyohem("eval-perplexity", finished_run, "--by", "role,position", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert list(found["by"]) == ["role", "position"]
    for groups in found["by"].values():
        assert sum(group["tokens"] for group in groups) == found["tokens"]
        assert sum(group["share_of_tokens"] for group in groups) == pytest.approx(1)
        nats = sum(group["tokens"] * group["loss"] for group in groups)
        assert nats == pytest.approx(found["tokens"] * found["loss"], rel=1e-9)
        assert groups[0]["low"] < groups[0]["loss"] < groups[0]["high"]
    shown = tinyohem("eval-perplexity", finished_run, "--by", "role,position")
    words = " ".join(shown.out.split())
    assert "By the role of the token's word in its story, the first that fits" in words
    assert "±" in words
    assert "…" not in words


def test_eval_json_holds_the_figures_alone(
    tinyohem: tiny.Command, finished_run: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / "run")
    (run_dir / "eval.json").unlink()
    assert tinyohem("eval-perplexity", run_dir, "--by", "loss").code == 0
    assert set(json.loads((run_dir / "eval.json").read_text())) == PLAIN


def test_a_checkpoint_is_scored_and_stays_as_it_is(
    tinyohem: tiny.Command, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny.snapshot(finished_run)
    whole = tinyohem("eval-perplexity", finished_run, "--json").out
    assert tinyohem("eval-perplexity", finished_run / "checkpoints/latest", "--json").out == whole
    monkeypatch.chdir(finished_run / "checkpoints")
    assert tinyohem("eval-perplexity", "step_000020", "--json").out == whole
    assert tiny.snapshot(finished_run) == before


def test_every_group_and_the_calibration_have_a_table(
    tinyohem: tiny.Command, finished_run: Path
) -> None:
    result = tinyohem("eval-perplexity", finished_run, *BY_ALL, "--calibration", "--stride=16")
    assert result.code == 0
    assert "share of the loss" in result.out
    for row in (">5", "top 10", "10 (hardest)", "best temperature", "(flesch), in tenths"):
        assert row in result.out


def test_scores_without_difficulty_are_refused(tinyohem: tiny.Command, finished_run: Path) -> None:
    for option in ("--scores", "--metric"):
        result = tinyohem("eval-perplexity", finished_run, option, "mtld")
        assert (result.code, result.out) == (2, "")
        assert "hint: add --by difficulty" in result.err


def test_another_grouping_is_refused(tinyohem: tiny.Command, finished_run: Path) -> None:
    result = tinyohem("eval-perplexity", finished_run, "--by", "loss,colour")
    assert (result.code, result.out) == (2, "")
    assert "error: tokens cannot be grouped by 'colour'" in result.err
    assert "hint: use loss, frequency, difficulty, role, position" in result.err
