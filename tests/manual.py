"""README.md and docs/ as the tests read them: blocks of code, commands, links.

The word after ``` is the language. What follows it is for the tests:

    ```bash options only: several GPUs      not run; its options are checked. The reason is needed
    ```toml arms.toml                       written to this file before the commands below it run
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_UNRUN = "options only: "


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    about: str  # what follows the language
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether its commands are run, not only read."""
        assert self.about.startswith(_UNRUN) or not self.about, f"{self.place}: {self.about!r}"
        return not self.about

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of each command, without comments and settings of the environment."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words:
                yield words


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found, opened = [], None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif opened is None:
            opened, lines = (number, *line[3:].partition(" ")), []
        else:
            at, language, _, about = opened
            found.append(Block(page, at, language, about, "\n".join(lines) + "\n"))
            opened = None
    assert opened is None, f"{page.name}: a block is not closed"
    return found


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
