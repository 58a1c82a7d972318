"""What a score folder keeps of its target: calibration, line, and stories on either side."""

from collections.abc import Sequence
from pathlib import Path

from tinyohem.difficulty.score_table import ExampleRecord, ScoreTable
from tinyohem.difficulty.target_rule import QUANTILE, LineRecord, TargetRule
from tinyohem.errors import InputError, plainly
from tinyohem.io.manifest import Record, read_record, write_sealed

TARGET_FILE = "target.json"


class TargetRecord(Record):
    """The target of a score table.

    Attributes:
        calibration: the scores of its calibration stories, in nats per word.
        quantile: share of stories like these that the line loses.
        line: the highest score that passes.
        lines: of each pass over the pool, the last one `line`; the second is left out where nothing
            passed the first, or too little that is like the target.
        passing: the last stories of the pool that pass, the nearest to the line first.
        failing: the first that do not.
    """

    name: str
    fingerprint: str
    calibration: list[float]
    quantile: float
    line: float
    lines: list[LineRecord]
    passing: list[ExampleRecord]
    failing: list[ExampleRecord]


def write_target(
    folder: Path,
    rule: TargetRule,
    last: LineRecord,
    passing: Sequence[ExampleRecord],
    failing: Sequence[ExampleRecord],
) -> None:
    """Write the target of a score folder.

    Args:
        last: what the last pass found.
        passing: the last stories that pass.
        failing: the first that do not.
    """
    record = TargetRecord(
        name=rule.stories.name,
        fingerprint=rule.stories.fingerprint,
        calibration=rule.calibration.tolist(),
        quantile=QUANTILE,
        line=last.line,
        lines=[*([rule.first] if rule.first else []), last],
        passing=list(passing),
        failing=list(failing),
    )
    write_sealed(folder / TARGET_FILE, record.to_json())


def read_target(table: ScoreTable) -> TargetRecord | None:
    """Return the target of a score table, None if it was scored without one.

    Raises:
        InputError: the file is gone, damaged, or that of another target than the manifest's.
    """
    rule, path = table.manifest.rules.target, table.folder / TARGET_FILE
    if rule is None:
        return None
    try:
        record = read_record(path, TargetRecord, sealed=True)
        if record.fingerprint != rule.fingerprint or not record.calibration:
            raise ValueError("it is not the target that the manifest names")
    except (OSError, ValueError) as error:
        hint = "score the corpus again, into another folder"
        raise InputError(f"{path} cannot be read: {plainly(error)}", hint) from None
    return record
