"""Choosing a run folder, and what a resumed run may change."""

import shlex
from pathlib import Path
from typing import Literal

from tinyohem.config.ohem import OhemConfig
from tinyohem.config.run import RESUME_MAY_CHANGE, RunConfig, has_biased_mean
from tinyohem.errors import InputError
from tinyohem.io.atomic import is_leftover
from tinyohem.io.hashing import hash_json
from tinyohem.io.manifest import read_record
from tinyohem.progress import Progress
from tinyohem.runs.checkpoints import newest_sound_checkpoint
from tinyohem.runs.layout import CHECKPOINTS, POOLS, RECORD_FILE
from tinyohem.runs.record import RunRecord
from tinyohem.runs.settings import flat_settings, value_text

Resume = Literal["never", "auto", "must"]

# Files may be moved or renamed: `check_same_start` compares the stories themselves.
_NAMES_OF_STORIES = frozenset({"data.dataset", "data.valid", "target.stories"})


def default_run_dir(config: RunConfig, name: str | None) -> Path:
    """Return `runs/<recipe or model>-<hash>`, the same for the same command."""
    settings = flat_settings(config.model_dump())
    deciding = {k: v for k, v in settings.items() if k not in RESUME_MAY_CHANGE}
    model = config.model.preset or Path(config.model.init_from or "").name
    label = Path(name).stem if name else f"{model}{way_of(config.ohem)}"
    return Path("runs") / f"{label}-{hash_json(deciding)[:8]}"


def way_of(ohem: OhemConfig) -> str:
    """Return the part of a folder's name that tells how a run mines; empty for plain training."""
    way = ""
    if ohem.keep_schedule().lowest < 1 or ohem.hard_window_share:
        way = f"-ohem{ohem.ratio:g}" if ohem.ratio < 1 else "-ohem"  # some schedules use no ratio
    return way if ohem.weight == "none" else f"{way}-{ohem.weight}"


def find_checkpoint(
    run_dir: Path, config: RunConfig, resume: Resume, progress: Progress
) -> Path | None:
    """Return the checkpoint to resume from, None for a fresh start; write nothing.

    Raises:
        InputError: a run is there and `resume` is `never`; none is there and it is `must`; the run
            there has another config; or the folder holds something else.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is a file", "choose another --out")
    started = (run_dir / RECORD_FILE).exists()
    occupied = run_dir.exists() and not all(map(is_leftover, run_dir.iterdir()))
    if (resume == "never" or not started) and occupied:
        if started:
            raise InputError(
                f"{run_dir} already holds a run",
                "choose another --out, or go on with --resume auto",
            )
        raise InputError(f"{run_dir} is not empty and holds no run", "choose another --out")
    if resume == "must" and not started:
        raise InputError(f"there is no run in {run_dir} to resume", "check --out")
    if not started:
        return None
    for name in (CHECKPOINTS, POOLS):  # folders in them will be deleted
        if (run_dir / name).is_symlink():
            raise InputError(f"{run_dir / name} is a link", "link the whole run folder instead")
    _check_same_config(run_dir, config)
    checkpoint = newest_sound_checkpoint(run_dir, progress)
    if checkpoint is None and resume == "must":
        raise InputError(f"{run_dir} has no checkpoint yet", "start it with --resume auto")
    return checkpoint


def _check_same_config(run_dir: Path, config: RunConfig) -> None:
    path = run_dir / RECORD_FILE
    try:
        record = read_record(path, RunRecord).config
        before = RunConfig.model_validate(record)
    except ValueError:
        raise InputError(
            f"{path} is no run's, or another version's", "choose another --out"
        ) from None
    if has_biased_mean(record, before):
        raise InputError(
            f"{run_dir} ranks its tokens over a running mean of the model that leans on its first "
            "step, which this version no longer makes",
            "begin the run anew with another --out",
        )
    old, new = (flat_settings(c.model_dump()) for c in (before, config))
    ignored = RESUME_MAY_CHANGE | _NAMES_OF_STORIES
    changed = [key for key in new if key not in ignored and new[key] != old.get(key)]
    if changed:
        difference = ", ".join(
            f"{key} was {value_text(old[key])}, now {value_text(new[key])}" for key in changed[:3]
        )
        settings = [shlex.quote(f"{key}={value_text(old[key])}") for key in changed]
        raise InputError(
            f"{run_dir} was made with another config: {difference}",
            f"go on with --set {' --set '.join(settings)}, or choose another --out",
        )


def check_same_start(run_dir: Path, record: RunRecord) -> None:
    """Refuse to resume a run with other tokens, weights or another pool than at its beginning.

    Args:
        record: of the run as it is now.

    Raises:
        InputError: the content behind one of the same names has changed.
    """
    before = read_record(run_dir / RECORD_FILE, RunRecord)
    for split, old, new in (
        ("train", before.train, record.train),
        ("valid", before.valid, record.valid),
    ):
        if old.ids_sha256 != new.ids_sha256:
            raise InputError(
                f"{run_dir} was made with other stories or another tokenizer: "
                f"the {split} split has changed",
                "bring the old files back, or choose another --out",
            )
    if before.init_sha256 != record.init_sha256:
        raise InputError(
            f"{run_dir} began from other weights: those of model.init_from have changed",
            "bring the old ones back, or choose another --out",
        )
    if record.pool and before.pool != record.pool:
        raise InputError(
            f"{run_dir} was made with another pool: the one in its place has changed",
            "bring the old one back, or choose another --out",
        )
