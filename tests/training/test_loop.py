"""The run as a whole: a bare loop gives the same losses, and whatever stops it loses nothing."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tinyohem.config.recipes import parse_literal
from tinyohem.errors import InputError, RunError
from tinyohem.io.json import read_json
from tinyohem.runs.record import run_config
from tinyohem.training import loop, take_step
from tinyohem.training import prepare as setup
from tinyohem.training.loop import train


def bare_losses(folder: Path, stories: Path, steps: int) -> list[float]:
    """Train as a reader of the recipe would write it down, and return the loss of every step."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = stories.read_text().splitlines()
    ids = np.concatenate([[0, *tokenizer(json.loads(line)["text"])["input_ids"]] for line in lines])
    order = np.random.default_rng([0, 0]).permutation((len(ids) - 1) // 32)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            initializer_range=16**-0.5,
        )
    )
    torch.nn.init.zeros_(model.model.layers[0].self_attn.o_proj.weight)
    torch.nn.init.zeros_(model.model.layers[0].mlp.down_proj.weight)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    losses = []
    for step in range(steps):
        at = (step + 0.5) / steps
        warm = min(1.0, at / 0.01)
        decay = 0.5 + 0.5 * math.cos(math.pi * max(0.0, at - 0.01) / 0.99)
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * warm * decay
        starts = order[4 * step : 4 * step + 4] * 32
        window = torch.tensor(np.stack([ids[start : start + 33] for start in starts]))
        inputs, places = window[:, :-1], torch.arange(32)
        # Positions that begin anew with every story: transformers then keeps stories apart.
        begins = torch.where(inputs == 0, places, 0).cummax(1).values
        logits = model(inputs, position_ids=places - begins, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


class TestPlainTraining:
    def test_training_equals_a_loop_written_by_hand(
        self, finished_run: Path, corpus: Path, tmp_path: Path
    ) -> None:
        train(tiny.config(corpus, training__log_every=1), tmp_path / "run")
        rows = tiny.read_metrics(tmp_path / "run")
        found = [row["train/loss"] for row in rows if "train/loss" in row]
        expected = bare_losses(finished_run / "model", corpus / "train.jsonl", steps=20)
        assert expected[-1] < expected[0] - 0.1
        assert found == pytest.approx(expected, rel=1e-5)

    def test_the_same_command_gives_the_same_weights(
        self, finished_run: Path, corpus: Path, tmp_path: Path
    ) -> None:
        train(tiny.config(corpus), tmp_path / "again")
        train(tiny.config(corpus, training__seed=1), tmp_path / "other")
        assert tiny.saved_hashes(tmp_path / "again") == tiny.saved_hashes(finished_run)
        assert tiny.saved_hashes(tmp_path / "other") != tiny.saved_hashes(finished_run)

    def test_a_run_folder_holds_what_scripts_rely_on(
        self, finished_run: Path, corpus: Path
    ) -> None:
        assert {path.name for path in finished_run.iterdir()} == {
            "config.json",
            "metrics.jsonl",
            "eval.json",
            "checkpoints",
            "model",
        }
        record = read_json(finished_run / "config.json")
        assert record["config"] == tiny.config(corpus).model_dump()
        assert record["num_steps"] == 20
        # Embedding, 4 attention and 3 MLP matrices, 3 norms.
        assert record["num_parameters"] == 320 * 16 + 4 * 16 * 16 + 3 * 16 * 32 + 3 * 16
        assert record["train"]["stories"] == 120
        torch_version = record["environment"]["packages"]["torch"]
        assert torch_version.startswith(torch.__version__.partition("+")[0])  # +cpu, +cu130

    @pytest.mark.parametrize(
        ("tokens", "steps"), [("640", 5), ("767", 5), ("1x", 7728 // 128), ("1", 1)]
    )
    def test_a_budget_of_tokens_is_spent(
        self, corpus: Path, tmp_path: Path, tokens: str, steps: int
    ) -> None:
        config = tiny.config(corpus, training__tokens=tokens, training__steps=None)
        run, _ = train(config, tmp_path / "run")
        assert (run.budget.steps, run.state.tokens_seen) == (steps, steps * 128)

    def test_eval_json_is_the_whole_validation_split(self, finished_run: Path) -> None:
        found = tiny.evaluate(finished_run).to_json()
        assert read_json(finished_run / "eval.json") == pytest.approx(found, rel=1e-12)


class TestStopping:
    def test_stop_at_step_ends_early_and_can_be_resumed(
        self, finished_run: Path, corpus: Path, tmp_path: Path
    ) -> None:
        run_dir = tmp_path / "run"
        run, perplexity = train(tiny.config(corpus, training__stop_at_step=7), run_dir)
        assert (run.state.step, run.finished, perplexity) == (7, False, None)
        assert tiny.steps_kept(run_dir) == [5, 7]
        assert not (run_dir / "eval.json").exists()
        assert not (run_dir / "model").exists()
        # Asked to stop where it stands: nothing happens, and nothing is lost.
        before = tiny.snapshot(run_dir / "checkpoints")
        again, _ = train(tiny.config(corpus, training__stop_at_step=3), run_dir, resume="must")
        assert again.state.step == 7
        assert tiny.snapshot(run_dir / "checkpoints") == before
        train(tiny.config(corpus), run_dir, resume="auto")
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)

    def test_a_run_from_before_stories_were_kept_apart_goes_on_as_it_began(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        across = {"training__attention": "window"}
        whole, run_dir = tmp_path / "whole", tmp_path / "run"
        train(tiny.config(corpus, **across), whole)
        train(tiny.config(corpus, training__stop_at_step=7, **across), run_dir)
        record = read_json(run_dir / "config.json")
        del record["config"]["training"]["attention"]  # what such a run has
        (run_dir / "config.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match="attention was window, now story"):
            train(tiny.config(corpus), run_dir, resume="auto")
        found = run_config(str(run_dir))
        assert found is not None
        assert found.training.attention == "window"
        train(tiny.config(corpus, **across), run_dir, resume="auto")
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(whole)

    @pytest.mark.parametrize("moment", ["validate", "log", "save"])
    def test_a_signal_at_any_moment_is_saved(
        self,
        finished_run: Path,
        corpus: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        moment: str,
    ) -> None:
        """Also one that comes once the loop has decided that this step saves nothing."""
        original = getattr(loop, moment)

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            original(*args, **kwargs)
            return False  # not the best yet: no reason of its own to save

        monkeypatch.setattr(loop, moment, interrupted)
        run_dir = tmp_path / "run"
        every = {"training__eval_every": 3, "training__log_every": 3, "training__save_every": 6}
        run, _ = train(tiny.config(corpus, **every), run_dir)
        assert 3 <= run.state.step <= 7
        assert (run_dir / "checkpoints" / "latest").read_text() == f"step_{run.state.step:06d}\n"
        monkeypatch.undo()
        train(tiny.config(corpus, **every), run_dir, resume="must")
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)

    def test_signal_handlers_are_restored(self, corpus: Path, tmp_path: Path) -> None:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.getsignal(number) for number in numbers]
        train(tiny.config(corpus, training__steps=1), tmp_path / "run")
        assert [signal.getsignal(number) for number in numbers] == before


class TestSignalsToTheProgram:
    STEPS = 250  # long enough for two signals to come before the end

    def interrupt(self, arguments: list[str], run_dir: Path, number: signal.Signals) -> list[str]:
        """Start the program, stop it once it has logged a new step; return its output's lines."""
        metrics = run_dir / "metrics.jsonl"
        logged = len(tiny.read_metrics(run_dir)) if metrics.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-m", "tinyohem_cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (metrics.exists() and metrics.read_text().count("\n") > logged):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        out, err = process.communicate(timeout=tiny.PATIENCE)
        assert process.returncode == 0, err
        assert "Traceback" not in err
        return out.splitlines()

    def test_it_saves_says_how_to_resume_and_loses_nothing(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        whole, run_dir = tmp_path / "whole", tmp_path / "my run"
        rhythm = {"training__log_every": 1, "training__save_every": 999, "training__eval_every": 99}
        recipe = {"training__steps": self.STEPS, **rhythm}
        train(tiny.config(corpus, **recipe), whole)
        first = ["train", *tiny.flags(corpus, **recipe), f"--out={run_dir}"]
        arguments, steps = first, [0]
        for number in (signal.SIGINT, signal.SIGTERM):
            stopped, go_on = self.interrupt(arguments, run_dir, number)
            latest = (run_dir / "checkpoints" / "latest").read_text().strip()
            steps.append(int(latest.removeprefix("step_")))
            assert tiny.read_metrics(run_dir)[-1]["step"] == steps[-1]
            assert stopped == f"stopped at step {steps[-1]} of 250; everything is saved"
            program, *arguments = shlex.split(go_on.removeprefix("go on with: "))
            assert (program, arguments) == ("tinyohem", [*first, "--resume", "auto"])
        assert steps[0] < steps[1] < steps[2] < self.STEPS
        assert tinyohem(*arguments).code == 0
        assert tiny.saved_hashes(run_dir, self.STEPS) == tiny.saved_hashes(whole, self.STEPS)
        logged = [row["step"] for row in tiny.read_metrics(run_dir) if "train/loss" in row]
        assert logged == list(range(1, self.STEPS + 1))


class TestNumbersThatBreak:
    def diverge(self, corpus: Path, run_dir: Path, **overrides: Any) -> RunError:
        with pytest.raises(RunError) as caught:
            train(tiny.config(corpus, **overrides), run_dir)
        return caught.value

    def test_the_step_its_stories_and_the_last_good_checkpoint_are_named(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, windows = take_step.training_step, []

        def broken(*args: Any, **kwargs: Any) -> Any:
            windows.append(args[1][0].input_ids)
            stats = original(*args, **kwargs)
            if len(windows) == 9:
                next(args[0].trunk.module.parameters()).grad.fill_(math.nan)
            return stats

        monkeypatch.setattr(take_step, "training_step", broken)
        run_dir = tmp_path / "run"
        error = self.diverge(corpus, run_dir, training__log_every=7)
        assert error.exit_code == 1
        assert error.hint
        assert "at step 9;" in error.message
        assert error.message.endswith(str(run_dir / "checkpoints" / "step_000005"))

        rows = [int(row) for row in error.message.partition("rows ")[2].split(";")[0].split(",")]
        tokenizer = AutoTokenizer.from_pretrained(run_dir / "checkpoints" / "step_000005" / "model")
        lines = (corpus / "train.jsonl").read_text().splitlines()
        told = "".join(json.loads(line)["text"] for line in lines)
        batch = "".join(json.loads(lines[row])["text"] for row in rows)
        for window in windows[8]:
            text = tokenizer.decode(window[window != 0]).strip("�")
            assert text in told  # the check itself is sound
            assert text in batch
        assert len(rows) <= 8  # four windows of 32 tokens meet two stories each at the most

        # Nothing broken was written.
        assert tiny.steps_kept(run_dir) == [5]
        assert not (run_dir / "model").exists()
        rows_logged = tiny.read_metrics(run_dir)
        assert max(row["step"] for row in rows_logged) == 7

    @pytest.mark.parametrize(
        "every",
        [
            {"training__log_every": 1},
            {"training__log_every": 100, "training__save_every": 100, "training__eval_every": 100},
            # Validation comes before the next step could tell that the weights are broken.
            {"training__eval_every": 1, "optim__lr": 3e38, "optim__warmup_fraction": 0.0},
        ],
        ids=["log", "end", "validation"],
    )
    def test_a_diverging_learning_rate_fails_the_run(
        self, corpus: Path, tmp_path: Path, every: dict[str, Any]
    ) -> None:
        run_dir = tmp_path / "run"
        error = self.diverge(corpus, run_dir, **{"optim__lr": 1e30, **every})
        assert "not finite at step" in error.message
        assert error.message.endswith("the last checkpoint is none")
        assert tiny.steps_kept(run_dir) == []
        assert not (run_dir / "eval.json").exists()
        assert not (run_dir / "model").exists()

    def test_a_loss_too_large_for_a_perplexity_is_still_a_loss(
        self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a model that is sure and wrong from its first step on: nothing has to diverge."""
        build = setup.build_model

        def sure(*args: Any) -> Any:
            model = build(*args)
            # The logits grow alone: a norm takes the scale out of the embedding, which is tied.
            model.get_output_embeddings().weight.data.mul_(10_000)
            return model

        monkeypatch.setattr(setup, "build_model", sure)
        run_dir = tmp_path / "run"
        train(tiny.config(corpus, training__steps=2, optim__lr=1e-9), run_dir)
        rows = [row for row in tiny.read_metrics(run_dir) if "val/loss" in row]
        assert 10 * math.log(sys.float_info.max) < rows[-1]["val/loss"] < math.inf
        assert rows[-1]["val/ppl"] is None
        judged = read_json(run_dir / "eval.json")
        assert judged["loss"] == pytest.approx(rows[-1]["val/loss"], rel=0.1)  # of all stories
        assert judged["perplexity"] is None

    def test_the_command_line_exits_with_1(
        self, corpus: Path, tmp_path: Path, tinyohem: tiny.Command
    ) -> None:
        result = tinyohem("train", *tiny.flags(corpus, optim__lr=1e30), "--out", tmp_path / "run")
        assert result.code == 1
        error, hint = result.err.splitlines()[-2:]
        assert error.startswith("error: the loss or its gradient is not finite at step ")
        assert hint.startswith("hint: lower optim.lr")
        assert result.out == ""


class TestResume:
    def test_never_refuses_an_existing_run(self, finished_run: Path, corpus: Path) -> None:
        before = tiny.snapshot(finished_run)
        with pytest.raises(InputError, match="already holds a run") as caught:
            train(tiny.config(corpus), finished_run)
        assert "--resume auto" in str(caught.value.hint)
        assert tiny.snapshot(finished_run) == before

    def test_never_refuses_a_folder_with_anything_in_it(self, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match="is not empty"):
            train(tiny.config(corpus), tmp_path)
        with pytest.raises(InputError, match=r"notes\.txt is a file"):
            train(tiny.config(corpus), tmp_path / "notes.txt")
        assert tiny.snapshot(tmp_path) == {"notes.txt": b"mine"}

    def test_must_needs_a_run(self, corpus: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no run in"):
            train(tiny.config(corpus), tmp_path / "run", resume="must")
        assert not (tmp_path / "run").exists()

    def test_auto_begins_where_there_is_nothing(
        self, finished_run: Path, corpus: Path, tmp_path: Path
    ) -> None:
        train(tiny.config(corpus), tmp_path / "run", resume="auto")
        assert tiny.saved_hashes(tmp_path / "run") == tiny.saved_hashes(finished_run)

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            ("optim.lr", 1e-3, "optim.lr was 0.004, now 0.001"),
            ("training.steps", 30, "training.steps was 20, now 30"),
            ("training.seed", 1, "training.seed was 0, now 1"),
            ("training.tokens", "1e6", 'training.tokens was 20x, now "1e6"'),
            ("optim.schedule", "wsd", "optim.schedule was cosine, now wsd"),
            ("ohem.ratio", 0.5, "ohem.ratio was 1.0, now 0.5"),
            ("model.hidden_size", 32, "model.hidden_size was 16, now 32"),
            ("tokenizer.vocab_size", 321, "tokenizer.vocab_size was 320, now 321"),
        ],
    )
    def test_another_config_is_refused_and_the_field_named(
        self, finished_run: Path, corpus: Path, key: str, value: Any, told: str
    ) -> None:
        before = tiny.snapshot(finished_run)
        for resume in ("auto", "must"):
            with pytest.raises(InputError, match="was made with another config") as caught:
                train(tiny.config(corpus, **{key: value}), finished_run, resume=resume)  # type: ignore[arg-type]
            assert told in caught.value.message
            given = (caught.value.hint or "").partition(" with ")[2].partition(", or ")[0]
            assignments = [word.partition("=") for word in shlex.split(given) if word != "--set"]
            restored = {name: parse_literal(text) for name, _, text in assignments}
            assert tiny.config(corpus, **({key: value} | restored)) == tiny.config(corpus)
        assert tiny.snapshot(finished_run) == before

    def test_what_does_not_change_the_weights_may_change(
        self, finished_run: Path, corpus: Path, tmp_path: Path
    ) -> None:
        run_dir = tmp_path / "run"
        train(tiny.config(corpus, training__stop_at_step=9), run_dir)
        free = {"log_every": 3, "eval_every": 4, "save_every": 8, "keep_last": 5}
        changed = {f"training.{key}": value for key, value in free.items()}
        train(tiny.config(corpus, **changed), run_dir, resume="must")
        assert tiny.saved_hashes(run_dir) == tiny.saved_hashes(finished_run)

    def test_a_finished_run_stays_as_it_is(
        self, finished_run: Path, corpus: Path, tmp_path: Path
    ) -> None:
        run_dir = tmp_path / "run"
        shutil.copytree(finished_run, run_dir)
        run, perplexity = train(tiny.config(corpus), run_dir, resume="auto")
        assert run.finished
        assert perplexity is not None
        before, after = tiny.snapshot(finished_run), tiny.snapshot(run_dir)
        assert before == after

    def test_stories_that_changed_are_refused(self, corpus: Path, tmp_path: Path) -> None:
        folder, run_dir = tmp_path / "corpus", tmp_path / "run"
        shutil.copytree(corpus, folder)
        train(tiny.config(folder, training__stop_at_step=3), run_dir)
        before = tiny.snapshot(run_dir)
        lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
        (folder / "train.jsonl").write_text("".join(lines[1:]))
        with pytest.raises(InputError, match="other stories or another tokenizer"):
            train(tiny.config(folder), run_dir, resume="must")
        assert tiny.snapshot(run_dir) == before

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"model_type": "llama"}', '{"config": {"a": 1}}']
    )
    def test_a_foreign_config_json_is_no_run(
        self, corpus: Path, tmp_path: Path, content: str
    ) -> None:
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=r"config\.json .*is no run's") as caught:
            train(tiny.config(corpus), tmp_path, resume="auto")
        assert caught.value.hint == "choose another --out"
        assert tiny.snapshot(tmp_path) == {"config.json": content.encode()}


def test_leftovers_of_a_killed_start_do_not_block_a_new_run(corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / ".model.1f2e3d4c.partial").mkdir(parents=True)
    (run_dir / ".config.json.0a1b2c3d.partial").write_text("{")
    run, perplexity = train(tiny.config(corpus, training__steps=2), run_dir, resume="auto")
    assert run.finished
    assert perplexity is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.partial").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train(tiny.config(corpus, training__steps=2), tmp_path / "other")
