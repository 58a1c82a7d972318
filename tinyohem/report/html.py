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
    """Turn an import that fails inside the block into an error that says how to mend it."""
    try:
        yield
    except ImportError as error:
        hint = 'install them in the clone: pip install -c constraints.txt -e ".[plots]"'
        raise InputError(f"{what} needs matplotlib and jinja2: {error}", hint) from None


def render(template: str, **values: Any) -> str:
    """Fill in a template of the folder `templates`; every value is escaped.

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
    return shown(environment.get_template(template).render(**values))


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill in a template and write it as one HTML file that needs no other.

    Raises:
        InputError: jinja2 is not installed.
    """
    html = render(template, **values)
    with atomic_file(path) as stream:
        stream.write(html.encode())


def write_story_page(story: "InspectedStory", path: Path, num_differences: int = 20) -> None:
    """Write a story, each token on the shade of its loss.

    Args:
        num_differences: how many tokens to list each way, where two models are compared.

    Raises:
        InputError: jinja2 is not installed.
    """
    differences = story.differences(num_differences)
    write_page(
        path, "story_page.html.jinja", story=story, palettes=PALETTES, differences=differences
    )
