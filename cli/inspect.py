"""`tinyohem inspect`: a story, token by token."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyohem_cli import options

if TYPE_CHECKING:
    from rich.text import Text

    from tinyohem.evaluation.inspect_story import InspectedStory, InspectedToken
    from tinyohem_cli.console import Table

_NUM_WIDEST = 8


StoryText = Annotated[
    str | None, typer.Option("--text", help="The story itself; default: none, see --story")
]
Story = Annotated[
    int | None,
    typer.Option(
        "--story", help="Which story of the data set, counted from 0; default: none", min=0
    ),
]
Ratio = Annotated[
    float, typer.Option("--ratio", help="Share of the story's tokens that top-k keeps, up to 1")
]
Compare = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="MODEL2",
        help="Colour by how much better this model predicts; default: by the loss",
    ),
]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write a page to this file; default: none")
]


def inspect(
    model: options.ScoredModel,
    text: StoryText = None,
    story: Story = None,
    dataset: options.ScoredDataset = None,
    text_field: options.TextField = None,
    ratio: Ratio = 0.5,
    compare: Compare = None,
    html: Html = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    r"""Show a story with every token coloured by its loss and marked where top-k keeps it.

    The hardest tokens of the story are kept, underlined on a terminal and in \[brackets] elsewhere.
    """
    from tinyohem.errors import InputError
    from tinyohem.evaluation.inspect_story import compare_stories, inspect_story, nth_story
    from tinyohem.evaluation.open import stories_of
    from tinyohem.models.source import load_source
    from tinyohem.report.html import write_story_page
    from tinyohem.runs.layout import folder_labels
    from tinyohem_cli.console import ConsoleProgress, print_json

    if text is None and story is None:
        raise InputError("inspect needs a story", "add either --text or --story")
    if text is not None and story is not None:
        raise InputError("--text and --story are two stories", "leave one out")
    if text is not None and (dataset or text_field):
        raise InputError(
            "--text is a story of its own, with no data set", "leave out --dataset and --text-field"
        )
    if not 0 < ratio <= 1:
        raise InputError(f"--ratio {ratio:g} is no share to keep", "choose one above 0, at most 1")
    if compare is not None and Path(compare).resolve() == Path(model).resolve():
        raise InputError(f"--compare {compare} is the same model", "name another one")
    progress = ConsoleProgress()
    title = f"{model} against {compare}" if compare else model
    source = load_source(model, device or "auto")
    if story is not None:
        part, _ = stories_of(model, source, dataset, text_field or "text", progress)
        text = nth_story(part, story, progress)
        title += f", story {story:,} of {part.corpus.name}"
    told = (text or "").strip()
    if compare is None:
        found = inspect_story(source, told, ratio=ratio, title=title)
    else:
        first, second = folder_labels([Path(model), Path(compare)])
        other = load_source(compare, device or "auto")
        names = first, second
        found = compare_stories(source, other, told, ratio=ratio, title=title, names=names)
    if html is not None:
        write_story_page(found, html)
        progress.note(f"wrote {html}")
    if as_json:
        print_json(found.to_json())
    else:
        _print_story(found)


def _print_story(found: "InspectedStory") -> None:
    from tinyohem_cli.console import out

    in_file = not out.is_terminal
    out.print(_legend(found))
    out.print()
    # A terminal breaks lines between words; in a file the text stays as it is.
    out.print(_coloured(found, brackets=in_file), soft_wrap=in_file)
    out.print()
    *ahead, kept = found.summary
    for line in ahead:
        out.print(line, markup=False)
    out.print(f"{kept}; [ ] = kept" if in_file else kept, markup=False)
    for heading, tokens in found.differences(_NUM_WIDEST):
        out.print(_widest_table(heading, found.names, tokens, brackets=in_file))


def _style(story: "InspectedStory", level: int, kept: bool = False) -> str:
    from tinyohem.report.style import PALETTES

    shade = PALETTES[story.scale][level]
    colours = f"#000000 on {shade}" if shade else ""  # bold "black" is grey on many terminals
    return f"{colours} bold underline" if kept else colours or "none"


def _legend(story: "InspectedStory") -> "Text":
    from rich.text import Text

    legend = Text("nats: " if story.scale == "loss" else f"nats that {story.names[1]} saves: ")
    for level, label in story.legend:
        legend.append(f" {label} ", _style(story, level))
    return legend


def _coloured(story: "InspectedStory", *, brackets: bool) -> "Text":
    from rich.text import Text

    from tinyohem_cli.console import harmless

    shown = Text()
    for token in story.tokens:
        text = harmless(token.text)
        if brackets and token.kept:
            text = f"[{text}]"
        shown.append(text, _style(story, token.level, token.kept))
    return shown


def _widest_table(
    heading: str,
    names: tuple[str, str],
    tokens: "list[tuple[str, InspectedToken]]",
    *,
    brackets: bool,
) -> "Table":
    from rich.markup import escape
    from rich.text import Text

    from tinyohem_cli.console import Table

    columns = (*map(escape, names), "token")
    table = Table(*columns, title=escape(heading), title_justify="left")
    for ahead, token in tokens:
        context = Text(_one_line(ahead))
        text = _one_line(token.text)
        context.append(f"[{text}]" if brackets else text, "bold underline")
        table.add_row(f"{token.loss:.2f}", f"{token.other_loss:.2f}", context)
    return table


def _one_line(text: str) -> str:
    from tinyohem_cli.console import harmless

    return harmless(text).translate({ord("\n"): "␊", ord("\t"): "␉"})
