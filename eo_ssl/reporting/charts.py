"""Lines, ranked sizes, histograms and whiskers: small SVG charts drawn at phone width, coloured by the page's style.

Every chart is 360 px wide, so that on a phone it is shown 1:1 and its 11-px labels stay readable; on a desktop several stand
side by side. Colours are CSS classes (`s0`..`s7`), so that the dark theme changes them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from eo_ssl.reporting.svg import Scale, drawing, path, px, spread, tag, tick_text

WIDTH_PX = 360.0
HEIGHT_PX = 216.0
SCATTER_PX = 300.0
FEW_POINTS = 16  # drawn as dots too: the line between them is only a guide
MOST_POINTS = 300  # per line: more is invisible at this width and only makes the file heavy


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
    "class s0..s7"


@dataclass(frozen=True, slots=True)
class Axes:
    """What a line chart is about and how its axes run."""

    alt: str
    "the chart in words"
    x_label: str
    "with unit"
    y_label: str
    "with unit"
    log_y: bool = False
    "logarithmic y axis"
    zero_y: bool = False
    "y axis starts at zero"
    marks: tuple[float, ...] = field(default=())
    "x of vertical lines (events)"


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its caption and legend."""

    svg: Markup
    "the drawing"
    title: str
    "a few words above it"
    caption: str = ""
    "what to see, with n and units"
    legend: tuple[tuple[str, str], ...] = ()
    "(class of the swatch, text)"


def thin(series: Series, most: int = MOST_POINTS) -> Series:
    """The series as means over equal runs of points, at most `most` of them; the same series where it is short enough."""
    n = len(series.x)
    if n <= most:
        return series
    run = math.ceil(n / most)
    x = tuple(sum(series.x[i : i + run]) / len(series.x[i : i + run]) for i in range(0, n, run))
    y = tuple(sum(series.y[i : i + run]) / len(series.y[i : i + run]) for i in range(0, n, run))
    return Series(series.name, x, y, series.colour)


def line_chart(series: Sequence[Series], axes: Axes) -> Markup:
    """Lines over a light grid; a series of one point is a dot."""
    lines = [thin(s) for s in series]
    left, right, top, bottom = 64.0, WIDTH_PX - 10, 12.0, HEIGHT_PX - 36
    xs = spread([v for s in lines for v in s.x], margin=0.0)
    ys = spread([v for s in lines for v in s.y], log=axes.log_y, zero=axes.zero_y)
    x, y = Scale(*xs, left, right), Scale(*ys, bottom, top, log=axes.log_y)
    parts = [*frame(x, y, x_label=axes.x_label, y_label=axes.y_label)]
    parts += [
        tag("path", d=f"M{px(x(m))} {px(top)}V{px(bottom)}", class_="mark") for m in axes.marks if xs[0] <= m <= xs[1]
    ]
    for s in lines:
        if len(s.x) == 1:
            parts.append(tag("circle", cx=x(s.x[0]), cy=y(s.y[0]), r=3.5, class_=f"dot s{s.colour}"))
            continue
        if len(s.x) <= FEW_POINTS:
            parts += [
                tag("circle", cx=x(a), cy=y(b), r=3.0, class_=f"dot s{s.colour}") for a, b in zip(s.x, s.y, strict=True)
            ]
        parts.append(tag("path", d=path([x(v) for v in s.x], [y(v) for v in s.y]), class_=f"line s{s.colour}"))
    return drawing(parts, width=WIDTH_PX, height=HEIGHT_PX, alt=axes.alt)


def scatter(series: Sequence[Series], axes: Axes) -> Markup:
    """Points, each series in its colour, later ones on top; one path per series keeps thousands of them light."""
    left, right, top, bottom = 64.0, WIDTH_PX - 10, 12.0, SCATTER_PX - 36
    x = Scale(*spread([v for s in series for v in s.x]), left, right)
    y = Scale(*spread([v for s in series for v in s.y]), bottom, top)
    parts = frame(x, y, x_label=axes.x_label, y_label=axes.y_label)
    for s in series:
        dots = "".join(f"M{px(x(a))} {px(y(b))}h0" for a, b in zip(s.x, s.y, strict=True))
        parts.append(tag("path", d=dots, class_=f"points s{s.colour}"))
    return drawing(parts, width=WIDTH_PX, height=SCATTER_PX, alt=axes.alt)


def frame(x: Scale, y: Scale, *, x_label: str, y_label: str) -> list[Markup]:
    """Grid, tick labels and axis names of a chart whose scales are `x` and `y`."""
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(tag("path", d=f"M{px(x.start_px)} {px(at)}H{px(x.end_px)}", class_="grid"))
        parts.append(tag("text", tick_text(value), x=x.start_px - 6, y=at + 4, class_="tick end"))
    ticks = x.ticks()
    for value in ticks:
        anchor = "end" if x(value) > x.end_px - 8 else "middle"
        parts.append(tag("path", d=f"M{px(x(value))} {px(y.start_px)}v4", class_="axis"))
        parts.append(tag("text", tick_text(value), x=x(value), y=y.start_px + 16, class_=f"tick {anchor}"))
    parts.append(tag("path", d=f"M{px(x.start_px)} {px(y.start_px)}H{px(x.end_px)}", class_="axis"))
    parts.append(tag("text", x_label, x=(x.start_px + x.end_px) / 2, y=y.start_px + 31, class_="label middle"))
    middle = (y.start_px + y.end_px) / 2
    parts.append(tag("text", y_label, x=9.0, y=middle, class_="label middle", transform=f"rotate(-90 9 {px(middle)})"))
    return parts


def rank_chart(before: Sequence[float], after: Sequence[float], *, alt: str) -> Markup:
    """Cluster sizes before (filled) and after (line), each cluster in its place by size before, largest first.

    Args:
        before: size of each cluster, any order.
        after: size of the same clusters after selection.
        alt: the chart in words.
    """
    order = sorted(range(len(before)), key=lambda i: -before[i])
    left, right, top, bottom = 64.0, WIDTH_PX - 10, 12.0, HEIGHT_PX - 36
    biggest = max(max(before, default=1), 1)
    log = biggest > 20 * max(1.0, sorted(before)[len(before) // 2])
    x = Scale(0.5, len(order) + 0.5, left, right)
    y = Scale(0.7, biggest * 1.15, bottom, top, log=True) if log else Scale(0, biggest * 1.05, bottom, top)
    gap = 0.0 if len(order) > 60 else 0.12
    wide = (x(1.5) - x(0.5)) * (1 - 2 * gap)
    parts = frame(x, y, x_label="cluster, largest first", y_label="tiles")
    for values, name in ((before, "before"), (after, "after")):
        shape = "".join(
            f"M{px(x(rank + 0.5 + gap))} {px(bottom)}V{px(y(values[i]))}h{px(wide)}V{px(bottom)}z"
            for rank, i in enumerate(order)
            if values[i] > 0
        )
        parts.append(tag("path", d=shape, class_=f"bar {name}"))
    return drawing(parts, width=WIDTH_PX, height=HEIGHT_PX, alt=alt)


def histogram(edges: Sequence[float], counts: Sequence[float], *, alt: str, colour: int = 0) -> Markup:
    """A small histogram (160 x 78 px) with the ends of its range written below; heights are shares of the highest bin."""
    width, height, bottom = 160.0, 78.0, 60.0
    x, y = Scale(edges[0], edges[-1], 2, width - 2), Scale(0, max(max(counts, default=0), 1e-12), bottom, 4)
    steps = "".join(f"V{px(y(c))}H{px(x(b))}" for c, b in zip(counts, edges[1:], strict=True))
    parts = [
        tag("path", d=f"M{px(x(edges[0]))} {px(bottom)}{steps}V{px(bottom)}z", class_=f"area s{colour}"),
        tag("path", d=f"M2 {px(bottom)}H{px(width - 2)}", class_="axis"),
        tag("text", tick_text(float(f"{edges[0]:.3g}")), x=2.0, y=height - 4, class_="tick start"),
        tag("text", tick_text(float(f"{edges[-1]:.3g}")), x=width - 2, y=height - 4, class_="tick end"),
    ]
    if edges[0] < 0 < edges[-1]:
        parts.append(tag("path", d=f"M{px(x(0.0))} {px(bottom)}v4", class_="axis"))
    return drawing(parts, width=width, height=height, alt=alt, kind="spark")


def columns(values: Sequence[float], labels: Sequence[str], *, alt: str, colour: int = 0) -> Markup:
    """Small columns with a label under each (months of a year, years, classes): at most about 14 of them."""
    width, height, bottom = WIDTH_PX, 110.0, 84.0
    step = (width - 8) / max(len(values), 1)
    y = Scale(0, max(max(values, default=0), 1e-12), bottom, 18)
    parts = [tag("path", d=f"M4 {px(bottom)}H{px(width - 4)}", class_="axis")]
    for i, (value, label) in enumerate(zip(values, labels, strict=True)):
        middle = 4 + (i + 0.5) * step
        if value > 0:
            top = min(y(value), bottom - 1)
            wide = min(step * 0.7, 40)
            parts.append(
                tag("rect", x=middle - wide / 2, y=top, width=wide, height=bottom - top, class_=f"area s{colour}")
            )
            parts.append(tag("text", tick_text(value), x=middle, y=top - 4, class_="tick middle"))
        parts.append(tag("text", label, x=middle, y=height - 10, class_="tick middle"))
    return drawing(parts, width=width, height=height, alt=alt)


def whisker(
    value: float, *, low: float | None, high: float | None, axis: tuple[float, float], kind: str, alt: str
) -> Markup:
    """A dot with its interval on a line that stretches with its column (positions in per cent, no viewBox).

    Args:
        value: the dot.
        low: lower end of the interval, None = no interval.
        high: upper end.
        axis: (low, high) values at the two ends of the line, shared by all rows of one plot.
        kind: class of the mark: `ours`, `baseline` or `control`.
        alt: the row in words.
    """
    at = Scale(axis[0], axis[1], 0, 100)
    parts = [tag("line", x1=f"{px(at(t))}%", x2=f"{px(at(t))}%", y1=0, y2=26, class_="grid") for t in at.ticks(4)]
    if low is not None and high is not None:
        parts.append(tag("line", x1=f"{at(low):.2f}%", x2=f"{at(high):.2f}%", y1=13, y2=13, class_="whisker"))
    parts.append(tag("circle", cx=f"{at(value):.2f}%", cy=13, r=5, class_="point"))
    return tag("svg", *parts, width="100%", height=26, role="img", aria_label=alt, class_=f"row {kind}")


def whisker_axis(axis: tuple[float, float], texts: Sequence[tuple[float, str]]) -> Markup:
    """The tick labels under a column of whiskers; decorative for a screen reader, which reads the values."""
    at = Scale(axis[0], axis[1], 0, 100)
    parts = [
        tag(
            "text",
            text,
            x=f"{at(v):.2f}%",
            y=12,
            class_="tick " + ("end" if at(v) > 94 else "start" if at(v) < 6 else "middle"),
        )
        for v, text in texts
    ]
    return tag("svg", *parts, width="100%", height=16, aria_hidden="true", class_="row scale")
