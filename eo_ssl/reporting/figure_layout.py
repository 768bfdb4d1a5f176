"""A page of panels in rows, with a title, small type and one legend, drawn by matplotlib and kept as SVG."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from eo_ssl.reporting.svg import Rc

STUDY_STYLE: Rc = {
    "font.size": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class FigureLayout:
    """A page of panels in rows; lengths in inches."""

    in_row: int
    "panels"
    width: float
    "of a panel, with what stands to its left"
    height: float
    "of a panel's axes"
    label_width: float = 0.12
    "to the left of each panel, for labels on its y axis"

    def draw(
        self, title: str, caption: str, *, keys: Sequence[Line2D | Patch], panels: Sequence[str]
    ) -> tuple[Figure, list[Axes]]:
        """Return the page with title, small type and legend, and the empty axes of ``panels`` under their titles."""
        left, gap, foot = 0.5, 0.55, 0.55
        wide = left + self.in_row * self.width
        lines = textwrap.wrap(caption, int(wide * 18))
        titled = textwrap.wrap(title, int(wide * 9.5))
        in_line = _keys_in_line([str(key.get_label()) for key in keys], wide)
        legend = 0.19 * math.ceil(len(keys) / in_line)
        small = 0.23 + 0.19 * len(titled)  # where the small type begins, from the top
        above = small + 0.03 + 0.15 * len(lines)
        head = above + legend + 0.4
        rows = math.ceil(len(panels) / self.in_row)
        tall = head + rows * self.height + (rows - 1) * gap + foot
        page = Figure(figsize=(wide, tall), facecolor="white")
        page.text(0.15 / wide, 1 - 0.15 / tall, "\n".join(titled), fontsize=11, fontweight="bold", va="top")
        page.text(0.15 / wide, 1 - small / tall, "\n".join(lines), color="#444444", va="top", linespacing=1.35)
        corner = (0.05 / wide, 1 - above / tall)
        page.legend(handles=keys, ncols=in_line, loc="upper left", bbox_to_anchor=corner, columnspacing=1.5)
        inner = self.width - self.label_width - 0.12
        drawn = []
        for number, name in enumerate(panels):
            row, column = divmod(number, self.in_row)
            x = left + column * self.width + self.label_width
            y = tall - head - (row + 1) * self.height - row * gap
            axes = page.add_axes((x / wide, y / tall, inner / wide, self.height / tall))
            axes.set_title(name, loc="left", fontsize=8, x=(0.12 - self.label_width) / inner)
            drawn.append(axes)
        return page, drawn


def _keys_in_line(labels: Sequence[str], wide: float) -> int:
    """How many columns of a legend, filled one after the other, fit into ``wide`` inches."""
    for columns in range(len(labels), 1, -1):
        lines = math.ceil(len(labels) / columns)
        columned = [labels[first : first + lines] for first in range(0, len(labels), lines)]
        if sum(0.5 + 0.054 * max(map(len, column)) for column in columned) <= wide:
            return len(columned)
    return 1
