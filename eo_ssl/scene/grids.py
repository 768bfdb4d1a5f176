"""Grids of rasters as ``odc.geo.GeoBox``: north-up, ``x = c + a * column``, ``y = f + e * row`` at pixel corners.

An image without georeference has a grid without reference system, whose coordinates are pixels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS

from eo_ssl.errors import expect

_SAME_GSD = 0.02  # relative; decimated copies round their pixel size (159.825 m for "160 m")
_ROUNDING = 1e-6  # pixels


def make_grid(height: int, width: int, transform: tuple[float, ...] = (), crs: str = "") -> GeoBox:
    """Return a grid of ``height`` x ``width`` pixels.

    Args:
        height: rows.
        width: columns.
        transform: affine a, b, c, d, e, f.
        crs: EPSG code or WKT.

    Without transform or reference system the pixels have no georeference.
    """
    if not transform or not crs:
        return GeoBox((height, width), Affine.identity(), None)
    return GeoBox((height, width), Affine(*transform), crs)


def read_transform(grid: GeoBox) -> tuple[float, ...]:
    """Return the affine transform a, b, c, d, e, f, empty without georeference."""
    return () if grid.crs is None else tuple(grid.affine)[:6]


def read_crs(grid: GeoBox) -> str:
    """Return the EPSG code or WKT of the reference system, empty without georeference."""
    return "" if grid.crs is None else str(grid.crs)


def measure_gsd(grid: GeoBox) -> float:
    """Return the height of a pixel in CRS units, 0 without georeference."""
    return 0.0 if grid.crs is None else abs(grid.affine.e)


def locate_pixels(grid: GeoBox) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return y [height] and x [width] of the pixel centres in CRS units, or pixel indices without georeference."""
    rows, columns = np.arange(grid.height, dtype=np.float64), np.arange(grid.width, dtype=np.float64)
    if grid.crs is None:
        return rows, columns
    a, _, c, _, e, f = tuple(grid.affine)[:6]
    return f + e * (rows + 0.5), c + a * (columns + 0.5)


def rescale_grid(grid: GeoBox, gsd_m: float) -> GeoBox:
    """Return the extent of a grid at pixels of ``gsd_m``; a remainder smaller than a pixel is left out."""
    a, b, c, d, e, f = tuple(grid.affine)[:6]
    height = int(grid.height * abs(e) / gsd_m + _ROUNDING)
    width = int(grid.width * abs(a) / gsd_m + _ROUNDING)
    transform = Affine(float(np.sign(a)) * gsd_m, b, c, d, float(np.sign(e)) * gsd_m, f)
    return GeoBox((max(height, 1), max(width, 1)), transform, grid.crs)


def is_same_gsd(gsd_m: float, declared_m: float) -> bool:
    """Return whether a file's pixel size is the declared one, up to the rounding of decimated copies."""
    return abs(gsd_m - declared_m) <= _SAME_GSD * declared_m


@lru_cache(maxsize=256)
def compute_gsd_m(crs: str, transform: tuple[float, ...], shape: tuple[int, int]) -> tuple[float, float]:
    """Return width and height of the middle pixel of a grid in metres.

    Degrees are measured along the ellipsoid, feet and other units converted.

    Args:
        crs: EPSG code or WKT.
        transform: affine a, b, c, d, e, f.
        shape: rows and columns.

    Raises:
        UserError: the reference system has no place on Earth.
    """
    reference = pyproj.CRS.from_user_input(crs)
    expect(
        reference.is_projected or reference.is_geographic,
        expected="a projected or geographic reference system",
        got=f"{reference.name!r}, which has no place on Earth",
        remedy="georeference the file",
    )
    a, b, c, d, e, f = transform[:6]
    if reference.is_projected:
        unit_m = float(reference.axis_info[0].unit_conversion_factor)
        return float(np.hypot(a, d)) * unit_m, float(np.hypot(b, e)) * unit_m
    row, column = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    lon, lat = c + a * (column + 0.5) + b * (row + 0.5), f + d * (column + 0.5) + e * (row + 0.5)
    degree = np.degrees(float(reference.axis_info[0].unit_conversion_factor))  # 1 but for grads
    ends = ((lon - a / 2, lat - d / 2, lon + a / 2, lat + d / 2), (lon - b / 2, lat - e / 2, lon + b / 2, lat + e / 2))
    ellipsoid = reference.get_geod() or pyproj.Geod(ellps="WGS84")
    across, down = (ellipsoid.inv(*(degree * np.array(end)))[2] for end in ends)
    return float(across), float(down)


def is_metric(grid: GeoBox) -> bool:
    """Return whether the grid's units are metres, so that its pixel size can be compared with a card's."""
    return grid.crs is not None and _is_metric(str(grid.crs))


@lru_cache(maxsize=256)
def _is_metric(crs: str) -> bool:
    reference = CRS.from_user_input(crs)
    return bool(reference.is_projected) and str(reference.linear_units).lower() in ("metre", "meter")
