"""Arms × seeds at an equal budget: the instrument behind every table.

Every arm of a seed sees the same windows, tokenizer, initial weights and evaluation; only what the
arm itself sets differs. A finished run leaves `result.json` and is never repeated; an unfinished
one goes on from its last checkpoint.
"""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tinyohem.artifacts import hash_json, read_json, read_jsonl, write_json
from tinyohem.config import RunConfig, reject_unknown_keys, validate_config
from tinyohem.errors import InputError, RunError, TinyohemError
from tinyohem.evaluation.breakdown import break_down, scored_labels
from tinyohem.evaluation.perplexity import story_token_losses
from tinyohem.progress import SILENT, Progress
from tinyohem.recipe import assign, overlay, parse_literal, read_recipe
from tinyohem.runtime import environment

Budget = Literal["equal-tokens", "equal-seconds"]
_RESULT_FORMAT = 1


@dataclass(frozen=True)
class Arm:
    """One way of training: a name and what it sets on top of the common config."""

    name: str
    tree: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What to compare: the first arm is the baseline."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    common: dict[str, Any]
    budget: Budget = "equal-tokens"

    def config(self, arm: Arm, seed: int, seconds: float | None = None) -> RunConfig:
        """Return the config of one run."""
        tree = overlay(self.common, arm.tree)
        assign(tree, "training.seed", seed)
        if seconds is not None:
            assign(tree, "training.seconds", seconds)
        return validate_config(tree)


def plan_comparison(
    file: Path | None,
    arms: Iterable[str],
    seeds: str | None,
    budget: Budget | None,
    common: Mapping[str, Any],
) -> Comparison:
    """Merge a comparison file with what the command line adds to it or sets instead.

    Args:
        file: TOML with `seeds`, `budget`, `[common.<section>]`, `[arms.<name>.<section>]`.
        arms: `name:key=value,…`, where a part without `=` is a recipe; or a bare recipe.
        seeds: a count (`3`) or a list (`0,4,7`).
        common: config tree shared by every arm, laid over the file's.

    Raises:
        InputError: not TOML, an unknown key or recipe, or seeds that are not numbers.
    """
    tree = _read_file(file) if file else {}
    from_file = [Arm(name, settings) for name, settings in tree.get("arms", {}).items()]
    return Comparison(
        arms=(*from_file, *(_parse_arm(text) for text in arms)),
        seeds=_parse_seeds(seeds if seeds is not None else tree.get("seeds", 3)),
        common=overlay(tree.get("common", {}), common),
        budget=budget or tree.get("budget", "equal-tokens"),
    )


def _parse_arm(text: str) -> Arm:
    name, _, settings = text.partition(":")
    tree: dict[str, Any] = {}
    for part in [part for part in (settings or name).split(",") if part]:
        key, equals, literal = part.partition("=")
        if equals:
            assign(tree, key.strip(), parse_literal(literal.strip()))
        else:
            tree = overlay(tree, read_recipe(key.strip()))
    return Arm(name, tree)


def _parse_seeds(seeds: str | int | list[int]) -> tuple[int, ...]:
    if isinstance(seeds, list):
        return tuple(seeds)
    numbers = str(seeds).split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"--seeds {seeds!r} is not a count or a list", "write 3, or 0,4,7")
    chosen = tuple(int(number) for number in numbers)
    return chosen if len(chosen) > 1 else tuple(range(chosen[0]))


def _read_file(path: Path) -> dict[str, Any]:
    hint = "the README's section on compare shows one"
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the comparison {path}: {error}", hint) from None
    unknown = set(tree) - {"seeds", "budget", "common", "arms"}
    if unknown:
        raise InputError(f"{path}: unknown key {sorted(unknown)[0]!r}", hint)
    if tree.get("budget", "equal-tokens") not in get_args(Budget):
        raise InputError(
            f"{path}: budget = {tree['budget']!r}", f"use {' or '.join(get_args(Budget))}"
        )
    for name, sections in [("common", tree.get("common", {})), *tree.get("arms", {}).items()]:
        if not isinstance(sections, dict):
            raise InputError(f"{path}: {name} = {sections!r} is not a table", hint)
        reject_unknown_keys(sections)
    return tree


def check(comparison: Comparison) -> list[str]:
    """Validate every run's config and return warnings about what the table could not show.

    Raises:
        InputError: a bad config, fewer than two arms, or a repeated name.
    """
    names = [arm.name for arm in comparison.arms]
    if len(names) < 2:
        raise InputError("a comparison needs at least two arms", "add --arm random, for example")
    if len(set(names)) < len(names):
        raise InputError("two arms share a name", "name them apart: --arm name:key=value")
    configs = [comparison.config(arm, comparison.seeds[0]) for arm in comparison.arms]
    warnings = []
    if len(comparison.seeds) < 3:
        warnings.append(
            f"{len(comparison.seeds)} seed(s) cannot tell a difference from luck; use --seeds 3"
        )
    mined = any(config.ohem.ratio < 1 for config in configs)
    if mined and not any(config.ohem.select == "random" for config in configs):
        warnings.append(
            "no arm selects at random: without that control a gain cannot be told from "
            "training on fewer tokens"
        )
    return warnings


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
    baseline, others = comparison.arms[0], comparison.arms[1:]
    progress.start("compare", len(comparison.arms) * len(comparison.seeds), "runs")
    first = _run_all(_jobs(comparison, [baseline], out, {}), workers, progress, done=0)
    seconds = {}
    if comparison.budget == "equal-seconds":
        seconds = {result["seed"]: result["train_seconds"] for result in first}
    jobs = _jobs(comparison, others, out, seconds)
    rest = _run_all(jobs, workers, progress, done=len(first))
    progress.finish()
    results = first + rest
    _add_time_to_baseline(results, baseline.name, out)
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
    jobs: list[_Job], workers: int | None, progress: Progress, done: int
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
