"""The size on the ground that a band was measured at, read from its pixels.

A band of 20 or 60 m that was brought to a 10 m grid has no detail finer than its own pixels. Copied by nearest
neighbour, whole columns equal the one beside them: of 20 m one in two, of 60 m five in six. Interpolated, its second
differences are small beside its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

from eo_ssl.diagnosis.sampled_windows import Floats, Sample
from eo_ssl.sensors import sensor

FACTORS = (1, 2, 3, 6)
"pixels per native pixel that Sentinel-2 bands can have: 10, 20 and 60 m on a grid of 10 or 20 m, or decimated alike"
_COPIED, _SMOOTHED = -7.0, -3.0
"""log-likelihood of a band with another resolution than its own: copies are exact and have one explanation, smoothness
depends on the scene"""
_SAME = 0.99  # share of the rows in which a copied column equals its neighbour; stray nodata spoils a few
_FLAT = 0.95  # share of copied columns from which a band is flat rather than coarse
_LEAST_STEP = 3e-4  # reflectance; second differences below are rounding, not ground
_ROUGHNESS = {1: (-0.2, 0.35), 2: (-1.0, 0.25), 3: (-1.4, 0.25), 6: (-2.0, 0.3)}
"""Mean and standard deviation of ln(second / first difference) by factor: linear interpolation of a random walk with
step f has second differences at one pixel in f only, so the ratio falls as 1/f from about 0.8."""


def measure_block_width(windows: Sequence[Floats]) -> npt.NDArray[np.float64]:
    """Return [band]: how many pixels wide a block of equal columns (and rows) is on average; NaN for a flat band."""
    shares = []
    for window in windows:
        for axis in (1, 2):
            step = np.diff(window, axis=axis)
            equal = np.mean((step == 0) | ~np.isfinite(step), axis=3 - axis)
            shares.append(np.mean(equal >= _SAME, axis=1))
    share = np.mean(shares, axis=0)
    return np.where(share < _FLAT, 1.0 / (1.0 - np.minimum(share, _FLAT)), np.nan)


def measure_roughness(windows: Sequence[Floats]) -> npt.NDArray[np.float64]:
    """Return mean second over mean first difference (at lag 2) along rows and columns, [band]; NaN where too flat."""
    first, second = 0.0, 0.0
    for window in windows:
        for axis in (1, 2):
            ahead, here, behind = (np.take(window, range(k, window.shape[axis] - 2 + k), axis=axis) for k in (2, 1, 0))
            first = first + np.nanmean(np.abs(ahead - behind), axis=(1, 2))
            second = second + np.nanmean(np.abs(ahead - 2 * here + behind), axis=(1, 2))
    steps = np.asarray(second) / (2 * len(windows))
    ratio = np.asarray(second) / np.maximum(np.asarray(first), 1e-12)
    return np.where(steps >= _LEAST_STEP, ratio, np.nan)


def score_resolution(sample: Sample) -> npt.NDArray[np.float64]:
    """Return log-likelihoods of ``FACTORS`` per plane, [band, factor], 0 for the best; all 0 where none can be told."""
    windows = [
        window
        for window in sample.windows
        if min(window.shape[1:]) >= 24 and np.isfinite(window).any(axis=(1, 2)).all()
    ]
    table = np.zeros((len(sample.bands), len(FACTORS)))
    if not windows:
        return table
    width = measure_block_width(windows)
    copied = bool(np.nanmax(width, initial=1.0) >= 1.5)
    rough = np.full(len(table), np.nan) if copied else measure_roughness(windows)
    for plane in range(len(table)):
        if copied and np.isfinite(width[plane]):
            far = np.abs(np.log(width[plane] / np.array(FACTORS))) > 0.25
            table[plane] = np.where(far, _COPIED, 0.0)
        elif np.isfinite(rough[plane]):
            means, deviations = np.array([_ROUGHNESS[factor] for factor in FACTORS]).T
            logs = -0.5 * ((np.log(rough[plane]) - means) / deviations) ** 2 - np.log(deviations)
            table[plane] = np.maximum(logs - logs.max(), _SMOOTHED)
    return table


def score_bands(table: npt.NDArray[np.float64], bands: Sequence[str]) -> float:
    """Return the log-likelihood of planes being ``bands``: the best resolutions for 10, 20 and 60 m, finest first."""
    native = {band.name: band.gsd_m for band in sensor("sentinel2_l1c").bands}
    groups = [[k for k, name in enumerate(bands) if native.get(name) == gsd] for gsd in (10.0, 20.0, 60.0)]
    sums = [table[group].sum(axis=0) for group in groups]
    return max(
        float(sums[0][a] + sums[1][b] + sums[2][c])
        for a, b, c in combinations_with_replacement(range(len(FACTORS)), 3)
        if a == 0
    )
