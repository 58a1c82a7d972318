"""One story as a page, each token on the shade of its loss."""

from pathlib import Path

from tinyohem.evaluation.inspect_story import InspectedStory
from tinyohem.io.atomic import atomic_file
from tinyohem.report.html import render
from tinyohem.report.style import PALETTES


def write_story_page(story: InspectedStory, path: Path, num_differences: int = 20) -> None:
    """Write a story as one HTML file that needs no other.

    Args:
        num_differences: how many tokens to list each way, where two models are compared.

    Raises:
        InputError: jinja2 is not installed.
    """
    html = render(
        "story_page.html.jinja",
        story=story,
        palettes=PALETTES,
        differences=story.differences(num_differences),
    )
    with atomic_file(path) as stream:
        stream.write(html.encode())
