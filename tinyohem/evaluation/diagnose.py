"""Score a model on a split: perplexity, losses of groups of tokens, calibration."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tinyohem.config.curriculum import CurriculumConfig, parse_weights
from tinyohem.config.data import TokenizerConfig
from tinyohem.data.tokenizer import text_encoder
from tinyohem.difficulty.choose import prepare_chosen
from tinyohem.difficulty.score_corpus import scores_for_curriculum
from tinyohem.difficulty.score_table import combined_difficulty, open_scores
from tinyohem.errors import InputError
from tinyohem.evaluation.calibration import Calibration, calibrate
from tinyohem.evaluation.loss_groups import (
    Group,
    by_difficulty,
    by_frequency,
    by_loss,
    label_counts,
    story_sums,
)
from tinyohem.evaluation.loss_summary import scored_labels
from tinyohem.evaluation.open import Evaluation, recorded_ids
from tinyohem.evaluation.perplexity import Perplexity, evaluate_perplexity
from tinyohem.evaluation.roles import by_position, by_role, store_roles
from tinyohem.io.json import JsonObject, write_json
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.layout import EVALUATION_FILE
from tinyohem.runs.record import run_config

By = Literal["loss", "frequency", "difficulty", "role", "position"]


@dataclass(frozen=True)
class Diagnosis:
    """The figures of a model on a split, as far as they were asked for."""

    perplexity: Perplexity
    by: Mapping[By, Sequence[Group]]
    calibration: Calibration | None
    difficulty_metric: str | None = None  # of `by["difficulty"]`, None without it

    def to_json(self) -> JsonObject:
        """Return the perplexity's figures and, beside them, the others that were asked for."""
        figures: JsonObject = self.perplexity.to_json()
        if self.by:
            figures["by"] = {
                name: [group.to_json() for group in groups] for name, groups in self.by.items()
            }
        if self.difficulty_metric is not None:
            figures["difficulty_metric"] = self.difficulty_metric
        if self.calibration is not None:
            figures["calibration"] = self.calibration.to_json()
        return figures


def parse_ways(text: str | None) -> tuple[By, ...]:
    """Read ways to group tokens, separated by commas.

    Raises:
        InputError: one that does not exist.
    """
    ways = [way.strip() for way in text.split(",")] if text else []
    for way in ways:
        if way not in get_args(By):
            raise InputError(
                f"tokens cannot be grouped by {way!r}", f"use {', '.join(get_args(By))}"
            )
    return cast(tuple[By, ...], tuple(ways))


def diagnose(
    evaluation: Evaluation,
    *,
    by: Iterable[By] = (),
    scores: Path | None = None,
    metric: str = CurriculumConfig().metric,
    calibration: bool = False,
    progress: Progress = SILENT,
) -> Diagnosis:
    """Score a model on stories, and group its losses.

    Args:
        by: how to group the tokens (see `loss_groups` and `roles`); holds 4 bytes a token in
            memory, for roles and places some ten more.
        scores: score folder for `difficulty`; default: the stories are scored, and the scores
            kept with the prepared data.
        metric: the difficulty; several with weights (`mtld=2,flesch=1`) are combined by rank.
        calibration: whether to measure it, which runs the model some three times more.

    Raises:
        InputError: the scores do not fit the stories or lack the metric, no training split is
            known to count tokens in, or the tokenizer loses the text that roles are read from.
        RunError: a loss is not finite.
    """
    ways = frozenset(by)
    # Bad input is refused before the model runs.
    difficulty = _difficulty(evaluation, scores, metric, progress) if "difficulty" in ways else None
    counted = sorted(ways & {"frequency", "role"})
    train_counts = _train_counts(evaluation, ",".join(counted), progress) if counted else None
    roles = None
    if "role" in ways and train_counts is not None:
        roles = store_roles(evaluation.store, _tokens_in_text(evaluation), train_counts)

    store = evaluation.store
    model, seq_len, stride = evaluation.source.model, evaluation.seq_len, evaluation.stride
    losses = np.empty(store.num_tokens, dtype=np.float32) if ways else None
    perplexity = evaluate_perplexity(
        model, store, seq_len=seq_len, stride=stride, out=losses, progress=progress
    )
    groups: dict[By, Sequence[Group]] = {}
    if losses is not None:
        scored = scored_labels(store)
        if "loss" in ways:
            groups["loss"] = by_loss(losses[scored])
        if "frequency" in ways and train_counts is not None:
            groups["frequency"] = by_frequency(losses[scored], store.ids[scored], train_counts)
        if difficulty is not None:
            tokens = np.diff(store.offsets) - 1
            groups["difficulty"] = by_difficulty(story_sums(store, losses), tokens, difficulty)
        if roles is not None:
            groups["role"] = by_role(store, losses, roles)
        if "position" in ways:
            groups["position"] = by_position(store, losses)
    return Diagnosis(
        perplexity,
        groups,
        calibrate(model, store, seq_len=seq_len, stride=stride, progress=progress)
        if calibration
        else None,
        metric if difficulty is not None else None,
    )


def keep_perplexity(evaluation: Evaluation, perplexity: Perplexity) -> None:
    """Write a run's `eval.json`, if the run was scored just as at the end of its training."""
    if evaluation.run_dir is not None:
        write_json(evaluation.run_dir / EVALUATION_FILE, perplexity.to_json())


def _difficulty(
    evaluation: Evaluation, scores: Path | None, metric: str, progress: Progress
) -> NDArray[np.float64]:
    """Return the difficulty of each story that is scored, NaN where it is undefined."""
    weights = parse_weights(metric)
    if scores is None:
        table = scores_for_curriculum(
            CurriculumConfig(), evaluation.part.as_corpus(progress), progress
        )
    else:
        table, corpus = open_scores(scores), evaluation.part.corpus
        scored = table.manifest.corpus
        if scored.fingerprint != corpus.fingerprint:
            raise InputError(
                f"{scores} holds scores of {scored.name} ({scored.split}), "
                f"not of {corpus.name} ({corpus.split})",
                "leave out --scores: the stories are then scored on the way",
            )
    return combined_difficulty(table, weights)[table.positions(evaluation.store.rows)]


def _tokens_in_text(evaluation: Evaluation) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield the text of each story with the characters that each of its tokens covers."""
    store = evaluation.store
    if store.text_loss:
        raise InputError(
            f"roles are read from the text, but {store.text_loss}", "leave out --by role"
        )
    encoder, starts = text_encoder(evaluation.source.tokenizer), store.offsets[:-1] + 1
    for story, first, end in zip(
        evaluation.part.stories(SILENT), starts, store.offsets[1:], strict=True
    ):
        encoding = encoder.encode(story.text, add_special_tokens=False)
        if not np.array_equal(encoding.ids, store.ids[first:end]):
            raise InputError(
                f"the story in row {story.row} has changed since it was tokenized",
                "repeat the command",
            )
        yield story.text, encoding.offsets


def _train_counts(evaluation: Evaluation, ways: str, progress: Progress) -> NDArray[np.int64]:
    """Return how often each token type is a label in the run's own training split.

    Args:
        ways: the groupings that need it, for the hint.
    """
    config = run_config(evaluation.name)
    if config is None:
        raise InputError(
            f"{evaluation.name} is no run, so no training split is known to count tokens in",
            f"name the folder of a run, or leave out --by {ways}",
        )
    own_tokenizer = TokenizerConfig(name=evaluation.name)
    train = prepare_chosen(config, progress, tokenizer=own_tokenizer).train
    if train.manifest.ids_sha256 != recorded_ids(evaluation.name, "train"):
        raise InputError(
            f"the training stories of {evaluation.name} have changed since",
            f"bring the old files back, or leave out --by {ways}",
        )
    return label_counts(train, len(evaluation.source.tokenizer))
