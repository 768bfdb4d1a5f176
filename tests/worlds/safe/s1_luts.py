"""Calibration and noise tables of Sentinel-1: vectors along the range at some lines, as annotated and interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """One vector of a table along the range."""

    line: int
    pixels: Ints
    values: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class AzimuthBlock:
    """The azimuth factor of the noise of one swath: applies to a rectangle of the image, bounds inclusive."""

    swath: str
    lines: tuple[int, int]
    samples: tuple[int, int]
    at: Ints
    "lines of the values"
    values: Doubles


def round_values(values: npt.ArrayLike) -> Doubles:
    """Return values as a reader finds them: the annotations print six decimals of a mantissa."""
    return np.array([float(f"{value:.6e}") for value in np.asarray(values, dtype=np.float64).ravel()])


def place_knots(count: int, step: int) -> Ints:
    """Return every ``step``-th number from 0, and the last one: real vectors end with an irregular step."""
    regular = np.arange(0, count, step)
    return np.asarray(regular if regular[-1] == count - 1 else np.append(regular, count - 1), dtype=np.int64)


def interpolate(vectors: Sequence[Vector], lines: npt.ArrayLike, samples: npt.ArrayLike) -> Doubles:
    """Return a table at pixels, float64 [line, sample]: linear along each vector, then between lines.

    Beyond the ends it is constant.     Sentinel-1 Product Specification S1-RS-MDA-52-7441, section 6.3 (calibration)
    and 6.4 (noise): bilinear interpolation.
    """
    lines, samples = np.asarray(lines, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    rows = np.stack([np.interp(samples, vector.pixels, vector.values) for vector in vectors])
    at = np.array([vector.line for vector in vectors], dtype=np.float64)
    if len(vectors) == 1:
        return np.repeat(rows, lines.size, axis=0)
    lower = np.clip(np.searchsorted(at, lines, side="right") - 1, 0, at.size - 2)
    weight = np.clip((lines - at[lower]) / (at[lower + 1] - at[lower]), 0.0, 1.0)[:, None]
    return np.asarray((1.0 - weight) * rows[lower] + weight * rows[lower + 1])


def interpolate_azimuth(blocks: Sequence[AzimuthBlock], lines: npt.ArrayLike, samples: npt.ArrayLike) -> Doubles:
    """Return the azimuth factor of the noise at pixels, float64 [line, sample], 1 where no block applies."""
    lines, samples = np.asarray(lines), np.asarray(samples)
    factor = np.ones((lines.size, samples.size))
    for block in blocks:
        inside = np.ix_(
            (lines >= block.lines[0]) & (lines <= block.lines[1]),
            (samples >= block.samples[0]) & (samples <= block.samples[1]),
        )
        along = np.interp(lines[inside[0].ravel()], block.at, block.values)
        factor[inside] = along[:, None]
    return factor


def compute_range_noise(pixels: Ints, bounds: Sequence[int], *, level: float) -> Doubles:
    """Return a range vector of the noise, DN^2: high at the edges of each swath, where the antenna pattern is low.

    Args:
        pixels: samples of the vector.
        bounds: first sample of each swath, and the number of samples.
        level: noise at the middle of a swath.
    """
    values = np.empty(pixels.size)
    for first, end in pairwise(bounds):
        inside = (pixels >= first) & (pixels < end)
        across = 2.0 * (pixels[inside] - first) / max(end - 1 - first, 1) - 1.0
        values[inside] = level * (1.0 + 1.6 * across**2)
    return values


def compute_scalloping(lines: Ints, *, phase: float, period: float) -> Doubles:
    """Return the azimuth factor of the noise: in each burst it grows towards both ends, to 1.12 as in real products."""
    within = ((lines / period + phase) % 1.0) * 2.0 - 1.0
    return np.asarray(1.0 + 0.12 * within**2)
