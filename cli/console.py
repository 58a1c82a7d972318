"""What a person sees: results on stdout, progress and messages on stderr, errors in two lines."""

import codecs
import json
import os
import shlex
import string
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from rich import table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)

from tinyohem.errors import TinyohemError
from tinyohem.io.names import shown

# As wide as the terminal or $COLUMNS says; 80 columns where neither does.
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
for console in (out, err):
    if console.width < 20:  # such as COLUMNS=0: a table would lose its cells
        console.width = 80

_PLAIN_LINE_SECONDS = 10.0
_BESIDE_THE_BAR = 76  # columns that training's figures and counts take
_MESSAGE_CHARACTERS = 1_000
# Control characters and their pictures: text from a file must not control the terminal. C1 holds
# one-byte forms of the same escape sequences.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_PICTURES |= {127: 0x2421, **dict.fromkeys(range(128, 160), 0xFFFD)}


# For our own characters that a terminal's encoding may lack.
_SPELLINGS = str.maketrans(
    {"…": "...", "×": "x", "–": "-", "█": "#", "─": "-", "␊": "\\n", "␉": "\\t"}
)
_ERRORS = "tinyohem-spelling"
_PLAIN = frozenset(string.ascii_letters + string.digits + " /._-")


def take_any_text() -> None:
    """Make stdout and stderr escape characters that their encoding lacks, instead of raising."""
    codecs.register_error(_ERRORS, _spelling)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def _spelling(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding lacks; see `codecs.register_error`."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = shown(error.object[error.start : error.end]).translate(_SPELLINGS)
    return lacking.encode("ascii", "backslashreplace").decode("ascii"), error.end


def harmless(text: str) -> str:
    """Replace the control characters of a text, except tab and line feed, by their pictures."""
    return shown(text).translate(_PICTURES)


def _one_line(text: str) -> str:
    """Put a message on one line, and cut it to a readable length."""
    line = harmless(" ".join(text.split()))
    cut = line[:_MESSAGE_CHARACTERS]
    return line if cut == line else f"{cut}…"


class Table(table.Table):
    """A table that wraps its cells to fit the console, within words only where it must.

    Unlike rich's own it cuts nothing off.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Share the width among the columns, none narrower than its longest word."""
        unlimited = options.update_width(10_000)
        sizes = [
            [Measurement.get(console, unlimited, cell) for cell in (column.header, *column.cells)]
            for column in self.columns
        ]
        least = [max(size.minimum for size in cells) for cells in sizes]
        most = [max(size.maximum for size in cells) for cells in sizes]
        frame = Measurement.get(console, unlimited, self).maximum - sum(most)
        for widest in range(max(most), 0, -1):
            widths = [min(high, max(low, widest)) for low, high in zip(least, most, strict=True)]
            if sum(widths) + frame <= options.max_width:
                for column, width in zip(self.columns, widths, strict=True):
                    column.width = width
                break
        for column in self.columns:
            column.overflow = "fold"
        yield from super().__rich_console__(console, options)


class ConsoleProgress:
    """Draws `tinyohem.progress.Progress`: a live bar on a terminal, plain lines elsewhere."""

    _bar: ClassVar[Progress | None] = None  # a terminal has room for one

    def __init__(self) -> None:
        self._stage = self._unit = ""
        self._total: int | None = None
        self._transient = False
        self._fields = ""
        self._done = 0
        self._last_line = 0.0
        self._line = ""

    def note(self, text: str) -> None:
        """Show a line."""
        err.print(escape(_one_line(text)), style="dim")

    def warn(self, text: str) -> None:
        """Show a line that stands out."""
        err.print(f"[yellow]warning:[/yellow] {escape(_one_line(text))}")

    def start(
        self, stage: str, total: int | None, unit: str, *, done: int = 0, transient: bool = False
    ) -> None:
        """Open a bar, or remember the stage for plain lines."""
        self.finish()
        self._stage, self._total, self._unit, self._transient = stage, total, unit, transient
        self._fields, self._done, self._last_line, self._line = "", done, time.monotonic(), ""
        if err.is_terminal:
            bar = ConsoleProgress._bar = _new_bar(transient)
            task = bar.add_task(stage, total=total, unit=unit, fields="")
            bar.update(task, completed=done)
            bar.start()

    def advance(self, done: int, fields: Mapping[str, float] | None = None) -> None:
        """Move the bar; without a terminal print a line every ten seconds."""
        self._done = done
        if fields:
            self._fields = "  ".join(f"{name} {_short(value)}" for name, value in fields.items())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, fields=self._fields)
        elif time.monotonic() - self._last_line >= _PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self._print_line()

    def finish(self) -> None:
        """Close the bar, leaving its last state on the screen unless the stage is transient."""
        if self._bar is not None:
            self.close()
        elif self._stage and not self._transient:
            self._print_line()
        self._stage = ""

    @classmethod
    def close(cls) -> None:
        """Stop the bar and show the cursor again, also in the middle of a stage."""
        if cls._bar is not None:
            cls._bar.stop()
            cls._bar = None

    def _print_line(self) -> None:
        of_total = f"/{self._total:,}" if self._total else ""
        line = f"{self._stage}: {self._done:,}{of_total} {self._unit}  {self._fields}".rstrip()
        if line != self._line:  # `advance` may have printed the last one already
            err.print(line)
        self._line = line


class _Clock(ProgressColumn):
    """The remaining time of a stage; its elapsed time if it is over or its total is unknown."""

    def render(self, task: Task) -> str:
        if task.finished or task.total is None:
            return _clock(task.finished_time or task.elapsed)
        return f"eta {_clock(task.time_remaining)}"


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))


def _new_bar(transient: bool) -> Progress:
    return Progress(
        SpinnerColumn("line"),  # in ASCII
        TextColumn("{task.description}"),
        BarColumn(bar_width=min(24, max(4, err.width - _BESIDE_THE_BAR))),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        _Clock(),
        TextColumn("{task.fields[fields]}", table_column=table.Column(overflow="fold")),
        console=err,
        transient=transient,
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def print_json(value: Any) -> None:
    """Print one JSON object and nothing else."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # JSON is UTF-8 by its standard; its own escapes go through every other stream.
    is_utf8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    print(text if is_utf8 and shown(text) == text else json.dumps(value, indent=2))


def print_error(error: TinyohemError) -> None:
    """Print `error: …` and `hint: …`, one line each."""
    err.print(f"[red]error:[/red] {escape(_one_line(error.message))}")
    if error.hint:
        err.print(f"[cyan]hint:[/cyan] {escape(_one_line(error.hint))}")


def quote(word: Path | str) -> str:
    """Quote a word, such as a path, for a shell."""
    text = str(word)
    if shown(text) == text:
        return shlex.quote(text)
    # How bash and zsh write bytes.
    letters = os.fsencode(text).decode("latin-1")
    return "$'" + "".join(c if c in _PLAIN else f"\\x{ord(c):02x}" for c in letters) + "'"
