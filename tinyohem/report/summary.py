"""Write the sentence that a report begins with: what came out."""

from collections.abc import Sequence

from tinyohem.evaluation.perplexity import exp_or_inf
from tinyohem.experiments.statistics import MIN_SEEDS
from tinyohem.experiments.table import Row, verdict
from tinyohem.report.run_logs import ComparisonResult, ReportInput, RunGroup, RunLog
from tinyohem.report.style import shorten

_NAMED = 4  # arms or runs in one list
_VERDICTS = {  # of `experiments.table.verdict`
    "better": "{names} {are} better",
    "worse": "{names} {are} worse",
    "no difference shown": "no difference is shown for {names}",
    "too few seeds": f"too few seeds (below {MIN_SEEDS}) to judge {{names}}",
}


def what_came_out(data: ReportInput) -> str:
    """Say what the comparisons show, or if there are none, what the runs reached."""
    if data.comparisons:
        several = len(data.comparisons) > 1
        return " ".join(_comparison(result, several) for result in data.comparisons)
    runs = data.runs
    if len(runs) == 1:
        return _one_run(runs[0])
    finished = [run for run in runs if run.evaluation is not None]
    if len(finished) < len(runs):
        if not finished:
            return f"None of the {len(runs)} runs has finished yet."
        return f"{len(finished)} of {len(runs)} runs have finished, so nothing is compared yet."
    if not data.bits_compare:
        return f"These {len(runs)} runs have finished; their figures do not compare."
    return _ranking(data.groups)


def _comparison(result: ComparisonResult, several: bool) -> str:
    baseline, *arms = result.rows
    where = f"In {result.label}, against" if several else "Against"
    parts = []
    for word, says in _VERDICTS.items():
        judged = [_with_difference(row) for row in arms if verdict(row) == word]
        if judged:
            are = "is" if len(judged) == 1 else "are"
            parts.append(says.format(names=_listed(judged), are=are))
    bits = baseline.bits_per_byte[0]
    return f"{where} {shorten(baseline.arm)}, {bits:.4f} bits per byte: {'; '.join(parts)}."


def _with_difference(row: Row) -> str:
    difference = f" ({row.difference.mean:+.4f})" if row.difference else ""
    return f"{shorten(row.arm)}{difference}"


def _one_run(run: RunLog) -> str:
    name = shorten(run.label)
    if run.evaluation is None:
        loss, planned = run.last("val/loss"), run.record.num_steps
        reached = "not validated yet"
        if loss is not None:
            reached = f"perplexity {exp_or_inf(loss):.2f} so far"
        return f"{name} is at step {run.step:,}{f' of {planned:,}' if planned else ''}: {reached}."
    perplexity, bits = run.evaluation.perplexity, run.evaluation.bits_per_byte
    scores = [f"perplexity {perplexity:.2f}"] if perplexity is not None else []
    scores += [f"{bits:.4f} bits per byte"] if bits is not None else []
    seen = run.total("tokens_seen")
    after = f" after {seen:,.0f} tokens" if seen else ""
    return (
        f"{name} ended at {', '.join(scores)}{after}." if scores else f"{name} has finished{after}."
    )


def _ranking(groups: Sequence[RunGroup]) -> str:
    """Name the groups, the one with the fewest bits per byte first."""
    ranked = []
    for group in groups:
        bits = [run.evaluation.bits_per_byte for run in group.runs if run.evaluation]
        known = [value for value in bits if value is not None]
        if len(known) == len(group.runs):
            ranked.append((sum(known) / len(known), group.name))
    if len(ranked) < 2:
        return f"All {sum(len(group.runs) for group in groups)} runs have finished."
    figures = [f"{shorten(name)} {bits:.4f}" for bits, name in sorted(ranked)]
    return (
        f"Bits per byte, the fewest first: {_listed(figures)}; these runs are no comparison, so a "
        "small difference may be luck."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    if more > 1:
        return f"{', '.join(names[:_NAMED])} and {more} more"
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
