"""What the tests of STAC items share: small scenes as Cloud-Optimized GeoTIFFs, items as the catalogues write them, cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from eo_ssl.cards import Card, Stac
from eo_ssl.scene import Product, list_products
from eo_ssl.sensors import Quantity

LEFT, TOP, EPSG = 600000.0, 5100000.0, 32632
BOX = [10.2, 45.9, 10.4, 46.1]
GSD = {"B02": 10, "B05": 20, "B09": 60, "SCL": 20}
COMMON = {"B02": "blue", "B05": "rededge1", "B09": "nir09", "SCL": "scl"}
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def write_cog(path: Path, values: np.ndarray, *, gsd: float = 10, block: int = 128, nodata: float | None = 0) -> Path:
    profile = {"driver": "COG", "dtype": values.dtype, "count": 1, "height": values.shape[0], "width": values.shape[1]}
    grid = {"crs": f"EPSG:{EPSG}", "transform": from_origin(LEFT, TOP, gsd, gsd)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile, **grid, nodata=nodata, blocksize=block, compress="deflate") as file:
        file.write(values, 1)
    return path


def asset(path: Path | str, shape: tuple[int, ...], gsd: float, **more: Any) -> dict[str, Any]:
    return {
        "href": str(path),
        "type": COG,
        "roles": ["data"],
        "proj:shape": list(shape),
        "proj:transform": [gsd, 0, LEFT, 0, -gsd, TOP],
        **more,
    }


def item(
    name: str = "S2A_32TPS_20230601_0_L2A", *, assets: dict[str, Any] | None = None, **properties: Any
) -> dict[str, Any]:
    """An item of Earth Search v1, without a baseline unless one is given."""
    west, south, east, north = BOX
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-l2a",
        "bbox": BOX,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "links": [],
        "assets": assets or {},
        "properties": {
            "datetime": "2023-06-01T10:16:11.024000Z",
            "platform": "sentinel-2a",
            "proj:epsg": EPSG,
            **properties,
        },
    }


def scene(folder: Path, rng: np.random.Generator, *, size: int = 192) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Files of a small tile with three pixel sizes and a scene classification, and the assets that name them (relative)."""
    assets, stored = {}, {}
    for band, gsd in GSD.items():
        shape = (size * 10 // gsd, size * 10 // gsd)
        values = (
            rng.integers(1, 12, shape, dtype=np.uint8)
            if band == "SCL"
            else rng.integers(1001, 9000, shape, dtype=np.uint16)
        )
        values[: 60 // gsd, : 120 // gsd] = 0
        write_cog(folder / f"{band}.tif", values, gsd=gsd)
        bands = (
            {}
            if band == "SCL"
            else {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": -0.1}]}
        )
        assets[COMMON[band]] = asset(f"./{band}.tif", shape, gsd, **bands)
        stored[band] = values
    return assets, stored


def card(catalog: str = "item.json", *, bands: tuple[str, ...] = ("B02", "B05", "B09"), **changes: Any) -> Card:
    named = {
        key: changes.pop(key) for key in ("collections", "bbox", "datetime", "query", "limit", "sign") if key in changes
    }
    values: dict[str, Any] = {
        "name": "stac_set",
        "title": "t",
        "sensor": "sentinel2_l2a",
        "reader": "stac",
        "bands": bands,
        "gsd_m": 10.0,
        "quantity": Quantity.BOA_REFLECTANCE,
        "resampling": {"default": "bilinear"},
        "licence": "l",
        "attribution": "a",
        "source": "s",
    }
    return Card(**{**values, **changes}, stac=Stac(catalog=catalog, **named))


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def only(known: Card, root: Path, *, allow_outside: bool = False) -> Product:
    (product,) = list_products(known, root, allow_outside=allow_outside).products
    return product


@pytest.fixture
def tile(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]]:
    """A catalogue with one item of baseline 05.09, its assets beside it, named relative to it."""
    folder = tmp_path / "2023" / "tile"
    assets, stored = scene(folder, rng, size=192)
    said = item(assets=assets, **{"s2:processing_baseline": "05.09"})
    write(folder / "item.json", said)
    links = [
        {"rel": "child", "href": "./2023/collection.json"},
        {"rel": "self", "href": "https://example.org/catalog.json"},
    ]
    write(
        tmp_path / "catalog.json",
        {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "d", "links": links},
    )
    links = [{"rel": "item", "href": "tile/item.json"}, {"rel": "parent", "href": "../catalog.json"}]
    write(tmp_path / "2023" / "collection.json", {"type": "Collection", "id": "y", "links": links})
    return tmp_path, said, stored
