"""Which figures over training a report has, and what each says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CurveSpec:
    """One figure over training, in tokens or seconds."""

    name: str
    title: str
    key: str  # in metrics.jsonl
    label: str  # of the vertical axis, with its unit
    says: str  # what the figure shows, a sentence
    by: str = "tokens"
    scale: float = 1.0
    smooth: bool = False
    marked: bool = False  # few points, each worth seeing
    log: bool = False
    zoomed: bool = False  # the steep beginning is cut off
    mined_only: bool = False  # undefined where every token is kept
    from_zero: bool = False
    ends: bool = False  # the caption names the last values


_SMOOTHED = "smoothed by an exponential mean over a fiftieth of the run"
LOSS_CURVES = (
    CurveSpec(
        "validation-loss-by-tokens",
        "Validation loss by tokens",
        "val/loss",
        "nats per token",
        "Unweighted loss on the head of the validation stories.",
        marked=True,
        zoomed=True,
        ends=True,
    ),
    CurveSpec(
        "validation-loss-by-seconds",
        "Validation loss by training time",
        "val/loss",
        "nats per token",
        "The same, by time spent in training steps alone.",
        by="seconds",
        marked=True,
        zoomed=True,
        ends=True,
    ),
    CurveSpec(
        "training-loss-by-tokens",
        "Training loss by tokens",
        "train/loss",
        "nats per token",
        f"Loss over all tokens, selected or not, {_SMOOTHED}.",
        smooth=True,
        zoomed=True,
        ends=True,
    ),
    CurveSpec(
        "training-loss-by-seconds",
        "Training loss by training time",
        "train/loss",
        "nats per token",
        f"Loss over all tokens, selected or not, {_SMOOTHED}.",
        by="seconds",
        smooth=True,
        zoomed=True,
        ends=True,
    ),
)
BITS_CURVE = CurveSpec(
    "validation-bits-by-tokens",
    "Validation bits per byte by tokens",
    "val/bpb",
    "bits per byte",
    "What compares across tokenizers.",
    marked=True,
    zoomed=True,
    ends=True,
)
SELECTION_CURVES = (
    CurveSpec(
        "keep-ratio",
        "Tokens kept",
        "train/keep_ratio",
        "% of the tokens of a step",
        "The share of tokens that got a gradient.",
        scale=100,
        from_zero=True,
    ),
    CurveSpec(
        "loss-threshold",
        "Lowest loss kept",
        "train/loss_threshold",
        "nats",
        "The loss of the easiest token that was kept, where tokens were left out; a random "
        "selection keeps easy tokens too.",
        mined_only=True,
        from_zero=True,
    ),
    CurveSpec(
        "kept-loss-share",
        "Loss that the kept tokens hold",
        "train/kept_loss_share",
        "% of the loss of a step",
        "The share of a step's total loss that its kept tokens hold.",
        scale=100,
        from_zero=True,
    ),
    CurveSpec(
        "effective-sample-size",
        "Effective sample size",
        "train/effective_sample_size",
        "% of the tokens of a step",
        "(Σw)² / Σw² of the tokens' weights: how many equally weighted tokens a step is worth.",
        scale=100,
        from_zero=True,
    ),
)
OPTIMISER_CURVES = (
    CurveSpec(
        "learning-rate",
        "Learning rate",
        "train/lr",
        "learning rate",
        "Of the last step before each point.",
        from_zero=True,
    ),
    CurveSpec(
        "gradient-norm",
        "Gradient norm",
        "train/grad_norm",
        "L2 norm before clipping",
        f"Of the whole gradient, before clipping, {_SMOOTHED}.",
        smooth=True,
        log=True,
    ),
    CurveSpec(
        "throughput",
        "Throughput",
        "train/tokens_per_second",
        "thousand tokens a second",
        "Tokens seen in a second of training, evaluation and checkpoints excluded; other "
        "work on the machine lowers it.",
        scale=1e-3,
        from_zero=True,
    ),
)
