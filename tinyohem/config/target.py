"""The section `[target]`: which stories of a pool to train on, by a few of the wanted kind."""

import math
from typing import Literal, Self

from pydantic import field_validator, model_validator

from tinyohem.config.model import Preset
from tinyohem.config.sections import Section, setting

Score = Literal["ngram", "reference_loss", "reference_gain"]
When = Literal["always", "finish", "start"]

_KEEP_HINT = "write auto, or a share of the stories above 0 and up to 1, such as 0.5"


class TargetConfig(Section):
    """The wanted kind of story, and how much of the pool counts as such."""

    stories: str | None = setting(
        None,
        "Stories of the wanted kind, better a thousand, as --dataset: the run trains on those of "
        "--dataset that are like them, and unless --valid is given, validates on a fifth of them",
        flag="--target",
        default_is="none, every story is trained on",
    )
    score: Score = setting(
        "ngram",
        "What tells that a story is like them: ngram, a model of words, takes seconds; "
        "reference_loss, nats per token under a small language model trained on them, sees the "
        "order of sentences too and takes minutes; reference_gain, that minus the loss under one "
        "trained on the pool, takes twice as long",
    )
    reference: Preset = setting("260k", "Size of that small model, as --model")
    keep: str = setting(
        "auto",
        "auto, the stories above the line of `quantile`, or the share with the best scores, such "
        "as 0.5; 1 keeps every story unscored",
        hint=_KEEP_HINT,
    )
    quantile: float = setting(
        0.05,
        "Share of the target's own stories that the line of auto would lose",
        ge=0,
        lt=1,
        unit="share of the stories",
    )
    when: When = setting(
        "always",
        "always, or finish: the whole pool until the learning rate falls (in the last "
        "optim.decay_fraction of the steps), then kept stories only; start: kept stories in the "
        "first optim.decay_fraction, then the whole pool",
    )
    scores: str | None = setting(
        None,
        "Score folder of `score-difficulty --target`",
        default_is="scored once, kept with the prepared data",
    )

    @field_validator("keep")
    @classmethod
    def _keep_parses(cls, text: str) -> str:
        if text == "auto":
            return text
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:  # also where it is NaN
            raise ValueError("neither auto nor a share in (0, 1]")
        return text

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.stories is None:
            changed = [
                name
                for name, field in TargetConfig.model_fields.items()
                if getattr(self, name) != field.default
            ]
            if changed:
                raise ValueError(
                    f"{changed[0]} needs stories of the wanted kind: name them with --target"
                )
        if (
            self.share is not None
            and self.quantile != TargetConfig.model_fields["quantile"].default
        ):
            raise ValueError("quantile draws the line of keep = auto only: leave one of them out")
        if self.scores is not None and self.by_model:
            raise ValueError(
                f"scores names a folder of n-gram scores, score = {self.score} reads none: leave "
                "one of them out"
            )
        if self.share == 1 and self.by_model:
            raise ValueError(
                f"keep = 1 keeps every story unscored, score = {self.score} scores them: leave one "
                "of them out"
            )
        if self.share == 1 and self.when != "always":
            raise ValueError(
                f"keep = 1 keeps every story, which leaves nothing to {self.when} with"
            )
        return self

    @property
    def by_model(self) -> bool:
        """Whether a small language model scores the pool."""
        return self.score != "ngram"

    @property
    def share(self) -> float | None:
        """The share of stories to keep, None where the target's own stories draw the line."""
        return None if self.keep == "auto" else float(self.keep)
