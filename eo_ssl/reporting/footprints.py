"""Maps of footprints without any map service: the world in degrees, and close-ups of each place with its tiles.

Positions are longitude and latitude (OGC:CRS84). The world is equirectangular; a close-up is scaled by the cosine of
its middle latitude, so that tiles look square. There is no coastline: nothing is drawn that is not in the index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from eo_ssl.reporting.charts import WIDTH_PX, Chart, begin_axes, choose_ticks, draw_boxes, keep_inside
from eo_ssl.reporting.formatting import format_count, format_degrees
from eo_ssl.reporting.svg import PAGE_STYLE, PALETTE, Rc, render_svg, use_style

MOST_PLACES = 6  # close-ups
MOST_BOXES = 2500  # per close-up: more are invisible at this width
SPLITS = ("train", "val", "test")
SPLIT_COLOURS = {"train": "s0", "val": "s3", "test": "s2", "": "s5"}
BOUNDS = ("xmin", "ymin", "xmax", "ymax")  # west, south, east, north in index and tables
LEAST_PX = 4.0  # side of a footprint that is too small to be seen
NEAR_DEG = 0.75  # footprints nearer than this share a close-up
TROPIC_DEG = 23.44  # obliquity of the ecliptic, 2000
WORLD_PX = 313.0  # width of the world: 0.87 px per degree
MAP_STYLE: Rc = PAGE_STYLE | {
    "axes.grid.axis": "both",
    "axes.facecolor": PALETTE["card"],
    "axes.edgecolor": PALETTE["rule"],
    **{f"axes.spines.{side}": True for side in ("left", "right", "top", "bottom")},
}

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Footprints:
    """Footprints of tiles: [n, 4] west, south, east, north in degrees, the split of each, and how often it comes up."""

    bounds: FloatArray
    "[n, 4] float64, degrees, finite"
    split: npt.NDArray[np.str_]
    "[n] train, val or test"
    lift: FloatArray | None = None
    "[n] how many times as often each comes up as by a uniform draw; None where nothing was selected"

    def __len__(self) -> int:
        return len(self.bounds)

    def take(self, rows: npt.NDArray[np.int64]) -> Footprints:
        """The footprints of some rows."""
        return Footprints(self.bounds[rows], self.split[rows], None if self.lift is None else self.lift[rows])

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """West, south, east, north of all."""
        west, south = self.bounds[:, :2].min(axis=0)
        east, north = self.bounds[:, 2:].max(axis=0)
        return float(west), float(south), float(east), float(north)


def group_places(boxes: Footprints) -> list[Footprints]:
    """Footprints grouped by nearness (cells of `NEAR_DEG`, touching cells joined), the group with most tiles first."""
    centres = (boxes.bounds[:, :2] + boxes.bounds[:, 2:]) / 2
    cells = np.floor(centres / NEAR_DEG).astype(np.int64)
    unique, inverse = np.unique(cells, axis=0, return_inverse=True)
    group = {(int(a), int(b)): -1 for a, b in unique}
    count = 0
    for start in group:
        if group[start] >= 0:
            continue
        group[start], todo = count, [start]
        while todo:
            a, b = todo.pop()
            for near in ((a + i, b + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if group.get(near) == -1:
                    group[near] = count
                    todo.append(near)
        count += 1
    of_row = np.array([group[(int(a), int(b))] for a, b in unique], dtype=np.int64)[inverse.reshape(-1)]
    order, ends = np.argsort(of_row, kind="stable"), np.cumsum(np.bincount(of_row, minlength=count))
    groups = [boxes.take(rows.astype(np.int64)) for rows in np.split(order, ends[:-1])]
    return sorted(groups, key=lambda g: (-len(g), g.extent))


def draw_maps(boxes: Footprints, name: str, *, most: int = MOST_PLACES) -> tuple[tuple[Chart, ...], int]:
    """The world and close-ups of the places with most tiles; the number of places without a close-up."""
    if not len(boxes):
        return (), 0
    groups = group_places(boxes)
    alt = f"World map of {name}: {format_count(len(groups), 'place')} with {format_count(len(boxes), 'tile')}"
    caption = "One dot per place; its area grows with the number of tiles. Longitude and latitude in degrees."
    charts = [Chart(render_svg(draw_world_map(groups), alt=alt, kind="map"), "Where", caption)]
    legend = tuple((split, split) for split in SPLITS if (boxes.split == split).any())
    for group in groups[:most]:
        title = name_place(group)
        drawn = f" (every {math.ceil(len(group) / MOST_BOXES)}th drawn)" if len(group) > MOST_BOXES else ""
        tiles = format_count(len(group), "tile")
        n_spots = len(np.unique(group.bounds.round(4), axis=0))
        tiles += f" at {format_count(n_spots, 'position')}" if n_spots < len(group) else ""
        svg = render_svg(draw_close_up(group), alt=f"Footprints of {tiles} around {title}", kind="map")
        charts.append(Chart(svg, title, f"{tiles}{drawn}, coloured by split.", legend))
    return tuple(charts), len(groups) - len(groups[:most])


def name_place(group: Footprints) -> str:
    """The middle of a place in degrees."""
    west, south, east, north = group.extent
    return f"{format_degrees(round((south + north) / 2, 2), 'NS')} {format_degrees(round((west + east) / 2, 2), 'EW')}"


def begin_world_map() -> tuple[Figure, Axes]:
    """The world in degrees, empty, in `MAP_STYLE`."""
    figure, axes = begin_axes(WIDTH_PX, WORLD_PX / 2 + 30, margins_px=(40, WIDTH_PX - 40 - WORLD_PX, 8, 22))
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xticks=range(-120, 121, 60), yticks=range(-60, 61, 30))
    _label_degrees(axes)
    axes.axhline(0, color=PALETTE["faint"], linewidth=1)
    for tropic in (-TROPIC_DEG, TROPIC_DEG):
        axes.axhline(tropic, color=PALETTE["rule"], linewidth=1, linestyle=(0, (2, 3)))
    return figure, axes


def draw_world_map(groups: Sequence[Footprints]) -> Figure:
    """The world in degrees with one dot per place, its area growing with the number of tiles."""
    with use_style(MAP_STYLE):
        figure, axes = begin_world_map()
        most = max((len(g) for g in groups), default=1)
        accent = PALETTE["accent"]
        for group in groups:
            west, south, east, north = group.extent
            radius = (3.0 + 6.0 * math.sqrt(len(group) / most)) * 360 / WORLD_PX
            middle = (west + east) / 2, (south + north) / 2
            axes.add_patch(Circle(middle, radius, facecolor=(accent, 0.5), edgecolor=accent, linewidth=1))
    return figure


def begin_close_up(footprints: Footprints) -> tuple[Figure, Axes, Footprints]:
    """The surroundings of one place on a graticule in degrees, empty, and its footprints as they are to be drawn there.

    These are at most `MOST_BOXES`, and large enough to be seen.
    """
    west, south, east, north = footprints.extent
    squeeze = max(math.cos(math.radians((south + north) / 2)), 0.05)
    span = max((east - west) * squeeze, north - south, 1e-4) * 1.12  # degrees of latitude across
    side = WIDTH_PX - 66
    high = side * min(1.0, max(0.45, (north - south) * 1.12 / span))
    half = span / 2 / squeeze, span / 2 * high / side
    middle = (west + east) / 2, (south + north) / 2
    least = LEAST_PX * span / side / squeeze, LEAST_PX * span / side
    figure, axes = begin_axes(WIDTH_PX, high + 30, margins_px=(62, 4, 8, 22))
    axes.set(xlim=(middle[0] - half[0], middle[0] + half[0]), ylim=(middle[1] - half[1], middle[1] + half[1]))
    axes.set(xticks=choose_ticks(*axes.get_xlim(), most=4), yticks=choose_ticks(*axes.get_ylim(), most=4))
    _label_degrees(axes)
    shown = footprints.take(np.linspace(0, len(footprints) - 1, min(len(footprints), MOST_BOXES)).astype(np.int64))
    bounds = shown.bounds.copy()
    bounds[:, 2] = np.maximum(bounds[:, 2], bounds[:, 0] + least[0])
    bounds[:, 1] = np.minimum(bounds[:, 1], bounds[:, 3] - least[1])
    return figure, axes, replace(shown, bounds=bounds)


def draw_close_up(footprints: Footprints) -> Figure:
    """One place with every tile's footprint, a patch per split in its colour."""
    with use_style(MAP_STYLE):
        figure, axes, shown = begin_close_up(footprints)
        for split, name in SPLIT_COLOURS.items():
            rows = shown.bounds[shown.split == split]
            if len(rows):
                colour = PALETTE[name]
                draw_boxes(axes, rows, label=split, facecolor=(colour, 0.35), edgecolor=colour, linewidth=0.6)
    return figure


def _label_degrees(axes: Axes) -> None:
    for axis, letters in ((axes.xaxis, "EW"), (axes.yaxis, "NS")):
        axis.set_ticklabels([format_degrees(float(tick), letters) for tick in axis.get_ticklocs()])
    keep_inside(axes, within_px=24)
