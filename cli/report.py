"""`tinyohem report`: write the HTML page about runs or a comparison."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders, also unfinished, or folders of `compare`"),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="The page; its figures go into <name>_figures beside it"),
    ] = Path("report.html"),
) -> None:
    """Write one HTML page about runs: curves, selection, settings, the table of a comparison.

    The page needs no network and no other file; every figure is also written as PNG and SVG.
    """
    from tinyohem.report.run_page import write_report
    from tinyohem_cli.console import ConsoleProgress
    from tinyohem_cli.console import out as console

    for path in write_report(runs, out, ConsoleProgress()):
        console.print(str(path), markup=False)
