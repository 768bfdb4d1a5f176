"""Sentinel-2 products in SAFE format for the benchmarks: made once per machine, kept in a cache."""

from __future__ import annotations

import os
from pathlib import Path

from worlds.safe import S2SafeSpec, make_s2_safe

FULL_PX = 10_980


def product_folder(size_px: int) -> Path:
    """Return the folder that holds one Level-1C product of 13 bands, ``size_px`` 10 m pixels on a side, made if it is not there."""
    cache = Path(os.environ.get("EO_SSL_CACHE", Path.home() / ".cache" / "eo_ssl")) / "bench" / f"s2_l1c_{size_px}"
    if not list(cache.glob("*.SAFE")):
        cache.mkdir(parents=True, exist_ok=True)
        make_s2_safe(cache, S2SafeSpec(level="L1C", baseline="05.09", size_px=size_px, edge=False))
    return cache


def jp2_bytes(folder: Path) -> tuple[int, int]:
    """Return bytes and pixels of the band images of the product in ``folder``."""
    import rasterio

    bands = [path for path in folder.glob("*.SAFE/GRANULE/*/IMG_DATA/*.jp2") if not path.stem.endswith("TCI")]
    pixels = 0
    for path in bands:
        with rasterio.open(path) as file:
            pixels += file.width * file.height
    return sum(path.stat().st_size for path in bands), pixels
