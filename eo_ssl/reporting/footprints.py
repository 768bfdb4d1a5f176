"""Maps of footprints without any map service: the world in degrees, and close-ups of each place with its tiles.

Positions are longitude and latitude (OGC:CRS84). The world is equirectangular; a close-up is scaled by the cosine of its middle
latitude, so that tiles look square. There is no coastline: nothing is drawn that is not in the index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from eo_ssl.reporting.charts import Figure
from eo_ssl.reporting.svg import drawing, nice_ticks, px, tag
from eo_ssl.reporting.wording import count

WIDTH_PX = 360.0
MOST_PLACES = 6  # close-ups
MOST_BOXES = 2500  # per close-up: more are invisible at this width
SPLITS = ("train", "val", "test")
BOUNDS = ("xmin", "ymin", "xmax", "ymax")  # west, south, east, north in index and tables
LEAST_PX = 4.0  # side of a footprint that is too small to be seen
NEAR_DEG = 0.75  # footprints nearer than this share a close-up
TROPIC_DEG = 23.44  # obliquity of the ecliptic, 2000

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Footprints of tiles: [n, 4] west, south, east, north in degrees, and the split of each."""

    bounds: FloatArray
    "[n, 4] float64, degrees, finite"
    split: npt.NDArray[np.str_]
    "[n] train, val or test"

    def __len__(self) -> int:
        return len(self.bounds)

    def take(self, rows: npt.NDArray[np.int64]) -> Boxes:
        """The footprints of some rows."""
        return Boxes(self.bounds[rows], self.split[rows])

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """West, south, east, north of all."""
        west, south = self.bounds[:, :2].min(axis=0)
        east, north = self.bounds[:, 2:].max(axis=0)
        return float(west), float(south), float(east), float(north)


def places(boxes: Boxes) -> list[Boxes]:
    """Footprints grouped by nearness (cells of `NEAR_DEG`, touching cells joined), the group with most tiles first."""
    centres = (boxes.bounds[:, :2] + boxes.bounds[:, 2:]) / 2
    cells = np.floor(centres / NEAR_DEG).astype(np.int64)
    unique, inverse = np.unique(cells, axis=0, return_inverse=True)
    group = {(int(a), int(b)): -1 for a, b in unique}
    found = 0
    for start in group:
        if group[start] >= 0:
            continue
        group[start], todo = found, [start]
        while todo:
            a, b = todo.pop()
            for near in ((a + i, b + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if group.get(near) == -1:
                    group[near] = found
                    todo.append(near)
        found += 1
    of_row = np.array([group[(int(a), int(b))] for a, b in unique], dtype=np.int64)[inverse.reshape(-1)]
    groups = [boxes.take(np.flatnonzero(of_row == i)) for i in range(found)]
    return sorted(groups, key=lambda g: (-len(g), g.extent))


def maps(boxes: Boxes, name: str, *, most: int = MOST_PLACES) -> tuple[tuple[Figure, ...], int]:
    """The world and close-ups of the places with most tiles; the number of places without a close-up."""
    if not len(boxes):
        return (), 0
    groups = places(boxes)
    alt = f"World map of {name}: {count(len(groups), 'place')} with {count(len(boxes), 'tile')}"
    world = Figure(
        world_map(groups, alt=alt),
        "Where",
        "One dot per place; its area grows with the number of tiles. Longitude and latitude in degrees.",
    )
    figures = [world]
    legend = tuple((split, split) for split in SPLITS if (boxes.split == split).any())
    for group in groups[:most]:
        west, south, east, north = group.extent
        words = f"{degrees(round((south + north) / 2, 2), 'NS')} {degrees(round((west + east) / 2, 2), 'EW')}"
        drawn = f" (every {math.ceil(len(group) / MOST_BOXES)}th drawn)" if len(group) > MOST_BOXES else ""
        tiles = count(len(group), "tile")
        n_spots = len(np.unique(group.bounds.round(4), axis=0))
        tiles += f" at {count(n_spots, 'position')}" if n_spots < len(group) else ""
        drawing = close_up(group, alt=f"Footprints of {tiles} around {words}")
        figures.append(Figure(drawing, words, f"{tiles}{drawn}, coloured by split.", legend))
    return tuple(figures), len(groups) - len(groups[:most])


def world_map(groups: Sequence[Boxes], *, alt: str) -> Markup:
    """The world in degrees with one dot per place, its area growing with the number of tiles."""
    left, top, scale = 40.0, 8.0, 0.87
    wide, high = 360 * scale, 180 * scale

    def x(lon: float) -> float:
        return left + (lon + 180) * scale

    def y(lat: float) -> float:
        return top + (90 - lat) * scale

    parts = [tag("rect", x=left, y=top, width=wide, height=high, class_="sea")]
    for lon in range(-120, 121, 60):
        parts.append(tag("path", d=f"M{px(x(lon))} {px(top)}v{px(high)}", class_="grid"))
        parts.append(tag("text", degrees(lon, "EW"), x=x(lon), y=top + high + 14, class_="tick middle"))
    for lat in (-60, -30, 0, 30, 60):
        parts.append(tag("path", d=f"M{px(left)} {px(y(lat))}h{px(wide)}", class_="axis" if lat == 0 else "grid"))
        parts.append(tag("text", degrees(lat, "NS"), x=left - 4, y=y(lat) + 4, class_="tick end"))
    for tropic in (-TROPIC_DEG, TROPIC_DEG):
        parts.append(tag("path", d=f"M{px(left)} {px(y(tropic))}h{px(wide)}", class_="grid dashed"))
    most = max((len(g) for g in groups), default=1)
    for group in groups:
        west, south, east, north = group.extent
        radius = 3.0 + 6.0 * math.sqrt(len(group) / most)
        parts.append(tag("circle", cx=x((west + east) / 2), cy=y((south + north) / 2), r=radius, class_="place"))
    return drawing(parts, width=WIDTH_PX, height=top + high + 22, alt=alt, kind="map")


def close_up(boxes: Boxes, *, alt: str) -> Markup:
    """One place with every tile's footprint, coloured by split, on a graticule in degrees."""
    west, south, east, north = boxes.extent
    squeeze = max(math.cos(math.radians((south + north) / 2)), 0.05)
    span = max((east - west) * squeeze, north - south, 1e-4) * 1.12
    middle = ((west + east) / 2, (south + north) / 2)
    left, top, side = 62.0, 8.0, WIDTH_PX - 66
    high = side * min(1.0, max(0.45, (north - south) * 1.12 / span))
    per_degree = side / span

    def x(lon: float) -> float:
        return left + side / 2 + (lon - middle[0]) * squeeze * per_degree

    def y(lat: float) -> float:
        return top + high / 2 - (lat - middle[1]) * per_degree

    parts = [tag("rect", x=left, y=top, width=side, height=high, class_="sea")]
    half_lon, half_lat = side / 2 / squeeze / per_degree, high / 2 / per_degree
    for lon in nice_ticks(middle[0] - half_lon, middle[0] + half_lon, most=4):
        parts.append(tag("path", d=f"M{px(x(lon))} {px(top)}v{px(high)}", class_="grid"))
        anchor = "end" if x(lon) > left + side - 24 else "middle"
        parts.append(tag("text", degrees(lon, "EW"), x=x(lon), y=top + high + 14, class_=f"tick {anchor}"))
    for lat in nice_ticks(middle[1] - half_lat, middle[1] + half_lat, most=4):
        parts.append(tag("path", d=f"M{px(left)} {px(y(lat))}h{px(side)}", class_="grid"))
        parts.append(tag("text", degrees(lat, "NS"), x=left - 4, y=y(lat) + 4, class_="tick end"))
    shown = boxes.take(np.linspace(0, len(boxes) - 1, min(len(boxes), MOST_BOXES)).astype(np.int64))
    for split in (*SPLITS, ""):
        rows = shown.bounds[shown.split == split]
        shape = "".join(
            f"M{px(x(w))} {px(y(n))}H{px(max(x(e), x(w) + LEAST_PX))}V{px(max(y(s), y(n) + LEAST_PX))}H{px(x(w))}z"
            for w, s, e, n in rows.tolist()
        )
        if shape:
            parts.append(tag("path", d=shape, class_=f"tile {split or 'none'}"))
    return drawing(parts, width=WIDTH_PX, height=top + high + 22, alt=alt, kind="map")


def degrees(value: float, letters: str) -> str:
    """`12.5°E`; `letters` are those of the positive and the negative side."""
    if abs(value) < 1e-9:
        return "0°"
    return f"{abs(value):.6g}°{letters[0] if value > 0 else letters[1]}"
