"""Run folders that nobody trained: what the report's tests read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyohem.config.run import validate_config

MakeRun = Callable[..., Path]
ROWS = 20
STEP_TOKENS = 4 * 32


def train_row(step: int, *, loss: float, keep: float = 1.0, **more: float) -> dict[str, Any]:
    """Return a row as the loop writes it every few steps."""
    return {
        "step": step,
        "train/loss": loss,
        "train/keep_ratio": keep,
        "train/loss_threshold": 2.0 * (1 - keep),
        "train/grad_norm": 0.5 + 1 / step,
        "train/lr": 0.004 * (1 - step / (10 * ROWS)),
        "train/tokens_per_second": 20_000.0 + step,
        "train/tokens_seen": step * STEP_TOKENS,
        "train/tokens_selected": round(step * STEP_TOKENS * keep),
        "train/seconds": 0.5 * step,
        **{f"train/{name}": value for name, value in more.items()},
    }


def metrics(level: float = 0.0, keep: float = 1.0) -> list[dict[str, Any]]:
    """Return the rows of a run; with `keep` below 1 its middle is mined."""
    rows = []
    for index in range(1, ROWS + 1):
        step, mined = 10 * index, keep if 6 <= index <= 14 else 1.0
        loss = level + 3 + 4 * math.exp(-index / 4)
        shares = {"kept_below_1": 0.4 * mined, "kept_1_to_3": 0.3, "kept_3_to_5": 0.2}
        shares["kept_above_5"] = 1 - sum(shares.values())
        shares |= {"kept_loss_share": mined**0.4, "effective_sample_size": mined}
        rows.append(train_row(step, loss=loss, keep=mined, **shares))
        if index % 4 == 0:
            rows.append(
                {
                    "step": step,
                    "val/loss": loss + 0.1,
                    "val/ppl": math.exp(loss + 0.1),
                    "val/bpb": (loss + 0.1) / 3,
                    "train/seconds": 0.5 * step,
                }
            )
    return rows


def evaluation(level: float = 0.0) -> dict[str, float]:
    """Return what stands in eval.json."""
    loss = 3.1 + level
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 3}


@pytest.fixture(scope="session")
def make_log() -> Callable[..., list[dict[str, Any]]]:
    """Give `metrics`, for the rows of a run that stopped early."""
    return metrics


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """Write a run folder without a model; keyword arguments change its parts."""

    def make(
        folder: Path,
        *,
        level: float = 0.0,
        keep: float = 1.0,
        rows: list[dict[str, Any]] | None = None,
        finished: bool = True,
        valid: dict[str, Any] | None = None,
        **settings: dict[str, Any],
    ) -> Path:
        folder.mkdir(parents=True)
        tree = {"training": {"batch_size": 4, "seq_len": 32, **settings.pop("training", {})}}
        split = {
            "name": "stories",
            "split": "train",
            "stories": 10,
            "tokens": 1000,
            "part": "all",
            "clean": False,
            "corpus": "c" * 64,
            "tokenizer": "t" * 64,
            "ids_sha256": "1" * 64,
        }
        record = {
            "config": validate_config({**tree, **settings}).model_dump(),
            "num_parameters": 158_448,
            "num_steps": 10 * ROWS,
            "train": split,
            "valid": {**split, "split": "validation", **(valid or {})},
            "environment": {"device": "cpu", "cores": 2, "packages": {"torch": "2.13.0"}},
        }
        (folder / "config.json").write_text(json.dumps(record))
        log = metrics(level, keep) if rows is None else rows
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
        if finished:
            (folder / "eval.json").write_text(json.dumps(evaluation(level)))
        return folder

    return make


def result(arm: str, seed: int, bits: float) -> dict[str, Any]:
    """Return what `compare` records of a run."""
    return {
        "arm": arm,
        "seed": seed,
        "bits_per_byte": bits,
        "perplexity": math.exp(3 * bits),
        "hardest_tenth": 8.0,
        "easiest_half": 1.0,
        "gini": 0.1,
        "tokens_seen": 1000,
        "tokens_selected": 775,
        "train_seconds": 100.0,
        "select_seconds": 5.0,
        "steps_to_baseline": None,
        "seconds_to_baseline": None,
        "steps_to_halfway": None,
        "seconds_to_halfway": None,
    }


BITS = {"full": (1.02, 1.03, 1.01), "random": (1.05, 1.065, 1.044), "ohem": (1.021, 1.028, 1.012)}


@pytest.fixture(scope="session")
def comparison(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison of three arms with three seeds. Only read it."""
    from tinyohem.experiments.folder import RunResult
    from tinyohem.experiments.table import write_tables
    from tinyohem.io.manifest import check_record

    folder = tmp_path_factory.mktemp("runs") / "compared"
    results = [result(arm, s, bits) for arm, all_ in BITS.items() for s, bits in enumerate(all_)]
    for r in results:
        make_run(
            folder / f"{r['arm']}-seed{r['seed']}",
            level=10 * (r["bits_per_byte"] - 1),
            keep=1.0 if r["arm"] == "full" else 0.5,
            training={"seed": r["seed"]},
            ohem={"ratio": 1.0 if r["arm"] == "full" else 0.5},
        )
    write_tables(folder, [check_record(r, RunResult) for r in results])
    return folder
