"""The ground truth below all products of a place: relief, land cover, parcels, and the texture that all dates share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from eo_ssl.landcover import CLASS_NAMES, CLASSES, Bytes, tabulate
from eo_ssl.sample.fields import Floats, average_blocks, draw_fractal, draw_parcels, draw_smooth_noise
from eo_ssl.sample.spec import PIXEL_M, ArchiveSpec, compute_site_shares

RELIEF_M = 60.0  # metres, standard deviation of the elevation
PARCEL_PX = (40.0, 22.0)  # 400 m x 220 m, a typical European field block
GROWTH_SHIFT_DAYS = 18.0  # standard deviation between parcels: not everybody sows the same crop
_STREAM = 1  # of the seed: landscapes
# What takes its pixels first. Water lies lowest and snow highest; parcels share what is left.
_ORDER = ("water", "snow", "built", "bare", "forest", "crop", "grass")


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """One place at 10 m; every array is [y, x] and shared by all dates and both sensors."""

    classes: Bytes
    "uint8, places in `landcover.CLASSES`"
    slope_east: Floats
    "metres of rise per metre towards the east"
    slope_north: Floats
    "the same towards the north"
    shift_days: Floats
    "how much later than usual vegetation peaks, by parcel"
    brightness: Floats
    "factor on reflectance, mean 1 within each class"
    tilt: Floats
    "relative change of reflectance per unit of scaled wavelength: soils and roofs differ in colour as in brightness"
    roughness_db: Floats
    "offset of gamma0 from the class mean, dB"


@lru_cache(maxsize=8)
def make_landscape(seed: int, spec: ArchiveSpec, site: int) -> Landscape:
    """Return the landscape of a place, the same for the same arguments."""
    rng = np.random.default_rng([seed, _STREAM, site])
    size = spec.size_px
    relief = draw_fractal(rng, size, slope=1.9, finest_px=12.0)
    parcel = draw_parcels(rng, size, length_px=PARCEL_PX[0], width_px=PARCEL_PX[1])
    classes = place_land_cover(rng, relief, parcel, counts=count_class_pixels(spec, site))
    metres = RELIEF_M * relief
    down, right = np.gradient(metres, PIXEL_M)
    dry = classes != CLASS_NAMES.index("water")  # water is flat
    of_parcel = rng.standard_normal((3, int(parcel.max()) + 1)).astype(np.float32)[:, parcel]
    brightness, roughness = _texture(rng, classes, of_parcel[0])
    return Landscape(
        classes=classes,
        slope_east=(right * dry).astype(np.float32),
        slope_north=(-down * dry).astype(np.float32),
        shift_days=GROWTH_SHIFT_DAYS * of_parcel[1],
        brightness=brightness,
        tilt=(0.06 * of_parcel[2] * dry).astype(np.float32),
        roughness_db=roughness,
    )


def count_class_pixels(spec: ArchiveSpec, site: int) -> npt.NDArray[np.int64]:
    """Return how many pixels of a place each class gets, int64 [class], summing to the size of the place."""
    exact: npt.NDArray[np.float64] = compute_site_shares(spec)[site] * spec.size_px**2
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact)[: spec.size_px**2 - int(counts.sum())]] += 1
    return np.asarray(counts, dtype=np.int64)


def place_land_cover(
    rng: np.random.Generator, relief: Floats, parcel: npt.NDArray[np.int32], *, counts: npt.NDArray[np.int64]
) -> Bytes:
    """Return a class map in which class i has exactly ``counts[i]`` pixels.

    Each class in turn takes the pixels that suit it best among those still free: water the lowest ground and a river,
    snow the summits, towns the surroundings of a few centres, rock a few dry heights, forest the moist places, crops
    and grass whole parcels.

    Args:
        rng: source of randomness.
        relief: [y, x] float32, elevation of unit standard deviation.
        parcel: [y, x] int32, parcel of each pixel.
        counts: [class] int64, in the order of `CLASSES`.

    Returns:
        [y, x] uint8.
    """
    size = relief.shape[0]
    moist = draw_smooth_noise(rng, size, scale_px=30.0)
    rocky = draw_smooth_noise(rng, size, scale_px=min(60.0, size / 8))
    grain = draw_smooth_noise(rng, size, scale_px=3.0)
    fertile = np.bincount(parcel.ravel(), weights=moist.ravel()) / np.bincount(parcel.ravel())
    field = (0.35 * rng.standard_normal(fertile.size) - fertile).astype(np.float32)[parcel]
    suits = {
        "water": np.maximum(-relief, 6.0 - draw_river_distance(rng, size)),
        "snow": relief + 0.1 * grain,
        "built": draw_town_density(rng, relief, int(counts[CLASS_NAMES.index("built")])) + 0.08 * grain,
        "bare": rocky + 0.3 * relief + 0.08 * grain,
        "forest": moist + 0.5 * relief + 0.15 * grain,
        "crop": field,
        "grass": field,
    }
    classes = np.full(relief.size, len(CLASSES), dtype=np.uint8)
    for name in _ORDER:
        index = CLASS_NAMES.index(name)
        free = np.flatnonzero(classes == len(CLASSES))
        wanted = int(counts[index])
        best = np.argsort(-suits[name].ravel()[free], kind="stable")[:wanted]
        classes[free[best]] = index
    return classes.reshape(relief.shape)


def draw_river_distance(rng: np.random.Generator, size_px: int) -> Floats:
    """Return the distance in pixels to a river that winds from the left to the right border, [y, x] float32."""
    x = np.arange(size_px) / size_px
    waves = np.arange(1, 7)
    amplitude, phase = rng.normal(0.0, 1.0 / waves**1.3), rng.uniform(0.0, 2 * np.pi, waves.size)
    course = size_px * (
        rng.uniform(0.3, 0.7)
        + 0.1 * np.sum(amplitude[:, None] * np.sin(2 * np.pi * waves[:, None] * x + phase[:, None]), axis=0)
    )
    steep = np.hypot(1.0, np.gradient(course))  # the vertical distance overstates where the course runs steeply
    return np.asarray(np.abs(np.arange(size_px)[:, None] - course) / steep, dtype=np.float32)


def draw_town_density(rng: np.random.Generator, relief: Floats, pixels: int) -> Floats:
    """Return how town-like each pixel is, highest at a few centres on moderate ground, [y, x] float32."""
    size = relief.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    low, high = np.quantile(relief, [0.35, 0.7])
    ground = np.flatnonzero((relief > low) & (relief < high))
    density = np.full(relief.shape, -np.inf, dtype=np.float32)
    for centre in rng.choice(ground, size=1 + min(pixels // 25_000, 5), replace=False):
        row, column = divmod(int(centre), size)
        radius = size * rng.uniform(0.06, 0.12)
        density = np.maximum(density, -np.hypot(y - row, x - column) / radius)
    return density


def _texture(rng: np.random.Generator, classes: Bytes, of_parcel: Floats) -> tuple[Floats, Floats]:
    """Return the brightness factor and the radar roughness (dB), both [y, x] float32."""
    size = classes.shape[0]
    fine = draw_smooth_noise(rng, size, scale_px=0.6)
    medium = draw_smooth_noise(rng, size, scale_px=4.0)
    streets = draw_streets(rng, size)
    built = classes == CLASS_NAMES.index("built")
    fine = np.where(built, 0.5 * fine + streets, fine)
    sigma = tabulate("texture")[classes]  # (H, W, 3)
    log_brightness = sigma[..., 0] * fine + sigma[..., 1] * medium + sigma[..., 2] * of_parcel
    variance = (sigma**2).sum(axis=-1)
    brightness = np.exp(log_brightness - 0.5 * variance)  # the mean of a log-normal factor is 1 with this term
    rough = 0.6 * draw_smooth_noise(rng, size, scale_px=1.0) + 0.8 * np.where(built, streets, medium)
    return brightness.astype(np.float32), (tabulate("roughness_db")[classes] * rough).astype(np.float32)


def draw_streets(rng: np.random.Generator, size_px: int) -> Floats:
    """Return a turned grid of dark streets between bright blocks of 80 m, [y, x] float32, about mean 0, deviation 1."""
    angle = rng.uniform(0.0, np.pi / 2)
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    block = (np.floor(u / 8.0) * 7919 + np.floor(v / 8.0) * 104_729).astype(np.int64) % 997
    roofs = rng.standard_normal(997).astype(np.float32)[block]
    street = ((u % 8.0) < 2.0) | ((v % 8.0) < 2.0)
    return np.where(street, -1.0, 0.7 + 0.6 * roofs).astype(np.float32)


def vote_majority(classes: Bytes, factor: int) -> Bytes:
    """Return the most frequent class of each ``factor`` x ``factor`` block, the lowest number on a tie, uint8."""
    shares = np.stack([average_blocks(classes == index, factor) for index in range(len(CLASSES))])
    return np.asarray(shares.argmax(axis=0), dtype=np.uint8)
