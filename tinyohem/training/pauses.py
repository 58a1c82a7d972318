"""How often a run is validated, and on how many tokens: what a twentieth of its time pays for."""

from dataclasses import dataclass, replace

from tinyohem.config.training import TrainingConfig

_SHARE = 0.04  # of a run's time for scoring; checkpoints and the log take up to 0.01 more
# Time to score a token as a share of the time to train on one, the padding of short stories
# included: 0.41 to 0.50 was measured for `0.5m`, with the checkpoints (LOG.md).
_SCORING_COST = 0.5
_AT_THE_END = 0.75  # of the tokens that are scored
_FEWEST, _MOST = 10_000, 100_000  # tokens of a validation
_MOST_VALIDATIONS = 10  # in a run


@dataclass(frozen=True)
class Pauses:
    """When a run is validated, the last time at its end, and on how many tokens of the split."""

    count: int  # equally spaced
    tokens: int  # of each
    tokens_at_the_end: int  # at least as many

    def share_of(self, num_tokens: int) -> float:
        """Return the time that scoring takes, as a share of training on so many tokens."""
        scored = (self.count - 1) * self.tokens + self.tokens_at_the_end
        return _SCORING_COST * scored / num_tokens


def plan_pauses(
    training: TrainingConfig, num_tokens: int, valid_tokens: int, overlap: float = 1.0
) -> Pauses:
    """Return the validations that a run can afford, or those that its config asks for.

    Args:
        num_tokens: the budget, in tokens.
        valid_tokens: of the validation split.
        overlap: tokens that the model reads for each that is scored, see `overlap_of`.
    """
    affordable = round(_SHARE / (_SCORING_COST * overlap) * num_tokens)
    final = min(valid_tokens, max(_FEWEST, round(_AT_THE_END * affordable)))
    rest = max(0, affordable - final)
    size = training.eval_tokens
    if training.eval_every is None:
        count = 1 + min(_MOST_VALIDATIONS - 1, rest // (size or min(_FEWEST, valid_tokens)))
    else:
        steps = -(-num_tokens // training.tokens_per_step)
        count = -(-steps // training.eval_every)
    if size is None:
        size = min(_MOST, max(_FEWEST, rest // max(1, count - 1)))
    size = min(size, valid_tokens)
    return Pauses(count, size, max(size, final))


def pauses_of_a_comparison(
    training: TrainingConfig, num_tokens: int, valid_tokens: int, overlap: float = 1.0
) -> Pauses:
    """Return the validations of every arm, from the baseline's config and budget.

    Ten at least, so that the time to a loss can be read off the curve, and all of the split at the
    end, whatever it takes.
    """
    alone = plan_pauses(training, num_tokens, valid_tokens, overlap)
    return replace(alone, count=max(_MOST_VALIDATIONS, alone.count), tokens_at_the_end=valid_tokens)
