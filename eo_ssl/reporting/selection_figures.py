"""Figures of a selection: how full clusters are, how often tiles come up, where they lie, and their months."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from eo_ssl.curation import CurationReport
from eo_ssl.reporting.charts import (
    SCATTER_PX,
    Chart,
    begin_axes,
    choose_ticks,
    draw_bars,
    draw_boxes,
    draw_dots,
    label_axes,
)
from eo_ssl.reporting.formatting import MONTHS, format_count, format_number, format_share
from eo_ssl.reporting.selected_tiles import LIFT_WORDS, FloatArray, Rows, SelectedTiles, classify_lift, name_classes
from eo_ssl.reporting.svg import PAGE_STYLE, PALETTE, Rc, render_svg, use_style

MOST_COLUMNS, MOST_STEPS = 90, 15  # of sizes before, three pixels wide; of lines over them, which would be ragged
LONG_TAILED = 20  # largest cluster over the median, from which sizes are drawn on a logarithmic axis
MOST_BINS = 24
MOST_BARS = 13  # of times that a tile was drawn
MANY_SPOTS = 800  # from which they are drawn smaller
SPOTS = ((1.6, 0.7), (2.6, 0.5), (3.4, 0.5), (4.6, 0.6), (6.5, 0.7))  # width in px and opacity by class of lift
BEFORE_AFTER = (("before", "all tiles"), ("after", "as drawn"))


# ---- clusters


def draw_occupancy_chart(report: CurationReport) -> Chart | None:
    """Shares of clusters among all tiles, a uniform draw, and the tiles as they are drawn; None without clusters."""
    if not report.cluster_rows:
        return None
    order = np.argsort(-np.asarray(report.cluster_rows), kind="stable")
    counts = (report.cluster_rows, report.cluster_kept, report.cluster_chance)
    before, after, *chance = [np.asarray(part)[order] / max(sum(part), 1) for part in counts if part]
    large = len(before) - len(before) // 2
    tails = [format_share(float(part[large:].sum())) for part in (before, after, *chance)]
    largest = [format_share(float(part[0])) for part in (before, after)]
    caption = f"Clusters by size before. The largest holds {largest[0]} of the tiles before and {largest[1]} after"
    if large < len(before):
        by_chance = f", {tails[2]} in a uniform draw" if chance else ""
        caption += f"; the smaller half {tails[0]} before, {tails[1]} after{by_chance}"
    caption += ". Where the solid line runs above the grey, clusters gained: on the right, the tail is lifted."
    if (run := _count_run(len(before), MOST_STEPS)) > 1:
        caption += f" Lines are means of {run} clusters."
    alt = f"Shares of {format_count(len(before), 'cluster')} before and after. {caption}"
    legend = [("before", "all tiles"), ("s0 stroke", "as drawn")]
    legend += [("s2 stroke dotted", "uniform draw")] if chance else []
    figure = draw_occupancy(before, after, chance[0] if chance else None)
    return Chart(render_svg(figure, alt=alt), "How full clusters are", caption, tuple(legend))


def draw_occupancy(before: FloatArray, after: FloatArray, chance: FloatArray | None) -> Figure:
    """Shares [k] of clusters in one order: before filled, and as steps of means after, solid, and by chance, dotted."""
    ground = _average_runs(before, MOST_COLUMNS)
    lines = [_average_runs(part, MOST_STEPS) for part in (after, chance) if part is not None]
    heights = [part for part, _ in (ground, *lines)]
    top = max(float(part.max()) for part in heights)
    log = heights[0].max() > LONG_TAILED * np.median(heights[0])
    low = 0.5 * min(float(part[part > 0].min()) for part in heights) if log else 0.0
    looks: tuple[Rc, Rc] = ({"color": PALETTE["s0"]}, {"color": PALETTE["s2"], "linestyle": "dotted"})
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes()
        if log:
            axes.set_yscale("log")
        axes.set(xlim=(0.5, len(before) + 0.5), ylim=(low, top * (1.3 if log else 1.05)))
        axes.stairs(*ground, baseline=low, fill=True, color=PALETTE["faint"], alpha=0.38, linewidth=0)
        for (part, edges), look in reversed([*zip(lines, looks, strict=False)]):
            axes.stairs(np.maximum(part, low), edges, baseline=None, linewidth=1.8, **look)
        label_axes(axes, x_label="cluster, largest first", y_label="% of tiles")
    return figure


def _count_run(length: int, most: int) -> int:
    return -(-length // most)


def _average_runs(shares: FloatArray, most: int) -> tuple[FloatArray, FloatArray]:
    """Means in per cent over equal runs of shares [k], at most ``most`` of them, and the runs' edges."""
    starts = np.arange(0, len(shares), _count_run(len(shares), most))
    edges = np.append(starts, len(shares))
    return 100 * np.add.reduceat(shares, starts) / np.diff(edges), edges + 0.5


# ---- how often tiles come up


def draw_weights_chart(tiles: SelectedTiles, report: CurationReport) -> Chart | None:
    """Weights on a logarithmic axis, with the effective number and the cap in words; None where none differ."""
    if not tiles.weighed:
        return None
    weights = tiles.weights[tiles.drawn]
    effective = float(weights.sum() ** 2 / np.square(weights).sum())
    cap = report.parameters.get("cap")
    caption = (
        f"{format_count(len(weights), 'tile')} weigh between {format_number(float(weights.min()))} and "
        f"{format_number(float(weights.max()))} times the mean, and a pass shows each as often. They scatter as much "
        f"as {format_number(round(effective))} tiles of equal weight: the square of the sum of weights over the sum of "
        "their squares (Kish)."
    )
    marks = [(1.0, "mean")]
    if isinstance(cap, int | float):
        at_cap = int((weights >= 0.999 * cap).sum())
        held = format_count(at_cap, "tile") if at_cap else "no tile"
        caption += f" The cap of {format_number(float(cap))} times the mean holds back {held}."
        marks += [(float(cap), "cap")] if at_cap else []
    figure = draw_log_histogram(weights, x_label="weight, times the mean", marks=marks)
    return Chart(render_svg(figure, alt=f"Histogram of weights. {caption}"), "Weights", caption)


def draw_usage_chart(tiles: SelectedTiles, events: int) -> Chart:
    """How often each tile was to come up in a pass, added up over the events of a schedule."""
    usage, never = tiles.weights, int((tiles.weights == 0).sum())
    drawn = usage[usage > 0]
    most = format_number(float(drawn.max())) if len(drawn) else "0"
    caption = (
        f"How often each of {format_count(len(usage), 'tile')} was to come up in a pass, added up over "
        f"{format_count(events, 'event')}: {format_number(never)} never (copies among them), none more than "
        f"{most} times."
    )
    if (usage == np.round(usage)).all() and usage.max(initial=0) < MOST_BARS:
        counts = np.bincount(usage.astype(np.int64), minlength=events + 1)
        figure = draw_bars(counts.tolist(), [str(number) for number in range(len(counts))])
        caption += " Below each bar: in how many pools."
    else:
        caption += f" Those that came up, on average {format_number(float(drawn.mean()))} times, are drawn."
        figure = draw_log_histogram(drawn, x_label="times in a pass, all events", marks=[(float(events), "every pass")])
    return Chart(render_svg(figure, alt=f"Histogram of usage. {caption}"), "How often tiles were drawn", caption)


def draw_log_histogram(values: FloatArray, *, x_label: str, marks: Sequence[tuple[float, str]] = ()) -> Figure:
    """Positive values [n] by their logarithm, on an axis that also holds the values marked by name."""
    at = [value for value, _ in marks]
    low, high = min([float(values.min()), *at]) / 1.1, max([float(values.max()), *at]) * 1.1
    edges = np.geomspace(low, high, MOST_BINS + 1)
    counts = np.histogram(values, bins=edges)[0]
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes()
        axes.set_xscale("log")
        axes.set(xlim=(low, high), ylim=(0, 1.18 * counts.max()))
        axes.stairs(counts, edges, fill=True, color=PALETTE["s0"], alpha=0.72, linewidth=0)
        for value, name in marks:
            axes.axvline(value, color=PALETTE["dropped"], linewidth=1, linestyle=(0, (3, 3)))
            side, beside = ("right", -0.01) if value > (low * high) ** 0.5 else ("left", 0.01)
            place = value * (high / low) ** beside
            axes.text(place, 0.99, name, transform=axes.get_xaxis_transform(), ha=side, va="top")
        label_axes(axes, x_label=x_label, y_label="tiles")
    return figure


# ---- where tiles lie in the embedding


def draw_embedding_chart(tiles: SelectedTiles, report: CurationReport, words: str = "") -> Chart | None:
    """Some tiles by two principal components of their embeddings, larger the more often they come up.

    None where no places were written, as by earlier versions, or all tiles are alike to the encoder.
    """
    placed = np.flatnonzero(np.isfinite(tiles.places).all(axis=1))
    if not len(placed) or not sum(report.projected_variance):
        return None
    classes = classify_lift(tiles.lift)[placed]
    names = name_classes(classes, weighed=tiles.weighed)
    shares = [format_share(share) for share in report.projected_variance]
    drawn = f"{format_number(len(placed))} of {format_count(len(tiles), 'tile')}, at random"
    caption = f"{drawn if len(placed) < len(tiles) else 'All tiles'}; near ones look alike to the encoder. {words}"
    caption += (
        f"Two components hold {format_share(sum(report.projected_variance))} of the variance: what lies near here"
    )
    caption += " may lie far apart." + (f" {LIFT_WORDS}." if tiles.weighed else "")
    alt = f"Map of the embeddings of {format_count(len(placed), 'tile')}: " + ", ".join(
        f"{int((classes == number).sum())} {name}" for number, name in names.items()
    )
    labels = [f"component {axis} ({share} of the variance)" for axis, share in enumerate(shares, 1)]
    figure = draw_spots(tiles.places[placed], classes, x_label=labels[0], y_label=labels[1])
    legend = tuple((f"spot lift{number}", name) for number, name in names.items())
    return Chart(render_svg(figure, alt=alt), "Map of the embeddings", caption, legend)


def draw_spots(places: FloatArray, classes: Rows, *, x_label: str, y_label: str) -> Figure:
    """Dots at ``places`` [n, 2], the larger the higher their class of lift [n]; those that never come up are small."""
    crowded = min(1.0, (MANY_SPOTS / max(len(places), 1)) ** 0.25)
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes(height_px=SCATTER_PX)
        axes.margins(0.05)
        for number in (1, 2, 3, 4, 0):  # small ones last, lest they be hidden
            own = places[classes == number]
            colour = PALETTE["accent"] if number else PALETTE["ink"]
            width, opacity = SPOTS[number][0] * crowded, SPOTS[number][1]
            if len(own):
                draw_dots(axes, own[:, 0], own[:, 1], colour=colour, width_px=width, opacity=opacity)
        label_axes(axes, x_label=x_label, y_label=y_label)
    return figure


# ---- months


def draw_months_chart(month: npt.NDArray[np.int64], lift: FloatArray) -> Chart | None:
    """Shares of the months of the year before and after; None where tiles are of one month or of none known.

    Args:
        month: int64 [n], 1 to 12, anything else unknown.
        lift: float64 [n], how many times as often each comes up as by a uniform draw.
    """
    known = (month >= 1) & (month <= 12)
    counts = [np.bincount(month[known], weights, minlength=13)[1:] for weights in (None, lift[known])]
    if np.count_nonzero(counts[0]) < 2:
        return None
    before, after = (part / max(part.sum(), 1e-300) for part in counts)
    unknown = int((~known).sum())
    words = "Share of the tiles by month of the year, before and after."
    words += f" {format_count(unknown, 'tile has', 'tiles have')} no date." if unknown else ""
    told = (f"month {i + 1} {format_share(before[i])}, after {format_share(after[i])}" for i in np.flatnonzero(before))
    svg = render_svg(draw_paired_bars(before, after, MONTHS), alt="Months: " + "; ".join(told))
    return Chart(svg, "Months", words, BEFORE_AFTER)


def draw_paired_bars(before: FloatArray, after: FloatArray, labels: Sequence[str]) -> Figure:
    """Shares [k] before as broad pale bars, and after as narrow dark ones in front of them."""
    top = 100 * max(float(before.max()), float(after.max()))
    with use_style(PAGE_STYLE):
        figure, axes = begin_axes(height_px=150.0, margins_px=(40, 4, 8, 26))
        axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(0, 1.05 * top))
        looks = (before, 0.4, PALETTE["faint"], 0.38), (after, 0.2, PALETTE["accent"], 0.9)
        for shares, half, colour, opacity in looks:
            boxes = [(place - half, 0, place + half, 100 * share) for place, share in enumerate(shares) if share > 0]
            if boxes:
                draw_boxes(axes, np.array(boxes), color=colour, alpha=opacity, linewidth=0)
        ticks = choose_ticks(0, 1.05 * top, most=4)
        axes.set_yticks(ticks, [f"{tick:g} %" for tick in ticks])
        axes.set_xticks(range(len(labels)), labels)
    return figure
