"""Resuming is exact, damage is found, and what is saved loads elsewhere."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyohem.config.model import Shape
from tinyohem.config.training import OptimConfig
from tinyohem.errors import InputError
from tinyohem.io.hashing import hash_file
from tinyohem.io.json import read_json, write_json
from tinyohem.io.manifest import read_sealed
from tinyohem.models.llama import build_model
from tinyohem.runs.checkpoints import (
    RunState,
    checkpoint_of,
    latest_checkpoint,
    newest_sound_checkpoint,
    tokens_seen,
)
from tinyohem.training.checkpoint import save_checkpoint
from tinyohem.training.loop import train
from tinyohem.training.optim import build_optimizers


@pytest.mark.parametrize(
    "ohem",
    [
        {"ohem__ratio": 1.0},
        {"ohem__ratio": 0.5, "ohem__schedule": "constant"},
        {"ohem__ratio": 0.5, "ohem__schedule": "constant", "ohem__select": "random"},
        {"ohem__ratio": 0.3, "ohem__scope": "sequence", "training__micro_batch_size": 2},
        {"optim__optimizer": "muon"},
        {"ohem__ratio": 0.5, "ohem__schedule": "adaptive", "training__micro_batch_size": 2},
        {"ohem__ratio": 0.5, "ohem__score": "excess_loss"},
        {
            "ohem__ratio": 0.5,
            "ohem__score": "lag",
            "ohem__schedule": "constant",
            "ohem__ema_horizon": 0.7,  # not ready where the run is stopped
        },
        {"ohem__weight": "ghm"},
        {"ohem__ratio": 0.5, "ohem__select": "threshold", "ohem__queue_steps": 3},
    ],
    ids=[
        *("plain", "topk", "random", "recover-micro", "muon"),
        *("adaptive", "self-reference", "lag", "ghm", "queue"),
    ],
)
def test_ten_steps_and_ten_more_are_twenty_to_the_last_bit(
    corpus: Path, tmp_path: Path, ohem: dict[str, Any]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = tiny.config(corpus, **ohem)
    run, perplexity = train(config, whole)
    stopped, nothing = train(tiny.config(corpus, training__stop_at_step=10, **ohem), parts)
    assert (stopped.state.step, nothing) == (10, None)
    assert tiny.saved_hashes(parts, 10) != tiny.saved_hashes(whole)

    torch.manual_seed(1234)  # whatever ran in between
    np.random.default_rng(5)
    resumed, resumed_perplexity = train(config, parts, resume="must")
    assert tiny.saved_hashes(parts) == tiny.saved_hashes(whole)
    assert hash_file(parts / "model" / "model.safetensors") == tiny.saved_hashes(whole)[0]
    assert resumed_perplexity == perplexity
    counters = ("step", "tokens_seen", "tokens_selected", "best_loss")
    for name in counters:
        assert getattr(resumed.state, name) == getattr(run.state, name)


class TestWhichAreKept:
    def save(self, run_dir: Path, step: int, *, best: bool = False, keep_last: int = 2) -> Path:
        model = build_model(Shape(8, 1, 1, 8), 11, 4, 0, seed=step)
        optimizers = build_optimizers(model, OptimConfig(lr=16e-3))
        state = RunState.at_start(step)
        return save_checkpoint(
            run_dir,
            model,
            NoTokenizer(),
            optimizers,
            state,
            remembered={},
            keep_last=keep_last,
            is_best=best,
        )

    def test_the_last_ones_and_the_best(self, tmp_path: Path) -> None:
        for step, best in ((1, True), (2, True), (3, False), (4, False), (5, False)):
            self.save(tmp_path, step, best=best)
        assert tiny.steps_kept(tmp_path) == [2, 4, 5]
        assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000005\n"
        assert (tmp_path / "checkpoints" / "best").read_text() == "step_000002\n"
        assert [p.name for p in tmp_path.rglob("*.partial")] == []

    def test_a_step_that_fell_back_is_the_newest_and_stays(self, tmp_path: Path) -> None:
        """After a resume from step 1 past a damaged step 9, the next save is step 3."""
        self.save(tmp_path, 1, best=True)
        damaged = self.save(tmp_path, 9, keep_last=1)
        (damaged / "state.json").unlink()
        self.save(tmp_path, 3, keep_last=1)
        assert 3 in tiny.steps_kept(tmp_path)
        assert newest_sound_checkpoint(tmp_path, tiny.Listener()).name == "step_000003"  # type: ignore[union-attr]

    def test_a_million_steps_come_after_the_ones_before(self, tmp_path: Path) -> None:
        for step in (999_998, 999_999, 1_000_000):
            self.save(tmp_path, step)
        assert tiny.steps_kept(tmp_path) == [999_999, 1_000_000]
        found = newest_sound_checkpoint(tmp_path, tiny.Listener())
        assert found is not None
        assert found.name == "step_1000000"

    def test_a_run_keeps_what_its_recipe_says(self, finished_run: Path) -> None:
        assert tiny.steps_kept(finished_run) == [15, 20]  # of 5, 10, 15, 20


class NoTokenizer:
    def save_pretrained(self, folder: Path) -> None: ...


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another_count(path: Path) -> None:
    """Change one digit of a number that still makes sense."""
    path.write_text(path.read_text().replace('"tokens_seen": 2', '"tokens_seen": 3'))


class TestPointers:
    """`latest` and `best` are for people: no run depends on them."""

    @pytest.fixture
    def run_dir(self, finished_run: Path, tmp_path: Path) -> Path:
        shutil.copytree(finished_run, tmp_path / "run")
        return tmp_path / "run"

    @pytest.mark.parametrize(
        "content", [None, b"", b"\xff\xfe", b"step_000099", b"../../elsewhere", b"step_0000", b"\0"]
    )
    def test_a_lost_or_damaged_pointer_does_not_stop_a_resumption(
        self, run_dir: Path, corpus: Path, finished_run: Path, content: bytes | None
    ) -> None:
        folder = run_dir / "checkpoints"
        shutil.rmtree(folder / "step_000020")
        for name in ("latest", "best"):
            (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        assert latest_checkpoint(run_dir) == folder / "step_000015"
        assert tokens_seen(run_dir) == 15 * 128
        if content is not None:
            with pytest.raises(InputError, match="latest names no checkpoint"):
                checkpoint_of(folder / "latest", tiny.Listener())
        train(tiny.config(corpus), run_dir, resume="must")
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)
        assert (folder / "latest").read_text() == "step_000020\n"

    def test_other_folders_beside_the_checkpoints_are_left_alone(
        self, run_dir: Path, corpus: Path
    ) -> None:
        (run_dir / "checkpoints" / "step_000020.bak").mkdir()
        listener = tiny.Listener()
        found = newest_sound_checkpoint(run_dir, listener)
        assert found == run_dir / "checkpoints" / "step_000020"
        assert listener.warnings == []

    def test_a_checkpoint_of_an_earlier_version_is_sound(self, run_dir: Path) -> None:
        """It listed its tensor files alone and had no hash of the list."""
        path = run_dir / "checkpoints" / "step_000020" / "state.json"
        state = read_sealed(path)
        tensors = ("model/model.safetensors", "optimizer.safetensors")
        write_json(path, {**state, "sha256": {name: state["sha256"][name] for name in tensors}})
        assert newest_sound_checkpoint(run_dir, tiny.Listener()) == path.parent

    def test_the_newest_checkpoint_does_not_depend_on_file_times(
        self, run_dir: Path, corpus: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The clock of the machine was put back by years, and goes on going back."""
        shutil.rmtree(run_dir / "checkpoints" / "step_000020")
        for age, path in enumerate(sorted(run_dir.rglob("*"))):
            os.utime(path, (2e9 - 1e6 * age, 2e9 - 1e6 * age))
        backward = iter(range(10**9, 0, -1000))
        monkeypatch.setattr("time.time", lambda: float(next(backward)))
        run, _ = train(tiny.config(corpus), run_dir, resume="must")
        assert run.state.step == 20
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)
        assert run.state.train_seconds > 0
        rows = [row["train/seconds"] for row in tiny.read_metrics(run_dir)]
        assert rows == sorted(rows)


class TestDamage:
    @pytest.mark.parametrize(
        ("file", "damage"),
        [
            ("model/model.safetensors", cut),
            ("model/model.safetensors", flip),
            ("model/model.safetensors", Path.unlink),
            ("optimizer.safetensors", cut),
            ("optimizer.safetensors", flip),
            ("state.json", cut),
            ("state.json", Path.unlink),
            ("state.json", another_count),
            ("model/config.json", flip),
            ("model/tokenizer.json", Path.unlink),
        ],
    )
    def test_a_damaged_newest_checkpoint_is_passed_over_and_named(
        self,
        finished_run: Path,
        corpus: Path,
        tmp_path: Path,
        file: str,
        damage: Callable[[Path], None],
    ) -> None:
        run_dir = tmp_path / "run"
        shutil.copytree(finished_run, run_dir)
        newest = run_dir / "checkpoints" / "step_000020"
        damage(newest / file)
        listener = tiny.Listener()
        train(tiny.config(corpus), run_dir, resume="auto", progress=listener)
        (warning,) = listener.warnings
        assert f"{newest} is damaged" in warning
        assert f"resuming from {run_dir / 'checkpoints' / 'step_000015'}" in listener.notes
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)

    @pytest.mark.parametrize("resume", ["auto", "must"])
    def test_if_every_one_is_damaged_nothing_is_touched(
        self, finished_run: Path, corpus: Path, tmp_path: Path, resume: Any
    ) -> None:
        run_dir = tmp_path / "run"
        shutil.copytree(finished_run, run_dir)
        for step in tiny.steps_kept(run_dir):
            cut(run_dir / "checkpoints" / f"step_{step:06d}" / "optimizer.safetensors")
        before = tiny.snapshot(run_dir)
        with pytest.raises(InputError, match="is damaged") as caught:
            train(tiny.config(corpus), run_dir, resume=resume)
        assert caught.value.hint == "start again with another --out"
        assert tiny.snapshot(run_dir) == before


class TestExport:
    def test_transformers_gives_the_logits_of_the_run(self, corpus: Path, tmp_path: Path) -> None:
        run, _ = train(tiny.config(corpus, training__steps=3), tmp_path / "run")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
        text = "Once upon a time there was a café 🐶."
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        assert ids.tolist() == [run.data.tokenizer(text)["input_ids"]]
        assert tokenizer.decode(ids[0]) == text
        with torch.no_grad():
            assert torch.equal(model(ids).logits, run.model.eval()(ids).logits)

    def test_it_is_ready_to_generate(self, finished_run: Path) -> None:
        folder = finished_run / "model"
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        assert embedding.weight.data_ptr() == head.weight.data_ptr()
        assert embedding.weight.shape == (320, 16)
        end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        generation = read_json(folder / "generation_config.json")
        for name in ("bos", "eos", "pad"):
            assert getattr(tokenizer, f"{name}_token_id") == end == 0
            assert getattr(model.generation_config, f"{name}_token_id") == end
            assert generation[f"{name}_token_id"] == end
        assert (model.config.bos_token_id, model.config.eos_token_id) == (end, end)
        assert model.config.max_position_embeddings == 32
        assert len(tokenizer) == model.config.vocab_size
