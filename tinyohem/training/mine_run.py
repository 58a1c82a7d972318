"""Mine offline, by the name of a checkpoint: the losses of a data set's training tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyohem.config.data import TokenizerConfig
from tinyohem.config.run import RunConfig
from tinyohem.config.training import Attention
from tinyohem.data.corpus import absolute_name
from tinyohem.data.tokenizer import story_start
from tinyohem.data.windows import plan_windows
from tinyohem.errors import InputError
from tinyohem.evaluation.open import recorded_ids
from tinyohem.io.locks import sole_writer
from tinyohem.models.pretrained import check_losses, keeps_stories_apart
from tinyohem.models.source import Source, load_source
from tinyohem.progress import SILENT, Progress
from tinyohem.runs.checkpoints import checkpoint_of, tokens_seen
from tinyohem.runs.record import run_config, trained_seq_len
from tinyohem.training.inputs import prepare_stories
from tinyohem.training.mine_pool import Mined, mine_pool


def mine_run(
    name: str,
    out: Path,
    *,
    data: Mapping[str, Any],
    seq_len: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Mined:
    """Mine the training tokens of a data set under a model into the pool `out`.

    Args:
        name: a run (its newest checkpoint), one checkpoint, a transformers folder or a Hub id.
        out: the folder of the pool.
        data: keys of `DataConfig` that the user gave. The other keys come from the run, unless
            `data` names another data set.
        seq_len: tokens of a window; default: that of the run's training, else the model's longest
            context.

    Raises:
        InputError: there is no such model or data set, or `out` holds something else.
        RunError: a loss is not finite.
    """
    checkpoint = checkpoint_of(Path(name), progress)
    folder = str(checkpoint or name)
    source = load_source(folder, device)
    check_losses(source.model, name)
    seq_len = seq_len or trained_seq_len(folder) or source.max_seq_len
    if not 2 <= seq_len <= source.max_seq_len:
        raise InputError(
            f"windows of {seq_len:,} tokens do not fit the model's context",
            f"use --seq-len {source.max_seq_len} or less, at least 2",
        )
    config, tokenizer = _config(folder, data), TokenizerConfig(name=folder)
    store = prepare_stories(config, progress, tokenizer=tokenizer).train
    trained = run_config(folder) or config
    if not data and store.manifest.ids_sha256 != recorded_ids(folder, "train"):
        raise InputError(
            f"the training stories of {name} have changed since it was trained",
            "bring the old files back, or name the stories to mine with --dataset",
        )
    plan_windows(store, seq_len, seed=0)  # refuses a store shorter than one window
    with sole_writer(out, progress=progress):
        return mine_pool(
            source.model,
            store,
            out,
            seq_len=seq_len,
            story_start=_story_start(source, trained.training.attention, progress),
            tokens_seen=tokens_seen(Path(folder)),
            progress=progress,
        )


def _story_start(source: Source, attention: Attention, progress: Progress) -> int | None:
    """Return the token that parts stories; None where the model's tokens look across them."""
    start = story_start(source.tokenizer, attention)
    if start is None or keeps_stories_apart(source.model, start):
        return start
    progress.warn(
        f"a token of a {type(source.model).__name__} sees the stories before its own: the pool is "
        "for runs with training.attention=window"
    )
    return None


def _config(folder: str, given: Mapping[str, Any]) -> RunConfig:
    """Return the config of the run that trained the model, with the user's keys over its data.

    Of a run on another data set than the user's, nothing is taken over.
    """
    config = run_config(folder)
    if config is None and "dataset" not in given:
        raise InputError("no data set to mine", "add --dataset, for example --dataset sample")
    own = config or RunConfig()
    dataset = given.get("dataset", own.data.dataset)
    if absolute_name(dataset) != absolute_name(own.data.dataset):
        own = RunConfig()
    return own.model_copy(update={"data": own.data.model_copy(update=given)})
