"""Principal components of embeddings, coloured by what is known of the tiles, and their singular values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.embedding import Covariance, Embeddings
from eo_ssl.reporting.charts import Chart, Series, choose_ticks, draw_lines, draw_scatter, make_legend
from eo_ssl.reporting.formatting import format_count, format_degrees, format_number, format_share
from eo_ssl.reporting.svg import render_svg

MOST_POINTS = 2000  # of a scatter
COLOURS = (0, 2, 1, 3, 4, 6)  # of the style, neighbours far apart; as many classes have one of their own
OTHER = 5  # its grey
REST = -1
QUARTERS = ("Dec–Feb", "Mar–May", "Jun–Aug", "Sep–Nov")
SMALLEST = 1e-9  # of the largest singular value: below it float32 has rounded
RANK_WORDS = (
    "Effective rank is RankMe (Garrido et al. 2023): exp of the entropy of the singular values, 1 where all embeddings "
    "lie on a line, their length where all directions are used alike"
)


@dataclass(frozen=True, slots=True)
class TileClasses:
    """One way in which tiles are known to differ."""

    title: str
    "by what"
    names: tuple[str, ...]
    "of the classes, in the order of the legend"
    of_row: npt.NDArray[np.int64]
    "[n] class of each tile, -1 = another one or not known"


def draw_scatters(table: Embeddings, spectrum: Covariance) -> Iterator[Chart]:
    """The first two principal components, once per way that tiles are known to differ; in one colour where none is."""
    positions = np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_POINTS)).round().astype(np.int64))
    axes, shares = spectrum.components(2)
    if len(axes) < 2:
        return
    rows = table.take(positions, ["embedding", "label_name", "datetime", "bbox"])
    placed = spectrum.project(np.array([row["embedding"] for row in rows], dtype=np.float32), axes)
    labels = [f"component {i} ({format_share(part)} of the variance)" for i, part in enumerate(shares.tolist(), 1)]
    shown = (
        f"{format_number(len(rows))} of {format_count(len(table), 'tile')}, at even steps"
        if len(rows) < len(table)
        else "All tiles"
    )
    held = format_share(float(shares.sum()))
    words = f"{shown}. Two components hold {held} of the variance: what lies near here may lie far apart."
    for classes in list_known_classes(rows) or [TileClasses("", ("",), np.zeros(len(rows), dtype=np.int64))]:
        series = [_series(name, placed[classes.of_row == i], COLOURS[i]) for i, name in enumerate(classes.names)]
        if (classes.of_row == REST).any():
            series.append(_series("others or not known", placed[classes.of_row == REST], OTHER))
        by = f", by {classes.title}" if classes.title else ""
        alt = f"Principal components{by}: {format_count(len(rows), 'tile')}, {labels[0]}, {labels[1]}"
        figure = draw_scatter(series[::-1], x_label=labels[0], y_label=labels[1])
        yield Chart(render_svg(figure, alt=alt), f"Principal components{by}", words, make_legend(series))


def _series(name: str, points: npt.NDArray[np.float64], colour: int) -> Series:
    return Series(name, tuple(points[:, 0].tolist()), tuple(points[:, 1].tolist()), colour=colour)


def list_known_classes(rows: Sequence[Mapping[str, Any]]) -> list[TileClasses]:
    """Label, months and latitude of some tiles, each where it is known and differs.

    Args:
        rows: of a table of embeddings, with ``label_name``, ``datetime`` and ``bbox``.
    """
    labels = [str(row["label_name"] or "") for row in rows]
    most = sorted(name for name, _ in Counter(filter(None, labels)).most_common(len(COLOURS)))
    months = [int(row["datetime"][5:7]) if row["datetime"] else None for row in rows]
    zones, names = _zones([row["bbox"] for row in rows])
    ways = (
        _classes("label", most, [most.index(name) if name in most else REST for name in labels]),
        _classes("months", QUARTERS, [REST if month is None else month % 12 // 3 for month in months]),
        _classes("latitude", names, zones),
    )
    return [classes for classes in ways if len(classes.names) > 1]


def _classes(title: str, names: Sequence[str], of_row: Sequence[int]) -> TileClasses:
    """Classes without those that no row has."""
    used = sorted({value for value in of_row if value != REST})
    place = {value: i for i, value in enumerate(used)} | {REST: REST}
    return TileClasses(
        title, tuple(names[value] for value in used), np.array([place[value] for value in of_row], dtype=np.int64)
    )


def _zones(boxes: Sequence[Mapping[str, float | None]]) -> tuple[list[int], list[str]]:
    """Zone of latitude of each footprint, between round degrees, and the zones' names, northernmost first."""
    middles = np.array(
        [np.nan if box["ymin"] is None else (box["ymin"] + float(box["ymax"] or 0)) / 2 for box in boxes]
    )
    known = np.isfinite(middles)
    if not known.any() or np.ptp(middles[known]) < 1:
        return [REST] * len(middles), []
    edges = choose_ticks(float(middles[known].min()), float(middles[known].max()), most=len(COLOURS) - 1)[::-1]
    texts = [format_degrees(edge, "NS") for edge in edges]
    names = [f"north of {texts[0]}", *(f"{low} to {high}" for high, low in pairwise(texts)), f"south of {texts[-1]}"]
    zone = np.where(known, np.searchsorted(-np.array(edges), -np.where(known, middles, 0.0)), REST)
    return [int(value) for value in zone], names


def draw_spectrum(spectra: Mapping[str, Covariance], noun: str) -> Chart:
    """Singular values of some embeddings, in order and as shares of their sum, with their effective rank.

    Args:
        spectra: by name for the legend, at most as many as there are colours; one alone needs none.
        noun: what has one embedding: tile or cell.
    """
    series, words = [], []
    for colour, (name, spectrum) in zip(COLOURS, spectra.items(), strict=False):
        values = spectrum.singular_values
        shares = (values[values > SMALLEST * values[0]] / values.sum()).tolist() or [1.0]
        series.append(Series(name, tuple(float(i) for i in range(1, len(shares) + 1)), tuple(shares), colour=colour))
        words.append(f"{spectrum.rank_me:.1f} from {format_count(spectrum.count, noun)}")
    alt = f"Singular values in order, shares of their sum; effective rank {', '.join(words)}"
    figure = draw_lines(series, x_label="direction, largest first", y_label="share of the sum", log_y=True)
    caption = f"Effective rank {', '.join(words)}. {RANK_WORDS}."
    return Chart(render_svg(figure, alt=alt), "Singular values", caption, make_legend(series))
