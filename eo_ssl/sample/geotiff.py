"""GeoTIFF bytes: tiled, deflated, one or several bands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.io import MemoryFile

from eo_ssl.sample.spec import PIXEL_M, Site

LARGEST_BLOCK_PX = 192  # divides the default 576 and 288 px; blocks of GeoTIFF are multiples of 16


def encode_geotiff(
    image: npt.NDArray[np.generic], *, epsg: int, transform: Affine, nodata: float | None, bands: Sequence[str]
) -> bytes:
    """Return a GeoTIFF of ``image`` [band, y, x] with its bands described by name; equal input gives equal bytes."""
    count, height, width = image.shape
    block = min(LARGEST_BLOCK_PX, -(-min(height, width) // 16) * 16)
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": image.dtype.name,
        "crs": f"EPSG:{epsg}",
        "transform": transform,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "interleave": "band",
        "compress": "deflate",
        "zlevel": 4,
        "predictor": 3 if image.dtype.kind == "f" else 2,
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(image)
            for number, name in enumerate(bands, start=1):
                file.set_band_description(number, name)
        return bytes(memory.getbuffer())


def build_transform(site: Site, *, factor: int = 1) -> Affine:
    """Return the transform of a place's grid of ``factor`` x 10 m pixels; all share the upper left corner."""
    size = PIXEL_M * factor
    return Affine(size, 0.0, site.left_m, 0.0, -size, site.top_m)
