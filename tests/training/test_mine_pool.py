"""Mining: the losses are those of a direct forward pass; no stop or damage costs a whole pass."""

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tinyohem.data.prepare import prepare_data
from tinyohem.data.token_store import TokenStore
from tinyohem.errors import InputError, RunError
from tinyohem.io.hashing import hash_file
from tinyohem.io.manifest import read_sealed
from tinyohem.models.causal_lm import weights_hash
from tinyohem.ohem import loss_pool as pool
from tinyohem.ohem.loss_pool import open_pool
from tinyohem.system.signals import StopRequest
from tinyohem.training import mine_pool as mine
from tinyohem.training.loop import train
from tinyohem.training.mine_pool import Mined, mine_pool
from tinyohem.training.mine_run import mine_run

SHARD_TOKENS = 4_000  # 125 windows of 32


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SHARD_TOKENS", SHARD_TOKENS)
    monkeypatch.setattr(mine, "_CPU_PASS_TOKENS", 50 * 32)


@pytest.fixture(scope="module")
def store(corpus: Path) -> TokenStore:
    config = tiny.config(corpus)
    return prepare_data(config.data, config.tokenizer).train


@pytest.fixture
def mined(finished_run: Path, tmp_path: Path) -> Path:
    """The pool of a finished run. Its losses belong to the run's own stories."""
    mine_run(str(finished_run), tmp_path / "pool", data={}, device="cpu")
    return tmp_path / "pool"


def remine(run: Path, folder: Path, listener: Any = None) -> Mined:
    return mine_run(str(run), folder, data={}, device="cpu", progress=listener or tiny.Listener())


def shard_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("shard_*"))}


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard_*")}


class TestLosses:
    def test_they_are_those_of_a_direct_pass_over_each_window(
        self, finished_run: Path, mined: Path, store: TokenStore
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model").double()
        ids = torch.from_numpy(store.ids.astype(np.int64))
        # A story, or its part in a window, is read by itself.
        cuts = {*range(0, store.num_tokens - 1, 32), *store.offsets.tolist()[:-1]}
        bounds = [*sorted(cuts), store.num_tokens - 1]
        assert (store.num_tokens - 1) % 32  # the end is a window of its own
        parts = []
        for start, end in pairwise(bounds):
            with torch.no_grad():
                logits = model(ids[None, start:end]).logits[0]
            parts.append(F.cross_entropy(logits, ids[start + 1 : end + 1], reduction="none"))
        losses = torch.cat(parts).numpy()
        found = open_pool(mined, store, 32, "story").losses
        # Half a step of float16, and the float32 of the forward pass.
        np.testing.assert_allclose(found, losses, rtol=2**-11 + 1e-5, atol=2e-6)

    def test_the_manifest_names_model_tokens_and_windows(
        self, finished_run: Path, mined: Path, store: TokenStore
    ) -> None:
        manifest = read_sealed(mined / "manifest.json")
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        assert manifest.pop("shards") == [hash_file(path) for path in sorted(mined.glob("shard_*"))]
        assert manifest == {
            "format": 1,
            "tokenizer": store.manifest.tokenizer,
            "ids_sha256": store.manifest.ids_sha256,
            "tokens": store.num_tokens,
            "context": {"rule": "stories in windows", "seq_len": 32},
            "weights_sha256": weights_hash(model),
            "tokens_seen": 20 * 4 * 32,
            "shard_windows": 125,
        }

    def test_a_pass_ends_with_the_mean_of_all_losses(
        self, finished_run: Path, mined: Path, store: TokenStore
    ) -> None:
        result = remine(finished_run, mined)
        losses = np.asarray(open_pool(mined, store, 32, "story").losses, dtype=np.float64)
        assert result.loss == pytest.approx(losses.mean(), rel=1e-12)
        assert (result.tokens, result.new_tokens) == (store.num_tokens - 1, 0)

    def test_weights_hash_tells_models_apart(self, finished_run: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        before = weights_hash(model)
        assert weights_hash(AutoModelForCausalLM.from_pretrained(finished_run / "model")) == before
        with torch.no_grad():
            model.model.norm.weight[3] += 1e-6
        assert weights_hash(model) != before

    def test_dropout_is_off_while_mining_and_on_again_after(
        self, store: TokenStore, tmp_path: Path
    ) -> None:
        config = GPT2Config(vocab_size=320, n_positions=32, n_embd=16, n_layer=1, n_head=2)
        model = GPT2LMHeadModel(config).train()
        head = store.head(900)
        for name in "ab":
            mine_pool(model, head, tmp_path / name, seq_len=32, story_start=None, tokens_seen=None)
        assert tiny.snapshot(tmp_path / "a") == tiny.snapshot(tmp_path / "b")
        assert model.training

    def test_a_broken_model_is_refused_and_nothing_is_listed(
        self, store: TokenStore, finished_run: Path, tmp_path: Path
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        with torch.no_grad():
            model.model.norm.weight[0] = torch.nan
        with pytest.raises(RunError, match="not finite"):
            mine_pool(model, store, tmp_path / "pool", seq_len=32, story_start=0, tokens_seen=0)
        with pytest.raises(InputError, match="unfinished"):
            open_pool(tmp_path / "pool", store, 32, "story")


class TestSources:
    def test_a_run_a_checkpoint_and_a_pointer_are_the_same_model(
        self, finished_run: Path, mined: Path, tmp_path: Path
    ) -> None:
        checkpoints = finished_run / "checkpoints"
        for i, name in enumerate((checkpoints / "step_000020", checkpoints / "latest")):
            mine_run(str(name), tmp_path / str(i), data={}, device="cpu")
            assert tiny.snapshot(tmp_path / str(i)) == tiny.snapshot(mined)

    def test_an_earlier_checkpoint_is_younger_in_tokens(
        self, finished_run: Path, mined: Path, tmp_path: Path
    ) -> None:
        earlier = finished_run / "checkpoints" / "step_000015"
        result = mine_run(str(earlier), tmp_path / "earlier", data={}, device="cpu")
        assert result.manifest.tokens_seen == 15 * 4 * 32
        whole = read_sealed(mined / "manifest.json")
        assert result.manifest.weights_sha256 != whole["weights_sha256"]

    def test_any_other_model_needs_a_data_set_and_has_no_age(
        self, finished_run: Path, corpus: Path, mined: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(finished_run / "model", tmp_path / "exported")
        for name, age in ((finished_run / "model", 20 * 4 * 32), (tmp_path / "exported", None)):
            out = tmp_path / f"{name.name}-pool"
            with pytest.raises(InputError, match="no data set to mine"):
                mine_run(str(name), out, data={}, device="cpu")
            result = mine_run(str(name), out, data={"dataset": str(corpus)}, device="cpu")
            assert result.manifest.tokens_seen == age
            assert shard_bytes(out) == shard_bytes(mined)

    def test_the_runs_own_stories_count_unless_another_data_set_is_named(
        self, corpus: Path, finished_run: Path, mined: Path, tmp_path: Path
    ) -> None:
        """`--valid` of the run decides which stories it trained on, so the pool's, too."""
        file = corpus / "train.jsonl"
        given = {"data__valid": str(corpus / "valid.jsonl"), "training__steps": 1}
        tokenizer = {"tokenizer__name": str(finished_run / "model")}
        train(tiny.config(file, **given, **tokenizer), tmp_path / "run")
        whole = {"dataset": str(file), "valid": str(corpus / "valid.jsonl")}
        run = str(tmp_path / "run")
        counts = [
            mine_run(run, tmp_path / str(i), data=data, device="cpu").tokens
            for i, data in enumerate(
                [{}, {"dataset": str(file)}, whole, {"dataset": f"{file.parent}/train*.jsonl"}]
            )
        ]
        assert counts[0] == counts[1] == counts[2] > counts[3]  # some are held out

    def test_windows_must_fit_the_model(self, finished_run: Path, tmp_path: Path) -> None:
        for seq_len in (1, 33):
            with pytest.raises(InputError, match="do not fit") as caught:
                mine_run(str(finished_run), tmp_path / "p", data={}, seq_len=seq_len, device="cpu")
            assert "--seq-len 32" in str(caught.value.hint)
        result = mine_run(str(finished_run), tmp_path / "p", data={}, seq_len=16, device="cpu")
        assert result.manifest.context.seq_len == 16

    def test_a_damaged_checkpoint_is_passed_over_or_refused(
        self, finished_run: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(finished_run, run)
        weights = run / "checkpoints" / "step_000020" / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        listener = tiny.Listener()
        assert remine(run, tmp_path / "pool", listener).manifest.tokens_seen == 15 * 4 * 32
        assert "step_000020" in listener.warnings[0]
        with pytest.raises(InputError, match="step_000020 is damaged"):
            remine(weights.parents[1], tmp_path / "other")


class TestStops:
    def test_finished_shards_are_not_mined_again(
        self, finished_run: Path, mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stopped, passes = tmp_path / "stopped", []
        original = mine._losses

        def stopping(*args: Any) -> Any:
            passes.append(args)
            if len(passes) == 8:  # three passes a shard: in the middle of the third
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(mine, "_losses", stopping)
        with pytest.raises(KeyboardInterrupt):
            remine(finished_run, stopped)
        first = shard_times(stopped)
        assert len(first) == 2
        result = remine(finished_run, stopped)
        assert result.tokens - result.new_tokens == 2 * SHARD_TOKENS
        assert shard_times(stopped).items() >= first.items()
        assert tiny.snapshot(stopped) == tiny.snapshot(mined)

    def test_a_stop_request_is_checked_between_passes(
        self, finished_run: Path, store: TokenStore, mined: Path, tmp_path: Path
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        stop, tokens = StopRequest(), []

        class Asking(tiny.Listener):
            def advance(self, done: int, fields: object = None) -> None:
                tokens.append(done)
                stop.requested = done >= SHARD_TOKENS

        with pytest.raises(KeyboardInterrupt):
            mine_pool(
                model,
                store,
                tmp_path / "stopped",
                seq_len=32,
                story_start=0,
                tokens_seen=20 * 4 * 32,
                stop=stop,
                progress=Asking(),
            )
        assert tokens == [1600, 3200, 4000]
        remine(finished_run, tmp_path / "stopped")
        assert tiny.snapshot(tmp_path / "stopped") == tiny.snapshot(mined)

    @pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
    def test_a_damaged_shard_is_named_and_only_it_is_mined_again(
        self, finished_run: Path, mined: Path, store: TokenStore, damage: str
    ) -> None:
        before, times = tiny.snapshot(mined), shard_times(mined)
        shard = mined / "shard_0000001.f16.zst"
        content = bytearray(shard.read_bytes())
        content[100] ^= 4
        shard.write_bytes(content if damage == "flip" else content[:-10])
        if damage == "delete":
            shard.unlink()
        with pytest.raises(InputError, match="shard_0000001") as caught:
            open_pool(mined, store, 32, "story")
        assert "tinyohem mine" in str(caught.value.hint)
        assert remine(finished_run, mined).new_tokens == SHARD_TOKENS
        assert tiny.snapshot(mined) == before
        changed = {name for name, when in shard_times(mined).items() if times[name] != when}
        assert changed == {shard.name}

    def test_a_pool_that_lost_its_list_gets_it_back(self, finished_run: Path, mined: Path) -> None:
        before = tiny.snapshot(mined)
        manifest = read_sealed(mined / "manifest.json")
        for shards in (None, ["0" * 64], ["../x"] * len(manifest["shards"])):
            (mined / "manifest.json").write_text(json.dumps({**manifest, "shards": shards}))
            remine(finished_run, mined)
            assert tiny.snapshot(mined) == before

    def test_it_goes_on_with_the_shards_that_are_there_whatever_their_size(
        self, finished_run: Path, mined: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool, "SHARD_TOKENS", 2 * SHARD_TOKENS)
        before = tiny.snapshot(mined)
        assert remine(finished_run, mined).new_tokens == 0
        assert tiny.snapshot(mined) == before


class TestOtherFolders:
    def test_existing_files_are_not_touched(
        self, finished_run: Path, mined: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "a.txt").write_text("mine")
        shutil.copytree(mined, tmp_path / "broken")
        (tmp_path / "broken" / "manifest.json").write_text("{")
        before = tiny.snapshot(tmp_path)
        for name, told in (
            ("file", "is a file"),
            ("notes", "is not empty and holds no pool"),
            ("broken", "holds no pool that can be read"),
        ):
            with pytest.raises(InputError, match=told):
                remine(finished_run, tmp_path / name)
        earlier = finished_run / "checkpoints" / "step_000015"
        with pytest.raises(InputError, match="holds another pool") as caught:
            remine(earlier, mined)
        assert caught.value.hint == "choose another --out"
        assert tiny.snapshot(tmp_path) == before


_PROGRAM = """
import sys, time
from pathlib import Path
from tinyohem.ohem import loss_pool
from tinyohem.training import mine_pool, mine_run

loss_pool.SHARD_TOKENS, mine_pool._CPU_PASS_TOKENS = 4_000, 50 * 32
losses = mine_pool._losses
mine_pool._losses = lambda *args: (time.sleep(0.05), losses(*args))[1]
mine_run.mine_run(sys.argv[1], Path(sys.argv[2]), data={}, device="cpu")
"""


def test_kill_9_costs_no_finished_shard(finished_run: Path, mined: Path, tmp_path: Path) -> None:
    program, folder = tmp_path / "mine.py", tmp_path / "killed"
    program.write_text(_PROGRAM)
    process = subprocess.Popen([sys.executable, str(program), str(finished_run), str(folder)])
    while len(shard_times(folder)) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = shard_times(folder)
    assert 2 <= len(there) < len(shard_times(mined))
    (folder / ".shard_0000009.f16.zst.0123abcd.partial").write_bytes(b"half")  # as a kill may leave

    result = remine(finished_run, folder)
    assert shard_times(folder).items() >= there.items()
    assert result.tokens - result.new_tokens == len(there) * SHARD_TOKENS
    assert tiny.snapshot(folder) == tiny.snapshot(mined)
