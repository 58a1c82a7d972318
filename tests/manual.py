"""README.md and docs/ as the tests read them: blocks of code, their commands and options, links.

The word after ``` is the language. What follows it is for the tests:

    ```bash options only: several GPUs      not run; its options are checked. The reason is needed
    ```toml arms.toml                       a file that the commands read
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyohem.config.recipes import config_tree
from tinyohem.config.run import known_keys, validate_config
from tinyohem.experiments.spec import check, plan_comparison
from tinyohem_cli.main import COMMANDS, load_command

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_UNRUN = "options only: "
_SCRIPTS = ("scripts/reproduce.sh", "scripts/bench_gpu.sh")


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
        assert not self.about or self.about.removeprefix(_UNRUN) not in ("", self.about), self.place
        return not self.about

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command, without comments and settings of the environment."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words:
                yield words


def blocks(page: Path, language: str = "") -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    fences = re.finditer(r"^```(\w+) ?(.*)\n((?:(?!```).*\n)*)```$", read(page), flags=re.M)
    found = [
        Block(page, read(page)[: fence.start()].count("\n") + 1, fence[1], fence[2], fence[3])
        for fence in fences
    ]
    return [block for block in found if language in ("", block.language)]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)


def inline_commands(page: Path) -> list[list[str]]:
    """Return the commands inside a page's sentences that are complete: with arguments, no `…`."""
    spans = re.findall(r"`([^`]+)`", prose(page))
    commands = [span.split() for span in spans if span.startswith("tinyohem ") and "…" not in span]
    return [words for words in commands if len(words) > 2]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def write_files(page: Path) -> None:
    """Write the files that a page shows into the working folder."""
    for block in blocks(page, "toml"):
        if block.about:
            Path(block.about).write_text(block.text, encoding="utf-8")


def check_command(words: list[str]) -> None:
    """Refuse a command that does not exist, or has options or settings that it does not take."""
    if "tinyohem_cli" in words:  # torchrun … -m tinyohem_cli train …
        words = ["tinyohem", *words[words.index("tinyohem_cli") + 1 :]]
    program, *arguments = words
    if program == "python":
        program = arguments.pop(0)
    options = [word.removeprefix("--") for word in arguments if word.startswith("--")]
    if program == "tinyohem":
        _check_options(arguments)
    elif program == "make":
        targets = {word for word in arguments if "=" not in word}
        assert targets <= set(re.findall(r"^([\w-]+):", read(ROOT / "Makefile"), flags=re.M))
    elif program == "pip":
        extras = re.findall(r"\.\[([\w,]+)\]", " ".join(arguments))
        assert all(f"\n{extra} = [" in read(ROOT / "pyproject.toml") for extra in extras)
    else:
        assert program in _SCRIPTS or program.endswith(".py"), "an unknown program"
        text = read(ROOT / program)
        for option in options:  # typer makes options of arguments
            argument = rf"^ +{option.replace('-', '_')}: "
            assert f"--{option}" in text or re.search(argument, text, flags=re.M), option


def _check_options(arguments: list[str]) -> None:
    if arguments[0] == "--help":
        return
    name, *arguments = arguments
    assert name in COMMANDS, f"there is no command {name}"
    command = load_command(name)
    if hasattr(command, "commands"):  # runs list, recipes show
        command = command.commands[arguments.pop(0)]
    if arguments == ["--help"]:
        return
    given = command.make_context(name, arguments).params
    keys = [f"{section}.{key}" for section, fields in known_keys().items() for key in fields]
    flags = {key: given.get(key.replace(".", "_")) for key in keys}
    tree = config_tree(
        given.get("recipe"),
        {key: value for key, value in flags.items() if value is not None},
        given.get("assignments") or (),
    )
    if name == "compare":
        check(_comparison(given, tree))
    else:
        validate_config(tree)


def _comparison(given: dict[str, Any], tree: dict[str, Any]) -> Any:
    return plan_comparison(
        given["file"], given["arms"] or (), given["seeds"], given["budget"], tree
    )
