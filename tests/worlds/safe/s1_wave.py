"""A Sentinel-1 wave-mode product (vignettes of the ocean, single-look complex) in SAFE format, and the truth of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import expect
from worlds.safe.container import open_draft, write_raster
from worlds.safe.s1_annotation import Image, render_annotation, render_calibration, render_noise
from worlds.safe.s1_geometry import Geometry, make_slant_geometry
from worlds.safe.s1_grd import describe_measurement
from worlds.safe.s1_luts import Doubles
from worlds.safe.s1_manifest import add_annotation, render_manifest, reserve_measurement
from worlds.safe.s1_orbit import compute_slant_range, find_orbit
from worlds.safe.s1_scene import Tables, make_calibration_tables, make_noise_tables
from worlds.safe.s1_spec import NEW_NOISE_SINCE, name_product, parse_version

AZIMUTH_M = 4.1  # between lines on the ground
SLANT_M = {"WV1": 1.7, "WV2": 3.1}  # between samples in slant range
INCIDENCE_DEG = {"WV1": 23.8, "WV2": 36.8}  # in the middle of a vignette, on a sphere
BETA_CONSTANT = 237.0  # betaNought of real single-look products
NOISE_LEVEL = 330.0  # DN^2
APART_S = 14.7  # between the middles of vignettes: 100 km along the track
_SEA_DB = {"WV1": -6.5, "WV2": -13.0}  # at 7 m/s of wind
_FIELD, _SPECKLE = 21, 22  # streams of the seed
_STRIP = 512  # lines that are drawn at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class S1WvSpec:
    """Content of one wave-mode product."""

    vignettes: int = 4
    "alternately WV1 and WV2"
    extent_m: float = 13_000.0
    "side of a vignette on the ground; 256 pixels of 50 m fit into 12.8 km; real vignettes have about 20 km"
    polarisation: Literal["VV", "HH"] = "VV"
    ipf: str = "003.31"
    noise: Literal["new", "old", "none"] = "new"
    "format of the noise annotation; old before version 002.90"
    ascending: bool = False
    centre: tuple[float, float] = (-30.0, -100.0)
    "latitude and longitude of the middle of the first vignette, degrees"
    datetime: str = "2021-07-15T13:05:10.250000Z"
    "UTC of the middle of the first vignette"
    platform: str = "S1A"
    speckle: bool = True
    "whether the complex values are circular Gaussian; else they have the exact amplitude and a phase that runs evenly"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        size = f"{self.vignettes} of {self.extent_m:g} m"
        fits = 1 <= self.vignettes <= 120 and 1000.0 <= self.extent_m <= 25_000.0
        expect(fits, expected="1-120 vignettes of 1-25 km", got=size, remedy="correct the specification")
        expect(
            self.noise == "none" or (self.noise == "new") == (parse_version(self.ipf) >= NEW_NOISE_SINCE),
            expected="the new noise format from version 002.90 on",
            got=f"{self.noise} with {self.ipf}",
            remedy="change one of them",
        )
        latitude = self.centre[0]
        expect(abs(latitude) <= 70.0, expected="a latitude within 70 degrees", got=latitude, remedy="move the product")


@dataclass(frozen=True)
class Vignette:
    """One image of the product and what is true of it."""

    image: Image
    tables: Tables
    spec: S1WvSpec

    @property
    def swath(self) -> str:
        """WV1 or WV2."""
        return self.image.swath

    @property
    def geometry(self) -> Geometry:
        """Line and sample -> latitude, longitude, slant range, incidence angle, exactly."""
        return self.image.geometry

    @property
    def datetime(self) -> datetime:
        """UTC of the middle line."""
        return self.geometry.moment((self.geometry.lines - 1) / 2)

    @property
    def position(self) -> tuple[float, float]:
        """Latitude and longitude of the middle, degrees."""
        latitude, longitude = self.geometry.locate((self.geometry.lines - 1) / 2, (self.geometry.samples - 1) / 2)
        return float(latitude), float(longitude)

    @property
    def incidence_deg(self) -> float:
        """Incidence angle in the middle."""
        return self.geometry.middle_incidence_deg

    @cached_property
    def _waves(self) -> Doubles:
        """Return cycles per metre along and across the track, amplitude and phase of each wave, [wave, 4]."""
        rng = np.random.default_rng([self.spec.seed, _FIELD, self.image.number])
        lengths = np.array([6000.0, 9000.0, rng.uniform(220.0, 400.0)])  # two of the wind field, one of the swell
        heading = rng.uniform(0.0, np.pi, 3)
        return np.stack(
            [
                np.cos(heading) / lengths,
                np.sin(heading) / lengths,
                np.array([0.15, 0.10, 0.25]),
                rng.uniform(0.0, 2 * np.pi, 3),
            ],
            axis=1,
        )

    @property
    def mean_sigma0(self) -> float:
        """Backscatter about which the vignette varies, linear power."""
        return float(10.0 ** (_SEA_DB[self.swath] / 10.0))

    def sigma0(self, lines: npt.ArrayLike, samples: npt.ArrayLike) -> Doubles:
        """Return the backscatter at pixels in closed form, linear power float64 [line, sample].

        ``mean (1 + sum a cos(2 pi (k_x x + k_y y) + phi))`` with x along the track and y across it in metres on the
        ground from the first pixel, y counted as slant range over the sine of the middle incidence angle.
        """
        along = AZIMUTH_M * np.asarray(lines, dtype=np.float64)[:, None]
        across = self.ground_spacing_m * np.asarray(samples, dtype=np.float64)[None, :]
        total = np.ones((along.shape[0], across.shape[1]))
        for x, y, amplitude, phase in self._waves:
            total += amplitude * np.cos(2 * np.pi * (x * along + y * across) + phase)
        return self.mean_sigma0 * total

    @property
    def ground_spacing_m(self) -> float:
        """Distance of samples on the ground in the middle of the vignette."""
        return self.geometry.spacing_m / float(np.sin(np.radians(self.incidence_deg)))

    def power(self, lines: npt.ArrayLike, samples: npt.ArrayLike) -> Doubles:
        """Return the expected DN^2 at pixels before rounding, ``sigma0 A^2 + noise``, float64 [line, sample].

        Rounding both parts of a complex number to integers adds 1/6 on average.
        """
        table = self.tables.calibration_at(lines, samples)
        return np.asarray(self.sigma0(lines, samples) * table**2 + self.tables.noise_at(lines, samples))

    def numbers(self) -> npt.NDArray[np.complex64]:
        """Return what is stored, whole real and imaginary parts, complex64 [line, sample]; drawn again at each call."""
        geometry = self.geometry
        rng = np.random.default_rng([self.spec.seed, _SPECKLE, self.image.number])
        samples = np.arange(geometry.samples)
        stored = np.empty((geometry.lines, geometry.samples), dtype=np.complex64)
        for first in range(0, geometry.lines, _STRIP):
            lines = np.arange(first, min(first + _STRIP, geometry.lines))
            amplitude = np.sqrt(self.power(lines, samples))
            if self.spec.speckle:
                # Circular Gaussian: half of the power in each part (Oliver and Quegan 2004, section 4.2).
                unit = rng.standard_normal((2, *amplitude.shape)) * np.sqrt(0.5)
                parts = amplitude * unit
            else:
                phase = 0.7 * lines[:, None] + 1.9 * samples[None, :]
                parts = amplitude * np.stack([np.cos(phase), np.sin(phase)])
            whole = np.clip(np.rint(parts), -32768, 32767)
            stored[lines] = whole[0] + 1j * whole[1]
        return stored


@dataclass(frozen=True)
class S1WvTruth:
    """What is true of a product."""

    path: Path
    "the .SAFE folder or the zip file"
    name: str
    spec: S1WvSpec
    vignettes: tuple[Vignette, ...]


def make_s1_wv_safe(folder: Path, spec: S1WvSpec, *, zipped: bool = False) -> S1WvTruth:
    """Write a Sentinel-1 WV SLC product in SAFE format and return what is true of it. Equal specs give equal bytes.

    Every vignette has its own annotation, calibration, noise and measurement (complex int16) with true pixel spacings.

    Args:
        folder: where the product appears; created.
        spec: what to write.
        zipped: write ``<name>.zip`` with the .SAFE folder inside instead of the folder.

    Raises:
        UserError: the product exists already or cannot be written.
    """
    vignettes = tuple(_vignette(spec, number) for number in range(1, spec.vignettes + 1))
    images = [vignette.image for vignette in vignettes]
    prefix = f"WV_SLC__1SS{spec.polarisation[0]}"
    name = name_product(prefix, images[0].geometry.start, images[-1].stop, platform=spec.platform, spec=spec)
    with open_draft(Path(folder), name, zipped=zipped) as (draft, final):
        for vignette in vignettes:
            image, tables = vignette.image, vignette.tables
            add_annotation(draft, image, "product", render_annotation(image))
            if spec.noise != "none":
                text = render_noise(image, tables.noise, tables.azimuth, new_format=spec.noise == "new")
                add_annotation(draft, image, "noise", text)
            add_annotation(draft, image, "calibration", render_calibration(image, tables.calibration))
        for vignette in vignettes:
            place = draft.root / reserve_measurement(draft, vignette.image)
            profile = describe_measurement(vignette.image)
            write_raster(place, vignette.numbers(), dtype="complex_int16", **profile)
        (draft.root / "manifest.safe").write_text(
            render_manifest(draft, images, ipf=spec.ipf, polarisations=(spec.polarisation,))
        )
    return S1WvTruth(final, name, spec, vignettes)


def _vignette(spec: S1WvSpec, number: int) -> Vignette:
    swath = "WV1" if number % 2 else "WV2"
    first = find_orbit(*spec.centre, ascending=spec.ascending, slant_range_m=compute_slant_range(INCIDENCE_DEG["WV1"]))
    later = APART_S * (number - 1)
    across = SLANT_M[swath] / float(np.sin(np.radians(INCIDENCE_DEG[swath])))
    geometry = make_slant_geometry(
        first.later(later),
        INCIDENCE_DEG[swath],
        lines=round(spec.extent_m / AZIMUTH_M),
        samples=round(spec.extent_m / across),
        spacing_m=(AZIMUTH_M, SLANT_M[swath]),
        middle=datetime.fromisoformat(spec.datetime).astimezone(UTC) + timedelta(seconds=later),
    )
    image = Image(
        geometry=geometry,
        mode="WV",
        swath=swath,
        polarisation=spec.polarisation,
        platform=spec.platform,
        kind="SLC",
        number=number,
        bounds=(0, geometry.samples),
        swaths=(swath,),
        ascending=spec.ascending,
        azimuth_spacing_m=AZIMUTH_M,
    )
    kind = {"new": "range_azimuth", "old": "range", "none": "none"}[spec.noise]
    step = (400, 40)
    shape = (geometry.lines, geometry.samples)
    noise, azimuth = make_noise_tables(shape, image.bounds, image.swaths, kind=kind, step=step, level=NOISE_LEVEL)
    calibration = make_calibration_tables(geometry, step=step, constant=BETA_CONSTANT)
    return Vignette(image, Tables(calibration, noise, azimuth), spec)
