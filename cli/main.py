"""The app. Commands live in the files beside this one; heavy imports stay inside them."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tinyohem import __version__
from tinyohem.errors import InputError, RunError, TinyohemError
from tinyohem.system.signals import interrupt_once
from tinyohem_cli.bench import bench
from tinyohem_cli.compare import compare
from tinyohem_cli.eval_perplexity import eval_perplexity
from tinyohem_cli.generate import generate
from tinyohem_cli.inspect_story import inspect
from tinyohem_cli.mine import mine
from tinyohem_cli.prepare_data import prepare_data
from tinyohem_cli.recipes import recipes
from tinyohem_cli.report import report
from tinyohem_cli.score_difficulty import METRICS_HELP, score_difficulty
from tinyohem_cli.train import train

app = typer.Typer(
    name="tinyohem",
    help="Train a small language model on its hard tokens, and measure whether it helped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


class _Command(TyperCommand):
    """Refuses an option that is given twice where one value counts: Click takes the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for option in order:
            takes_one = not option.multiple and not getattr(option, "is_flag", False)
            if takes_one and order.count(option) > 1:
                hint = "give it once"
                if option.name in ("dataset", "valid"):
                    hint += "; a folder or a quoted glob names many files"
                raise InputError(f"{option.opts[0]} is given twice", hint)
        return super().parse_args(ctx, args)


app.command("train")(train)
app.command("mine")(mine)
app.command("eval-perplexity")(eval_perplexity)
app.command("inspect")(inspect)
app.command("generate")(generate)
app.command("prepare-data")(prepare_data)
app.command("compare")(compare)
app.command("report")(report)
app.command("score-difficulty", epilog=METRICS_HELP)(score_difficulty)
app.command("bench")(bench)
for command in app.registered_commands:
    command.cls = _Command
app.add_typer(recipes, name="recipes")


def run() -> None:
    """Run the command line: exit code 0 done, 1 run failed, 2 wrong usage or input."""
    interrupt_once(way_out=True)  # SIGTERM too, a scheduler's notice: leave nothing half-written
    # Tokenizers fork nothing here, but its warning about it would land in the middle of a bar.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        sys.exit(_run())
    except KeyboardInterrupt:  # outside of a command: while the console loads or an error is told
        sys.exit(130)


def _run() -> int:
    from tinyohem_cli.console import ConsoleProgress, print_error, take_any_text

    take_any_text()
    try:
        try:
            code = int(app(standalone_mode=False) or 0)
        finally:
            ConsoleProgress.close()  # the bar of a stage that failed hides the cursor
        if code == 130:  # what Typer makes of a KeyboardInterrupt, without a word
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
        # Typer's own Click, which must not be imported, marks wrong usage with this method.
        if not hasattr(error, "format_message"):
            raise
        if error.format_message():  # empty where the help was shown for want of a command
            print_error(InputError(_wrong_usage(error), "add --help to see the options"))
        return 2


def _wrong_usage(error: Any) -> str:
    """Return what Typer says of wrong usage; for an unknown option, with what was meant."""
    if not hasattr(error, "possibilities"):
        return str(error.format_message())
    from tinyohem_cli.options import suggest_option

    known = [name for option in error.ctx.command.params for name in option.opts]
    return f"{error.message}{suggest_option(error.option_name, known)}"


if __name__ == "__main__":
    run()
