"""What came out, in the sentence that a report begins with."""

from collections.abc import Sequence

from tinyohem.evaluation.perplexity import exp_or_inf
from tinyohem.experiments.statistics import MIN_SEEDS
from tinyohem.experiments.table import Row, verdict
from tinyohem.report.run_logs import ComparisonResult, Material, RunGroup, RunLog
from tinyohem.report.style import shorten

_NAMED = 4  # arms or runs in one breath


def what_came_out(material: Material) -> str:
    """Say what the comparisons show, or else what the runs came to."""
    if material.comparisons:
        several = len(material.comparisons) > 1
        return " ".join(_comparison(result, several) for result in material.comparisons)
    runs = material.runs
    if len(runs) == 1:
        return _one_run(runs[0])
    finished = [run for run in runs if run.evaluation is not None]
    if len(finished) < len(runs):
        far = f"{len(finished)} of {len(runs)} runs have finished, so nothing is compared yet"
        return f"{far}." if finished else f"None of the {len(runs)} runs has finished yet."
    if material.incomparable and not material.bits_compare:
        return f"These {len(runs)} runs have finished; their figures do not compare."
    return _ranking(material.groups)


def _comparison(result: ComparisonResult, several: bool) -> str:
    baseline, *arms = result.rows
    where = f"In {result.label}, against" if several else "Against"
    parts = []
    for word in ("better", "worse", "no difference shown", "too few seeds"):
        found = [_with_difference(row) for row in arms if verdict(row) == word]
        names = _listed(found) if found else ""
        if found and word in ("better", "worse"):
            parts.append(f"{names} {'is' if len(found) == 1 else 'are'} {word}")
        elif found and word == "no difference shown":
            parts.append(f"no difference is shown for {names}")
        elif found:
            parts.append(f"too few seeds (below {MIN_SEEDS}) to judge {names}")
    bits = baseline.bits_per_byte[0]
    return f"{where} {shorten(baseline.arm)}, {bits:.4f} bits per byte: {'; '.join(parts)}."


def _with_difference(row: Row) -> str:
    difference = f" ({row.difference.mean:+.4f})" if row.difference else ""
    return f"{shorten(row.arm)}{difference}"


def _one_run(run: RunLog) -> str:
    name = shorten(run.label)
    if run.evaluation is None:
        loss, planned = run.last("val/loss"), run.record.get("num_steps")
        reached = "not validated yet"
        if loss is not None:
            reached = f"perplexity {exp_or_inf(loss):.2f} so far"
        return f"{name} is at step {run.step:,}{f' of {planned:,}' if planned else ''}: {reached}."
    perplexity, bits = (run.evaluation.get(key) for key in ("perplexity", "bits_per_byte"))
    told = [f"perplexity {perplexity:.2f}"] if perplexity is not None else []
    told += [f"{bits:.4f} bits per byte"] if bits is not None else []
    seen = run.total("tokens_seen")
    after = f" after {seen:,.0f} tokens" if seen else ""
    return f"{name} ended at {', '.join(told)}{after}." if told else f"{name} has finished{after}."


def _ranking(groups: Sequence[RunGroup]) -> str:
    """Name the groups, the one with the fewest bits per byte first."""
    ranked = []
    for group in groups:
        bits = [(run.evaluation or {}).get("bits_per_byte") for run in group.runs]
        known = [value for value in bits if value is not None]
        if len(known) == len(bits):
            ranked.append((sum(known) / len(known), group.name))
    if len(ranked) < 2:
        return f"All {sum(len(group.runs) for group in groups)} runs have finished."
    told = [f"{shorten(name)} {bits:.4f}" for bits, name in sorted(ranked)]
    return (
        f"Bits per byte, the fewest first: {_listed(told)}; these runs are no comparison, so a "
        "small difference may be luck."
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    if more > 1:
        return f"{', '.join(names[:_NAMED])} and {more} more"
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
