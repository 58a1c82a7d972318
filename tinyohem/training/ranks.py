"""Train one run in several processes (ranks).

Every rank holds the whole model and takes its rows of every batch. The tokens of a step are
gathered, so every rank weighs the whole step alike; gradients are summed before the update.

Not DistributedDataParallel: it expects one forward call through its wrapper and one backward pass
that reaches the same parameters on every rank. A step here reads without a graph, calls the trunk,
its last layer and the head separately, runs backward once per micro-batch, and may keep no token
on some rank. One sum over a flat vector works for all of that, and in a small model overlapping
communication with the backward pass would save little.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tinyohem.config.training import TrainingConfig
from tinyohem.errors import InputError, RunError
from tinyohem.models.causal_lm import weights_hash
from tinyohem.ohem.step_tokens import StepTokens
from tinyohem.system.device import pick_device

# The other ranks wait while one prepares the corpus, mines or evaluates, however long that takes.
# The death of a rank is still noticed at once: its connections close, and torchrun ends the others.
_TIMEOUT = timedelta(days=1)

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Rows = TypeVar("Rows", Tensor, np.ndarray)


@dataclass(frozen=True)
class DistContext:
    """The place of a process among those that train a run together; by default it is alone.

    A single process gets back at once what it passes in. Several ranks must make the same calls in
    the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes, evaluates and reports."""
        return self.rank == 0

    def pick_device(self, name: str) -> torch.device:
        """Return this rank's device: the CPU, or the CUDA device with its local number.

        Raises:
            InputError: the machine lacks the device, or several ranks would share it.
        """
        device = pick_device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise InputError(
                f"--device {name} is one device for {self.size} ranks", "use --device cuda"
            )
        if self.local_size > torch.cuda.device_count():
            raise InputError(
                f"{self.local_size} ranks on a machine of {torch.cuda.device_count()} CUDA "
                "device(s)",
                "give torchrun a smaller --nproc-per-node, or add --device cpu",
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def num_micro_batches(self, training: TrainingConfig) -> int:
        """Return the number of micro-batches in this rank's rows of a batch.

        Raises:
            InputError: the batch does not divide evenly.
        """
        own, left = divmod(training.batch_size, self.size)
        if left or not own:
            raise InputError(
                f"training.batch_size = {training.batch_size} does not divide by {self.size} ranks",
                "it counts the sequences of all ranks together: choose a multiple of that",
            )
        sequences = min(training.micro_batch_sequences, own)
        if own % sequences:
            raise InputError(
                f"training.micro_batch_size = {sequences} does not divide the {own} of "
                f"{training.batch_size} sequences that each of {self.size} ranks takes",
                f"choose a divisor of {own}",
            )
        return own // sequences

    def local_rows(self, whole: Rows) -> Rows:
        """Return this rank's rows of an array that every rank holds whole."""
        count = len(whole) // self.size
        return whole[self.rank * count : (self.rank + 1) * count]

    def gather(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks in order; every rank must pass the same number."""
        if self.size == 1:
            return own
        import torch.distributed as dist

        whole = own.new_empty(self.size * len(own), *own.shape[1:])
        with _communication_errors():
            dist.all_gather(list(whole.chunk(self.size)), own.contiguous())
        return whole

    def gather_tokens(self, own: StepTokens) -> StepTokens:
        """Return the tokens of all ranks in order."""
        if self.size == 1:
            return own
        given = {name: part for name, part in vars(own).items() if part is not None}
        return replace(own, **{name: self.gather(part) for name, part in given.items()})

    def gather_uneven(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks in order; their numbers may differ."""
        if self.size == 1:
            return own
        counts = self.gather(torch.tensor([len(own)])).tolist()  # on the CPU: no device has to wait
        padded = own.new_zeros(max(1, *counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = self.gather(padded).chunk(self.size)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all ranks; the results are equal to the last bit."""
        if self.size == 1:
            return
        import torch.distributed as dist

        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:  # no token that this rank kept reaches it
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _communication_errors():
            dist.all_reduce(flat)
        sums = flat.split([gradient.numel() for gradient in gradients])
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether the flag of any rank is set; wait for all ranks."""
        if self.size == 1:
            return flag
        return bool(self.gather(torch.tensor([flag])).any())

    def wait(self) -> None:
        """Wait until every rank has called this."""
        self.any(False)

    def broadcast(self, *numbers: float) -> tuple[float, ...]:
        """Return the numbers of the main rank: clocks differ, decisions must not."""
        if self.size == 1:
            return numbers
        return tuple(self.gather(torch.tensor([numbers], dtype=torch.float64))[0].tolist())

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block on the main rank first, so that the others find what it wrote."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def require_same(self, facts: Mapping[str, Any], model: nn.Module) -> None:
        """Refuse to begin where the ranks differ.

        Args:
            facts: JSON values by the names to report.

        Raises:
            InputError: a fact or a weight differs.
        """
        if self.size == 1:
            return
        facts = {**facts, "weights": weights_hash(model)}
        digests = [
            list(hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).digest())
            for fact in facts.values()
        ]
        found = self.gather(torch.tensor([digests], dtype=torch.uint8))
        differs = (found != found[:1]).any(dim=2).any(dim=0).tolist()
        names = [name for name, differ in zip(facts, differs, strict=True) if differ]
        if names:
            raise InputError(
                f"the ranks do not begin alike: they differ in {', '.join(names)}",
                "start them by the same command, with the run folder and the data folder "
                "($TINYOHEM_DATA) on a disk that all machines share",
            )

    def destroy(self) -> None:
        """Leave the process group; from now on every rank is alone."""
        if self.size > 1:
            import torch.distributed as dist

            self.wait()
            dist.destroy_process_group()


SINGLE_PROCESS = DistContext()


def init_ranks() -> DistContext:
    """Join the process group that torchrun started; without torchrun the process is alone.

    Raises:
        InputError: some of torchrun's environment variables are missing.
        RunError: the other ranks cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return SINGLE_PROCESS
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']} is set without {', '.join(missing)}",
            "start the ranks with torchrun, or unset WORLD_SIZE",
        )
    import torch.distributed as dist

    with _communication_errors():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT
        )
    return DistContext(
        dist.get_rank(),
        dist.get_world_size(),
        int(os.environ["LOCAL_RANK"]),
        int(os.environ["LOCAL_WORLD_SIZE"]),
    )


@contextmanager
def _communication_errors() -> Iterator[None]:
    """Turn an error of gloo or NCCL into a `RunError` of one line."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            f"lost the other ranks: {str(error).splitlines()[0]}",
            "the rank that failed first says why; --resume auto goes on from the last checkpoint",
        ) from None
