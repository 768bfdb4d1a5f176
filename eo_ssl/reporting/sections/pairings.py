"""Pairs of tiles: days apart, shifts on the ground, and why some were refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from eo_ssl.pairing import Pairing, PairReport, read_pairs
from eo_ssl.reporting.charts import (
    HEIGHT_PX,
    WIDTH_PX,
    Chart,
    Series,
    begin_axes,
    draw_bars,
    draw_dots,
    label_axes,
    make_legend,
)
from eo_ssl.reporting.formatting import flatten_config, format_count, format_fixed, format_number, format_share
from eo_ssl.reporting.products import FinishedProduct
from eo_ssl.reporting.svg import PAGE_STYLE, PALETTE, render_svg, use_style

_LAPS = 10  # columns of the histogram of days
_NAMED = 3  # combinations of orbits that are named one by one


@dataclass(frozen=True, slots=True)
class PairView:
    """One pairing."""

    name: str
    "folder name"
    anchor: str
    "id in the page"
    sentence: str
    "what was done"
    facts: tuple[tuple[str, str], ...]
    "counts"
    rejected: tuple[tuple[str, int], ...]
    "reason -> tiles"
    figures: tuple[Chart, ...]
    "days apart, shifts of the pairs of products"
    parameters: tuple[tuple[str, str], ...]
    "bounds"


def describe_pairing(product: FinishedProduct, position: int) -> PairView:
    """Everything the page shows about one pairing."""
    pairs = read_pairs(product.path, expected=product.manifest.fingerprint)
    report, bounds = pairs.report, pairs.report.config
    orbits = sorted(
        {
            f"{a or 'unknown'} with {b or 'unknown'}" if a or b else "unknown"
            for a, b in zip(pairs.kept["orbit_a"].to_pylist(), pairs.kept["orbit_b"].to_pylist(), strict=True)
        }
    )
    overlap = pairs.kept["overlap"].to_numpy()
    facts = [
        ("Pairs", format_number(report.kept)),
        ("Tiles that looked", format_number(report.tiles_a)),
        (report.measured.capitalize(), format_number(report.scene_pairs)),
        ("Shift told", f"{report.scene_pairs_told} of {report.scene_pairs}"),
        ("Orbits", ", ".join(orbits) or "none" if len(orbits) <= _NAMED else f"{len(orbits)} combinations"),
        ("Median overlap", format_share(float(np.median(overlap)), 1) if len(overlap) else "none"),
    ]
    return PairView(
        name=product.name,
        anchor=f"pairs-{position + 1}",
        sentence=f"{report.stream_a} with {report.stream_b}; {_time_bound(bounds)}, "
        f"at least {bounds['min_overlap']:.0%} of the cell valid in both, "
        f"shifted by no more than {bounds['max_shift_px']:g} px of {report.pixel_m:g} m where the shift can be told.",
        facts=tuple(facts),
        rejected=tuple(sorted(report.rejected.items(), key=lambda item: -item[1])),
        figures=tuple(figure for figure in (_draw_days(pairs), _draw_shifts(pairs, report)) if figure is not None),
        parameters=tuple(flatten_config(bounds)),
    )


def _time_bound(bounds: dict[str, Any]) -> str:
    if bounds["dates"] == "ignored":
        return "whatever their dates"
    least = f"{bounds['min_days']:g} to " if bounds["min_days"] else "up to "
    return f"{least}{bounds['max_days']:g} days apart"


def _draw_days(pairs: Pairing) -> Chart | None:
    """Bars of the days between the tiles of a pair."""
    days = pairs.kept["days"].to_numpy()
    if not np.isfinite(days).any():  # no pairs, or pairs without dates
        return None
    low, high = math.floor(days.min()), math.ceil(days.max() + 1e-9)
    step = max(1, math.ceil((high - low) / _LAPS))
    edges = np.arange(low, low + step * (math.ceil((high - low) / step) or 1) + step, step)
    counts, _ = np.histogram(days, edges)
    labels = [f"{edge:g}" if step == 1 else f"{edge:g}…{edge + step:g}" for edge in edges[:-1]]
    last = int(np.flatnonzero(counts)[-1]) + 1
    figure = draw_bars(counts[:last].tolist(), labels[:last])
    alt = f"Days between the tiles of {len(days)} pairs, median {np.median(days):.1f}"
    apart = f"median {np.median(np.abs(days)):.1f} days apart"
    caption = f"{format_count(len(days), 'pair')}; from the whole day written below, {apart}."
    return Chart(render_svg(figure, alt=alt), "Days from the first to the second", caption)


def _draw_shifts(pairs: Pairing, report: PairReport) -> Chart | None:
    """A dot per measured shift of the second on the ground from the first, with the circle that bounds what is kept."""
    rows, cols, kept = (pairs.scenes[name].to_numpy() for name in ("shift_row_px", "shift_col_px", "kept"))
    told = np.isfinite(rows)
    if not told.any():
        return None
    untold = int(np.count_nonzero(~told))
    bound = float(report.config["max_shift_px"])
    reach = max(bound * 1.3, float(np.abs([rows[told], cols[told]]).max()) * 1.1)
    series = [
        Series(name, tuple(cols[told & chosen].tolist()), tuple((-rows[told & chosen]).tolist()), colour)  # north is up
        for name, chosen, colour in (("kept", kept != 0, 0), ("refused", kept == 0, 2))
        if (told & chosen).any()
    ]
    sizes = np.hypot(rows[told], cols[told])
    noun = ("place", "") if report.config["shift_of"] == "places" else ("pair of products", "pairs of products")
    distances = (
        f"median distance {format_fixed(float(np.median(sizes)))} px, largest {format_fixed(float(sizes.max()))} px"
    )
    words = f"{format_count(int(told.sum()), *noun)}, {distances}"
    caption = f"{words}; dashed: the bound of {bound:g} px."
    caption += f" Of {untold} more no shift can be told." if untold else ""
    figure = draw_bounded_shifts(series, bound=bound, reach=reach, x_label=f"east, px of {report.pixel_m:g} m")
    svg = render_svg(figure, alt=f"Shifts of {words}")
    return Chart(svg, "Where the second scene lies", caption, make_legend(series))


def draw_bounded_shifts(series: Sequence[Series], *, bound: float, reach: float, x_label: str) -> Figure:
    """Dots on a square plane around a cross at zero, with a dashed circle.

    Args:
        series: shifts east and north, px.
        bound: radius of the circle, px.
        reach: of the plane to each side, px.
        x_label: of the axis towards the east.
    """
    with use_style(PAGE_STYLE):
        side = HEIGHT_PX - 48
        figure, axes = begin_axes(margins_px=(52, WIDTH_PX - 52 - side, 12, 36))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.add_patch(Circle((0, 0), bound, fill=False, edgecolor=PALETTE["dropped"], linestyle=(0, (3, 3))))
        arm = 4 * 2 * reach / side
        for x, y in (([-arm, arm], [0, 0]), ([0, 0], [-arm, arm])):
            axes.plot(x, y, color=PALETTE["faint"], linewidth=1)
        for shifts in series:
            draw_dots(axes, shifts.x, shifts.y, colour=shifts.hue, width_px=8, opacity=0.6)
        label_axes(axes, x_label=x_label, y_label="north, px")
    return figure


def describe_pairings(products: Sequence[FinishedProduct]) -> tuple[PairView, ...]:
    """The pairings in order."""
    return tuple(describe_pairing(product, position) for position, product in enumerate(products))
