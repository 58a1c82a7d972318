"""Declare options of the commands; those that set a recipe's key come from the config's fields."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from tinyohem.config.aliases import meant_key, nearest, remark
from tinyohem.config.run import RunConfig, known_keys
from tinyohem.config.sections import brief, choices, explain, flag_of, words

if TYPE_CHECKING:
    from tinyohem.evaluation.perplexity import Perplexity
    from tinyohem_cli.console import Table

# Other programs' names of our options that set no recipe key.
_OPTIONS = dict.fromkeys(("output", "output-dir", "output_dir", "out-dir", "run-dir"), "--out")
_OPTIONS |= dict.fromkeys(("config", "config-file", "cfg"), "--recipe")
_OPTIONS |= dict.fromkeys(("continue", "resume-from-checkpoint", "restart"), "--resume")

Overrides = Mapping[str, object]  # what the user gave: {"optim.lr": 1e-3}
Command = Callable[..., None]


def of_key(key: str, *, in_brief: bool = False) -> Any:
    """Return the option that sets a key of a recipe, for `Annotated`.

    Args:
        in_brief: list it in a few words, in the panel of its section.
    """
    section, _, name = key.partition(".")
    field = known_keys()[section][name]
    flag, named = words(field)["flag"], choices(field)
    complete = _starting(named) if named else None
    if not in_brief:
        return typer.Option(flag, help=explain(field), autocompletion=complete)
    panel = f"{RunConfig.model_fields[section].title} (default in brackets)"
    return typer.Option(
        flag, help=brief(field), autocompletion=complete, rich_help_panel=panel, metavar=""
    )


def _starting(words: Collection[str]) -> Callable[[str], list[str]]:
    """Return what completes one of these words in a shell."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def with_keys(*order: str, in_brief: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command one option per recipe key; it gets the user's values as `overrides`.

    Args:
        order: all options in the order of the help: keys as `section.key`, and the names of the
            parameters that the command has beside `overrides`.
        in_brief: the keys that the help only lists, in the panels of their sections.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command).parameters
        keys = {name.replace(".", "_"): name for name in order if "." in name}
        parameters = [
            _parameter(name, in_brief=name in in_brief)
            if "." in name
            else own[name].replace(kind=_BY_NAME)
            for name in order
        ]

        @functools.wraps(command)
        def run(**options: Any) -> None:
            overrides = {key: options.pop(name) for name, key in keys.items()}
            command(overrides=given(overrides), **options)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def _parameter(key: str, *, in_brief: bool) -> inspect.Parameter:
    """Return the parameter of a command that sets a key; its default is None."""
    section, _, name = key.partition(".")
    annotation = known_keys()[section][name].annotation
    types = get_args(annotation) or (annotation,)
    # The config itself checks a choice of words, and reads `1M` as a number.
    kind = next((kind for kind in (bool, int, float) if kind in types), str)
    return inspect.Parameter(
        key.replace(".", "_"),
        _BY_NAME,
        default=None,
        annotation=Annotated[kind | None, of_key(key, in_brief=in_brief)],
    )


def given(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that the user gave."""
    return {key: value for key, value in overrides.items() if value is not None}


def _recipes(incomplete: str) -> list[str]:
    from tinyohem.config.recipes import recipe_names

    return _starting(recipe_names())(incomplete)


Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Built-in recipe (`recipes list`) or a .toml file; default: none",
        autocompletion=_recipes,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any recipe key, `null` for none; repeatable; default: none",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else")]
Dataset = Annotated[str | None, of_key("data.dataset")]
TextField = Annotated[str | None, of_key("data.text_field")]
Clean = Annotated[bool | None, of_key("data.clean")]
Device = Annotated[str | None, of_key("training.device")]
ScoredModel = Annotated[
    str, typer.Argument(help="Run folder, checkpoint, transformers folder or Hub id")
]
ScoredDataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Stories to score, as for `train`: the validation split, or all where there are "
        "no splits; default: what the run was validated on",
    ),
]
SeqLen = Annotated[
    int | None,
    typer.Option("--seq-len", help="Context in tokens; default: the model's own", min=2),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        help="Tokens newly scored by each window of a story longer than the context; "
        "default: half the context",
        min=1,
    ),
]


def suggest_option(name: str, known: Collection[str]) -> str:
    """Return `; did you mean …?` for an unknown option, by meaning, then by spelling; or nothing.

    Args:
        known: the options of the command.
    """
    word = name.lstrip("-")
    if key := meant_key(word, known_keys()):
        section, _, rest = key.partition(".")
        flag = flag_of(known_keys()[section][rest])
        if flag in known:
            return f"; did you mean {flag}{remark(word, key)}?"
        if "--set" in known:
            return f"; did you mean --set {key}=…{remark(word, key)}?"
    if (option := _OPTIONS.get(word)) in known:
        return f"; did you mean {option}?"
    return nearest(word, [option.lstrip("-") for option in known]).replace("mean ", "mean --")


def perplexity_table(perplexity: "Perplexity", title: str) -> "Table":
    """Lay out an evaluation for a person."""
    from rich.markup import escape

    from tinyohem.evaluation.perplexity import PER_TEXT
    from tinyohem_cli.console import Table

    figures, lost = perplexity.to_json(), perplexity.text_loss
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for label, name, form in [
        ("perplexity per token", "perplexity", ".3f"),
        ("perplexity per word", "word_perplexity", ".2f"),
        ("perplexity per byte", "byte_perplexity", ".4f"),
        ("bits per byte", "bits_per_byte", ".4f"),
        ("loss (nats per token)", "loss", ".4f"),
        ("tokens", "tokens", ","),
        ("words", "words", ","),
        ("bytes", "bytes", ","),
        ("stories", "stories", ","),
        *([("stories that the tokenizer loses", "lost_story_share", ".1%")] if lost else ()),
        *([("unknown tokens", "unknown_token_share", ".1%")] if lost.unknown_tokens else ()),
    ]:
        figure = figures[name]
        missing = "–" if lost and name in PER_TEXT else "too large"
        table.add_row(label, missing if figure is None else format(figure, form))
    return table
