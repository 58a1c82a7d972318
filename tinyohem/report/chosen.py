"""Tables and figures of the stories that runs chose of a pool, and of those they dropped."""

from collections.abc import Sequence

import numpy as np

from tinyohem.data.choice import ChoiceRecord, ExampleOfChoice
from tinyohem.report.curves import Plot
from tinyohem.report.run_logs import RunGroup
from tinyohem.report.style import colour, new_figure, shorten
from tinyohem.report.tables import Table


def choices_of(groups: Sequence[RunGroup]) -> dict[str, ChoiceRecord]:
    """Return the choice of each group whose runs have one, once where groups share it."""
    found: dict[str, tuple[ChoiceRecord, list[str]]] = {}
    for group in groups:
        for run in group.runs[:1]:  # its seeds train on the same stories
            if run.choice is not None:
                found.setdefault(run.choice.identity, (run.choice, []))[1].append(group.name)
    return {", ".join(names): choice for choice, names in found.values()}


def choices_table(choices: dict[str, ChoiceRecord]) -> Table:
    """Return one row a choice: what was kept, by which rule, and why the rest was dropped."""
    reasons = list(dict.fromkeys(reason for c in choices.values() for reason in c.dropped))
    head = ["run", "kept", "share", "of", *reasons, "seconds", "kept where"]
    rows = [
        [
            name,
            f"{choice.kept:,}",
            f"{choice.share:.1%}",
            f"{choice.stories:,}",
            *(f"{choice.dropped.get(reason, 0):,}" for reason in reasons),
            "" if choice.seconds is None else f"{choice.seconds:.1f}",
            f"{choice.score or ''} {choice.kept_where}".strip(),
        ]
        for name, choice in choices.items()
    ]
    return Table(head, rows)


def examples_table(choices: dict[str, ChoiceRecord]) -> Table:
    """Return the stories nearest to the line of each choice, on both of its sides."""
    rows = []
    for name, choice in choices.items():
        sides = (("kept", choice.kept_examples), ("dropped", choice.dropped_examples))
        for side, examples in sides:
            label = f"{side}, {shorten(name)}" if len(choices) > 1 else side
            rows += [_example(label, example) for example in examples]
    return Table(["story", "score", "row", "beginning"], rows)


def _example(label: str, example: ExampleOfChoice) -> list[str]:
    return [label, f"{example.value:.3f}", f"{example.row:,}", example.opening]


def choice_plots(choices: dict[str, ChoiceRecord]) -> list[Plot]:
    """Draw the scores of each pool, with the line."""
    plots = []
    for number, (name, choice) in enumerate(choices.items(), 1):
        if not choice.counts:
            continue
        figure, (axis,) = new_figure(f"Scores of the pool, {shorten(name)}")
        edges = np.array(choice.edges)
        axis.bar(edges[:-1], choice.counts, np.diff(edges), align="edge", color=colour("series-1"))
        for line in choice.lines:
            axis.axvline(line, color=colour("ink"), linewidth=1.2)
        axis.set(xlabel=f"{choice.score}, {choice.unit}", ylabel="stories")
        says = f"Stories of {choice.pool} by score, and the line: kept is {choice.kept_where}."
        plots.append(Plot(f"scores-of-the-pool-{number}", says, figure))
    return plots
