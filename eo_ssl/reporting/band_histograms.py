"""Histograms of the bands of a stream, all on one axis, with mean and standard deviation over the training split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from eo_ssl.corpus import BandStats
from eo_ssl.reporting.charts import draw_histogram
from eo_ssl.reporting.formatting import format_spread
from eo_ssl.reporting.svg import render_svg
from eo_ssl.sensors import sensor

BINS = 40  # per drawing of 160 px: wider than three pixels
SHOWN_PERCENT = (0.5, 99.5)  # of the pixels of any band; the axis ends there
# Colours of the page by common name of the band: the eye finds blue, green, red and near infrared without reading.
COLOURS = {"blue": 1, "coastal": 1, "green": 6, "red": 7, "nir": 2, "nir08": 2, "swir16": 4, "swir22": 4}


@dataclass(frozen=True, slots=True)
class BandHistogram:
    """Histogram of one band."""

    name: str
    "of the band, with its wavelength"
    svg: Markup
    "pixels by value"
    words: str
    "mean and spread"


def draw_band_histograms(stats: BandStats, sensor_name: str) -> tuple[BandHistogram, ...]:
    """A small histogram per band, from the exact counts of the corpus; none where no training pixel was counted.

    Args:
        stats: statistics of the stream, in dB for a power.
        sensor_name: the stream's sensor.
    """
    if not stats.strata or not stats.count.any():
        return ()
    used = stats.count > 0
    low = float(stats.percentile(SHOWN_PERCENT[0])[used].min())
    high = float(stats.percentile(SHOWN_PERCENT[1])[used].max())
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    unit = 10.0 ** math.floor(math.log10(high - low) - 1)
    low, high = math.floor(low / unit) * unit, math.ceil(high / unit) * unit  # ends that read well
    shown = np.linspace(low, high, BINS + 1)
    symbol = f" {stats.quantity.unit}" if stats.quantity.is_db else ""
    plots = []
    for channel, name in enumerate(stats.bands):
        below = np.concatenate([[0.0], np.cumsum(stats.histogram[channel], dtype=np.float64)])
        counts = np.diff(np.interp(shown, stats.edges, below))  # the corpus' bins are far finer, but not equally wide
        band = sensor(sensor_name).band(name)
        words = f"{format_spread(float(stats.mean[channel]), float(stats.std[channel]))}{symbol}"
        span = f"axis from {shown[0]:.3g} to {shown[-1]:.3g}{symbol}"
        alt = f"Histogram of {name}: mean and standard deviation {words}, {span}"
        wave = f" · {band.wavelength_um:.3g} µm" if band.wavelength_um else ""
        colour = COLOURS.get(band.common, 5)
        figure = draw_histogram(shown.tolist(), counts.tolist(), colour=colour)
        plots.append(BandHistogram(f"{name}{wave}", render_svg(figure, alt=alt, kind="spark"), words))
    return tuple(plots)
