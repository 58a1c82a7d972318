"""A command on a real terminal: what a person sees once it is over, scrolled-off lines included."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterable
from dataclasses import dataclass

# Control sequences that rich sends: colours, cursor up, erase a line, hide and show the cursor.
_PART = re.compile(r"\x1b\[(\??)(\d*(?:;\d+)*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


@dataclass(frozen=True)
class Seen:
    """A command's screen: `lines` from top to bottom without the spaces at their ends."""

    code: int
    lines: list[str]
    cursor_shown: bool

    @property
    def text(self) -> str:
        """The whole screen."""
        return "\n".join(self.lines)


def on_a_terminal(arguments: Iterable[object], *, columns: int = 80) -> Seen:
    """Run `tinyohem` on a pseudo-terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("COLUMNS", None)
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", "tinyohem_cli", *map(str, arguments)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shown = b""
    try:
        while part := os.read(terminal, 1 << 16):
            shown += part
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    text = shown.decode()
    return Seen(
        os.waitstatus_to_exitcode(status),
        screen(text),
        text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l"),
    )


def screen(text: str) -> list[str]:
    """Return the lines that a terminal of endless height and width shows after `text`."""
    lines, row, column = [""], 0, 0
    for private, count, command, move, words in _PART.findall(text):
        if words:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + words + line[column + len(words) :]
            column += len(words)
        elif move == "\r":
            column = 0
        elif move == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif command == "A":
            row = max(0, row - int(count or 1))
        elif command == "K":
            assert count == "2", "only whole lines are erased"
            lines[row] = ""
        else:
            assert private or command == "m", f"unknown control sequence {count}{command}"
    return [line.rstrip() for line in lines]
