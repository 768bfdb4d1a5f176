"""A Sentinel-2 L2A product from a landscape: season, sun, clouds and shadows, swath edge, noise, stored numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.landcover import CLASS_NAMES, CLOUD, S2_BANDS, WAVELENGTH_UM, Bytes, compute_greenness, tabulate
from eo_ssl.sample.fields import Floats, average_blocks, blur, draw_fractal, draw_smooth_noise, repeat_pixels
from eo_ssl.sample.landscape import Landscape, vote_majority
from eo_ssl.sample.product_plans import PlannedAcquisition
from eo_ssl.sample.spec import COARSEST, PIXEL_M, SITES
from eo_ssl.sensors import sensor

QUANTIFICATION = 10_000  # stored numbers per unit of reflectance, Sentinel-2 L2A
SATURATED_DN = 65_535
NODATA_DN = 0
SATURATED_BANDS = ("B02", "B03", "B04", "B08")  # sun glint on roofs and water saturates the narrow-pixel bands first
# 10 m pixels per pixel and side
FACTOR = {band.name: round(band.gsd_m / PIXEL_M) for band in sensor("sentinel2_l2a").bands}
NOISE = (0.0010, 0.004)  # standard deviation of the sensor noise: constant, and per unit of reflectance
CLOUD_EDGE = 0.35  # width of a cloud's edge in units of the field's standard deviation
CLOUD_HEIGHT_M = (800.0, 1500.0)
# Shadows are not thrown farther, however low the sun: clouds are drawn that far round the scene.
FARTHEST_SHADOW_PX = 150
SHADOW_DEPTH = 0.6  # share of the light that a thick cloud keeps away; the rest comes from the sky
_ATMOSPHERE, _NOISE = 3, 4  # streams of the seed


@dataclass(frozen=True, slots=True, eq=False)
class OpticalScene:
    """An optical product before it is stored as integers."""

    reflectance: dict[str, Floats]
    "band -> [y, x] at the band's own resolution, NaN where there are no data or the value is saturated"
    scl: Bytes
    "scene classification, 20 m: 0 nodata, 1 saturated, 3 shadow, 4 vegetation, 5 bare, 6 water, 8 and 9 cloud, 11 snow"
    nodata: npt.NDArray[np.bool_]
    "[y, x] at 60 m"
    saturated: npt.NDArray[np.bool_]
    "[y, x] at 20 m"


def render_optical(
    seed: int, land: Landscape, product: PlannedAcquisition, *, saturated: int, noise_key: int
) -> OpticalScene:
    """Return the scene of a product; copies of a product share all but, for near duplicates, ``noise_key``.

    Args:
        seed: seed of the archive.
        land: landscape of the place.
        product: which acquisition.
        saturated: how many 20 m areas to saturate.
        noise_key: number of the draw of sensor noise; 0 for all but near duplicates.
    """
    key = [product.site_index, product.date_index]
    air = np.random.default_rng([seed, _ATMOSPHERE, *key])
    noise = np.random.default_rng([seed, _NOISE, *key, noise_key])
    size = land.classes.shape[0]
    cloud, shadow = _clouds(air, product, size)
    light = (1.0 + 0.03 * air.standard_normal()) * compute_illumination(land, product) * (1.0 - SHADOW_DEPTH * shadow)
    haze, turbid = air.uniform(0.0, 0.004), 0.25 * draw_smooth_noise(air, size, scale_px=60.0)
    green = compute_greenness(
        land.classes, land.shift_days, day=_season(product), southern=SITES[product.site_index].southern
    )
    water = land.classes == CLASS_NAMES.index("water")
    brightness = land.brightness * np.where(water, np.exp(turbid), 1.0) * light
    cloud_top = 1.0 + 0.08 * draw_smooth_noise(air, size, scale_px=5.0)
    nodata = _swath_edge(air, size // COARSEST) if product.edge else np.zeros((size // COARSEST,) * 2, dtype=bool)
    spots = _saturated(air, nodata, saturated)
    gain = 1.0 if noise_key == 0 else 1.0 + 0.002 * noise.standard_normal()
    reflectance = {}
    for index, band in enumerate(S2_BANDS):
        ground = blur(_surface(index, land, green) * brightness + haze * (0.49 / WAVELENGTH_UM[index]) ** 2)
        seen = average_blocks(ground * (1.0 - cloud) + CLOUD[index] * cloud_top * cloud, FACTOR[band]) * np.float32(
            gain
        )
        sigma = NOISE[0] + NOISE[1] * seen
        values = (seen + sigma * noise.standard_normal(seen.shape)).astype(np.float32)
        if product.offset == 0 or product.copy == "reprocessed":
            # Before baseline 04.00 nothing darker than one count could be stored; reprocessing starts from that.
            values = np.maximum(values, np.float32(1.0 / QUANTIFICATION))
        values[_at(nodata, COARSEST, FACTOR[band])] = np.nan
        if band in SATURATED_BANDS:
            values[_at(spots, 2, FACTOR[band])] = np.nan
        reflectance[band] = values
    scl = _scene_classes(land.classes, green, cloud, shadow)
    scl[spots] = 1
    scl[_at(nodata, COARSEST, 2)] = 0
    return OpticalScene(reflectance, scl, nodata, spots)


def quantise_band(scene: OpticalScene, band: str, *, offset: int) -> npt.NDArray[np.uint16]:
    """Return a band as stored, [y, x] uint16: ``round(10000 rho) - offset`` in 1-65534, 0 nodata, 65535 saturated."""
    values = scene.reflectance[band]
    numbers = np.clip(np.rint(np.nan_to_num(values).astype(np.float64) * QUANTIFICATION) - offset, 1, SATURATED_DN - 1)
    if band in SATURATED_BANDS:
        numbers[_at(scene.saturated, 2, FACTOR[band])] = SATURATED_DN
    numbers[_at(scene.nodata, COARSEST, FACTOR[band])] = NODATA_DN
    return np.asarray(numbers, dtype=np.uint16)


def compute_illumination(land: Landscape, product: PlannedAcquisition) -> Floats:
    """Return the light that falls on each pixel relative to flat ground, [y, x] float32 in 0.6-1.4.

    Cosine of the angle between the sun and the normal of the slope over that of flat ground (Lambert), at half strength
    because an L2A product is partly corrected for terrain.
    """
    zenith, azimuth = np.radians(product.sun_zenith_deg), np.radians(product.sun_azimuth_deg)
    towards_east, towards_north = np.sin(azimuth) * np.tan(zenith), np.cos(azimuth) * np.tan(zenith)
    normal = np.sqrt(1.0 + land.slope_east**2 + land.slope_north**2)
    ratio = (1.0 - land.slope_east * towards_east - land.slope_north * towards_north) / normal
    return np.asarray(np.clip(1.0 + 0.5 * (ratio - 1.0), 0.6, 1.4), dtype=np.float32)


def _season(product: PlannedAcquisition) -> int:
    """Return the day of the year of the vegetation; a near duplicate differs by noise alone, not by growth."""
    return product.day - (5 if product.copy == "near" else 0)


def _surface(index: int, land: Landscape, green: Floats) -> Floats:
    """Return the reflectance of band ``index`` of the ground, [y, x] float32: a mix of two end members per class."""
    dormant, full = tabulate("dormant")[:, index], tabulate("green")[:, index]
    position = (WAVELENGTH_UM[index] - 0.865) / 0.865  # -0.5 in the blue, 1.5 at 2.2 um
    mixture = dormant[land.classes] + green * (full - dormant)[land.classes]
    return np.asarray(mixture * (1.0 + position * land.tilt), dtype=np.float32)


def _clouds(air: np.random.Generator, product: PlannedAcquisition, size_px: int) -> tuple[Floats, Floats]:
    """Return cloud and shadow opacity, [y, x] float32 in 0-1; the shadow is the cloud moved away from the sun."""
    far = FARTHEST_SHADOW_PX
    field = draw_fractal(air, size_px + 2 * far, slope=1.6, finest_px=3.0)
    height = air.uniform(*CLOUD_HEIGHT_M)
    if product.cloud_cover == 0.0:
        nothing = np.zeros((size_px, size_px), dtype=np.float32)
        return nothing, nothing
    inside = field[far:-far, far:-far]
    # The quantile of the scene itself gives the cover asked for, not one that holds on average.
    threshold = np.quantile(inside, 1.0 - product.cloud_cover)
    opacity = np.clip((field - threshold) / CLOUD_EDGE, 0.0, 1.0).astype(np.float32)
    right, down = project_shadow(product, height)
    moved = opacity[far - down : far - down + size_px, far - right : far - right + size_px]
    cloud = opacity[far:-far, far:-far]
    return cloud, moved * (1.0 - cloud)


def project_shadow(product: PlannedAcquisition, height_m: float) -> tuple[int, int]:
    """Return how far a shadow lies to the right of and below its cloud, whole 10 m pixels."""
    zenith, azimuth = np.radians(product.sun_zenith_deg), np.radians(product.sun_azimuth_deg)
    length = min(height_m * np.tan(zenith) / PIXEL_M, FARTHEST_SHADOW_PX)
    return round(float(-length * np.sin(azimuth))), round(float(length * np.cos(azimuth)))


def _swath_edge(air: np.random.Generator, size: int) -> npt.NDArray[np.bool_]:
    """Return a wedge without data along the left or right border, [y, x] at 60 m: all bands end at the same 60 m pixel.

    In real products the bands end a few pixels apart; here truth stays exact.
    """
    rows, columns = np.mgrid[0:size, 0:size]
    top, bottom = air.uniform(0.0, 0.22, size=2) * size
    edge = columns < top + (bottom - top) * rows / size
    return np.asarray(edge[:, ::-1] if air.random() < 0.5 else edge)


def _saturated(air: np.random.Generator, nodata: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    spots = np.zeros(np.array(nodata.shape) * 3, dtype=bool)
    valid = np.flatnonzero(~_at(nodata, COARSEST, 2).ravel())
    spots.ravel()[air.choice(valid, size=min(count, valid.size), replace=False)] = True
    return spots


def _at(mask: npt.NDArray[np.bool_], source: int, target: int) -> npt.NDArray[np.bool_]:
    """Return a mask of ``source`` x 10 m pixels on the finer or equal grid of ``target`` x 10 m pixels."""
    return np.asarray(repeat_pixels(mask, source // target), dtype=bool)


def _scene_classes(classes: Bytes, green: Floats, cloud: Floats, shadow: Floats) -> Bytes:
    """Return the scene classification at 20 m (codes of Sen2Cor), [y, x] uint8."""
    cover, opacity = vote_majority(classes, 2), average_blocks(cloud, 2)
    scl = np.full(cover.shape, 5, dtype=np.uint8)  # not vegetated
    vegetated = [CLASS_NAMES.index(name) for name in ("forest", "crop", "grass")]
    scl[np.isin(cover, vegetated) & (average_blocks(green, 2) > 0.3)] = 4
    scl[cover == CLASS_NAMES.index("water")] = 6
    scl[cover == CLASS_NAMES.index("snow")] = 11
    scl[average_blocks(shadow, 2) > 0.25] = 3
    scl[opacity > 0.0] = 8  # medium probability
    scl[opacity > 0.5] = 9  # high probability
    return scl
