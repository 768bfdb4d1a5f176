"""GeoTIFF files with every pixel known, and the cards that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.transform import Affine

from eo_ssl.cards import Card, load_card
from eo_ssl.scene import list_products

RASTER = {
    "title": "synthetic",
    "licence": "CC0",
    "attribution": "made in a test",
    "source": "a test",
    "sensor": "sentinel2_l2a",
    "reader": "raster",
    "files": "*.tif",
    "bands": ["B02", "B03", "B04"],
    "quantity": "boa_reflectance",
    "gsd_m": 10.0,
    "scale": 1e-4,
}
FOLDER = RASTER | {
    "reader": "band_folder",
    "folder": "scene",
    "files": {"B02": "B02.tif", "B03": "B03.tif", "B04": "B04.tif"},
    "resampling": {"default": "bilinear"},
}


def card(root: Path, fields: dict[str, Any], /, **changes: Any) -> Card:
    path = root / "set.yaml"
    path.write_text(yaml.safe_dump(fields | changes))
    return load_card(path)


def write(path: Path, values: np.ndarray, *, gsd: float = 10.0, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    place = {"transform": Affine(gsd, 0, 5e5, 0, -gsd, 4e6), "crs": "EPSG:32632"}
    shape = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": values.dtype.name}
    with rasterio.open(path, "w", **place | shape | profile) as file:
        file.write(values)
    return path


def image_of(folder: Path, known: Card) -> np.ndarray:
    (product,) = list_products(known, folder).products
    return np.asarray(product.open()["image"].values)
