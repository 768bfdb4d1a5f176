"""Maps of a selection: how often each place of the world comes up, and each position of the places with most tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from eo_ssl.reporting.charts import Chart, draw_boxes
from eo_ssl.reporting.footprints import (
    MAP_STYLE,
    MOST_BOXES,
    WORLD_PX,
    Footprints,
    begin_close_up,
    begin_world_map,
    group_places,
    name_place,
)
from eo_ssl.reporting.formatting import format_count
from eo_ssl.reporting.selected_tiles import LIFT_NAMES, LIFT_WORDS, FloatArray, classify_lift
from eo_ssl.reporting.svg import PALETTE, render_svg, use_style

MOST_DOTS = 400  # places on the world map: more hide each other
CLOSE_UPS = 2
LARGEST_PX, SMALLEST_PX = 13.0, 1.2  # radius of a place
FILLS = (0.0, 0.14, 0.32, 0.58, 0.9)  # opacity by class of lift


def draw_selection_maps(tiles: Footprints) -> tuple[Chart, ...]:
    """The world, where tiles lie at several places, and close-ups of the places with most tiles; none without tiles."""
    if not len(tiles):
        return ()
    groups = group_places(tiles)
    charts = []
    if len(groups) > 1:
        caption = (
            "A ring per place for its share of all tiles, a disc for its share as drawn, both by area: a disc within"
            " its ring is thinned out, one that reaches beyond it is shown more often."
        )
        if len(groups) > MOST_DOTS:
            caption += f" The {MOST_DOTS} places with most tiles, of {format_count(len(groups), 'place')}."
        svg = render_svg(
            draw_lifted_world(groups[:MOST_DOTS]), alt=f"World map of the selection. {caption}", kind="map"
        )
        charts.append(Chart(svg, "Where tiles are drawn", caption, (("ring", "all tiles"), ("disc", "as drawn"))))
    for group in groups[:CLOSE_UPS]:
        spots = unite_positions(group)
        there = np.unique(classify_lift(_read_lift(spots)))
        words = f"{format_count(len(group), 'tile')} at {format_count(len(spots), 'position')}"
        words += f" (every {math.ceil(len(spots) / MOST_BOXES)}th drawn)" if len(spots) > MOST_BOXES else ""
        title, caption = name_place(group), f"{words}, darker the more often their tiles come up. {LIFT_WORDS}."
        svg = render_svg(draw_lifted_close_up(spots), alt=f"Footprints around {title}: {caption}", kind="map")
        charts.append(Chart(svg, title, caption, tuple((f"lift{c}", LIFT_NAMES[c]) for c in there.tolist())))
    return tuple(charts)


def unite_positions(tiles: Footprints) -> Footprints:
    """The different positions of some tiles, to 1e-4 degrees, each with the mean lift of its tiles."""
    _, first, position, counts = np.unique(
        tiles.bounds.round(4), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    spots = tiles.take(first.astype(np.int64))
    lift = np.bincount(position.reshape(-1), _read_lift(tiles), len(first)) / counts
    return Footprints(spots.bounds, spots.split, lift)


def draw_lifted_world(groups: Sequence[Footprints]) -> Figure:
    """The world with a ring per place by its share before, and a disc by its share after, both by area."""
    before = np.array([len(group) for group in groups], dtype=np.float64)
    after = np.array([float(_read_lift(group).sum()) for group in groups])
    most = max(before.max(), after.max())
    accent = PALETTE["accent"]
    with use_style(MAP_STYLE):
        figure, axes = begin_world_map()
        for group, share, drawn in zip(groups, before, after, strict=True):
            west, south, east, north = group.extent
            middle = (west + east) / 2, (south + north) / 2
            ring, disc = (max(LARGEST_PX * math.sqrt(part / most), SMALLEST_PX) for part in (share, drawn))
            if drawn > 0:
                axes.add_patch(Circle(middle, disc * 360 / WORLD_PX, facecolor=(accent, 0.5), linewidth=0))
            axes.add_patch(Circle(middle, ring * 360 / WORLD_PX, fill=False, edgecolor=PALETTE["ink"], linewidth=1))
    return figure


def draw_lifted_close_up(spots: Footprints) -> Figure:
    """The positions of one place, a patch per class of lift, darker the higher it is; outlines alone never come up."""
    accent = PALETTE["accent"]
    with use_style(MAP_STYLE):
        figure, axes, shown = begin_close_up(spots)
        classes = classify_lift(_read_lift(shown))
        for number, fill in enumerate(FILLS):
            boxes = shown.bounds[classes == number]
            if len(boxes):
                look = {"facecolor": (accent, fill), "edgecolor": accent, "linewidth": 0.6}
                draw_boxes(axes, boxes, label=LIFT_NAMES[number], **look)
    return figure


def _read_lift(tiles: Footprints) -> FloatArray:
    return np.ones(len(tiles)) if tiles.lift is None else tiles.lift
