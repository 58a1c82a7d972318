"""Run a comparison: the instrument behind every table.

Every arm of a seed sees the same windows, tokenizer, initial weights and evaluation; only what the
arm itself sets differs. A finished run leaves `result.json` and is never repeated; an unfinished
one goes on from its last checkpoint.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tinyohem.artifacts import hash_json, read_json, read_jsonl, write_json
from tinyohem.config import RunConfig
from tinyohem.errors import InputError, RunError, TinyohemError
from tinyohem.evaluation.breakdown import break_down, scored_labels
from tinyohem.evaluation.comparison import Arm, Comparison
from tinyohem.evaluation.perplexity import story_token_losses
from tinyohem.progress import SILENT, Progress
from tinyohem.runtime import environment

_RESULT_FORMAT = 1


def run_comparison(
    comparison: Comparison, out: Path, workers: int | None = None, progress: Progress = SILENT
) -> list[dict[str, Any]]:
    """Run what is not finished yet and return one result a run, arms in order, seeds within.

    Args:
        workers: runs at a time; default: one for each GPU, else one for each core.

    Raises:
        InputError: `out` holds a result of another config under one of these names.
        RunError: a run failed; the others are finished and kept.
    """
    baseline, others = comparison.arms[:1], comparison.arms[1:]
    progress.start("compare", len(comparison.arms) * len(comparison.seeds), "runs")
    if comparison.budget == "equal-tokens":
        results = _run_all(_jobs(comparison, comparison.arms, out, {}), workers, progress)
    else:
        results = _run_all(_jobs(comparison, baseline, out, {}), workers, progress)
        seconds = {result["seed"]: result["train_seconds"] for result in results}
        timed = _jobs(comparison, others, out, seconds)
        results += _run_all(timed, workers, progress, done=len(results))
    progress.finish()
    _add_time_to_baseline(results, baseline[0].name, out)
    return results


@dataclass(frozen=True, eq=False)
class _Job:
    arm: str
    seed: int
    config: RunConfig
    run_dir: Path


def _jobs(
    comparison: Comparison, arms: Sequence[Arm], out: Path, seconds: Mapping[int, float]
) -> list[_Job]:
    return [
        _Job(
            arm.name,
            seed,
            comparison.config(arm, seed, seconds.get(seed)),
            out / _folder_name(arm.name, seed),
        )
        for arm in arms
        for seed in comparison.seeds
    ]


def _run_all(
    jobs: list[_Job], workers: int | None, progress: Progress, done: int = 0
) -> list[dict[str, Any]]:
    """Run jobs side by side; finished ones are read, not repeated."""
    results: dict[_Job, dict[str, Any] | None] = {job: _finished(job) for job in jobs}
    todo = [job for job, result in results.items() if result is None]
    done += len(jobs) - len(todo)
    progress.advance(done)
    if todo:
        # Data and tokenizer are prepared once, ahead of the workers that share them.
        from tinyohem.data.prepare import prepare_data

        for data in {(job.config.data, job.config.tokenizer) for job in todo}:
            prepare_data(*data)
        for job, result in _in_parallel(todo, workers or default_workers(), progress):
            results[job] = result
            done += 1
            progress.advance(done, {"bits per byte": result["bits_per_byte"]})
    return [result for result in results.values() if result is not None]


def _in_parallel(
    jobs: list[_Job], workers: int, progress: Progress
) -> Iterator[tuple[_Job, dict[str, Any]]]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    failed: TinyohemError | None = None
    # Spawned, not forked: a forked copy of torch's thread pool hangs.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(_run_job, job, threads, index): job for index, job in enumerate(jobs)
        }
        for future in as_completed(futures):
            job = futures[future]
            try:
                yield job, future.result()
            except TinyohemError as error:
                progress.warn(f"{job.run_dir.name}: {error.message}")
                failed = error
    if failed is not None:
        raise RunError(
            f"at least one run failed: {failed.message}",
            "the finished runs are kept; mend the cause and repeat the command",
        )


def default_workers() -> int:
    """Return how many runs to keep going: GPUs, or cores where there is none."""
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1


def _run_job(job: _Job, threads: int, index: int) -> dict[str, Any]:
    """Train and measure one run in a worker process; leave `result.json` behind."""
    import torch

    from tinyohem.training.loop import train

    torch.set_num_threads(threads)
    config = job.config
    if config.training.device == "auto" and torch.cuda.is_available():
        device = f"cuda:{index % torch.cuda.device_count()}"
        training = config.training.model_copy(update={"device": device})
        config = config.model_copy(update={"training": training})
    run, perplexity = train(config, job.run_dir, resume="auto")
    if perplexity is None:
        raise RunError(f"{job.run_dir} was interrupted", "repeat the command to go on")
    valid = run.data.valid
    losses = np.concatenate(
        [
            block
            for _, block in story_token_losses(run.model, valid, seq_len=config.training.seq_len)
        ]
    )
    scored = scored_labels(valid)
    result = {
        "identity": _identity(job),
        "arm": job.arm,
        "seed": job.seed,
        **perplexity.to_json(),
        **break_down(losses[scored], valid.ids[scored]).to_json(),
        "steps": run.state.step,
        "tokens_seen": run.state.tokens_seen,
        "tokens_selected": run.state.tokens_selected,
        "train_seconds": run.state.train_seconds,
        "environment": environment(run.device),
    }
    write_json(job.run_dir / "result.json", result)
    return result


def _identity(job: _Job) -> str:
    """Hash what decides a run's result; a result under another identity is not this run's."""
    return hash_json([_RESULT_FORMAT, job.config.model_dump()])


def _finished(job: _Job) -> dict[str, Any] | None:
    path = job.run_dir / "result.json"
    if not path.exists():
        return None
    result = read_json(path)
    if result["identity"] != _identity(job):
        raise InputError(
            f"{job.run_dir} holds the result of another config",
            "choose another --out, or delete that folder",
        )
    return dict(result)


def _add_time_to_baseline(results: list[dict[str, Any]], baseline: str, out: Path) -> None:
    """Add the steps and seconds at which each run first reached its baseline's final loss.

    Measured on the head of the validation split that is scored during training, so the figures are
    as coarse as `training.eval_every`; null where a run never got there.
    """
    final = {
        result["seed"]: _curve(out, result)[-1]["val/loss"]
        for result in results
        if result["arm"] == baseline
    }
    for result in results:
        reached = next(
            (row for row in _curve(out, result) if row["val/loss"] <= final[result["seed"]]), None
        )
        result["steps_to_baseline"] = reached["step"] if reached else None
        result["seconds_to_baseline"] = reached["train/seconds"] if reached else None


def _curve(out: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = read_jsonl(out / _folder_name(result["arm"], result["seed"]) / "metrics.jsonl")
    return [row for row in rows if "val/loss" in row]


def _folder_name(arm: str, seed: int) -> str:
    return f"{arm}-seed{seed}"
