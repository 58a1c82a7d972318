"""How the report's figures look: colours for light and dark, axes, and the way to SVG and PNG.

A figure is drawn once, in the light colours. Inside the page every such colour becomes a CSS
variable of the same role, so that the page's own dark mode reaches into the pictures.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Role: (light, dark). The series are Okabe & Ito's colours for every kind of colour vision,
# darkened on white and lightened on black until they stand out from the background.
COLOURS = {
    "ink": ("#1c2128", "#e6e9ee"),
    "muted": ("#5b6472", "#9aa4b2"),
    "grid": ("#e3e6ea", "#2c333d"),
    "surface": ("#ffffff", "#12161c"),
    "series-1": ("#0072b2", "#56a9e0"),
    "series-2": ("#d55e00", "#f58a4b"),
    "series-3": ("#009e73", "#3ccaa0"),
    "series-4": ("#b8578f", "#e79bc6"),
    "series-5": ("#bd8100", "#f2bd4a"),
    "series-6": ("#3594cc", "#9ad7fa"),
    "series-7": ("#6b5fc7", "#b0a8f5"),
    "series-8": ("#59636f", "#c3cad3"),
    # Easy to hard: one hue, and the hardest stands out most on either background.
    "level-1": ("#dbe9f6", "#1d3a55"),
    "level-2": ("#8fc1e3", "#2f6a9c"),
    "level-3": ("#3584bb", "#62a9da"),
    "level-4": ("#0a3c6e", "#cfe6f8"),
}
# Of a token, a shade a level: backgrounds under black text, so that they read the same on light and
# dark; None is the plain text of wherever it stands. Equal steps in OKLCH: losses from sand to red
# with rising chroma, differences from blue (the model that is inspected predicts better) to orange.
PALETTES = {
    "loss": (
        *(None, "#eceac8", "#eaddab", "#ebcd8d", "#efbc70"),
        *("#f4a856", "#f89340", "#fb7b33", "#fb6032", "#f9423d"),
    ),
    "difference": (
        *("#4ba3f7", "#7dbbfa", "#a9d1fb", "#d4e7fc", None),
        *("#f7e0ce", "#f1c29d", "#eaa469", "#e18528"),
    ),
}
SERIES = [name for name in COLOURS if name.startswith("series-")]
LEVELS = [name for name in COLOURS if name.startswith("level-")]
LineStyle = dict[str, Any]  # keyword arguments of matplotlib
MARKERS = "osD^vPX*"  # told apart by shape too
DASHES: list[Any] = ["-", (0, (4, 1.5)), (0, (1, 1.2))]  # from the ninth series on

_WIDTH = 4.3  # inches: legible at the width of a phone, two side by side on a desk
_HEIGHT = 2.7
_LEGEND_ROW = 0.19  # inches
_LEGEND_LETTERS = 55  # fit side by side into the width
_LABEL_LETTERS = 34  # a longer name is cut in the middle
_ROLES = {
    "text.color": "ink",
    "axes.titlecolor": "ink",
    "axes.labelcolor": "muted",
    "axes.edgecolor": "muted",
    "axes.facecolor": "surface",
    "figure.facecolor": "surface",
    "savefig.facecolor": "surface",
    "grid.color": "grid",
    "xtick.color": "muted",
    "ytick.color": "muted",
    "legend.labelcolor": "ink",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Set the house style for figures made, and saved, inside the block."""
    import matplotlib

    colours = {key: colour(role) for key, role in _ROLES.items()}
    with matplotlib.rc_context(colours, Path(__file__).with_name("figures.mplstyle")):
        yield


def colour(role: str) -> str:
    """Return the colour of a role, as drawn."""
    return COLOURS[role][0]


def series_style(index: int) -> LineStyle:
    """Return colour and dashes of the n-th series; the ninth has the first's colour, dashed."""
    return {
        "color": colour(SERIES[index % len(SERIES)]),
        "linestyle": DASHES[index // len(SERIES) % len(DASHES)],
    }


def new_figure(
    title: str, panels: int = 1, height: float = _HEIGHT, share_x: bool = True
) -> tuple["Figure", list["Axes"]]:
    """Return an empty figure with its panels one below the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.012, ha="left")
    return figure, list(figure.subplots(panels, sharex=share_x, squeeze=False)[:, 0])


def add_legend(figure: "Figure", handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend below the axes, which keep their height, so that it covers nothing."""
    short = [shorten(label) for label in labels]
    columns = max(1, min(4, len(short), _LEGEND_LETTERS // (max(map(len, short)) + 6)))
    rows = -(-len(short) // columns)
    figure.set_figheight(figure.get_figheight() + rows * _LEGEND_ROW + 0.08)
    figure.legend(
        handles, short, loc="outside lower left", ncols=columns, handlelength=1.6, columnspacing=1.4
    )


def shorten(label: str, letters: int = _LABEL_LETTERS) -> str:
    """Cut a long name in the middle: names differ at either end."""
    if len(label) <= letters:
        return label
    half = (letters - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def to_png(figure: "Figure") -> bytes:
    """Draw the figure in the light colours at 200 dots an inch."""
    return _save(figure, format="png", dpi=200)


def to_svg(figure: "Figure") -> bytes:
    """Draw the figure in the light colours, on its own background."""
    plain = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # no clock, no foreign address
    return _save(figure, format="svg", metadata=plain)


def _save(figure: "Figure", **how: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, **how)
    return stream.getvalue()


def inline_svg(svg: bytes, prefix: str) -> str:
    """Turn a saved SVG into one for the body of a page.

    Colours become the page's variables, its typeface the page's, ids get a prefix because all
    pictures of a page share them, and what only a file of its own needs goes.
    """
    root = ElementTree.fromstring(svg)
    variables = {light: f"var(--{role})" for role, (light, _) in COLOURS.items()}
    for parent in list(root.iter()):
        for child in [c for c in parent if _bare(c.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        old = dict(element.attrib)
        element.attrib.clear()
        for name, value in old.items():
            element.set(_bare(name), _themed(_bare(name), value, variables, prefix))
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("aria-hidden", "true")  # the figure around it carries the text
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _themed(name: str, value: str, variables: dict[str, str], prefix: str) -> str:
    if name == "id":
        return prefix + value
    value = re.sub(r"^#(?!\w{6}$)|(?<=url\()#", f"#{prefix}", value)  # references, not colours
    value = re.sub(r"#[0-9a-f]{6}", lambda m: variables.get(m[0], m[0]), value)
    return re.sub(r"'DejaVu Sans'[^;]*", "var(--font)", value) if name == "style" else value


def _bare(name: str) -> str:
    """Drop the namespace, which an HTML parser does not need."""
    return name.rpartition("}")[2]
