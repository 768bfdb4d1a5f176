"""A small benchmark in the file layout of EuroSAT, so that loaders of the real one open it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine

from eo_ssl.commits import commit
from eo_ssl.errors import expect
from eo_ssl.fingerprints import compute_sha256, fingerprint
from eo_ssl.landcover import CLASS_NAMES, S2_BANDS, Bytes, tabulate
from eo_ssl.manifest import open_product
from eo_ssl.sample.fields import Floats, average_blocks, blur, draw_parcels, draw_smooth_noise, repeat_pixels
from eo_ssl.sample.geotiff import encode_geotiff
from eo_ssl.sample.landscape import draw_streets
from eo_ssl.sample.optical import NOISE, QUANTIFICATION
from eo_ssl.sample.sample_archive import STAGE
from eo_ssl.sample.spec import PIXEL_M, SITES
from eo_ssl.sensors import sensor
from worlds.benchmarks.writing import split_numbers

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
# EuroSAT is L1C: light scattered into the view by clear air, and the share that passes down and up again. B09 lies in a
# water vapour band, and B10 in one so opaque that only cirrus is seen. Own values for a clear continental atmosphere.
#            B01    B02    B03    B04    B05    B06    B07    B08    B09    B10     B11    B12    B8A
_PATH_REFLECTANCE = (0.105, 0.075, 0.043, 0.024, 0.019, 0.015, 0.012, 0.009, 0.005, 0.0011, 0.002, 0.001, 0.008)
_TRANSMITTANCE = (0.74, 0.80, 0.85, 0.89, 0.90, 0.91, 0.93, 0.93, 0.35, 0.004, 0.94, 0.93, 0.96)
_FACTOR = {band.name: round(band.gsd_m / PIXEL_M) for band in sensor("sentinel2_l1c").bands}


def make_eurosat(folder: Path, *, seed: int = 0, per_class: int = 10, bands_order: Sequence[str] | None = None) -> Path:
    """Write a benchmark of 10 x ``per_class`` chips in the layout of EuroSAT (TorchGeo's download) and return its root.

    Chips are 64 x 64 x 13 uint16, top-of-atmosphere reflectance x 10,000 without offset. The pixels depend on the seed
    alone: another band order permutes the planes and changes nothing else; each plane is described by its band's name.

    Args:
        folder: root of the data set; created.
        seed: seed of everything random.
        per_class: chips per class, at least 3, shared 60/20/20 over train, val and test (Neumann et al. 2019).
        bands_order: all 13 bands in the order to write; None for that of EuroSAT, with B8A last.

    Raises:
        UserError: too few chips, an order that is no permutation of the 13 bands, or a folder made with other
            arguments.
    """
    expect(seed >= 0, expected="a seed of 0 or more", got=seed, remedy="choose another")
    order = EUROSAT_BANDS if bands_order is None else sensor("sentinel2_l1c").resolve_all(bands_order)
    missing = ", ".join(sorted(set(EUROSAT_BANDS) - set(order)))
    whole = sorted(order) == sorted(EUROSAT_BANDS)
    every = "all 13 bands of EuroSAT in some order"
    expect(whole, expected=every, got=f"{len(order)} of them", remedy=f"add {missing}")
    splits = dict(zip(("train", "val", "test"), split_numbers(per_class), strict=True))
    folder, config = Path(folder), {"seed": seed, "per_class": per_class, "bands_order": order}
    with open_product(folder, stage=STAGE, config=config, inputs={}) as benchmark:
        if benchmark.done:
            return folder
        digests = {}
        for label, name in enumerate(EUROSAT_CLASSES):
            for number in range(1, per_class + 1):
                path = EUROSAT_FOLDER / name / f"{name}_{number}.tif"
                commit(folder / path, _encode_chip(seed, label, number, order))
                digests[str(path)] = compute_sha256(folder / path)
        for split, numbers in splits.items():
            # The lists name the RGB files, and files count from 1.
            lines = [f"{name}_{number + 1}.jpg\n" for name in EUROSAT_CLASSES for number in numbers]
            commit(folder / f"eurosat-{split}.txt", "".join(lines).encode())
        benchmark.sign(fingerprint(digests), seed=seed)
    return folder


def _encode_chip(seed: int, label: int, number: int, order: Sequence[str]) -> bytes:
    image = draw_eurosat_chip(seed, label, number)[[EUROSAT_BANDS.index(band) for band in order]]
    site = SITES[number % len(SITES)]
    corner = Affine(PIXEL_M, 0.0, site.left_m + 640.0 * number, 0.0, -PIXEL_M, site.top_m - 640.0 * label)
    return encode_geotiff(image, epsg=site.epsg, transform=corner, nodata=None, bands=order)


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
        top = haze * _PATH_REFLECTANCE[index] + _TRANSMITTANCE[index] * surface
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
