"""Matplotlib's SVG as a part of an HTML page.

Matplotlib draws; afterwards the picture is made part of the page: text stays text, colours become the page's CSS
variables (so that dark mode and print need no second picture), identifiers get a prefix (so that pictures do not
borrow each other's clip paths), and metadata that names foreign addresses is dropped.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from servegate.report.format import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colour in the drawing → CSS variable of the page. Slots named blue and green are drawn in those colours, of
# clearly different lightness; with the marks and dashes below nothing depends on colour alone.
COLOURS = {
    "#111213": "ink",
    "#616263": "muted",
    "#d1d2d3": "grid",
    "#f1f2f3": "shade",
    "#c13001": "bad",
    "#0b5cad": "slot-a",
    "#1c9d5b": "slot-b",
    "#0072b3": "series-1",
    "#d55e01": "series-2",
    "#009e74": "series-3",
    "#b0508f": "series-4",
    "#8a6d01": "series-5",
    "#2b9fd9": "series-6",
}
HEX = {name: colour for colour, name in COLOURS.items()}
SERIES = ("series-1", "series-2", "series-3", "series-4", "series-5", "series-6")
DASHES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("", ()),
    ("6 3", (6, 3)),
    ("2 2", (2, 2)),
    ("8 2 2 2", (8, 2, 2, 2)),
    ("1 3", (1, 3)),
    ("10 4", (10, 4)),
)
WIDE, NARROW = 9.4, 3.9
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"


def draw_svg(draw: Callable[[Axes, bool], None], width: float, height: float, head: float, prefix: str) -> str:
    # Building its font cache, once per machine, is not worth a warning among a person's lines.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    wide = width > 6
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": prefix,
        "font.family": "sans-serif",
        "font.size": 10 if wide else 8.5,
        "text.parse_math": False,
        "path.simplify": False,
        "axes.unicode_minus": False,
    }
    with mpl.rc_context(settings):
        top, bottom, left, right = head, 0.32, 0.62 if wide else 0.5, 0.2
        figure = Figure(figsize=(width, height + top + bottom))
        whole = height + top + bottom
        axes = figure.add_axes((left / width, bottom / whole, 1 - (left + right) / width, height / whole))
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        axes.grid(axis="y", color=HEX["grid"], linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(HEX["muted"])
        axes.tick_params(colors=HEX["muted"], labelcolor=HEX["ink"], length=3)
        axes.tick_params(axis="y", length=0)
        draw(axes, wide)
        axes.xaxis.set_major_locator(MaxNLocator(9 if wide else 5, steps=[1, 1.5, 2, 3, 6, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value)))
        stream = io.StringIO()
        with warnings.catch_warnings():
            # A glyph our font lacks is only measured wrongly: the browser draws the text.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return into_page(stream.getvalue(), prefix)


def into_page(svg: str, prefix: str) -> str:
    """A matplotlib SVG as an element of an HTML page."""
    root = ElementTree.fromstring(svg)  # noqa: S314  matplotlib's own output, a moment old
    for parent in root.iter():
        for child in list(parent):
            if child.tag == _SVG + "metadata":
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            name = name.removeprefix(_XLINK)
            if name == "id":
                value = f"{prefix}-{value}"
            elif name == "href":
                value = value.replace("#", f"#{prefix}-")
            else:
                value = value.replace("url(#", f"url(#{prefix}-")
            if name == "style":
                value = re.sub(r"#[0-9a-f]{6}", lambda hit: _variable(hit.group()), value)
                if element.tag == "text":
                    value = re.sub(r"'[^']*'|DejaVu Sans,?", "", value)
            element.set(name, value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "presentation")
    return ElementTree.tostring(root, encoding="unicode")


def _variable(colour: str) -> str:
    name = COLOURS.get(colour)
    return f"var(--{name})" if name else colour
