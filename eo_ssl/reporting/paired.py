"""Pairs of tiles on the page: how far apart in time, how far apart on the ground, and why some were refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from eo_ssl.pairing import Pairing, PairReport, read_pairs
from eo_ssl.reporting.artefacts import Product
from eo_ssl.reporting.charts import HEIGHT_PX, WIDTH_PX, Figure, columns, frame
from eo_ssl.reporting.svg import Scale, drawing, px, tag
from eo_ssl.reporting.wording import count, fixed, flat, number, share

_LAPS = 10  # columns of the histogram of days


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
    figures: tuple[Figure, ...]
    "days apart, shifts of the pairs of products"
    parameters: tuple[tuple[str, str], ...]
    "bounds"


def pair_view(product: Product, position: int) -> PairView:
    """Everything the page shows about one pairing."""
    pairs = read_pairs(product.path)
    report, bounds = pairs.report, pairs.report.config
    orbits = sorted(
        {
            f"{a or 'unknown'} with {b or 'unknown'}" if a or b else "unknown"
            for a, b in zip(pairs.kept["orbit_a"].to_pylist(), pairs.kept["orbit_b"].to_pylist(), strict=True)
        }
    )
    overlap = pairs.kept["overlap"].to_numpy()
    facts = [
        ("Pairs", number(report.kept)),
        ("Tiles that looked", number(report.tiles_a)),
        (report.measured.capitalize(), number(report.scene_pairs)),
        ("Shift told", f"{report.scene_pairs_told} of {report.scene_pairs}"),
        ("Orbits", ", ".join(orbits) or "none"),
        ("Median overlap", share(float(np.median(overlap)), 1) if len(overlap) else "none"),
    ]
    return PairView(
        name=product.name,
        anchor=f"pairs-{position + 1}",
        sentence=f"{report.stream_a} with {report.stream_b}; {_time_bound(bounds)}, at least {bounds['min_overlap']:.0%} of the cell valid in both, "
        f"shifted by no more than {bounds['max_shift_px']:g} px of {report.pixel_m:g} m where the shift can be told.",
        facts=tuple(facts),
        rejected=tuple(sorted(report.rejected.items(), key=lambda item: -item[1])),
        figures=tuple(figure for figure in (_days(pairs), _shifts(pairs, report)) if figure is not None),
        parameters=tuple(flat(bounds)),
    )


def _time_bound(bounds: dict[str, Any]) -> str:
    if bounds["dates"] == "ignored":
        return "whatever their dates"
    least = f"{bounds['min_days']:g} to " if bounds["min_days"] else "up to "
    return f"{least}{bounds['max_days']:g} days apart"


def _days(pairs: Pairing) -> Figure | None:
    days = pairs.kept["days"].to_numpy()
    if not np.isfinite(days).any():  # no pairs, or pairs without dates
        return None
    low, high = math.floor(days.min()), math.ceil(days.max() + 1e-9)
    step = max(1, math.ceil((high - low) / _LAPS))
    edges = np.arange(low, low + step * (math.ceil((high - low) / step) or 1) + step, step)
    counts, _ = np.histogram(days, edges)
    labels = [f"{edge:g}" if step == 1 else f"{edge:g}…{edge + step:g}" for edge in edges[:-1]]
    last = int(np.flatnonzero(counts)[-1]) + 1
    svg = columns(
        counts[:last].tolist(),
        labels[:last],
        alt=f"Days between the tiles of {len(days)} pairs, median {np.median(days):.1f}",
    )
    return Figure(
        svg,
        "Days from the first to the second",
        f"{count(len(days), 'pair')}; from the whole day written below, median {np.median(np.abs(days)):.1f} days apart.",
    )


def _shifts(pairs: Pairing, report: PairReport) -> Figure | None:
    """A dot per measured shift where the second lies on the ground relative to the first, with the circle that bounds what is kept."""
    rows, cols, kept = (pairs.scenes[name].to_numpy() for name in ("shift_row_px", "shift_col_px", "kept"))
    told = np.isfinite(rows)
    untold = int(np.count_nonzero(~told))
    title = "Where the second scene lies"
    if not told.any():
        return None
    bound = float(report.config["max_shift_px"])
    reach = max(bound * 1.3, float(np.abs([rows[told], cols[told]]).max()) * 1.1)
    side = HEIGHT_PX - 48.0
    x, y = Scale(-reach, reach, 52.0, 52.0 + side), Scale(-reach, reach, 12.0, 12.0 + side)
    flipped = Scale(-reach, reach, 12.0 + side, 12.0)  # north is up
    parts: list[Markup] = frame(x, flipped, x_label=f"east, px of {report.pixel_m:g} m", y_label="north, px")
    parts.append(tag("circle", cx=x(0.0), cy=y(0.0), r=x(bound) - x(0.0), class_="mark", fill="none"))
    parts.append(tag("path", d=f"M{px(x(0.0) - 4)} {px(y(0.0))}h8M{px(x(0.0))} {px(y(0.0) - 4)}v8", class_="axis"))
    for row, col, good in zip(rows[told], cols[told], kept[told], strict=True):
        parts.append(
            tag(
                "circle", cx=x(float(col)), cy=y(float(row)), r=4.0, class_=f"dot s{0 if good else 2}", fill_opacity=0.6
            )
        )
    sizes = np.hypot(rows[told], cols[told])
    noun = ("place", "") if report.config["shift_of"] == "places" else ("pair of products", "pairs of products")
    words = f"{count(int(told.sum()), *noun)}, median distance {fixed(float(np.median(sizes)))} px, largest {fixed(float(sizes.max()))} px"
    caption = f"{words}; dashed: the bound of {bound:g} px." + (
        f" Of {untold} more no shift can be told." if untold else ""
    )
    legend = (("swatch s0", "kept"), ("swatch s2", "refused")) if (kept[told] == 0).any() else ()
    return Figure(drawing(parts, width=WIDTH_PX, height=HEIGHT_PX, alt=f"Shifts of {words}"), title, caption, legend)


def pair_views(products: Sequence[Product]) -> tuple[PairView, ...]:
    """The pairings in order."""
    return tuple(pair_view(product, position) for position, product in enumerate(products))
