"""The state of a run that the loop reads and changes."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinyohem.config.run import RunConfig
from tinyohem.data.prepare import Prepared
from tinyohem.data.tokenizer import story_start
from tinyohem.evaluation.perplexity import Perplexity, overlap_of
from tinyohem.ohem.loss_pool import Pool
from tinyohem.ohem.miner import TokenMiner
from tinyohem.runs.checkpoints import RunState
from tinyohem.runs.record import Arithmetic
from tinyohem.training.pauses import Pauses, plan_pauses
from tinyohem.training.plan import Plan
from tinyohem.training.ranks import DistContext
from tinyohem.training.reference import Reference

_MOST_LOGGED = 20_000  # rows: keeps the log below some tens of MB


@dataclass(frozen=True)
class Budget:
    """The length of a run, in optimizer steps or in seconds of training."""

    steps: int
    seconds: float | None = None

    @property
    def known_steps(self) -> int | None:
        """The optimizer steps of the run; None where the budget is in seconds."""
        return self.steps if self.seconds is None else None

    def spent(self, steps: float, seconds: float) -> float:
        """Return the share of the budget spent after `steps` and `seconds`, at most 1."""
        return min(1.0, steps / self.steps if self.seconds is None else seconds / self.seconds)


@dataclass(frozen=True, eq=False)
class FinalScores:
    """The evaluation at the end of a run."""

    perplexity: Perplexity
    losses: NDArray[np.float32]  # nats of each id of the stories that were scored, in store order


@dataclass
class Run:
    """Everything the loop reads and changes."""

    config: RunConfig
    run_dir: Path
    device: torch.device
    data: Prepared
    plan: Plan
    model: Any  # a causal LM of transformers
    optimizers: list[torch.optim.Optimizer]
    miner: TokenMiner
    pool: Pool | None
    reference: Reference | None
    budget: Budget
    state: RunState
    ranks: DistContext
    arithmetic: Arithmetic
    planned_pauses: Pauses | None = None  # None: those that the run can afford
    final: FinalScores | None = None
    save_seconds: float = 0.0  # that the last checkpoint took
    saved_at: float = 0.0  # seconds of training before it

    @property
    def pauses(self) -> Pauses:
        """The validations of the run; under a budget in seconds an estimate from its pace."""
        if self.planned_pauses is not None:
            return self.planned_pauses
        training, valid = self.config.training, self.data.valid
        steps = self.budget.known_steps or math.ceil(self.state.step / self.fraction_done)
        return plan_pauses(
            training,
            steps * training.tokens_per_step,
            valid.num_tokens,
            self._overlap,
        )

    @cached_property
    def _overlap(self) -> float:
        return overlap_of(self.data.valid, self.config.training.seq_len)

    @property
    def story_start(self) -> int | None:
        """See `Trunk`."""
        return story_start(self.data.tokenizer, self.config.training.attention)

    @property
    def fraction_done(self) -> float:
        """The share of the budget that is spent, in [0, 1]."""
        return self.budget.spent(self.state.step, self.budget_seconds)

    @property
    def budget_seconds(self) -> float:
        """The seconds of training that count against a budget in seconds."""
        free = self.state.select_seconds if self.config.training.free_selection else 0.0
        return self.state.train_seconds - free

    @property
    def fraction_mid_step(self) -> float:
        """The share of the budget that is spent in the middle of the coming step."""
        return self.budget.spent(self.state.step + 0.5, self.budget_seconds)

    @property
    def keep_ratio(self) -> float:
        """The share of tokens that the coming step keeps; all while the reference is not ready."""
        if self.reference is not None and not self.reference.ready:
            return 1.0
        return self.config.keep_schedule.keep_ratio(self.fraction_mid_step, self.state.step)

    @property
    def log_every(self) -> int:
        """Steps between two rows of the log: `training.log_every`, or more in a long run.

        A budget in seconds has no known number of steps, so it keeps `training.log_every`.
        """
        every = self.config.training.log_every
        return max(every, math.ceil((self.budget.known_steps or 0) / _MOST_LOGGED))

    @property
    def finished(self) -> bool:
        """Whether the whole budget is spent."""
        return self.fraction_done >= 1

    @property
    def paused(self) -> bool:
        """Whether the run has reached the step that the user asked to stop at."""
        stop_at = self.config.training.stop_at_step
        return stop_at is not None and self.state.step >= stop_at
