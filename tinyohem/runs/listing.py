"""What runs a folder holds: their state, model, tokens and result, from their small files."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tinyohem.config.run import RunConfig, validate_config
from tinyohem.errors import InputError
from tinyohem.io.json import JsonObject, read_json
from tinyohem.io.locks import is_locked
from tinyohem.runs.checkpoints import latest_checkpoint, read_state
from tinyohem.runs.layout import CHECKPOINTS, EVALUATION_FILE, RECORD_FILE
from tinyohem.runs.record import run_record
from tinyohem.runs.scored import in_part
from tinyohem.runs.settings import Settings, own_settings

State = Literal["finished", "running", "stopped", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """A run in a list; what cannot be read is None."""

    folder: str
    state: State
    model: str | None
    settings: Settings | None  # that are not its defaults
    parameters: int | None
    steps: int | None  # done and saved
    num_steps: int | None  # None under a budget in seconds
    tokens: int | None  # seen by the newest checkpoint
    bits_per_byte: float | None  # at the end
    perplexity: float | None
    scored_stories: int | None  # that these two figures cover
    validation_stories: int | None  # of the split
    validated_on: str | None  # the same for runs that were validated on the same stories

    @property
    def scored_in_part(self) -> bool:
        """Whether its figures cover a part of its validation stories only."""
        return in_part(self.scored_stories, self.validation_stories)

    def to_json(self) -> JsonObject:
        """Return every figure."""
        return asdict(self) | {"scored_in_part": self.scored_in_part}


def list_runs(folder: Path) -> list[ListedRun]:
    """Return the runs in and below a folder, by name.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}",
            "name one that holds runs; `tinyohem train` makes its own in runs/",
        )
    found = {path.parent for path in folder.rglob(CHECKPOINTS) if path.is_dir()}
    return [_listed(path) for path in sorted(found) if (path / RECORD_FILE).exists()]


def _listed(folder: Path) -> ListedRun:
    state: State = "stopped"
    config = record = steps = tokens = None
    result: dict[str, Any] = {}
    try:
        record = run_record(str(folder))
        config = validate_config(record.config) if record else None
        if (folder / EVALUATION_FILE).exists():
            state, result = "finished", read_json(folder / EVALUATION_FILE)
        if newest := latest_checkpoint(folder):
            saved = read_state(newest)
            steps, tokens = saved.step, saved.tokens_seen
    except (InputError, OSError, ValueError):
        state = "damaged"
    if is_locked(folder):
        state = "running"
    return ListedRun(
        folder=str(folder),
        state=state,
        model=_model(config) if config else None,
        settings=own_settings(config.model_dump()) if config else None,
        parameters=record.num_parameters if record else None,
        steps=steps,
        num_steps=record.num_steps if record else None,
        tokens=tokens,
        bits_per_byte=result.get("bits_per_byte"),
        perplexity=result.get("perplexity"),
        scored_stories=result.get("stories"),
        validation_stories=record.valid.stories if record else None,
        validated_on=record.valid.which_stories if record else None,
    )


def _model(config: RunConfig) -> str:
    return config.model.preset or config.model.init_from or "own shape"
