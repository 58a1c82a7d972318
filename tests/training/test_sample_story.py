"""A sample story shows what a model writes, and leaves no trace in what it learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tinyohem.models.generate import generate
from tinyohem.models.source import load_source
from tinyohem.training.loop import train

# Both draw random numbers in every step: the selection, and the noise that ties are broken by.
DRAWS: dict[str, Any] = {"ohem__ratio": 0.5, "ohem__select": "importance"}


def told(run_dir: Path) -> list[tuple[int, str]]:
    """Return step and text of every sample in a run's log."""
    lines = (run_dir / "samples.jsonl").read_text().splitlines()
    return [(row["step"], row["text"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize("way", [{}, DRAWS])
def test_a_run_ends_with_the_same_bits(corpus: Path, tmp_path: Path, way: dict[str, Any]) -> None:
    for name, samples in (("with", True), ("without", False)):
        train(tiny.config(corpus, training__samples=samples, **way), tmp_path / name)
    assert tiny.saved_hashes(tmp_path / "with") == tiny.saved_hashes(tmp_path / "without")
    assert [step for step, _ in told(tmp_path / "with")] == [10, 20]
    assert not (tmp_path / "without" / "samples.jsonl").exists()
    rows = (tiny.read_metrics(tmp_path / name) for name in ("with", "without"))
    losses = ([row["val/loss"] for row in of_run if "val/loss" in row] for of_run in rows)
    assert next(losses) == next(losses)


def test_a_sample_is_what_generate_writes(corpus: Path, tmp_path: Path) -> None:
    listener = tiny.Listener()
    config = tiny.config(corpus, training__samples=True, training__seed=7)
    train(config, tmp_path / "run", progress=listener)
    ((_, _), (_, last)) = told(tmp_path / "run")
    source = load_source(str(tmp_path / "run"), "cpu")
    sampling = {"temperature": 0.8, "top_k": 0, "top_p": 0.95}
    (story,) = generate(source, [""], max_new_tokens=60, seed=7, **sampling)
    assert last == story.text
    assert f"step 20: the model writes: {last}" in listener.notes


def test_a_resumed_run_writes_no_sample_twice(corpus: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny.config(corpus, training__samples=True), whole)
    train(tiny.config(corpus, training__samples=True, training__stop_at_step=15), parts)
    with (parts / "samples.jsonl").open("a") as log:  # of a step whose checkpoint was lost
        log.write('{"step": 18, "text": "lost"}\n')
    train(tiny.config(corpus, training__samples=True), parts, resume="must")
    assert told(parts) == told(whole)


def test_a_model_that_cannot_write_does_not_end_its_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def broken(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("no")

    monkeypatch.setattr(LlamaForCausalLM, "generate", broken)
    listener = tiny.Listener()
    config = tiny.config(corpus, training__samples=True)
    run, _ = train(config, tmp_path / "run", progress=listener)
    assert run.finished
    assert listener.warnings == ["no sample story: this model cannot continue a text: no"] * 2
