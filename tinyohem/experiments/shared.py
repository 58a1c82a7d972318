"""Prepare once what the runs of a comparison share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tinyohem.config.run import RunConfig
from tinyohem.config.training import TrainingConfig
from tinyohem.data.prepare import Prepared
from tinyohem.data.token_store import TokenStore
from tinyohem.difficulty.score_corpus import scores_for_curriculum
from tinyohem.errors import InputError
from tinyohem.evaluation.perplexity import overlap_of
from tinyohem.experiments.spec import Comparison
from tinyohem.io.hashing import hash_json
from tinyohem.progress import Progress
from tinyohem.system.device import pick_device
from tinyohem.training.inputs import mine_by_target, prepare_stories
from tinyohem.training.pauses import Pauses, pauses_of_a_comparison
from tinyohem.training.plan import budget_steps
from tinyohem.training.tracking import require_login


@dataclass(frozen=True)
class Shared:
    """The part of the runs of a comparison that follows from its baseline and the data.

    Attributes:
        tokens_sha256: by arm, of the ids that it trains on and is scored on.
        choose_seconds: by arm, that choosing its stories took, 0 where it chooses none, None
            where nobody knows.
        mine_seconds: by arm, that mining by the target's reference took, 0 where none does.
        pauses: by arm, on the same stories, or the time to a loss would not compare.
    """

    tokens_sha256: Mapping[str, str]
    choose_seconds: Mapping[str, float | None]
    mine_seconds: Mapping[str, float]
    pauses: Mapping[str, Pauses]

    def seconds_before(self, arm: str) -> float | None:
        """Return the seconds of choosing and mining before an arm's training; None: unknown."""
        chosen = self.choose_seconds[arm]
        return None if chosen is None else chosen + self.mine_seconds[arm]


def prepare_comparison(comparison: Comparison, progress: Progress) -> Shared:
    """Prepare once what all runs share, and check their budgets.

    Raises:
        InputError: under `equal-tokens`, an arm would see more or fewer tokens than the baseline;
            the tokenizer loses text; or this machine lacks the device.
    """
    configs = [comparison.config(arm, comparison.seeds[0]) for arm in comparison.arms]
    for config in configs:
        pick_device(config.training.device)
        require_login(config)
    prepared = _prepare_each(configs, progress)
    budgets = [
        budget_steps(config, data) * config.training.tokens_per_step
        for config, data in zip(configs, prepared, strict=True)
    ]
    first = budgets[0]
    for arm, config, data, tokens in zip(comparison.arms, configs, prepared, budgets, strict=True):
        if config.curriculum.orders:
            scores_for_curriculum(config.curriculum, data.corpus, progress)
        # Whole steps only, so batches of different size may miss the budget by less than one.
        if not comparison.timed and abs(tokens - first) >= max(
            config.training.tokens_per_step, configs[0].training.tokens_per_step
        ):
            raise InputError(
                f"the arm {arm.name!r} trains on {tokens:,} tokens, the baseline on {first:,}",
                "give all arms one budget with --tokens 4M",
            )
    by_arm = {arm.name: data for arm, data in zip(comparison.arms, prepared, strict=True)}
    return Shared(
        {
            name: hash_json([data.train.manifest.ids_sha256, data.valid.manifest.ids_sha256])
            for name, data in by_arm.items()
        },
        {name: _seconds_of_choosing(data) for name, data in by_arm.items()},
        {
            arm.name: mine_by_target(config, data, progress)[1] if config.ohem.mines_target else 0.0
            for arm, config, data in zip(comparison.arms, configs, prepared, strict=True)
        },
        _pauses_by_arm(configs[0].training, first, {n: d.valid for n, d in by_arm.items()}),
    )


def _pauses_by_arm(
    training: TrainingConfig, num_tokens: int, valid: Mapping[str, TokenStore]
) -> dict[str, Pauses]:
    """Return the baseline's validations; each arm counts their stories in its own tokens.

    Args:
        training: the baseline's.
        num_tokens: the budget.
        valid: the same stories by arm, in its own tokens; the baseline's come first.
    """
    baseline = next(iter(valid.values()))
    overlap = overlap_of(baseline, training.seq_len)
    pauses = pauses_of_a_comparison(training, num_tokens, baseline.num_tokens, overlap)
    num_stories = len(baseline.head(pauses.tokens).rows)
    return {
        name: replace(
            pauses, tokens=int(own.offsets[num_stories]), tokens_at_the_end=own.num_tokens
        )
        for name, own in valid.items()
    }


def _prepare_each(configs: Sequence[RunConfig], progress: Progress) -> list[Prepared]:
    """Prepare the data of every arm, once where arms agree on which stories they train on.

    Raises:
        InputError: the tokenizer loses text.
    """
    known: dict[str, Prepared] = {}
    prepared = []
    for config in configs:
        curriculum = config.curriculum.model_dump() if config.curriculum.filters else None
        # The rest is the same for all.
        key = hash_json([config.data.dataset, config.target.model_dump(), curriculum])
        if key not in known:
            known[key] = prepare_stories(config, progress)
        prepared.append(known[key])
        if loss := known[key].valid.text_loss:
            raise InputError(
                f"arms are compared by bits per byte, but {loss}",
                "use a tokenizer that gives the text back, such as the one that is trained where "
                "none is named",
            )
    return prepared


def _seconds_of_choosing(data: Prepared) -> float | None:
    """Return what choosing the stories took; None where their scores come from elsewhere."""
    return data.choice.record.seconds if data.choice else 0.0
