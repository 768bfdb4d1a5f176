"""Annotation, calibration and noise files of Sentinel-1 Level-1 products (Product Specification S1-RS-MDA-52-7441)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from worlds.safe.s1_geometry import Geometry
from worlds.safe.s1_luts import AzimuthBlock, Ints, Vector
from worlds.safe.s1_orbit import LIGHT_M_S, RATE
from worlds.safe.s1_spec import count_orbits, number_data_take, number_relative_orbit
from worlds.safe.templating import fill_template

TIE_LINES, TIE_SAMPLES = 10, 21  # 210 tie points, as a real IW product has


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a product and what its annotation says of it."""

    geometry: Geometry
    mode: str
    "IW, EW, SM or WV"
    swath: str
    "IW, EW, S1 ... S6, WV1 or WV2"
    polarisation: str
    platform: str
    kind: str
    "GRD or SLC"
    number: int
    "from 1; the end of the file names"
    bounds: tuple[int, ...]
    "first sample of each merged swath, and the number of samples"
    swaths: tuple[str, ...]
    ascending: bool
    azimuth_spacing_m: float
    cog: bool = False
    "of the cloud-optimised form"

    @property
    def stop(self) -> datetime:
        """Time of the last line."""
        return self.geometry.moment(self.geometry.lines - 1)

    @property
    def stem(self) -> str:
        """Name of the files: ``s1a-iw-grd-vv-<start>-<stop>-<orbit>-<take>-001``."""
        what = f"{self.platform}-{self.swath}-{self.kind}-{self.polarisation}"
        times = f"{self.geometry.start:%Y%m%dt%H%M%S}-{self.stop:%Y%m%dt%H%M%S}"
        return f"{what}-{times}-{self.orbit:06d}-{self.take:06x}-{self.number:03d}{'-cog' if self.cog else ''}".lower()

    @property
    def ground(self) -> bool:
        """Whether the samples lie in ground range; else in slant range."""
        return bool(self.geometry.to_slant)

    @property
    def orbit(self) -> int:
        """Absolute orbit number."""
        return count_orbits(self.geometry.start, self.platform)

    @property
    def relative_orbit(self) -> int:
        """Relative orbit number, 1-175."""
        return number_relative_orbit(self.orbit, self.platform)

    @property
    def cycle(self) -> int:
        """Number of the twelve-day cycle."""
        return self.orbit // 175 + 14

    @property
    def take(self) -> int:
        """Identifier of the data take."""
        return number_data_take(self.orbit)

    @property
    def heading_deg(self) -> float:
        """Direction of flight in the middle of the first line, from north over east."""
        before, after = self.geometry.locate((0, 1), (self.geometry.samples - 1) / 2)
        east = (after[1] - after[0]) * np.cos(np.radians(before[0]))
        return float(np.degrees(np.arctan2(east, before[1] - before[0])))

    @property
    def sampling_hz(self) -> float:
        """Sampling rate in range; that of a ground-range product is of the data it was made from."""
        return LIGHT_M_S / 2 / (3.5 if self.ground else self.geometry.spacing_m)

    @property
    def node_time(self) -> datetime:
        """Time at which the satellite crossed the equator northwards."""
        return self.geometry.start - timedelta(
            seconds=self.geometry.first_s + self.geometry.orbit.argument % (2 * np.pi) / RATE
        )


def render_annotation(image: Image) -> str:
    """Return the product annotation of one image."""
    geometry = image.geometry
    return fill_template(
        "s1_annotation",
        image=image,
        near_s=compute_travel_time(geometry.near_m),
        states=list_states(geometry),
        attitude_times=[geometry.start + timedelta(seconds=second) for second in range(2)],
        points=list_tie_points(geometry),
        conversion_times=list_conversion_times(geometry),
    )


def compute_travel_time(slant_range_m: float) -> float:
    """Return the time of the pulse to a slant range and back, seconds."""
    return 2 * slant_range_m / LIGHT_M_S


def list_states(geometry: Geometry) -> list[tuple[datetime, Any, Any]]:
    """Return time, position (m) and velocity (m/s) of the satellite around the image, every ten seconds."""
    orbit, first = geometry.orbit, geometry.first_s
    # Whole seconds from the first line, so that the printed times are exact.
    return [
        (geometry.start + timedelta(seconds=offset), orbit.position(first + offset), orbit.velocity(first + offset))
        for offset in range(-80, 81, 10)
    ]


def place_tie_points(geometry: Geometry) -> tuple[Ints, Ints]:
    """Return lines and samples of the tie points: even steps, the last one what is left."""
    return tuple(  # type: ignore[return-value]
        np.unique(np.minimum(-(-(count - 1) // (number - 1)) * np.arange(number), count - 1)).astype(np.int64)
        for count, number in ((geometry.lines, TIE_LINES), (geometry.samples, TIE_SAMPLES))
    )


def list_tie_points(geometry: Geometry) -> list[dict[str, Any]]:
    """Return what the annotation says of each tie point, line by line."""
    lines, samples = place_tie_points(geometry)
    points = []
    for line in lines:
        columns = {
            "sample": samples,
            "range_s": compute_travel_time(geometry.slant_range(samples)),
            **dict(zip(("latitude", "longitude"), geometry.locate(line, samples), strict=True)),
            "incidence_deg": geometry.incidence(line, samples),
            "elevation_deg": geometry.elevation(line, samples),
        }
        time = geometry.moment(float(line))
        for values in zip(*columns.values(), strict=True):
            points.append({"time": time, "line": line, **dict(zip(columns, values, strict=True))})
    return points


def list_conversion_times(geometry: Geometry) -> list[datetime]:
    """Return the times of the polynomials between ground and slant range, about one a second; none in slant range."""
    if not geometry.to_slant:
        return []
    seconds = range(-2, int(geometry.interval_s * geometry.lines) + 3)
    return [geometry.start + timedelta(seconds=second) for second in seconds]


def render_calibration(image: Image, tables: Mapping[str, Sequence[Vector]]) -> str:
    """Return the calibration annotation: sigmaNought, betaNought, gamma and dn at the same lines and pixels."""
    return fill_template("s1_calibration", image=image, tables=tables)


def render_noise(image: Image, vectors: Sequence[Vector], blocks: Sequence[AzimuthBlock], *, new_format: bool) -> str:
    """Return the noise annotation, vectors along the range alone (before version 002.90) or along range and azimuth."""
    return fill_template("s1_noise", image=image, vectors=vectors, blocks=blocks, new_format=new_format)
