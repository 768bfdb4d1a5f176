"""Pixels of a Sentinel-2 SAFE product: the sample archive's landscape below and above the atmosphere, and its masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from eo_ssl.sample.fields import Floats, average_blocks, draw_fractal, draw_smooth_noise, repeat_pixels
from eo_ssl.sample.landscape import make_landscape
from eo_ssl.sample.optical import QUANTIFICATION, SATURATED_BANDS, SATURATED_DN, render_optical
from eo_ssl.sample.product_plans import PlannedAcquisition, locate_sun
from eo_ssl.sample.spec import COARSEST, ArchiveSpec
from eo_ssl.sensors import sensor
from worlds.safe.s2_spec import GSD_M, S2SafeSpec

Bools = npt.NDArray[np.bool_]
PART_PX = 1098  # the largest landscape that is drawn; larger products repeat it, mirrored, so that no seam shows
CIRRUS_BRIGHTNESS = 0.06  # reflectance of the thickest veil, the same in all bands
_STREAM = 7  # of the seed: what a SAFE product has beyond the sample archive
_WAVELENGTH_UM = {band.name: band.wavelength_um or 0.0 for band in sensor("sentinel2_l1c").bands}
# Share of the light that gases let through on the way down and up; the rest of the sensor's bands lie in windows.
_GASES = {"B03": 0.95, "B04": 0.96, "B05": 0.97, "B06": 0.97, "B07": 0.97, "B09": 0.35, "B12": 0.94}
_DARKEST = 1.0 / QUANTIFICATION  # below one count nothing could be stored before baseline 04.00


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """At most 1098 x 1098 pixels of reflectance below the atmosphere, and what covers them."""

    surface: dict[str, Floats]
    "band -> [y, x] at its own resolution, bottom of atmosphere, cirrus on top; B10 is of the top of the atmosphere"
    scl: npt.NDArray[np.uint8]
    "[y, x] at 20 m"
    cloud_probability: npt.NDArray[np.uint8]
    "[y, x] at 20 m, percent"
    saturated: Bools
    "[y, x] at 20 m"


def make_part(spec: S2SafeSpec) -> Part:
    """Return the part that a product repeats: the same for all levels and baselines."""
    return _part(
        spec.seed,
        min(spec.size_px, PART_PX),
        spec.datetime,
        spec.tile,
        spec.cloud_cover,
        spec.cirrus,
        spec.saturated,
    )


@lru_cache(maxsize=2)
def _part(seed: int, size: int, when: str, tile: str, cover: float, veil: bool, saturated: int) -> Part:
    spec = S2SafeSpec(seed=seed, size_px=size, datetime=when, tile=tile)
    zenith, azimuth = measure_sun(spec)
    product = PlannedAcquisition(
        product_id="",
        sensor="sentinel2_l2a",
        site="harbour",
        site_index=0,
        date_index=0,
        datetime=spec.start.isoformat(),
        processing_baseline="02.09",  # whatever is written: the darkest values must fit the oldest encoding
        orbit="",
        sun_zenith_deg=zenith,
        sun_azimuth_deg=azimuth,
        cloud_cover=cover,
        edge=False,
    )
    land = make_landscape(seed, ArchiveSpec(size_px=size), 0)
    scene = render_optical(seed, land, product, saturated=saturated, noise_key=0)
    rng = np.random.default_rng([seed, _STREAM])
    cirrus = _cirrus(rng, size) if veil else np.zeros((size // COARSEST,) * 2, dtype=np.float32)
    surface = {}
    for band, values in scene.reflectance.items():
        # Saturated areas keep a value here; they are masked where the product is written.
        filled = np.where(np.isnan(values), np.float32(1.5), values)
        factor = GSD_M[band] // 10
        surface[band] = filled + np.float32(CIRRUS_BRIGHTNESS) * repeat_pixels(cirrus, COARSEST // factor).astype(
            np.float32
        )
    scl = scene.scl.copy()
    veiled = np.asarray(repeat_pixels(cirrus > 0.25, COARSEST // 2), dtype=bool)
    scl[veiled & np.isin(scl, (4, 5, 6))] = 10
    opacity = average_blocks(np.isin(scene.scl, (8, 9)), 3)
    surface["B10"] = _water_vapour_band(rng, cirrus, opacity)
    return Part(surface, scl, _probability(rng, scl), scene.saturated)


def _cirrus(rng: np.random.Generator, size: int) -> Floats:
    """Return a veil over about a seventh of the scene, [y, x] float32 at 60 m, 0-1."""
    field = draw_fractal(rng, size // COARSEST, slope=2.0, finest_px=4.0)
    return np.asarray(np.clip((field - 1.0) / 1.2, 0.0, 1.0), dtype=np.float32)


def _water_vapour_band(rng: np.random.Generator, cirrus: Floats, opacity: Floats) -> Floats:
    """Return B10, [y, x] at 60 m: air below 6 km is opaque at 1.37 um, only cirrus and high clouds are bright."""
    floor = 0.0022 + 0.0004 * draw_smooth_noise(rng, cirrus.shape[0], scale_px=4.0)
    noise = 0.0002 * rng.standard_normal(cirrus.shape)
    clear = np.clip(floor + noise, 0.001, 0.004)
    return np.asarray(clear + 0.004 * opacity + 0.8 * CIRRUS_BRIGHTNESS * cirrus, dtype=np.float32)


def _probability(rng: np.random.Generator, scl: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the cloud probability in percent, 20 m: 90-99 in thick cloud, 50-59 at edges, 20-29 in cirrus, 0-9."""
    base = np.zeros(12, dtype=np.uint8)
    base[[8, 9, 10]] = 50, 90, 20
    percent = base[scl] + rng.integers(0, 10, scl.shape, dtype=np.uint8)
    return np.asarray(np.where(scl == 0, 0, percent), dtype=np.uint8)


def measure_sun(spec: S2SafeSpec, column_m: float | None = None, row_m: float | None = None) -> tuple[float, float]:
    """Return zenith and azimuth of the sun in degrees, at the middle of the product or at a place in it."""
    middle = spec.extent_m / 2
    longitude, latitude = spec.position(middle if column_m is None else column_m, middle if row_m is None else row_m)
    return locate_sun(spec.sensing_time, longitude, latitude)


def compute_rayleigh(band: str, sun_zenith_deg: float) -> tuple[float, float]:
    """Return path reflectance and two-way transmittance of the air in a band, seen from the zenith.

    Optical depth by Hansen and Travis (1974), equation 2.30; single scattering, phase function 3/4 (1 + cos^2),
    scattering angle 180 degrees less the sun's zenith; transmittance of the diffuse and direct light exp(-tau / 2 (1 /
    mu + 1)) times that of the gases.
    """
    wavelength, mu = _WAVELENGTH_UM[band], float(np.cos(np.radians(sun_zenith_deg)))
    depth = 0.008569 * wavelength**-4 * (1.0 + 0.0113 * wavelength**-2 + 0.00013 * wavelength**-4)
    path = depth * 0.75 * (1.0 + mu**2) / (4.0 * mu)
    return path, float(np.exp(-depth / 2.0 * (1.0 / mu + 1.0))) * _GASES.get(band, 0.99)


def compute_reflectance(spec: S2SafeSpec, band: str) -> Floats:
    """Return a band of the part at the product's level, float32 [y, x] at its own resolution, everywhere defined."""
    values = make_part(spec).surface[band]
    if spec.level == "L1C" and band != "B10":
        path, through = compute_rayleigh(band, measure_sun(spec)[0])
        values = np.float32(path) + np.float32(through) * values
    return np.maximum(values, np.float32(_DARKEST))


def repeat_mirrored(image: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return ``image`` [y, x] mirrored at its borders until it has ``size`` pixels a side."""
    more = size - image.shape[0]
    return np.pad(image, (0, more), mode="symmetric") if more else image


def draw_swath_edge(spec: S2SafeSpec, gsd_m: int) -> Bools:
    """Return where the product has no data, bool [y, x] at ``gsd_m``: a wedge at the left, whole 60 m pixels."""
    size = spec.size_px // COARSEST
    rng = np.random.default_rng([spec.seed, _STREAM, 1])
    top, bottom = rng.uniform(0.05, 0.22, size=2) * size if spec.edge else (0.0, 0.0)
    rows, columns = np.mgrid[0:size, 0:size]
    wedge = columns < np.floor(top + (bottom - top) * rows / size)
    return np.asarray(repeat_pixels(wedge, 60 // gsd_m), dtype=bool)


def place_saturated(spec: S2SafeSpec, gsd_m: int) -> Bools:
    """Return the saturated areas, bool [y, x] at 10 or 20 m."""
    return np.asarray(
        repeat_pixels(repeat_mirrored(make_part(spec).saturated, spec.size_px // 2), 20 // gsd_m), dtype=bool
    )


def quantise_band(spec: S2SafeSpec, band: str, gsd_m: int | None = None) -> npt.NDArray[np.uint16]:
    """Return what the product stores: ``round(10000 rho) - offset``, 0 without data, 65535 saturated; uint16 [y, x].

    Args:
        spec: the product.
        band: a band of it.
        gsd_m: another resolution than the band's own: means of blocks or repeated pixels, as L2A products hold them.
    """
    own = GSD_M[band]
    gsd_m = gsd_m or own
    values = compute_reflectance(spec, band)
    numbers = np.rint(values.astype(np.float64) * QUANTIFICATION)
    if gsd_m > own:
        numbers = np.rint(average_blocks(numbers, gsd_m // own))
    part_numbers = np.clip(numbers - spec.offset, 1, SATURATED_DN - 1).astype(np.uint16)
    if gsd_m < own:
        part_numbers = np.asarray(repeat_pixels(part_numbers, own // gsd_m), dtype=np.uint16)
    image = repeat_mirrored(part_numbers, spec.size_px * 10 // gsd_m)
    if band in SATURATED_BANDS:
        spots = place_saturated(spec, min(gsd_m, 20))
        image[spots if gsd_m <= 20 else average_blocks(spots, 3) > 0] = SATURATED_DN
    image[draw_swath_edge(spec, gsd_m)] = 0
    return np.asarray(image, dtype=np.uint16)


class Reflectance(Mapping[str, Floats]):
    """Band -> exact reflectance before rounding, [y, x] float32 at its own resolution; computed when asked for."""

    def __init__(self, spec: S2SafeSpec) -> None:
        self.spec = spec

    def __getitem__(self, band: str) -> Floats:
        """Return a band, NaN where there are no data or the value is saturated."""
        if band not in self.spec.bands:
            raise KeyError(band)
        gsd = GSD_M[band]
        image = np.array(
            repeat_mirrored(compute_reflectance(self.spec, band), self.spec.size_px * 10 // gsd), dtype=np.float32
        )
        if band in SATURATED_BANDS:
            image[place_saturated(self.spec, gsd)] = np.nan
        image[draw_swath_edge(self.spec, gsd)] = np.nan
        return image

    def __iter__(self) -> Iterator[str]:
        """Iterate over the bands of the product."""
        return iter(self.spec.bands)

    def __len__(self) -> int:
        """Return the number of bands."""
        return len(self.spec.bands)


def classify_scene(spec: S2SafeSpec) -> npt.NDArray[np.uint8]:
    """Return the scene classification at 20 m, uint8 [y, x], 0 without data."""
    classes = np.array(repeat_mirrored(make_part(spec).scl, spec.size_px // 2))
    classes[draw_swath_edge(spec, 20)] = 0
    return classes


def draw_cloud_probability(spec: S2SafeSpec) -> npt.NDArray[np.uint8]:
    """Return the cloud probability at 20 m in percent, uint8 [y, x], 0 without data."""
    percent = np.array(repeat_mirrored(make_part(spec).cloud_probability, spec.size_px // 2))
    percent[draw_swath_edge(spec, 20)] = 0
    return percent


def classify_60m(spec: S2SafeSpec) -> npt.NDArray[np.uint8]:
    """Return opaque cloud, cirrus and snow as in MSK_CLASSI, uint8 0 or 1 [3, y, x]: most of the 20 m pixels."""
    scl = classify_scene(spec)
    kinds = ((8, 9), (10,), (11,))
    return np.stack([(average_blocks(np.isin(scl, kind), 3) > 0.5).astype(np.uint8) for kind in kinds])
