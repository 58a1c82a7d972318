"""The plan of a run: from scores of stories to difficulties of windows to a saved order."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tinyohem.config.curriculum import CurriculumConfig, parse_weights
from tinyohem.difficulty.metrics import FloatArray
from tinyohem.difficulty.pacing import describe, order_draws
from tinyohem.difficulty.score_table import CorpusRecord, ScoreTable, combined_difficulty
from tinyohem.difficulty.text import IntArray
from tinyohem.errors import InputError, plainly
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import JsonObject, write_json
from tinyohem.io.manifest import Figure, Record, read_record
from tinyohem.io.names import utf8_path

_ORDER_FILE = "order.safetensors"
_PLAN_FILE = "plan.json"
_PACING_KEYS = {"pacing", "fraction", "initial_competence", "layers", "jitter_window"}


class PlanOrigin(Record):
    """Everything that an order was made from; `curriculum` holds the pacing and the seed."""

    curriculum: JsonObject
    weights: dict[str, Figure]
    seq_len: int
    corpus: CorpusRecord
    scores_sha256: str


class PlanRecord(Record):
    """A saved plan's `plan.json`."""

    hash: str
    origin: PlanOrigin


@dataclass(frozen=True)
class CurriculumPlan:
    """Which window each draw of a run trains on.

    Attributes:
        order: (draws,) windows, in the order of training.
        origin: everything that the order was made from.
        difficulty: (windows,) the percentiles it goes by; None where the plan was read back.
    """

    order: IntArray
    origin: PlanOrigin
    difficulty: FloatArray | None = field(default=None, repr=False, compare=False)

    @property
    def hash(self) -> str:
        """Return the SHA-256 of order and origin, in hex: the same hash, the same training data."""
        digest = hashlib.sha256(self.order.astype("<i8").tobytes())
        digest.update(hash_json(self.origin.to_json()).encode())
        return digest.hexdigest()

    def describe(self, curriculum: CurriculumConfig, num_steps: int) -> str:
        """Say in a line what the order does over a run of `num_steps` steps."""
        weights = self.origin.weights.items()
        metric = " and ".join(f"{name}={w:g}" if w != 1 else name for name, w in weights)
        assert self.difficulty is not None
        text = describe(self.order, self.difficulty, curriculum, num_steps)
        return f"{curriculum.pacing} by {metric}: {text}"

    def windows(self, first: int, count: int) -> IntArray:
        """Return the windows of draws first .. first + count - 1.

        Raises:
            InputError: the plan ends before.
        """
        if first + count > len(self.order):
            raise InputError(
                f"the curriculum plans {len(self.order):,} windows, training wants more",
                "start a new run for another number of steps",
            )
        return self.order[first : first + count]


def build_plan(
    table: ScoreTable,
    *,
    rows: IntArray,
    offsets: IntArray,
    seq_len: int,
    drawn: IntArray,
    curriculum: CurriculumConfig,
    seed: int,
) -> CurriculumPlan:
    """Order the draws of a run by the difficulty of the stories in each window.

    Args:
        table: scores of the corpus that the run trains on.
        rows: (stories,) corpus row of each story of the token store, ascending.
        offsets: (stories + 1,) where each story's tokens start in the token store.
        seq_len: tokens of a window; window w is the tokens from w * seq_len on.
        drawn: (draws,) windows in the order of shuffled training.
        curriculum: what is difficult, and how to pace. `by_length` has its own metric.
        seed: of every random choice.

    Raises:
        InputError: a metric that the table lacks, a story without a row in it, or no story that
            has a difficulty.
    """
    by_length = curriculum.pacing == "by_length"
    weights = {"length": 1.0} if by_length else parse_weights(curriculum.metric)
    of_story = combined_difficulty(table, weights)[table.positions(rows)]
    if np.isnan(of_story).all():
        raise InputError(
            f"no story of {table.manifest.corpus.name} has a difficulty by "
            f"{', '.join(weights)}: there is nothing to order by",
            "choose another --curriculum-metric, such as mtld; Flesch is for Latin script",
        )
    difficulty = window_difficulty(offsets, of_story, seq_len, int(drawn.max()) + 1)
    origin = PlanOrigin(
        curriculum=curriculum.model_dump(include=_PACING_KEYS) | {"seed": seed},
        weights=weights,
        seq_len=seq_len,
        corpus=table.manifest.corpus,
        scores_sha256=table.manifest.scores_sha256,
    )
    return CurriculumPlan(order_draws(drawn, difficulty, curriculum, seed), origin, difficulty)


def window_difficulty(
    offsets: IntArray, story_difficulty: FloatArray, seq_len: int, num_windows: int
) -> FloatArray:
    """Return the mean difficulty of each window's tokens, (num_windows,).

    A token is as difficult as its story. Stories without a difficulty (NaN) do not count; a window
    that holds no other is NaN.

    Args:
        offsets: (stories + 1,) token positions where stories start.
        story_difficulty: (stories,).
        seq_len: tokens of a window.
        num_windows: windows from the start of the store; the tokens after them are left out.
    """
    end = num_windows * seq_len
    borders = np.union1d(offsets[offsets < end], np.arange(0, end, seq_len))
    tokens = np.diff(borders, append=end)
    difficulty = story_difficulty[np.searchsorted(offsets, borders, "right") - 1]
    tokens = np.where(np.isnan(difficulty), 0, tokens)

    window = borders // seq_len
    counted = np.bincount(window, tokens, num_windows)
    summed = np.bincount(window, tokens * np.nan_to_num(difficulty), num_windows)
    return np.divide(summed, counted, out=np.full(num_windows, np.nan), where=counted > 0)


def save_plan(plan: CurriculumPlan, folder: Path) -> None:
    """Write the plan into a folder of its own, which appears whole or not at all."""
    with atomic_folder(folder) as partial:
        save_file({"order": plan.order}, partial / _ORDER_FILE)
        write_json(partial / _PLAN_FILE, {"hash": plan.hash, "origin": plan.origin.to_json()})


def load_plan(folder: Path) -> CurriculumPlan:
    """Read a plan back.

    Raises:
        InputError: no plan, or one that is not what was saved.
    """
    try:
        saved = read_record(folder / _PLAN_FILE, PlanRecord)
        plan = CurriculumPlan(load_file(utf8_path(folder / _ORDER_FILE))["order"], saved.origin)
        intact = plan.hash == saved.hash
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        what = f"{folder} holds no curriculum plan that can be read: {plainly(error)}"
        raise InputError(what, "start a new run") from None
    if not intact:
        raise InputError(f"the curriculum plan in {folder} was changed", "start a new run")
    return plan
