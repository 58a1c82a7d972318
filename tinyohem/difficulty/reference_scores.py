"""Score a pool by small language models, one of which has learned from the target.

Training is no business of this room: who calls passes a function that trains and scores. The scores
are kept with the prepared data.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tinyohem.config.reference import reference_config, reference_recipe
from tinyohem.config.run import RunConfig
from tinyohem.data.prepare import absent
from tinyohem.data.sources import Sources
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.target_scores import check_openings
from tinyohem.errors import InputError, plainly
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.data_dir import data_dir
from tinyohem.io.hashing import hash_json
from tinyohem.io.manifest import Figure, Record, open_folder, seal_folder
from tinyohem.progress import Progress

# Raise it when a change trains another model by the same config, or scores otherwise.
_FORMAT = 2
_VALUES_FILE, _CALIBRATION_FILE = "values.npy", "calibration.npy"

LearnsFrom = Literal["target", "pool"]
# Trains a model by a config and returns its nats per token of each row of the pool, NaN where a row
# holds no story, and of each calibration story.
ScoreByModel = Callable[[RunConfig, LearnsFrom, Sources, Progress], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class ReferenceScores:
    """The scores of a pool and, by the same models, those of the calibration stories.

    Attributes:
        values: (rows,) nats per token, or the difference of two; the lower, the more like the
            target; NaN where a row holds no story.
        calibration: (calibration stories,) the same score.
        seconds: that training and scoring took.
    """

    values: FloatArray = field(repr=False)
    calibration: FloatArray = field(repr=False)
    seconds: float


class _ScoresRecord(Record):
    seconds: Figure


def reference_scores(
    config: RunConfig, sources: Sources, score: ScoreByModel | None, progress: Progress
) -> ReferenceScores:
    """Return the scores of a run's pool, from the data folder, or made now and kept there.

    `reference_loss` is the loss under a model that has learned from the target. `reference_gain` is
    that minus the loss under one of the same shape, vocabulary and number of steps that has learned
    from the pool (CoLoR-Filter, Brandfonbrener et al., arXiv 2406.10670).

    Args:
        score: trains and scores; None: the scores have to be there.

    Raises:
        InputError: they are not there and `score` is None, or they are damaged; or the pool is in
            another script than the target.
    """
    of_target = _scores_of("target", config, sources, score, progress)
    if config.target.score == "reference_loss":
        return of_target
    of_pool = _scores_of("pool", config, sources, score, progress)
    return ReferenceScores(
        of_target.values - of_pool.values,
        of_target.calibration - of_pool.calibration,
        of_target.seconds + of_pool.seconds,
    )


def _scores_of(
    learns_from: LearnsFrom,
    config: RunConfig,
    sources: Sources,
    score: ScoreByModel | None,
    progress: Progress,
) -> ReferenceScores:
    target, pool = sources.target, sources.train.corpus
    assert target is not None
    recipe = reference_config(config.target.reference, config.training.device)
    facts = {
        "format": _FORMAT,
        "learns_from": learns_from,
        "pool": pool.fingerprint,
        "target": target.fingerprint,
        **({"left_out": sources.valid.identity} if learns_from == "pool" else {}),
        "recipe": reference_recipe(recipe),
    }
    folder = data_dir() / "references" / hash_json(facts)[:16]
    with absent(folder, progress) as is_absent:
        if is_absent:
            if score is None:
                raise InputError(
                    f"the scores by which stories of {pool.name} were chosen are not in {folder}",
                    "`tinyohem prepare-data` with the options of the run makes them again, the "
                    "same on one kind of machine",
                )
            check_openings(pool, target)
            began = time.perf_counter()
            values, calibration = score(recipe, learns_from, sources, progress)
            with atomic_folder(folder) as partial:
                np.save(partial / _VALUES_FILE, values)
                np.save(partial / _CALIBRATION_FILE, calibration)
                seal_folder(partial, {**facts, "seconds": time.perf_counter() - began})
    return _read(folder)


def _read(folder: Path) -> ReferenceScores:
    names = (_VALUES_FILE, _CALIBRATION_FILE)
    try:
        record = open_folder(folder, _ScoresRecord, names=names, sealed=True)
        values, calibration = (np.load(folder / name, allow_pickle=False) for name in names)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the scores in {folder} are damaged: {plainly(error)}",
            f"delete {folder} and run the command again to rebuild it",
        ) from None
    return ReferenceScores(values, calibration, record.seconds)
