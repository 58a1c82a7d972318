"""Metrics: always `metrics.jsonl`, on request wandb under the same names."""

from pathlib import Path
from typing import Any

from tinyohem.artifacts import append_line, atomic_file, hash_json, read_jsonl
from tinyohem.config import RunConfig
from tinyohem.errors import InputError
from tinyohem.record import Record, check_record


class LoggedRow(Record):
    """A row of the log."""

    step: int


class Tracker:
    """Writes one row of figures at a time; a resumed run drops the rows it will write again."""

    def __init__(self, run_dir: Path, config: RunConfig, first_step: int) -> None:
        """Open the run's log.

        Args:
            first_step: steps already done; rows of later steps are from a lost stretch.
        """
        path = run_dir / "metrics.jsonl"
        try:
            rows = [check_record(row, LoggedRow) for row in read_jsonl(path)]
        except ValueError as error:
            hint = "bring the run's own file back"
            raise InputError(f"{path} is damaged: {error}", hint) from None
        rows = [row for row in rows if row["step"] <= first_step]
        with atomic_file(path) as stream:
            for row in rows:
                append_line(stream, row)
        self._stream = path.open("ab")
        self._wandb = _start_wandb(run_dir, config)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Write the figures of `step` (optimizer steps done)."""
        append_line(self._stream, {"step": step, **metrics})
        self._stream.flush()
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def close(self) -> None:
        """Close the log and end the wandb run, if any."""
        self._stream.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(run_dir: Path, config: RunConfig) -> Any:
    if config.tracking.wandb == "off":
        return None
    import wandb

    try:
        return wandb.init(
            project=config.tracking.project,
            name=run_dir.name,
            id=hash_json(str(run_dir.resolve()))[:16],  # names of runs repeat, folders do not
            dir=str(run_dir),
            mode=config.tracking.wandb,
            resume="allow",
            config=config.model_dump(),
        )
    except wandb.errors.Error as error:  # a project's name that it does not take, no login
        told = str(error).partition("\n")[0]
        raise InputError(f"wandb does not start: {told}", "use --wandb off or offline") from None
