"""Write metrics to `metrics.jsonl` and, on request, to wandb under the same names."""

import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tinyohem.config.run import RunConfig
from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_file
from tinyohem.io.json import JsonObject, append_line, read_jsonl
from tinyohem.io.manifest import Record, check_record, read_record
from tinyohem.runs.layout import METRICS_FILE, RECORD_FILE, SAMPLES_FILE
from tinyohem.runs.record import RunRecord


class LoggedRow(Record):
    """A row of `metrics.jsonl`."""

    step: int


def tracking_id(run_dir: Path, *, resumed: bool) -> str:
    """Return the id of a run in wandb: random for a new run, the recorded one for a resumed run.

    Names and paths would not do: they repeat over time and between machines.
    """
    kept = read_record(run_dir / RECORD_FILE, RunRecord).wandb_id if resumed else None
    return kept or secrets.token_hex(8)


def require_login(config: RunConfig) -> None:
    """Refuse `--wandb online` where wandb has no login. No server is contacted.

    Raises:
        InputError: there is no login.
    """
    if config.tracking.wandb != "online":
        return
    import wandb

    with _wandb_errors():
        wandb.setup(wandb.Settings(mode="online"))  # overrides WANDB_MODE, as the run does
        logged_in = wandb.login(prompt=False, verify=False)
    if not logged_in:
        raise InputError(
            "wandb knows no account to track online with",
            "run `wandb login`, set WANDB_API_KEY, or use --wandb offline",
        )


class Tracker:
    """Writes rows of figures; a resumed run first drops the rows that it will write again."""

    def __init__(self, run_dir: Path, config: RunConfig, first_step: int) -> None:
        """Open the run's log.

        Args:
            first_step: optimizer steps already done; rows of later steps are dropped.
        """
        self._stream = _reopen(run_dir / METRICS_FILE, first_step)
        samples = run_dir / SAMPLES_FILE
        self._samples = _reopen(samples, first_step) if config.training.samples else None
        self._wandb = _start_wandb(run_dir, config)

    def log(self, step: int, metrics: JsonObject) -> None:
        """Write the figures after `step` optimizer steps."""
        append_line(self._stream, {"step": step, **metrics})
        self._stream.flush()
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def log_sample(self, step: int, text: str) -> None:
        """Write a story of the model after `step` optimizer steps, under `training.samples`."""
        assert self._samples is not None
        append_line(self._samples, {"step": step, "text": text})
        self._samples.flush()
        if self._wandb is not None:
            self._wandb.log({"val/sample": text}, step=step)

    def close(self) -> None:
        """Close the log and end the wandb run, if any."""
        self._stream.close()
        if self._samples is not None:
            self._samples.close()
        if self._wandb is not None:
            self._wandb.finish()


def _reopen(path: Path, first_step: int) -> BinaryIO:
    """Open a log for appending, without the rows of steps after `first_step`."""
    try:
        rows = [check_record(row, LoggedRow) for row in read_jsonl(path)]
    except ValueError as error:
        hint = "bring the run's own file back"
        raise InputError(f"{path} is damaged: {error}", hint) from None
    with atomic_file(path) as stream:
        for row in rows:
            if row.step <= first_step:
                append_line(stream, row.to_json())
    return path.open("ab")


def sync_command(run_dir: Path, config: RunConfig) -> str | None:
    """Return the command that uploads all offline parts of a run, None where there is only one.

    `wandb sync` joins parts with the same id, given in the order in which they began.
    """
    if config.tracking.wandb != "offline":
        return None
    wandb_id = read_record(run_dir / RECORD_FILE, RunRecord).wandb_id
    parts = sorted(map(str, (run_dir / "wandb").glob(f"offline-run-*-{wandb_id}")))
    return shlex.join(["wandb", "sync", *parts]) if len(parts) > 1 else None


def _start_wandb(run_dir: Path, config: RunConfig) -> Any:
    if config.tracking.wandb == "off":
        return None
    import wandb

    with _wandb_errors():
        return wandb.init(
            project=config.tracking.project,
            name=run_dir.name,
            id=read_record(run_dir / RECORD_FILE, RunRecord).wandb_id,
            dir=str(run_dir),
            mode=config.tracking.wandb,
            resume="allow",
            config=config.model_dump(),
        )


@contextmanager
def _wandb_errors() -> Iterator[None]:
    """Turn wandb's refusal, of a project's name or a key, into an `InputError`."""
    import wandb

    try:
        yield
    except (wandb.errors.Error, ValueError) as error:
        # A pydantic error over the settings has several lines.
        lines = [one["msg"] for one in error.errors()] if hasattr(error, "errors") else [str(error)]
        reason = lines[0].partition("\n")[0]
        raise InputError(f"wandb does not start: {reason}", "use --wandb off or offline") from None
