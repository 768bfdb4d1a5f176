"""A small benchmark in the file layout of EuroSAT, so that loaders of the real one open it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine

from eo_ssl.errors import UserError
from eo_ssl.landcover import CLASS_NAMES, S2_BANDS, Bytes, tabulate
from eo_ssl.manifest import Clock, commit, file_sha256, fingerprint, finish, plan
from eo_ssl.sample.fields import Floats, average_blocks, blur, draw_parcels, draw_smooth_noise, repeat_pixels
from eo_ssl.sample.geotiff import encode_geotiff
from eo_ssl.sample.landscape import draw_streets
from eo_ssl.sample.optical import NOISE, QUANTIFICATION
from eo_ssl.sample.spec import PIXEL_M, SITES
from eo_ssl.sensors import sensor

EUROSAT_CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
# File order of the published GeoTIFFs: B8A stands last, not after B08.
EUROSAT_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
EUROSAT_FOLDER = Path("ds", "images", "remote_sensing", "otherDatasets", "sentinel_2", "tif")
CHIP_PX = 64
SPLITS = (("train", 0.6), ("val", 0.2), ("test", 0.2))  # shares of Neumann et al. 2019, which TorchGeo's lists follow
# EuroSAT is L1C: light scattered into the view by clear air, and the share that passes down and up again. B09 lies in a water vapour
# band and B10 in one that opaque that only cirrus is seen. Own values for a clear continental atmosphere.
#            B01    B02    B03    B04    B05    B06    B07    B08    B09    B10     B11    B12    B8A
_PATH = (0.105, 0.075, 0.043, 0.024, 0.019, 0.015, 0.012, 0.009, 0.005, 0.0011, 0.002, 0.001, 0.008)
_PASSES = (0.74, 0.80, 0.85, 0.89, 0.90, 0.91, 0.93, 0.93, 0.35, 0.004, 0.94, 0.93, 0.96)
_FACTOR = {band.name: round(band.gsd_m / PIXEL_M) for band in sensor("sentinel2_l1c").bands}


def make_eurosat(folder: Path, *, seed: int = 0, per_class: int = 10, bands_order: Sequence[str] | None = None) -> Path:
    """Write a benchmark of 10 x ``per_class`` chips in the layout of EuroSAT (TorchGeo's download) and return its root.

    Chips are 64 x 64 x 13 uint16, top-of-atmosphere reflectance x 10,000 without offset. The pixels depend on the seed alone:
    another band order permutes the planes and changes nothing else; each plane is described by its band's name.

    Args:
        folder: root of the data set; created.
        seed: seed of everything random.
        per_class: chips per class, at least 3, shared 60/20/20 over train, val and test.
        bands_order: all 13 bands in the order to write; None for that of EuroSAT, with B8A last.

    Raises:
        UserError: too few chips, an order that is no permutation of the 13 bands, or a folder made with other arguments.
    """
    started, folder = Clock(), Path(folder)
    order = _checked(bands_order)
    if seed < 0:
        raise UserError(f"expected a seed of 0 or more, got {seed}; choose another")
    if per_class < 3:
        raise UserError(f"expected per_class of at least 3, one chip per split, got {per_class}; ask for more")
    config = {"seed": seed, "per_class": per_class, "bands_order": order}
    if plan(folder, stage="synthetic", config=config, inputs={}) == "done":
        return folder
    planes = [EUROSAT_BANDS.index(band) for band in order]
    for label, name in enumerate(EUROSAT_CLASSES):
        for number in range(1, per_class + 1):
            path = folder / EUROSAT_FOLDER / name / f"{name}_{number}.tif"
            if path.exists():
                continue
            image = draw_eurosat_chip(seed, label, number)
            site = SITES[number % len(SITES)]
            corner = Affine(PIXEL_M, 0.0, site.left_m + 640.0 * number, 0.0, -PIXEL_M, site.top_m - 640.0 * label)
            commit(path, encode_geotiff(image[planes], epsg=site.epsg, transform=corner, nodata=None, bands=order))
    for split, numbers in _splits(per_class).items():
        lines = [
            f"{name}_{number}.jpg\n" for name in EUROSAT_CLASSES for number in numbers
        ]  # the lists name the RGB files
        commit(folder / f"eurosat-{split}.txt", "".join(lines).encode())
    files = {
        str(path.relative_to(folder)): file_sha256(path) for path in sorted((folder / EUROSAT_FOLDER).glob("*/*.tif"))
    }
    finish(folder, stage="synthetic", config=config, inputs={}, product=fingerprint(files), started=started, seed=seed)
    return folder


def _checked(bands_order: Sequence[str] | None) -> tuple[str, ...]:
    order = EUROSAT_BANDS if bands_order is None else sensor("sentinel2_l1c").resolve_all(bands_order)
    if sorted(order) != sorted(EUROSAT_BANDS):
        missing = ", ".join(sorted(set(EUROSAT_BANDS) - set(order)))
        raise UserError(f"expected all 13 bands of EuroSAT in some order, got {len(order)} of them; add {missing}")
    return order


def _splits(per_class: int) -> dict[str, range]:
    held = max(1, round(per_class * SPLITS[1][1]))
    first, second = per_class - 2 * held, per_class - held
    return {"train": range(1, first + 1), "val": range(first + 1, second + 1), "test": range(second + 1, per_class + 1)}


def draw_eurosat_chip(seed: int, label: int, number: int) -> npt.NDArray[np.uint16]:
    """Return chip ``number`` of class ``label``, [13, 64, 64] uint16 in the order of `EUROSAT_BANDS`."""
    rng = np.random.default_rng([seed, 7, label, number])
    cover, growth, brightness = _scene(rng, EUROSAT_CLASSES[label])
    sigma = tabulate("texture")[cover]
    fine, medium = draw_smooth_noise(rng, CHIP_PX, scale_px=0.6), draw_smooth_noise(rng, CHIP_PX, scale_px=4.0)
    light = brightness * np.exp(sigma[..., 0] * fine + sigma[..., 1] * medium) * rng.uniform(0.75, 1.25)
    haze = rng.uniform(0.8, 1.3)
    planes = []
    for index, band in enumerate(EUROSAT_BANDS):
        below = S2_BANDS.index(band) if band != "B10" else S2_BANDS.index("B11")
        dormant, green = tabulate("dormant")[:, below], tabulate("green")[:, below]
        surface = blur(((dormant[cover] + growth * (green - dormant)[cover]) * light).astype(np.float32))
        top = haze * _PATH[index] + _PASSES[index] * surface
        seen = _resolved(top.astype(np.float32), _FACTOR[band])
        noisy = seen + (NOISE[0] + NOISE[1] * seen) * rng.standard_normal(seen.shape)
        planes.append(np.clip(np.rint(noisy * QUANTIFICATION), 1, 65_534))
    return np.stack(planes).astype(np.uint16)


def _resolved(image: Floats, factor: int) -> Floats:
    """Return ``image`` [y, x] as a band of coarser pixels shows it, on the 10 m grid (nearest neighbour)."""
    padding = -CHIP_PX % factor  # 64 is no multiple of 6
    padded = np.pad(image, (0, padding), mode="edge")
    return np.asarray(repeat_pixels(average_blocks(padded, factor), factor)[:CHIP_PX, :CHIP_PX], dtype=np.float32)


def _scene(rng: np.random.Generator, name: str) -> tuple[Bytes, Floats, Floats]:
    """Return the land cover (places in `CLASSES`), greenness 0-1 and brightness factor of a chip, each [64, 64]."""
    patch = draw_smooth_noise(rng, CHIP_PX, scale_px=6.0)
    field = draw_parcels(rng, CHIP_PX, length_px=26.0, width_px=15.0)
    number = int(field.max()) + 1
    line = _line_distance(rng)
    grass, crop, forest, built, bare, water = (
        CLASS_NAMES.index(k) for k in ("grass", "crop", "forest", "built", "bare", "water")
    )
    uniform = np.clip(rng.uniform(0.3, 0.9) + 0.1 * patch, 0.0, 1.0)
    growth = np.clip(rng.uniform(0.2, 0.8) + 0.3 * rng.standard_normal(number), 0.0, 1.0)[field]
    brightness = np.ones((CHIP_PX, CHIP_PX))
    farmland = np.where(rng.random(number) < 0.5, crop, grass)[field]
    if name == "AnnualCrop":
        cover = np.where(rng.random(number) < 0.15, grass, crop)[field]
    elif name == "Forest":
        cover = np.where(patch > 2.2, grass, forest)
    elif name == "HerbaceousVegetation":
        cover = np.where(patch > rng.uniform(0.8, 2.0), forest, np.where(patch < -rng.uniform(1.2, 2.5), bare, grass))
        growth = uniform
    elif name == "Highway":
        cover = np.where(line < rng.uniform(1.5, 3.0), built, farmland)
    elif name == "Industrial":
        cover = np.where(patch > 1.4, bare, built)
        brightness = np.exp(rng.uniform(0.15, 0.35) * rng.standard_normal(number))[field]
    elif name == "Pasture":
        cover, growth = np.where(patch > 2.0, forest, grass), 0.5 * uniform + 0.5 * growth
    elif name == "PermanentCrop":
        rows = np.sin(2 * np.pi * (line + rng.uniform(0, 4)) / rng.uniform(4.0, 6.0))
        cover = np.where(rows > rng.uniform(-0.2, 0.8), bare, np.where(patch > 0.8, grass, crop))
        growth = uniform
    elif name == "Residential":
        garden = draw_smooth_noise(rng, CHIP_PX, scale_px=1.2) > rng.uniform(-0.3, 1.6)
        cover = np.where(garden, np.where(patch > 0.5, forest, grass), built)
        brightness = np.where(cover == built, np.exp(0.2 * draw_streets(rng, CHIP_PX)), 1.0)
    elif name == "River":
        cover = np.where(line + 1.5 * patch < rng.uniform(4.0, 8.0), water, np.where(patch > 0, forest, farmland))
    else:
        cover = np.where(patch > rng.uniform(1.8, 4.0), farmland, water)
        brightness = np.where(cover == water, rng.uniform(0.7, 1.6), 1.0)
    return cover.astype(np.uint8), growth.astype(np.float32), brightness.astype(np.float32)


def _line_distance(rng: np.random.Generator) -> Floats:
    """Return the distance in pixels to a straight line through the middle part of a chip, [64, 64] float32."""
    angle, offset = rng.uniform(0.0, np.pi), rng.uniform(-10.0, 10.0)
    y, x = np.mgrid[0:CHIP_PX, 0:CHIP_PX] - CHIP_PX / 2
    return np.asarray(np.abs(x * np.cos(angle) + y * np.sin(angle) - offset), dtype=np.float32)
