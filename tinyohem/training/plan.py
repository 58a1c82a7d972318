"""How many steps a run takes, and which windows each trains on: shuffled, hard ones mixed in, or by
a curriculum.
"""

import math
from pathlib import Path

from tinyohem.artifacts import data_dir
from tinyohem.config import CurriculumConfig, RunConfig
from tinyohem.data.batches import HardWindowPlan, WindowPlan, plan_windows
from tinyohem.data.corpus import Corpus
from tinyohem.data.prepare import Prepared
from tinyohem.difficulty.curriculum import CurriculumPlan, build_plan, load_plan, save_plan
from tinyohem.difficulty.pacing import Curriculum, parse_weights
from tinyohem.difficulty.scoring import score_corpus
from tinyohem.difficulty.table import METRIC_VERSION, METRICS, ScoreTable, open_scores
from tinyohem.errors import InputError
from tinyohem.locks import sole_writer
from tinyohem.ohem.pool import Pool
from tinyohem.progress import Progress
from tinyohem.settings import parse_tokens
from tinyohem.training.model import parameter_count

PLAN_FOLDER = "plan"

Plan = WindowPlan | HardWindowPlan | CurriculumPlan


def budget_steps(config: RunConfig, data: Prepared) -> int:
    """Return the optimizer steps that the token budget buys, at least one."""
    training = config.training
    parameters = parameter_count(config.model, len(data.tokenizer))
    tokens = parse_tokens(training.tokens, parameters, data.train.num_tokens)
    return training.steps or max(1, tokens // training.tokens_per_step)


def make_plan(
    config: RunConfig, data: Prepared, num_steps: int, pool: Pool | None, progress: Progress
) -> Plan:
    """Return the order of a run's windows; a curriculum scores the corpus first if need be.

    Args:
        pool: whose hardest windows `ohem.hard_windows` draws.

    Raises:
        InputError: the corpus is shorter than a window, or the score table does not fit it.
    """
    training = config.training
    shuffled = plan_windows(data.train, training.seq_len, training.seed)
    if config.ohem.hard_windows:
        assert pool is not None
        hardest = pool.hardest_windows()
        return HardWindowPlan(shuffled, hardest, training.batch_size, config.hard_per_batch)
    if not config.curriculum.enabled:
        return shuffled
    table = score_table(config.curriculum, data.corpus, progress)
    plan = build_plan(
        table,
        rows=data.train.rows,
        offsets=data.train.offsets,
        seq_len=training.seq_len,
        drawn=shuffled.windows(0, num_steps * training.batch_size),
        curriculum=Curriculum(
            pacing=config.curriculum.pacing,
            fraction=config.curriculum.fraction,
            initial_competence=config.curriculum.initial_competence,
            layers=config.curriculum.layers,
            jitter_window=config.curriculum.jitter_window,
            seed=training.seed,
        ),
        weights=parse_weights(config.curriculum.metric),
    )
    progress.note(
        f"curriculum: {config.curriculum.pacing} by {config.curriculum.metric}, "
        f"plan {plan.hash[:16]}"
    )
    return plan


def score_table(config: CurriculumConfig, corpus: Corpus, progress: Progress) -> ScoreTable:
    """Return the scores of the training corpus: the folder named, or scored now and kept.

    Raises:
        InputError: a metric that no pass over the text yields, without a folder that holds it.
    """
    if config.scores is not None:
        return open_scores(Path(config.scores), corpus.fingerprint)
    for metric in parse_weights(config.metric):
        if metric not in METRICS:
            raise InputError(
                f"scoring the corpus yields no metric {metric!r}, only {', '.join(METRICS)}",
                "make a score folder that has it (`tinyohem score-difficulty --help`) and name "
                "that with --set curriculum.scores=FOLDER",
            )
    folder = data_dir() / "scores" / f"{corpus.fingerprint[:16]}-{METRIC_VERSION}"
    if not folder.exists():
        progress.note(f"no score table fits the corpus: scoring it into {folder}")
    with sole_writer(folder, patience=math.inf, progress=progress):  # runs share it
        return score_corpus(corpus, folder, progress=progress)


def keep_plan(plan: Plan, run_dir: Path) -> Plan:
    """Save a curriculum with its run; a resumed run goes on with the one that was saved.

    Raises:
        InputError: the saved plan was changed, or is not the one that this config gives.
    """
    if not isinstance(plan, CurriculumPlan):
        return plan
    folder = run_dir / PLAN_FOLDER
    if not folder.exists():
        save_plan(plan, folder)
        return plan
    saved = load_plan(folder)
    if saved.hash != plan.hash:
        raise InputError(
            f"{folder} holds the plan {saved.hash[:16]}, this config gives {plan.hash[:16]}",
            "the score table was replaced: begin a new run with another --out",
        )
    return plan  # the same, by its hash; the file may hold the bytes in another shape
