"""What a run reads before anything else: stories, the model that it starts from, mined losses."""

import time
from functools import partial
from pathlib import Path

from tinyohem.config.reference import reference_config, reference_recipe
from tinyohem.config.run import RunConfig
from tinyohem.data.prepare import Prepared, absent
from tinyohem.data.sources import target_of
from tinyohem.data.tokenizer import story_start
from tinyohem.difficulty.choose import prepare_chosen
from tinyohem.io.atomic import atomic_folder
from tinyohem.io.data_dir import data_dir
from tinyohem.io.hashing import hash_json
from tinyohem.io.json import read_json, write_json
from tinyohem.models.pretrained import load_pretrained
from tinyohem.progress import SILENT, Progress
from tinyohem.training.mine_pool import mine_pool
from tinyohem.training.prepare import Inputs
from tinyohem.training.target_reference import (
    reference_steps,
    score_by_reference,
    target_data,
    train_reference,
)

# Raise it when a change trains another reference by the same config.
_FORMAT = 1
_SECONDS_FILE = "seconds.json"

# The data of a run, with the stories that its config chooses, by a model where it asks for one.
prepare_stories = partial(prepare_chosen, by_model=score_by_reference)


def open_inputs(config: RunConfig, progress: Progress = SILENT) -> Inputs:
    """Load the model that a run starts from, and prepare its data: tokenize, score, choose, mine.

    Raises:
        InputError: the config, the data or the model forbids the run.
    """
    pretrained = load_pretrained(config, progress) if config.model.init_from else None
    data = prepare_stories(config, progress)
    pool = mine_by_target(config, data, progress)[0] if config.ohem.mines_target else None
    return Inputs(pretrained, data, pool)


def mine_by_target(
    config: RunConfig, data: Prepared, progress: Progress = SILENT
) -> tuple[Path, float]:
    """Return the losses of a run's tokens under a reference that has learned from the target.

    It reads the run's tokens in the run's windows, so it has the run's vocabulary and not that of
    the reference by which stories are chosen. The pool is kept with the prepared data.

    Args:
        data: of the run.

    Returns:
        The folder of the pool, and the seconds that training the reference and mining took.

    Raises:
        InputError: the target holds less text than a training window.
    """
    target = target_of(config.data, config.target, SILENT)  # `open_inputs` told of it
    assert target is not None
    training = config.training
    recipe = reference_config(
        config.target.reference,
        training.device,
        seq_len=training.seq_len,
        attention=training.attention,
    )
    store = data.train.manifest
    facts = {
        "format": _FORMAT,
        "target": target.fingerprint,
        "tokens": [store.tokenizer, store.ids_sha256],
        "recipe": reference_recipe(recipe),
    }
    folder = data_dir() / "pools" / hash_json(facts)[:16]
    with absent(folder, progress) as is_absent:
        if is_absent:
            began = time.perf_counter()
            own = target_data(target, data.tokenizer)
            model = train_reference(recipe, own, reference_steps(recipe, own), progress=progress)
            with atomic_folder(folder) as partial_folder:
                mine_pool(
                    model,
                    data.train,
                    partial_folder,
                    seq_len=training.seq_len,
                    story_start=story_start(data.tokenizer, training.attention),
                    tokens_seen=None,
                    progress=progress,
                )
                write_json(partial_folder / _SECONDS_FILE, time.perf_counter() - began)
    return folder, float(read_json(folder / _SECONDS_FILE))
