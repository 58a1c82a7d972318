"""What test_ranks.py has one process and two do: steps in every way, runs, faults.

As a script it is one of two ranks: `python rank_cases.py FOLDER` goes through FOLDER/cases.json and
leaves FOLDER/<case>.<rank>.json and FOLDER/steps.<rank>.safetensors behind.
"""

import contextlib
import io
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tiny
import tiny_step
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist

from tinyohem.errors import TinyohemError
from tinyohem.models.causal_lm import weights_hash
from tinyohem.ohem.miner import TokenMiner
from tinyohem.ohem.step_tokens import Draw, StepTokens
from tinyohem.system.timing import Stopwatch
from tinyohem.training import loop, take_step
from tinyohem.training.ranks import DistContext, init_ranks
from tinyohem_cli import main as cli

WAYS: dict[str, dict[str, Any]] = {
    "full": {"ratio": 1.0},
    "class balanced": {"ratio": 1.0, "weight": "class_balanced"},
    **{
        select: {"select": select, "score": "excess_loss", **options}
        for select, options in tiny_step.SELECTS.items()
    },
    "by sequence": {"scope": "sequence"},
    "adaptive": {"schedule": "adaptive", "ratio": 0.4},
    "queue": {"select": "threshold", "queue_steps": 2},
    "ghm": {"weight": "ghm"},
    "position": {"dedup": "position"},
    "bigram": {"dedup": "bigram"},
    "pruned": {"backward": "pruned"},
    # Tokens of one rank alone: the other has nothing to run backward through.
    "few": {"ratio": 0.01},
    "few, pruned": {"ratio": 0.01, "backward": "pruned"},
}


def steps(ranks: DistContext, number: int) -> dict[str, Tensor]:
    """Take a step in every way, two where the second remembers the first.

    Returns:
        Gradients and figures, a vector (float64) a way.
    """
    built, found = tiny_step.model(), {}
    for name, config in WAYS.items():
        way, parts = tiny_step.miner(**config), []
        for seed in (3, 4) if name in ("queue", "ghm") else (3,):
            ids, labels = tiny_step.tokens(seed=seed)
            stats = tiny_step.step(
                built,
                ranks.local_rows(ids),
                ranks.local_rows(labels),
                config.get("ratio", 0.4),
                way,
                number=number,
                reference=ranks.local_rows(tiny_step.references()),
                seed=seed,
                ranks=ranks,
            )
            ranks.sum_gradients(built.parameters())
            figures = [*vars(stats).values()]
            parts += [torch.as_tensor(figure).double().flatten() for figure in figures]
            parts.append(tiny_step.gradient(built))
        found[name] = torch.cat(parts)
    return found


def run(
    corpus: Path,
    run_dir: Path,
    overrides: dict[str, Any],
    ranks: DistContext,
    fault: str | None = None,
) -> dict[str, Any]:
    """Train, with a fault on rank 1; return what became of it and which tokens were kept."""
    token_weights, training_step, kept = TokenMiner.token_weights, take_step.training_step, []

    def remembered(self: TokenMiner, tokens: StepTokens, draw: Draw) -> Tensor:
        weight_BT = token_weights(self, tokens, draw)
        if draw.keep_ratio < 1:
            kept.append(weight_BT.flatten().nonzero().flatten().tolist())
        return weight_BT

    count = iter(range(1000))

    def faulty(*args: Any, **kwargs: Any) -> Any:
        stats = training_step(*args, **kwargs)
        if ranks.rank == 1 and next(count) == 2:
            match fault:
                case "stop":
                    os.kill(os.getpid(), signal.SIGTERM)
                case "nan":
                    next(args[0].trunk.module.parameters()).grad.fill_(math.nan)
                case "death":
                    os._exit(3)
        return stats

    skew = 0.1 if fault == "clock" and ranks.rank == 1 else 0.0
    seconds = Stopwatch.seconds
    with (
        patch.object(TokenMiner, "token_weights", remembered),
        patch.object(take_step, "training_step", faulty),
        patch.object(Stopwatch, "seconds", lambda self: seconds(self) + skew),
    ):
        try:
            config = tiny.config(corpus, **overrides)
            done, perplexity = loop.train(config, run_dir, resume="auto", ranks=ranks)
        except TinyohemError as error:
            return {"error": error.message, "exit_code": error.exit_code}
    return {
        "step": done.state.step,
        "finished": done.finished,
        "perplexity": perplexity is not None,
        "weights": weights_hash(done.model),
        "kept": kept,
    }


def command(arguments: list[str]) -> dict[str, Any]:
    """Run the command line; return its exit code and what it told."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["tinyohem", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = cli._run()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def main(folder: Path) -> None:
    """Be a rank."""
    os.fsync = lambda _: None  # type: ignore[assignment]
    work, rank = json.loads((folder / "cases.json").read_text()), int(os.environ["RANK"])
    for port, (name, case) in zip(work["ports"], work["cases"].items(), strict=True):
        os.environ["MASTER_PORT"] = str(port)
        if "command" in case:
            result = command(case["command"])
        elif name == "steps":
            ranks, result = init_ranks(), {}
            save_file(steps(ranks, number=2), folder / f"steps.{rank}.safetensors")
            ranks.destroy()
        else:
            run_dir = folder / case.get("run_dirs", [name] * 2)[rank]
            overrides, fault = case["overrides"], case.get("fault")
            result = run(Path(work["corpus"]), run_dir, overrides, init_ranks(), fault)
        (folder / f"{name}.{rank}.json").write_text(json.dumps(result))
        if dist.is_initialized():  # it failed
            dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
