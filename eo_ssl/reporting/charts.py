"""Charts of the page: lines, points, histograms and bars, drawn by matplotlib at the width of a phone.

A chart is 360 px wide, so that on a phone it is shown 1:1 and its 12-px labels stay readable; on a desktop several
stand side by side. Colours are those of the page's style sheet by name, so that the dark theme changes them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from eo_ssl.reporting.formatting import format_tick
from eo_ssl.reporting.svg import PAGE_STYLE, PALETTE, Rc, use_style

WIDTH_PX = 360.0
HEIGHT_PX = 216.0
SCATTER_PX = 300.0
MARGINS_PX = (64.0, 10.0, 12.0, 36.0)  # left, right, top, bottom of the axes
SPARK_PX = (160.0, 78.0)
BARS_PX = 110.0
FEW_POINTS = 16  # drawn as dots too: the line between them is only a guide
MOST_POINTS = 300  # per line: more is invisible at this width and only makes the file heavy
MOST_TICKS = 5
ROUND = (1, 2, 2.5, 5, 10)  # steps between ticks, times a power of ten
DOT_PX = 6.0
Floats = Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend, x and y of equal length, and the number of its colour."""

    name: str
    "legend text"
    x: tuple[float, ...]
    "values on the x axis"
    y: tuple[float, ...]
    "values on the y axis, NaN = gap"
    colour: int = 0
    "number of the colour in the style sheet, 0 to 7"
    dash: Literal["solid", "dashed", "dotted"] = "solid"
    "of the line: what tells it from others where there are no colours"

    @property
    def hue(self) -> str:
        """The colour."""
        return PALETTE[f"s{self.colour}"]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its caption and legend."""

    svg: Markup
    "the drawing"
    title: str
    "a few words above it"
    caption: str = ""
    "what to see, with n and units"
    legend: tuple[tuple[str, str], ...] = ()
    "(class of the swatch, text)"


def make_legend(series: Sequence[Series]) -> tuple[tuple[str, str], ...]:
    """Mark and name of each series, its stroke where dashes tell some apart; none for one alone, which has a title."""
    plain = all(line.dash == "solid" for line in series)
    marks = [(f"s{line.colour} {'swatch' if plain else f'stroke {line.dash}'}", line.name) for line in series]
    return tuple(marks) if len(series) > 1 else ()


def begin_axes(
    width_px: float = WIDTH_PX, height_px: float = HEIGHT_PX, *, margins_px: tuple[float, ...] = MARGINS_PX
) -> tuple[Figure, Axes]:
    """A figure with empty axes, to be drawn in `PAGE_STYLE`."""
    left, right, top, bottom = margins_px
    figure = Figure(figsize=(width_px / 72, height_px / 72))
    figure.patch.set_visible(False)
    inner = (width_px - left - right) / width_px, (height_px - top - bottom) / height_px
    return figure, figure.add_axes((left / width_px, bottom / height_px, *inner))


def choose_ticks(low: float, high: float, *, most: int = MOST_TICKS) -> tuple[float, ...]:
    """At most ``most`` round values inside [low, high], ascending, in steps of 1, 2, 2.5 or 5 times a power of ten."""
    for bins in range(most, 0, -1):
        values = MaxNLocator(bins, steps=ROUND).tick_values(low, high)
        inside = tuple(float(value) for value in values if low <= value <= high)
        if len(inside) <= most:
            return inside
    return (low, high)


def choose_log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten inside [low, high]; 1, 2 and 5 of each where fewer than two powers fit."""
    powers = math.floor(math.log10(high) + 1e-9) - math.ceil(math.log10(low) - 1e-9) + 1
    values = LogLocator(subs=(1.0,) if powers >= 2 else (1.0, 2.0, 5.0), numticks=MOST_TICKS + 2).tick_values(low, high)
    return tuple(float(value) for value in values if low <= value <= high)


def label_axes(axes: Axes, *, x_label: str, y_label: str) -> None:
    """Name both axes and give them few, round, shortly written ticks."""
    for axis in (axes.xaxis, axes.yaxis):
        choose = choose_log_ticks if axis.get_scale() == "log" else choose_ticks
        ticks = choose(*axis.get_view_interval())
        axis.set_ticks(ticks, labels=[format_tick(tick) for tick in ticks])
        axis.set_minor_locator(NullLocator())
    keep_inside(axes)
    look: Rc = {"textcoords": "offset points", "color": PALETTE["soft"], "ha": "center", "va": "baseline"}
    axes.annotate(x_label, (0.5, 0), (0, 5), xycoords=("axes fraction", "figure fraction"), **look)
    look |= {"rotation": 90, "rotation_mode": "anchor"}
    axes.annotate(y_label, (0, 0.5), (10, 0), xycoords=("figure fraction", "axes fraction"), **look)


def keep_inside(axes: Axes, *, within_px: float = 8.0) -> None:
    """Let the last label of the x axis end at its tick where it would cross the right edge of the drawing."""
    right = axes.get_window_extent().x1
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        if axes.transData.transform((tick, 0))[0] > right - within_px:
            label.set_horizontalalignment("right")


def thin(series: Series, most: int = MOST_POINTS) -> Series:
    """The series as means over equal runs of points, at most `most` of them; itself where it is short enough."""
    n = len(series.x)
    if n <= most:
        return series
    run = math.ceil(n / most)
    x = tuple(sum(series.x[i : i + run]) / len(series.x[i : i + run]) for i in range(0, n, run))
    y = tuple(sum(series.y[i : i + run]) / len(series.y[i : i + run]) for i in range(0, n, run))
    return replace(series, x=x, y=y)


def draw_lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    zero_y: bool = False,
    events: Sequence[float] = (),
) -> Figure:
    """Lines over a light grid; a series of few points has dots too.

    Args:
        series: what is drawn, later ones on top.
        x_label: with unit.
        y_label: with unit.
        log_y: logarithmic y axis.
        zero_y: y axis starts at zero.
        events: x of dashed vertical lines.
    """
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes()
        if log_y:
            axes.set_yscale("log")
        for line in map(thin, series):
            if len(line.x) > 1:
                axes.plot(line.x, line.y, linestyle=line.dash, color=line.hue, label=line.name, solid_joinstyle="round")
            if len(line.x) <= FEW_POINTS:
                draw_dots(axes, line.x, line.y, colour=line.hue)
        low, high = axes.get_xlim()
        for x in events:
            if low <= x <= high:
                axes.axvline(x, color=PALETTE["dropped"], linewidth=1, linestyle=(0, (3, 3)))
        if zero_y:
            low, high = axes.dataLim.intervaly
            low, high = min(low, 0.0), max(high, 0.0)
            pad = 0.05 * (high - low) or 1.0
            axes.set_ylim(low - pad if low < 0 else 0.0, high + pad)
        label_axes(axes, x_label=x_label, y_label=y_label)
    return figure


def draw_scatter(series: Sequence[Series], *, x_label: str, y_label: str) -> Figure:
    """Points, each series in its colour, later ones on top."""
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes(height_px=SCATTER_PX)
        axes.margins(0.05)
        for s in series:
            draw_dots(axes, s.x, s.y, colour=s.hue, width_px=4.0, opacity=0.55)
        label_axes(axes, x_label=x_label, y_label=y_label)
    return figure


def draw_dots(axes: Axes, x: Floats, y: Floats, *, colour: str, width_px: float = DOT_PX, opacity: float = 1.0) -> None:
    """Round dots as one path of strokes without length: thousands of them stay light."""
    xs, ys = (
        np.stack([v, v, np.full(len(v), np.nan)], axis=1).ravel() for v in (np.asarray(x, float), np.asarray(y, float))
    )
    axes.plot(xs, ys, color=colour, linewidth=width_px, alpha=opacity)


def draw_boxes(axes: Axes, boxes: npt.NDArray[np.float64], **look: object) -> None:
    """Upright rectangles as one path.

    Args:
        axes: where.
        boxes: [n, 4] left, bottom, right, top in units of the axes.
        look: of a matplotlib patch.
    """
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(boxes)
    axes.add_patch(PathPatch(Path(corners, codes), **look))


def draw_histogram(
    edges: Sequence[float], counts: Sequence[float], *, colour: int = 0, after: Sequence[float] | None = None
) -> Figure:
    """A small histogram (160 x 78 px) with the ends of its range written below; heights are shares of the highest bin.

    Args:
        edges: [n + 1] of the bins, ascending.
        counts: [n] of each bin.
        colour: number of the colour in the style sheet.
        after: [n] of another set in the same unit, drawn as an outline.
    """
    width, height = SPARK_PX
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes(width, height, margins_px=(2, 2, 4, 18))
        axes.set_axis_off()
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(*counts, *(after or ()), 1e-12)))
        axes.stairs(counts, edges, fill=True, color=PALETTE[f"s{colour}"], alpha=0.72, linewidth=0)
        if after is not None:
            axes.stairs(after, edges, color=PALETTE["accent"], linewidth=1.8)
        axes.plot([edges[0], edges[-1]], [0, 0], color=PALETTE["faint"], linewidth=1)
        if edges[0] < 0 < edges[-1]:
            axes.plot([0, 0], [0, -4 / 56 * axes.get_ylim()[1]], color=PALETTE["faint"], linewidth=1)
        for value, x, side in ((edges[0], 2.0, "left"), (edges[-1], width - 2, "right")):
            figure.text(x / width, 4 / height, format_tick(float(f"{value:.3g}")), ha=side, va="baseline")
    return figure


def draw_bars(values: Sequence[float], labels: Sequence[str], *, colour: int = 0) -> Figure:
    """Small bars with their value above and a label below (months of a year, days apart): at most about 14 of them."""
    top_px = 66.0  # of the highest bar
    most = max(max(values, default=0), 1e-12)
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes(height_px=BARS_PX, margins_px=(4, 4, 18, 26))
        axes.grid(visible=False)
        axes.set(xlim=(-0.5, len(values) - 0.5), ylim=(0, most))
        step_px = (WIDTH_PX - 8) / max(len(values), 1)
        half = min(0.7, 40 / step_px) / 2
        for place, value in enumerate(values):
            if value > 0:
                height = max(value, most / top_px)  # one pixel at least
                box = np.array([[place - half, 0, place + half, height]])
                draw_boxes(axes, box, color=PALETTE[f"s{colour}"], alpha=0.72, linewidth=0)
                axes.annotate(format_tick(value), (place, height), (0, 4), textcoords="offset points", ha="center")
        axes.set_yticks([])
        axes.set_xticks(range(len(labels)), labels)
    return figure
