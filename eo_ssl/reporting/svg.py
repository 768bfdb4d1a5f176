"""Figures of matplotlib as SVG: files in the same bytes each time, and drawings in a page that take its colours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure

from eo_ssl.printable import show_controls

Rc = dict[str, Any]
SAME_BYTES: Rc = {
    "text.parse_math": False,  # names may hold dollars
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "eo-ssl",
}


def read_palette() -> dict[str, str]:
    """Colours of the page's light theme, such as `#0b6e69`, by the names that its style sheet gives them."""
    sheet = resources.files("eo_ssl.reporting").joinpath("templates/style.css").read_text("utf-8")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", sheet.partition("@media")[0]))


PALETTE = read_palette()
_NAMES = {colour: name for name, colour in reversed(PALETTE.items())}
PAGE_STYLE: Rc = {
    "path.simplify": False,
    "font.size": 12,
    "text.color": PALETTE["faint"],
    "axes.facecolor": "none",
    "axes.edgecolor": PALETTE["faint"],
    "axes.labelcolor": PALETTE["soft"],
    "axes.linewidth": 1,
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.xmargin": 0,
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 1,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.labelcolor": PALETTE["faint"],
    "ytick.labelcolor": PALETTE["faint"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 6,
}
"""Sizes are pixels at the width of a phone: figures are made 72 dots to the inch."""


@contextmanager
def use_style(own: Rc) -> Iterator[None]:
    """Draw and save in a style of this library, whatever the reader's own configuration of matplotlib says."""
    with style.context(["default", SAME_BYTES, own]):
        yield


def save_svg(figure: Figure, *, title: str, own: Rc) -> bytes:
    """Return ``figure`` as the content of an SVG file: the same bytes whenever the same is drawn."""
    out = io.BytesIO()
    with use_style(own):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return show_controls(out.getvalue().decode(), keep_lines=True).encode()  # names may hold what XML may not


def render_svg(figure: Figure, *, alt: str, kind: str = "chart") -> Markup:
    """Return ``figure`` as an `<svg>` of a page that says what it shows and changes its colours with the page's theme.

    Only paths and texts are kept, in their order, each with its own style, so that no id of one drawing meets that of
    another; lines and patches without markers need no more. Coordinates keep two decimals and texts the page's type.
    """
    drawn = ElementTree.fromstring(save_svg(figure, title="", own=PAGE_STYLE))
    box = str(drawn.get("viewBox"))
    width, height = box.split()[2:]
    attributes = {"viewBox": box, "width": width, "height": height, "role": "img", "aria-label": alt, "class": kind}
    page = ElementTree.Element("svg", attributes)
    for mark in drawn.iter():
        name, look = mark.tag.rpartition("}")[2], _theme(mark.get("style", ""))
        if name not in ("path", "text") or look == "fill:none":
            continue
        places: dict[str, str] = {
            key: _shorten(mark.attrib[key]) for key in ("d", "x", "y", "transform") if key in mark.attrib
        }
        if places.get("transform", "").startswith("rotate(-0 "):
            del places["transform"]
        ElementTree.SubElement(page, name, {"style": look, **places}).text = mark.text
    return Markup(ElementTree.tostring(page, encoding="unicode"))


def _shorten(numbers: str) -> str:
    """Coordinates with two decimals, and no blanks that mean nothing."""
    return re.sub(r"\s*([A-Za-z(,])\s*", r"\1", re.sub(r"(\.\d\d)\d+", r"\1", numbers)).strip()


def _theme(css: str) -> str:
    """A style without its type, its colours as variables of the page."""
    lines = [line.strip().replace(": ", ":") for line in css.split(";") if not line.strip().startswith("font")]
    return re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_NAMES[m[0]]})" if m[0] in _NAMES else m[0], ";".join(lines))
