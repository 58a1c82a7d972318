"""Write HTML pages with the optional extra `plots`, or say how to install it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyohem.errors import InputError
from tinyohem.io.atomic import atomic_file
from tinyohem.io.names import shown
from tinyohem.report.style import PALETTES

if TYPE_CHECKING:
    from tinyohem.evaluation.inspect_story import InspectedStory


def require_plots(what: str) -> None:
    """Check that matplotlib and jinja2 are installed.

    Raises:
        InputError: matplotlib or jinja2 is not installed.
    """
    with _plots_extra(what):
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401


@contextmanager
def _plots_extra(what: str) -> Iterator[None]:
    """Turn a failed import inside the block into an error that says what to install."""
    try:
        yield
    except ImportError as error:
        hint = 'install them in the clone: pip install -c constraints.txt -e ".[plots]"'
        raise InputError(f"{what} needs matplotlib and jinja2: {error}", hint) from None


def write_html(path: Path, template: str, **values: Any) -> None:
    """Fill in a template of the folder `templates`, every value escaped, and write the page.

    The page is one file that needs no other.

    Raises:
        InputError: jinja2 is not installed.
    """
    with _plots_extra("the HTML report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("tinyohem.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = shown(environment.get_template(template).render(**values))
    with atomic_file(path) as stream:
        stream.write(html.encode())


def write_story_page(story: "InspectedStory", path: Path) -> None:
    """Write a story, each token on the shade of its loss.

    Where two models are compared, list the tokens with the largest differences, 20 each way.

    Raises:
        InputError: jinja2 is not installed.
    """
    differences = story.differences(20)
    write_html(
        path, "story_page.html.jinja", story=story, palettes=PALETTES, differences=differences
    )
