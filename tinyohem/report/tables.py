"""Make the tables of a report: scores, settings that differ, data and machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from tinyohem.data.readers import name_with_split
from tinyohem.evaluation.perplexity import exp_or_inf
from tinyohem.experiments.table import lay_out, num_verdict_cells
from tinyohem.io.json import JsonObject
from tinyohem.report.records import RunFacts
from tinyohem.report.run_logs import ComparisonResult, RunGroup, RunLog
from tinyohem.runs.scored import coverage
from tinyohem.runs.settings import Settings, default_settings, telling, value_text


@dataclass(frozen=True)
class Table:
    """Text in cells; the first column names the row."""

    head: list[str]
    rows: list[list[str]]
    colours: Sequence[int] = ()  # of each row's name: the index of its series; empty: no colours


def runs_table(groups: Sequence[RunGroup]) -> Table:
    """Return one row for each run: its scores, progress and size.

    The scores stand beside the name, because a phone shows only the first columns.
    """
    head = ["run", "perplexity", "bits per byte", "nats per token", "stories scored", "state"]
    head += ["tokens seen", "got a gradient", "training time", "parameters"]
    rows = [[run.label, *_scores(run), *_progress(run)] for group in groups for run in group.runs]
    colours = [index for index, group in enumerate(groups) for _ in group.runs]
    known = [any(column) for column in zip(*rows, strict=True)]  # of any run
    head, *rows = ([*compress(row, known)] for row in (head, *rows)) if rows else [head]
    return Table(head, rows, colours)


def _progress(run: RunLog) -> list[str]:
    planned = run.record.num_steps
    of = f" of {planned:,}" if planned else ""
    seen, kept = run.total("tokens_seen"), run.total("tokens_selected")
    seconds, parameters = run.total("seconds"), run.record.num_parameters
    return [
        coverage(*run.scored),
        "finished" if run.evaluation else f"at step {run.step:,}{of}",
        f"{seen:,.0f}" if seen else "",
        f"{kept / seen:.1%}" if seen and kept is not None else "",
        _duration(seconds) if seconds is not None else "",
        f"{parameters:,}" if parameters else "",
    ]


def _scores(run: RunLog) -> list[str]:
    """Return perplexity, bits per byte and loss; of an unfinished run, on the validation head."""
    figures: list[float | None]
    if run.evaluation is not None:
        end, mark = run.evaluation, ""
        figures = [end.perplexity, end.bits_per_byte, end.loss]
    elif (loss := run.last("val/loss")) is not None:
        mark = " so far"
        figures = [exp_or_inf(loss), run.last("val/bpb"), loss]
    else:
        return ["", "", ""]
    return [
        "–" if figure is None else f"{figure:{form}}{mark}"
        for figure, form in zip(figures, (".3f", ".4f", ".4f"), strict=True)
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def comparison_tables(result: ComparisonResult) -> list[Table]:
    """Split the table of `compare` in two: one row for each arm, and one for each measure.

    The verdict stands beside the arm, because a phone shows only the first columns.
    """
    lines = lay_out(result.rows)
    columns = list(lines[0])
    judged = num_verdict_cells(result.rows[0])
    shown = [*dict.fromkeys(["arm", "verdict", *columns[:judged]])]
    details = columns[judged:]
    return [
        Table(shown, [[line[name] for name in shown] for line in lines], result.groups),
        Table(
            ["measure", *(line["arm"] for line in lines)],
            [[name, *(line[name] for line in lines)] for name in details],
        ),
    ]


def settings_table(groups: Sequence[RunGroup]) -> Table:
    """Return the settings that differ between the runs, or for one run, from the defaults."""
    columns: dict[str, list[Settings]] = {
        group.name: [run.settings for run in group.runs] for group in groups
    }
    if len(groups) == 1:
        columns = {"default": [default_settings(groups[0].runs[0].record.config)], **columns}
    keys = telling(run for runs in columns.values() for run in runs)
    rows = [[key, *(_values(runs, key) for runs in columns.values())] for key in keys]
    return Table(["setting", *columns], rows)


def _values(runs: Sequence[Settings], key: str) -> str:
    """Return the values that a setting has in some runs, in order."""
    texts = (value_text(run[key]) if key in run else "(not recorded)" for run in runs)
    return ", ".join(dict.fromkeys(texts))


def environment_table(runs: Sequence[RunLog]) -> Table:
    """Return data, machine and versions; where runs differ, name the runs of each value."""
    facts: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for key, value in _surroundings(run.record).items():
            facts.setdefault(key, {}).setdefault(value_text(value), []).append(run.label)
    rows = []
    for key, values in facts.items():
        named = [f"{value} ({', '.join(labels)})" for value, labels in values.items()]
        rows.append([key, "; ".join(named if len(values) > 1 else values)])
    return Table(["what", "value"], rows)


def _surroundings(record: RunFacts) -> JsonObject:
    facts: JsonObject = {}
    data = record.config.get("data", {})
    for split, store, source in (
        ("train", record.train, data.get("dataset")),
        ("valid", record.valid, data.get("valid")),
    ):
        if store:
            name = name_with_split(store.name, store.split)
            size = f"{store.stories:,} stories, {store.tokens:,} tokens"
            facts[f"{split} data"] = f"{name}: {size}, ids {store.ids_sha256[:16]}"
        elif source:
            facts[f"{split} data"] = source
    environment = record.environment.to_json() if record.environment else {}
    packages = environment.pop("packages", None) or {}
    return {**facts, **environment, **packages}
