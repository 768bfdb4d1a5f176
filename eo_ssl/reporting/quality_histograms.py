"""Histograms of quality columns of the index: shares of a tile that are valid, cloudy, in shadow, snow or saturated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from markupsafe import Markup

from eo_ssl.reporting.charts import draw_histogram
from eo_ssl.reporting.formatting import format_share
from eo_ssl.reporting.svg import render_svg

FloatArray = npt.NDArray[np.float64]
BINS = 20
FRACTIONS = {
    "valid_fraction": "Valid pixels",
    "cloud_fraction": "Cloud",
    "shadow_fraction": "Cloud shadow",
    "snow_fraction": "Snow and ice",
    "saturated_fraction": "Saturated",
}


@dataclass(frozen=True, slots=True)
class QualityHistogram:
    """One quality column over the tiles of a stream."""

    title: str
    "what is measured"
    svg: Markup | None
    "tiles by share of their pixels, 0 to 1; None where all tiles have the same"
    words: str
    "mean, and how many tiles have no value"


def draw_quality_histograms(index: pa.Table, lift: FloatArray | None = None) -> tuple[QualityHistogram, ...]:
    """One small histogram per quality column that has values; a column that is null throughout is left out.

    Args:
        index: with the columns of `FRACTIONS`, n lines.
        lift: float64 [n], how many times as often each comes up after a selection, which is drawn over all tiles as an
            outline; None without one.
    """
    views = []
    for column, title in FRACTIONS.items():
        values = index.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
        is_known = np.isfinite(values)
        known = values[is_known]
        if not known.size:
            continue
        counts, edges = np.histogram(known, bins=BINS, range=(0.0, 1.0))
        words, after = f"mean {format_share(float(known.mean()), 1)}", None
        if lift is not None and lift[is_known].any():
            weights = lift[is_known] / lift[is_known].sum()
            words += f", after {format_share(float(known @ weights), 1)}"
            after = (len(known) * np.histogram(known, bins=edges, weights=weights)[0]).tolist()
        if known.size < values.size:
            words += f"; unknown for {format_share(1 - known.size / values.size)}"
        if float(known.min()) == float(known.max()):
            same = f"{format_share(float(known[0]))} in every tile" + words.partition(";")[1] + words.partition(";")[2]
            views.append(QualityHistogram(title, None, same))
            continue
        alt = f"{title}: share of the pixels of a tile, {len(known)} tiles, {words}"
        figure = draw_histogram(edges.tolist(), counts.tolist(), colour=1 if lift is None else 5, after=after)
        views.append(QualityHistogram(title, render_svg(figure, alt=alt, kind="spark"), words))
    return tuple(views)


def list_unknown_columns(index: pa.Table) -> tuple[str, ...]:
    """Titles of the quality columns that have no value at all: unknown, which is not the same as zero."""
    return tuple(title for column, title in FRACTIONS.items() if index.column(column).null_count == index.num_rows)
