"""The entry of the command line: a command's module is loaded only when the command is called."""

import os
import re
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tinyohem import __version__
from tinyohem.errors import InputError, RenamedKeyWarning, RunError, TinyohemError
from tinyohem.system.signals import interrupt_once

# Every command with the first line of its help, so that listing them loads none.
PANELS = {
    "Data": {
        "prepare-data": "Tokenize a data set once; `train` with the same options then starts at "
        "once.",
        "score-difficulty": "Score how hard each story is by several metrics, and rank the corpus "
        "by each.",
    },
    "Train": {
        "train": "Train a language model, by default on every token; --ohem-ratio turns mining on.",
        "mine": "Store every training token's loss under a checkpoint, for `train "
        "--ohem-reference`.",
        "recipes": "The built-in recipes.",
        "runs": "The runs of a folder: state, model, tokens, bits per byte.",
    },
    "Evaluate": {
        "generate": "Continue one or several prompts, each until its end of text.",
        "eval-perplexity": "Score every token of every story once, with its own story as the only "
        "context.",
        "inspect": "Show a story with every token coloured by its loss and marked where top-k "
        "keeps it.",
    },
    "Evidence": {
        "compare": "Train every arm on every seed with an equal budget and test the differences.",
        "report": "Write one HTML page about runs: curves, selection, settings, the table of a "
        "comparison.",
        "bench": "Time the training step: full, top-k at fixed ratios (exact and pruned), and what "
        "others do.",
    },
}
COMMANDS = {name: does for panel in PANELS.values() for name, does in panel.items()}
_EPILOG = """Examples:
tinyohem train --dataset sample --minutes 2 --out runs/first
tinyohem generate runs/first --prompt "Once upon a time"
tinyohem compare --arm baseline --arm ohem --dataset sample"""
_SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Command(TyperCommand):
    """Refuse to take an option of one value twice: Click would use the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        if given.get("help"):  # Typer would load pydantic to read this switch
            typer.echo(ctx.get_help())
            ctx.exit()
        for option in order:
            takes_one = not option.multiple and not getattr(option, "is_flag", False)
            if takes_one and order.count(option) > 1:
                hint = "give it once"
                if option.opts[0] in ("--dataset", "--valid"):
                    hint += "; a folder or a quoted glob names many files"
                raise InputError(f"{option.opts[0]} is given twice", hint)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command in a process that keeps its memory."""
        from tinyohem.system.allocator import keep_freed_memory

        keep_freed_memory()
        return super().invoke(ctx)


def load_command(name: str) -> Any:
    """Load the command of this name, with its options."""
    word = name.replace("-", "_")
    module = import_module(f"tinyohem_cli.{word}")
    found = getattr(module, word)
    if isinstance(found, typer.Typer):
        for command in found.registered_commands:
            command.help = _unwrapped(command.callback.__doc__ or "")
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, **_SETTINGS)
    help_ = _unwrapped(found.__doc__)
    alone.command(name, cls=_Command, help=help_, epilog=getattr(module, "EPILOG", None))(found)
    return typer.main.get_command(alone)


def _unwrapped(text: str) -> str:
    """Join the lines of each paragraph, so that the terminal alone breaks them."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


class _Commands(TyperGroup):
    """List the commands from `COMMANDS`, and load only the one that was typed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


app = typer.Typer(
    name="tinyohem",
    help="Train a small language model on its hard tokens, and measure whether it helped.",
    cls=_Commands,
    no_args_is_help=True,
    epilog=_EPILOG,
    **_SETTINGS,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tinyohem {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None: ...


for panel, commands in PANELS.items():
    for name, does in commands.items():
        app.command(name, help=does, rich_help_panel=panel)(lambda: None)


def run() -> None:
    """Run the command line: exit code 0 done, 1 run failed, 2 wrong usage or input."""
    interrupt_once(way_out=True)  # SIGTERM too, a scheduler's notice: leave nothing half-written
    # Tokenizers fork nothing here, but its warning about it would land in the middle of a bar.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        sys.exit(_run())
    except KeyboardInterrupt:  # outside a command: the console loads, or an error is printed
        sys.exit(130)


def _run() -> int:
    from tinyohem_cli.console import ConsoleProgress, print_error, take_any_text

    take_any_text()
    warnings.showwarning = _show_warning
    try:
        try:
            code = int(app(standalone_mode=False) or 0)
        finally:
            ConsoleProgress.close()  # the bar of a stage that failed hides the cursor
        if code == 130:  # Typer turns a KeyboardInterrupt into this and prints nothing
            raise KeyboardInterrupt
        return code
    except TinyohemError as error:
        print_error(error)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print_error(
            TinyohemError("interrupted", "repeat the command; `train` goes on with --resume auto")
        )
        return 130
    except OSError as error:  # a folder that cannot be written, a full disk
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print_error(InputError(what, "check the path, its permissions and the free space"))
        return 2
    except MemoryError as error:
        what = f"the memory is used up: {error}" if str(error) else "the memory is used up"
        print_error(RunError(what, "the input asks for more than this machine has"))
        return 1
    except Exception as error:
        # Typer's own Click must not be imported; its errors of usage have this method.
        if not hasattr(error, "format_message"):
            raise
        if error.format_message():  # empty where the help was shown for want of a command
            print_error(InputError(_wrong_usage(error), _way_out(error)))
        return 2


_default_showwarning = warnings.showwarning


def _show_warning(
    message: Warning | str, category: type[Warning], *place: Any, **more: Any
) -> None:
    """Print the new name of a renamed key as a note; leave other warnings to Python."""
    from tinyohem_cli.console import ConsoleProgress

    if issubclass(category, RenamedKeyWarning):
        ConsoleProgress().note(str(message))
    else:
        _default_showwarning(message, category, *place, **more)


def _wrong_usage(error: Any) -> str:
    """Return Typer's message, with the command or option that was probably meant."""
    message = str(error.format_message())
    if unknown := re.match(r"No such command '([^']+)'", message):
        for name in getattr(error.ctx.command, "commands", ()):
            if unknown[1] in name.split("-"):  # Typer knows misspelt ones, not `eval` and `score`
                return f"{unknown[0]}. Did you mean '{name}'?"
    if not hasattr(error, "possibilities"):
        return message
    from tinyohem_cli.options import suggest_option

    known = [name for option in error.ctx.command.params for name in option.opts]
    return f"{error.message}{suggest_option(error.option_name, known)}"


def _way_out(error: Any) -> str:
    """Return the hint for a message of Typer's."""
    options = {name for option in error.ctx.command.params for name in option.opts}
    if "--dataset" in options and "unexpected extra argument" in error.format_message():
        return "name stories with --dataset, and put quotes around a pattern such as '*.jsonl'"
    return "add --help to see the options"
