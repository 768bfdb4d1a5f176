"""Where the pixels of a Sentinel-1 image lie: lines in time along an orbit, samples in range, both as annotated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial

from worlds.safe.s1_orbit import (
    RADIUS_M,
    Doubles,
    Orbit,
    compute_slant_range,
    convert_to_geodetic,
    find_orbit,
    locate_ground_point,
    measure_elevation,
    measure_incidence,
)

_EARTH_M = 6_371_000.0  # radius of the sphere on which ground range is counted
_DEGREES = 8  # of the polynomials; real annotations have nine coefficients


@dataclass(frozen=True, slots=True)
class Geometry:
    """The grid of an image; lines and samples count from 0 at the middle of the first pixel."""

    orbit: Orbit
    "its time 0 is `first_s` before the first line"
    start: datetime
    "time of the first line"
    first_s: float
    "time of the first line on the clock of the orbit"
    interval_s: float
    "between lines"
    lines: int
    samples: int
    spacing_m: float
    "between samples: on the ground, or in slant range when `ground` is empty of terms beyond the first"
    near_m: float
    "slant range of the first sample"
    to_slant: tuple[float, ...]
    "slant range as a polynomial of the ground range in metres (grsrCoefficients); empty for an image in slant range"
    to_ground: tuple[float, ...]
    "ground range as a polynomial of the slant range beyond `near_m` (srgrCoefficients)"
    height_m: float

    def time(self, line: npt.ArrayLike) -> Doubles:
        """Return the time of a line on the clock of the orbit, seconds."""
        return np.asarray(self.first_s + self.interval_s * np.asarray(line, dtype=np.float64))

    def moment(self, line: float) -> datetime:
        """Return the UTC time of a line."""
        return self.start + timedelta(seconds=self.interval_s * line)

    def slant_range(self, sample: npt.ArrayLike) -> Doubles:
        """Return the slant range of a sample, metres: the annotated polynomial."""
        across = self.spacing_m * np.asarray(sample, dtype=np.float64)
        if not self.to_slant:
            return np.asarray(self.near_m + across)
        return np.asarray(Polynomial(self.to_slant)(across))

    def point(self, line: npt.ArrayLike, sample: npt.ArrayLike) -> Doubles:
        """Return the point on the ground, [..., 3] metres in the earth-fixed frame."""
        return locate_ground_point(self.orbit, self.time(line), self.slant_range(sample), height_m=self.height_m)

    def locate(self, line: npt.ArrayLike, sample: npt.ArrayLike) -> tuple[Doubles, Doubles]:
        """Return latitude and longitude of pixels in degrees, of the shape that lines and samples broadcast to."""
        return convert_to_geodetic(self.point(line, sample), height_m=self.height_m)

    def incidence(self, line: npt.ArrayLike, sample: npt.ArrayLike) -> Doubles:
        """Return the incidence angle on the ellipsoid, degrees."""
        lines, samples = np.broadcast_arrays(line, sample)
        return measure_incidence(self.orbit, self.time(lines), self.point(lines, samples))

    def elevation(self, line: npt.ArrayLike, sample: npt.ArrayLike) -> Doubles:
        """Return the elevation angle at the satellite, degrees."""
        lines, samples = np.broadcast_arrays(line, sample)
        return measure_elevation(self.orbit, self.time(lines), self.point(lines, samples))

    @property
    def middle_incidence_deg(self) -> float:
        """Incidence angle in the middle of the image, degrees."""
        return float(self.incidence((self.lines - 1) / 2, (self.samples - 1) / 2))

    @property
    def corners(self) -> list[tuple[float, float]]:
        """Latitude and longitude of the corner pixels in the order of real footprints: last line first, and round."""
        last, end = self.lines - 1, self.samples - 1
        places = ((last, 0), (last, end), (0, end), (0, 0))
        corners = [self.locate(line, sample) for line, sample in places]
        return [(float(latitude), float(longitude)) for latitude, longitude in corners]


def make_ground_geometry(
    centre: tuple[float, float],
    near_incidence_deg: float,
    *,
    lines: int,
    samples: int,
    spacing_m: float,
    start: datetime,
    ascending: bool,
    height_m: float,
) -> Geometry:
    """Return the geometry of an image in ground range around a place (latitude, longitude in degrees)."""
    extent = spacing_m * (samples - 1)
    near = compute_slant_range(near_incidence_deg)
    bow = np.arccos((RADIUS_M**2 + _EARTH_M**2 - near**2) / (2 * RADIUS_M * _EARTH_M))
    ground = np.linspace(-0.1 * extent, 1.1 * extent, 400)
    slant = np.sqrt(RADIUS_M**2 + _EARTH_M**2 - 2 * RADIUS_M * _EARTH_M * np.cos(bow + ground / _EARTH_M))
    # Narrow images need few terms; more would only carry rounding errors.
    degree = _DEGREES if extent > 50_000 else 5
    to_slant = _coefficients(ground, slant, degree)
    near = to_slant[0]
    exact = Polynomial(to_slant)(ground)
    to_ground = _coefficients(exact - near, ground, degree)
    middle = float(Polynomial(to_slant)(extent / 2))
    orbit = find_orbit(*centre, ascending=ascending, slant_range_m=middle)
    interval = _interval(orbit, middle, spacing_m)
    first = -round((lines - 1) / 2 * interval, 6)
    return Geometry(orbit, start, first, interval, lines, samples, spacing_m, near, to_slant, to_ground, height_m)


def make_slant_geometry(
    orbit: Orbit,
    middle_incidence_deg: float,
    *,
    lines: int,
    samples: int,
    spacing_m: tuple[float, float],
    middle: datetime,
) -> Geometry:
    """Return the geometry of an image in slant range, seen from an orbit around its time 0.

    Args:
        orbit: the satellite, at time 0 abreast of the middle of the image.
        middle_incidence_deg: incidence angle there, on a sphere.
        lines: number of lines.
        samples: number of samples.
        spacing_m: of lines on the ground and of samples in slant range.
        middle: UTC of time 0.
    """
    azimuth, across = spacing_m
    distance = compute_slant_range(middle_incidence_deg)
    near = float(f"{distance - across * (samples - 1) / 2:.6f}")
    interval = _interval(orbit, distance, azimuth)
    first = -round((lines - 1) / 2 * interval, 6)
    start = middle + timedelta(seconds=first)
    return Geometry(orbit, start, first, interval, lines, samples, across, near, (), (), 0.0)


def _interval(orbit: Orbit, slant_range_m: float, spacing_m: float) -> float:
    """Return the time in which the beam moves by ``spacing_m`` on the ground, as printed."""
    ends = locate_ground_point(orbit, np.array([-0.5, 0.5]), slant_range_m)
    return float(f"{spacing_m / float(np.linalg.norm(ends[1] - ends[0])):.15e}")


def _coefficients(argument: Doubles, value: Doubles, degree: int) -> tuple[float, ...]:
    """Return nine coefficients of a polynomial through values, as printed."""
    fitted = Polynomial.fit(argument, value, degree).convert().coef
    padded = np.zeros(_DEGREES + 1)
    padded[: fitted.size] = fitted
    return tuple(float(f"{value:.15e}") for value in padded)
