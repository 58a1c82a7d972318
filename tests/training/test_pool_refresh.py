"""Training with a pool: what it is read for, when it is re-mined, and that resuming is exact."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from tinyohem.data.prepare import prepare_data
from tinyohem.data.token_store import TokenStore
from tinyohem.errors import InputError
from tinyohem.io.json import read_json, write_json
from tinyohem.io.manifest import read_sealed
from tinyohem.models.causal_lm import weights_hash
from tinyohem.ohem.loss_pool import open_pool
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.step_tokens import Draw, StepTokens
from tinyohem.training import mine_pool as mine
from tinyohem.training import pool_refresh as run_pool
from tinyohem.training import prepare as setup
from tinyohem.training import take_step
from tinyohem.training.dry_run import dry_run
from tinyohem.training.loop import train
from tinyohem.training.mine_run import mine_run

Train = Callable[..., Path]
REFRESHED = {"ohem__pool_refresh_every": 6, "ohem__hard_window_share": 0.25}
EXCESS = {"ohem__ratio": 0.5, "ohem__schedule": "constant", "ohem__score": "excess_loss"}
RARELY = {"training__eval_every": 99, "training__save_every": 99, "training__keep_last": 99}
A_STEP = 4 * 32  # tokens


@pytest.fixture(scope="module", autouse=True)
def _small_shards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyohem.ohem.loss_pool.SHARD_TOKENS", 4_000)
        patch.setattr(mine, "_CPU_PASS_TOKENS", 1_600)  # three passes a shard
        yield


@pytest.fixture(scope="module")
def store(corpus: Path) -> TokenStore:
    config = tiny.config(corpus)
    return prepare_data(config.data, config.tokenizer).train


@pytest.fixture(scope="module")
def pool(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of a finished run. Read it, do not write into it."""
    folder = tmp_path_factory.mktemp("pools") / "pool"
    mine_run(str(finished_run), folder, data={}, device="cpu")
    return folder


def train_by(pool: Path, corpus: Path, run_dir: Path, progress: Any = None, **more: Any) -> Path:
    """Train by excess loss over the pool, or go on with that."""
    settings = {"ohem__reference": str(pool), **EXCESS, **RARELY, **more}
    progress = progress or tiny.Listener()
    train(tiny.config(corpus, **settings), run_dir, resume="auto", progress=progress)
    return run_dir


@pytest.fixture
def run_to(corpus: Path, pool: Path, tmp_path: Path) -> Train:
    """Train by excess loss over the pool into a folder of this name."""
    return lambda name, **more: train_by(pool, corpus, tmp_path / name, **more)


@pytest.fixture(scope="module")
def refreshed(corpus: Path, pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that re-mined its pool three times on the way. Read it, do not write into it."""
    return train_by(pool, corpus, tmp_path_factory.mktemp("runs") / "refreshed", **REFRESHED)


def aged(pool: Path, folder: Path, tokens_seen: int | None) -> str:
    """Copy a pool as if it had been mined after so many training tokens."""
    shutil.copytree(pool, folder)
    manifest = read_sealed(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "tokens_seen": tokens_seen})
    return str(folder)


def own_pools(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in run.glob("pools/*"))


def record_tokens(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which every step adds what it read of its tokens."""
    read, original = [], TokenMiner.token_weights

    def recording(self: TokenMiner, tokens: StepTokens, draw: Draw) -> Any:
        read.append(tokens)
        return original(self, tokens, draw)

    monkeypatch.setattr(TokenMiner, "token_weights", recording)
    return read


class TestReference:
    @pytest.mark.parametrize("micro_batch", [4, 2])
    def test_the_score_is_the_loss_less_the_stored_one(
        self,
        run_to: Train,
        pool: Path,
        store: TokenStore,
        monkeypatch: pytest.MonkeyPatch,
        micro_batch: int,
    ) -> None:
        read = record_tokens(monkeypatch)
        run_to("run", training__steps=3, training__micro_batch_size=micro_batch)
        order = np.random.default_rng([0, 0]).permutation((store.num_tokens - 1) // 32)
        stored = np.asarray(open_pool(pool, store, 32, "story").losses, dtype=np.float32)
        assert len(read) == 3
        for step, tokens in enumerate(read):
            windows = order[4 * step : 4 * step + 4]
            reference = np.stack([stored[w * 32 : w * 32 + 32] for w in windows])
            assert torch.equal(tokens.score_BT, tokens.loss_BT - torch.from_numpy(reference))
            assert torch.equal(tokens.reference_BT, torch.from_numpy(reference))
            assert tokens.input_ids_BT[:, 0].tolist() == store.ids[windows * 32].tolist()

    def test_a_pool_of_the_model_itself_leaves_rounding_only(
        self, run_to: Train, finished_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the weights are the checkpoint's, a token's excess is a half step of float16."""
        read = record_tokens(monkeypatch)
        trained = AutoModelForCausalLM.from_pretrained(finished_run / "model")
        monkeypatch.setattr(setup, "build_model", lambda *_: trained)
        run_to("run", training__steps=1)
        assert read[0].score_BT.abs().max() < 16 * 2**-11

    def test_mixed_takes_its_shares_by_the_schedule(
        self, run_to: Train, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shares: list[dict[str, float]] = []
        original = take_step.training_step

        def recording(lm: Any, batches: Any, draw: Draw, *rest: Any) -> Any:
            shares.append(draw.shares)
            return original(lm, batches, draw, *rest)

        monkeypatch.setattr(take_step, "training_step", recording)
        mix = "0:random=1; 0.5:topk=0.5,random=0.5; 1:topk=0.6,pool=0.4"
        run_to("run", ohem__score="loss", ohem__select="mixed", ohem__mix=mix, training__steps=4)
        # At the middle of the steps: 1/8, 3/8, 5/8, 7/8.
        expected = [(0.125, 0.875, 0), (0.375, 0.625, 0), (0.525, 0.375, 0.1), (0.575, 0.125, 0.3)]
        found = [[s[name] for name in ("topk", "random", "pool")] for s in shares]
        np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_an_ema_reference_needs_no_pool_and_resumes_exactly(self, run_to: Train) -> None:
        """`--ohem-reference ema` needs no pool and resumes exactly."""
        whole = run_to("whole", ohem__reference="ema")
        run_to("parts", ohem__reference="ema", training__stop_at_step=10)
        parts = run_to("parts", ohem__reference="ema")
        assert tiny.saved_hashes(parts) == tiny.saved_hashes(whole)
        assert tiny.saved_hashes(run_to("pool")) != tiny.saved_hashes(whole)


class TestHardWindows:
    def test_a_share_of_every_batch_is_the_pools_hardest_tenth(
        self, run_to: Train, pool: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[list[int]] = []
        original = take_step.WindowSource.batch

        def recording(self: Any, windows: Any) -> Any:
            seen.append(windows.tolist())
            return original(self, windows)

        monkeypatch.setattr(take_step.WindowSource, "batch", recording)
        run = run_to(
            "run",
            ohem__hard_window_share=0.25,
            ohem__ratio=1.0,
            ohem__score="loss",
            training__steps=30,
        )
        num_windows = (store.num_tokens - 1) // 32
        losses = np.asarray(open_pool(pool, store, 32, "story").losses, dtype=np.float64)
        means = losses[: num_windows * 32].reshape(num_windows, 32).mean(axis=1)
        hardest = set(np.argsort(-means, kind="stable")[: round(num_windows / 10)].tolist())
        order = np.random.default_rng([0, 0]).permutation(num_windows).tolist()
        assert [batch[:3] for batch in seen] == [order[i : i + 3] for i in range(0, 90, 3)]
        hard = [batch[3] for batch in seen]
        assert len(set(hard)) == 30
        assert set(hard) <= hardest
        state = read_json(run / "checkpoints" / "step_000030" / "state.json")
        assert state["tokens_seen"] == state["tokens_selected"] == 30 * A_STEP

    def test_a_dry_run_shows_them(self, corpus: Path, pool: Path) -> None:
        settings = {"ohem__reference": str(pool), "ohem__hard_window_share": 0.5}
        plain = dry_run(tiny.config(corpus))
        outline = dry_run(tiny.config(corpus, **settings))
        assert outline.first_windows[:2] == plain.first_windows[:2]
        assert outline.first_windows[2] != plain.first_windows[2]
        assert outline.num_tokens == plain.num_tokens


class TestRefresh:
    def test_the_pool_is_mined_under_the_weights_of_its_step(
        self, refreshed: Path, store: TokenStore
    ) -> None:
        assert own_pools(refreshed) == [6, 12, 18]
        for step in (6, 12, 18):
            checkpoint = refreshed / "checkpoints" / f"step_{step:06d}"  # ahead of the pass
            manifest = read_json(refreshed / "pools" / f"step_{step:06d}" / "manifest.json")
            model = AutoModelForCausalLM.from_pretrained(checkpoint / "model")
            assert manifest["weights_sha256"] == weights_hash(model)
            assert manifest["tokens_seen"] == step * A_STEP
            state = read_json(checkpoint / "state.json")
            assert state["pool_step"] == step - 6
            open_pool(refreshed / "pools" / f"step_{step:06d}", store, 32, "story")

    @pytest.mark.parametrize("stop", [3, 6, 10])
    def test_it_resumes_to_the_last_bit(self, run_to: Train, refreshed: Path, stop: int) -> None:
        run_to("parts", **REFRESHED, training__stop_at_step=stop)
        parts = run_to("parts", **REFRESHED)
        assert tiny.saved_hashes(parts) == tiny.saved_hashes(refreshed)

    def test_a_refresh_changes_the_weights(self, run_to: Train, refreshed: Path) -> None:
        stale = run_to("stale", ohem__hard_window_share=0.25)
        assert tiny.saved_hashes(stale) != tiny.saved_hashes(refreshed)

    def test_a_stop_in_the_middle_of_a_pass_keeps_its_shards(
        self, run_to: Train, refreshed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, passes = mine._losses, []

        def interrupted(*args: Any) -> Any:
            passes.append(args)
            if len(passes) == 8:  # in the third shard
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args)

        monkeypatch.setattr(mine, "_losses", interrupted)
        run = run_to("run", **REFRESHED)
        assert tiny.steps_kept(run) == [6]
        shards = {p: p.stat().st_mtime_ns for p in (run / "pools" / "step_000006").glob("shard*")}
        assert len(shards) == 2
        run_to("run", **REFRESHED)
        assert {path: path.stat().st_mtime_ns for path in shards} == shards
        assert tiny.saved_hashes(run) == tiny.saved_hashes(refreshed)

    def test_a_damaged_checkpoint_falls_back_to_the_pool_of_the_one_before(
        self, refreshed: Path, run_to: Train, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(refreshed, run)
        for step in (20, 18):
            path = run / "checkpoints" / f"step_{step:06d}" / "optimizer.safetensors"
            path.write_bytes(path.read_bytes()[:-1])
        listener = tiny.Listener()
        run_to("run", **REFRESHED, progress=listener)
        assert f"resuming from {run}/checkpoints/step_000012" in listener.notes
        assert tiny.saved_hashes(run) == tiny.saved_hashes(refreshed)

    def test_a_pool_ahead_of_the_checkpoint_is_not_trusted(
        self, run_to: Train, refreshed: Path
    ) -> None:
        """A stretch that a kill threw away may have had other weights."""
        run = run_to("run", **REFRESHED, training__stop_at_step=10)
        shutil.copytree(refreshed / "pools" / "step_000018", run / "pools" / "step_000012")
        run_to("run", **REFRESHED)
        assert tiny.saved_hashes(run) == tiny.saved_hashes(refreshed)

    def test_it_waits_until_a_step_reads_the_pool(self, run_to: Train) -> None:
        knots = "0:1,0.5:1,0.5:0.5,1:0.5"
        run = run_to("run", ohem__pool_refresh_every=4, ohem__schedule=knots)
        assert own_pools(run) == [10, 14, 18]

    def test_hard_windows_are_drawn_from_the_new_pool(
        self, run_to: Train, pool: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        original = take_step.WindowSource.batch

        def recording(self: Any, windows: Any) -> Any:
            seen.append(int(windows[3]))
            return original(self, windows)

        monkeypatch.setattr(take_step.WindowSource, "batch", recording)
        run = run_to("run", **REFRESHED)
        for step in (6, 12, 18):
            own = open_pool(
                run / "pools" / f"step_{step:06d}", store, 32, "story"
            ).hardest_windows()
            assert set(seen[step : step + 6]) <= set(own.tolist())
        given = open_pool(pool, store, 32, "story").hardest_windows()
        assert not set(seen[6:]) <= set(given.tolist())

    def test_pools_that_no_checkpoint_goes_back_to_are_dropped(self, run_to: Train) -> None:
        settings = {"ohem__pool_refresh_every": 3, "training__keep_last": 1}
        assert own_pools(run_to("run", **settings)) == [15, 18]  # 15: of the checkpoint before 18

    def test_its_time_is_training_time(
        self, run_to: Train, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = run_pool.mine_pool

        def slow(*args: Any, **kwargs: Any) -> Any:
            time.sleep(0.3)
            return original(*args, **kwargs)

        monkeypatch.setattr(run_pool, "mine_pool", slow)
        run = run_to("run", ohem__pool_refresh_every=2, training__steps=3)
        state = read_json(run / "checkpoints" / "step_000003" / "state.json")
        assert state["train_seconds"] > state["select_seconds"] > 0.3


class TestAge:
    def test_a_pool_that_would_grow_too_old_is_refused_before_anything_is_written(
        self, run_to: Train, pool: Path, tmp_path: Path
    ) -> None:
        old = aged(pool, tmp_path / "old", 15 * A_STEP)  # 5 steps behind at the end
        for max_age in (5 * A_STEP - 1, "639"):
            with pytest.raises(InputError, match="would be 640 tokens old") as caught:
                run_to("run", ohem__reference=old, ohem__pool_max_age=max_age)
            assert "--pool-refresh-every" in str(caught.value.hint)
        assert not (tmp_path / "run").exists()
        run_to("run", ohem__reference=old, ohem__pool_max_age=5 * A_STEP)

    def test_an_unknown_age_cannot_be_kept(self, run_to: Train, pool: Path, tmp_path: Path) -> None:
        unknown = aged(pool, tmp_path / "unknown", None)
        for more in ({}, {"ohem__pool_refresh_every": 5}):
            with pytest.raises(InputError, match="does not say on how many tokens"):
                run_to("run", ohem__reference=unknown, ohem__pool_max_age="1M", **more)
        run_to("run", ohem__reference=unknown, training__steps=1)

    def test_a_pool_that_is_too_old_is_refreshed_where_allowed(
        self, run_to: Train, pool: Path, tmp_path: Path
    ) -> None:
        old = aged(pool, tmp_path / "old", 5 * A_STEP)
        refreshed = {"ohem__pool_refresh_every": 1000, "ohem__pool_max_age": 5 * A_STEP}
        run = run_to("run", ohem__reference=old, **refreshed)
        assert own_pools(run) == [11, 17]  # six steps after 5, six after 11


class TestOtherPools:
    def test_another_pool_in_its_place_stops_a_resumption(
        self, run_to: Train, pool: Path, tmp_path: Path
    ) -> None:
        given = tmp_path / "pool"
        shutil.copytree(pool, given)
        run = run_to("run", ohem__reference=str(given), training__stop_at_step=4)
        before = tiny.snapshot(run)
        shutil.rmtree(given)
        aged(pool, given, 1)
        with pytest.raises(InputError, match="made with another pool"):
            run_to("run", ohem__reference=str(given))
        shutil.rmtree(given)
        with pytest.raises(InputError, match="holds no pool"):
            run_to("run", ohem__reference=str(given))
        assert tiny.snapshot(run) == before

    def test_a_damaged_pool_of_the_runs_own_is_named(self, run_to: Train) -> None:
        settings = {"ohem__pool_refresh_every": 4}
        run = run_to("run", **settings, training__stop_at_step=6)
        shard = run / "pools" / "step_000004" / "shard_0000000.f16.zst"
        shard.write_bytes(shard.read_bytes()[:-1])
        before = tiny.snapshot(run)
        with pytest.raises(InputError, match=r"pools/step_000004/shard_0000000") as caught:
            run_to("run", **settings)
        assert "new run" in str(caught.value.hint)
        assert tiny.snapshot(run) == before

    def test_a_pool_that_nothing_reads_is_not_opened(self, run_to: Train, tmp_path: Path) -> None:
        plain = {"ohem__score": "loss", "training__steps": 1}
        run_to("run", ohem__reference=str(tmp_path / "nowhere"), **plain)


class TestConfig:
    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"ohem__select": "mixed", "ohem__mix": "topk=0.5,pool=0.5"}, "mix with the source"),
            ({"ohem__hard_window_share": 0.25}, "hard_window_share needs reference"),
            ({"ohem__pool_refresh_every": 5}, "pool_refresh_every needs reference"),
            ({"ohem__pool_max_age": "1M"}, "pool_max_age needs reference"),
            ({"ohem__reference": "p", "ohem__pool_max_age": "5x"}, "a count of tokens such as 1M"),
            ({"ohem__reference": "p", "ohem__pool_max_age": "soon"}, "is not a number of tokens"),
            ({"ohem__reference": "p", "ohem__pool_max_age": 0}, "greater than or equal to 1"),
            (
                {"ohem__reference": "p", "ohem__hard_window_share": 0.1},
                "is 0 of training.batch_size",
            ),
            (
                {"ohem__reference": "p", "ohem__hard_window_share": 0.9},
                "is 4 of training.batch_size",
            ),
            (
                {
                    "ohem__reference": "p",
                    "ohem__hard_window_share": 0.5,
                    "curriculum__enabled": True,
                },
                "both choose windows",
            ),
            (
                {"ohem__reference": "p", "ohem__pool_max_age": "1M", "training__seconds": 5},
                "needs pool_refresh_every, or a budget in tokens",
            ),
            ({"ohem__mix": "0:topk=1;0.5:topk=0.7"}, "sum to 1"),
        ],
    )
    def test_contradictory_pool_options_are_refused(
        self, corpus: Path, settings: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(InputError) as caught:
            tiny.config(corpus, **settings)
        assert told in caught.value.message

    def test_an_age_is_a_count_of_tokens(self, corpus: Path) -> None:
        for age in ("1.5M", "1500k", 1_500_000, "1500000"):
            config = tiny.config(corpus, ohem__reference="p", ohem__pool_max_age=age)
            assert config.ohem.pool_max_age == 1_500_000
            assert json.loads(config.model_dump_json())["ohem"]["pool_max_age"] == 1_500_000

    def test_shares_that_end_at_random_do_not_bias_the_end(self, corpus: Path) -> None:
        settings = {"ohem__ratio": 0.5, "ohem__schedule": "constant", "ohem__select": "mixed"}
        for mix, biases in (("0:topk=1;1:random=1", False), ("0:random=1;1:topk=1", True)):
            assert tiny.config(corpus, **settings, ohem__mix=mix).ohem.biases_the_end == biases
