"""Expected calibration error of a model, and the temperature that minimises its loss.

Logits are streamed and never kept, so each pass over a split runs the model again.
Shape suffixes: N scored tokens of a batch, C rows of a chunk, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from tinyohem.data.token_store import TokenStore
from tinyohem.errors import RunError
from tinyohem.evaluation.perplexity import scored_logits
from tinyohem.progress import SILENT, Progress

NUM_BINS = 15
_TEMPERATURES = (0.01, 100.0)  # bounds of the search
# Newton's method converges quadratically: after a step below this the error is within 1e-4.
_LAST_STEP = 0.01
_CHUNK_ELEMENTS = 1 << 20  # logits at once; a few MB stay in a cache

LogitStream = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Calibration:
    """How far probabilities and outcomes lie apart, over all scored tokens of a split.

    Attributes:
        accuracy: share of tokens that the model found likeliest.
        confidence: mean probability of the likeliest token; below `accuracy` the model is
            underconfident, as after top-k selection, above it overconfident.
        calibration_error: expected calibration error, the mean |accuracy − confidence| of 15
            bins of equal width (Guo et al. 2017), weighted by their tokens.
        loss: nats per token.
        best_temperature: the T, from 0.01 to 100, at which logits / T give the least loss. Below
            1 the predictions are too flat.
        loss_at_best: nats per token at that temperature.
    """

    accuracy: float
    confidence: float
    calibration_error: float
    loss: float
    best_temperature: float
    loss_at_best: float

    def to_json(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def calibrate(
    model: nn.Module,
    store: TokenStore,
    *,
    seq_len: int,
    stride: int | None = None,
    progress: Progress = SILENT,
) -> Calibration:
    """Measure a model's calibration on a split, in some three passes over it.

    Args:
        seq_len: the longest context the model is given, in tokens.
        stride: see `perplexity.story_token_losses`.

    Raises:
        RunError: a loss is not finite: the model's weights are broken.
    """

    passes = count(1)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        stage = f"calibrate, pass {next(passes)}"
        progress.start(stage, store.num_tokens - store.num_stories, "tokens")
        done = 0
        for logits_NV, labels_N in scored_logits(model, store, seq_len=seq_len, stride=stride):
            yield logits_NV, labels_N
            done += len(labels_N)
            progress.advance(done)
        progress.finish()

    return calibration(stream)


def calibration(stream: LogitStream) -> Calibration:
    """Measure the calibration of a stream of logits (N, V) with labels (N,).

    Args:
        stream: returns the same stream from its start at each call.
    """
    bins = _Bins()
    untouched = _loss_curve(stream, 1.0, bins)
    if not math.isfinite(untouched.loss):
        raise RunError("the model's loss on these stories is not finite", "its weights are broken")
    beta, loss = _least_loss(stream, untouched)
    return Calibration(
        *bins.summary(), loss=untouched.loss, best_temperature=1 / beta, loss_at_best=loss
    )


def _least_loss(stream: LogitStream, curve: "_LossCurve") -> tuple[float, float]:
    """Find the β = 1/T of the least loss, from the curve at β = 1; return it with that loss."""
    # The loss is convex in β, so its slope has one root, which stays between low and high.
    low, high = (1 / temperature for temperature in reversed(_TEMPERATURES))
    beta = 1.0
    while high / low > 1 + _LAST_STEP:  # else the root lies outside
        low, high = (beta, high) if curve.slope < 0 else (low, beta)
        step = -curve.slope / curve.curvature if curve.curvature > 0 else math.inf
        if abs(step) < _LAST_STEP * beta:
            return beta + step, curve.loss + curve.slope * step / 2  # the parabola's minimum
        if not low < beta + step < high:  # where saturated predictions mislead Newton, bisect
            step = math.sqrt(low * high) - beta
        beta += step
        curve = _loss_curve(stream, beta)
    return beta, curve.loss


@dataclass(frozen=True)
class _LossCurve:
    """The mean loss at one β in nats, with its first and second derivative by β."""

    loss: float
    slope: float
    curvature: float


class _Bins:
    """Tokens by the probability of their likeliest label, (m − 1)/M < p ≤ m/M."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, NUM_BINS))  # tokens, confidence, correct

    def add(self, confidence_C: Tensor, correct_C: Tensor) -> None:
        """Count tokens by their confidence and by whether the likeliest label was right."""
        bin_C = (confidence_C * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
        for row, weight_C in enumerate((torch.ones_like(confidence_C), confidence_C, correct_C)):
            self._sums[row] += bin_C.bincount(weight_C.double(), NUM_BINS).cpu().numpy()

    def summary(self) -> tuple[float, float, float]:
        """Return accuracy, confidence and the expected calibration error."""
        tokens, confidence, correct = self._sums
        sums = (correct.sum(), confidence.sum(), np.abs(correct - confidence).sum())
        accuracy, mean_confidence, error = (float(total / tokens.sum()) for total in sums)
        return accuracy, mean_confidence, error


def _loss_curve(stream: LogitStream, beta: float, bins: _Bins | None = None) -> _LossCurve:
    """Read the stream once: ℓ(β) = log Σ exp(β z) − β z_y, ℓ' = E[z] − z_y, ℓ'' = Var[z]."""
    tokens, sums = 0, np.zeros(3)
    for logits_NV, labels_N in stream():
        rows = max(1, _CHUNK_ELEMENTS // logits_NV.shape[1])
        for logits_CV, labels_C in zip(logits_NV.split(rows), labels_N.split(rows), strict=True):
            z_CV = logits_CV - logits_CV.amax(dim=1, keepdim=True)
            label_z_C = z_CV.gather(1, labels_C[:, None]).squeeze(1)
            p_CV = (beta * z_CV).exp_()
            total_C1 = p_CV.sum(dim=1, keepdim=True)
            if bins is not None:  # β is 1, and the likeliest label has z = 0
                bins.add(1 / total_C1.squeeze(1), logits_CV.argmax(dim=1) == labels_C)
            p_CV /= total_C1
            loss_C = total_C1.squeeze(1).log() - beta * label_z_C
            p_CV *= z_CV
            mean_C = p_CV.sum(dim=1)
            variance_C = (p_CV * z_CV).sum(dim=1) - mean_C**2
            parts = (loss_C, mean_C - label_z_C, variance_C)
            sums += torch.stack([part.sum(dtype=torch.float64) for part in parts]).cpu().numpy()
            tokens += len(labels_C)
    return _LossCurve(*(sums / tokens).tolist())
