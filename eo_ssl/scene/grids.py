"""Grids of rasters as ``odc.geo.GeoBox``: north-up, ``x = c + a * column``, ``y = f + e * row`` at pixel corners.

An image without georeference has a grid without reference system, whose coordinates are pixels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer

from eo_ssl.errors import UserError, expect

_SAME_GSD = 0.02  # relative; decimated copies round their pixel size (159.825 m for "160 m")
_SAME_GROUND = 0.15  # relative; pixels of degrees are round numbers (0.0001 is 11.1 m for "10 m"), projections distort
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


def is_same_gsd(gsd_m: float, declared_m: float, *, tolerance: float = _SAME_GSD) -> bool:
    """Return whether a file's pixel size is the declared one, up to the rounding of decimated copies."""
    return abs(gsd_m - declared_m) <= tolerance * declared_m


def find_other_size(grid: GeoBox, declared_m: float) -> str:
    """Return the size of a grid's pixels in words where it is not ``declared_m``, empty where it is.

    Metres of the ground count, whatever the unit of the reference system: within 15 %, because pixels of degrees are
    round numbers; in a projected system within 2 % of what a pixel is by the system's own unit, or on the ground (a
    Mercator metre at 45 degrees is 0.7 m). A grid without reference system has no size.

    Raises:
        UserError: the grid lies outside the area of its reference system.
    """
    if grid.crs is None:
        return ""
    ground, unit_m = measure_pixel_m(grid), measure_unit_m(grid)
    own = (abs(grid.affine.a) * unit_m, abs(grid.affine.e) * unit_m) if unit_m else ()
    if own and not any(all(is_same_gsd(side, declared_m) for side in sides) for sides in (own, ground)):
        return " x ".join(dict.fromkeys(f"{side:g}" for side in own)) + " m"
    if all(is_same_gsd(side, declared_m, tolerance=_SAME_GROUND) for side in ground):
        return ""
    return " x ".join(dict.fromkeys(f"{side:.3g}" for side in ground)) + " m on the ground"


def check_place(grid: GeoBox, *, name: str) -> None:
    """Refuse a grid that is not north-up, or whose reference system has no place on Earth.

    Args:
        grid: of a file or card; one without reference system passes.
        name: what errors call it.

    Raises:
        UserError: rows or columns are rotated, rows run northwards (the image is upside down) or columns westwards, or
            the reference system is a local, vertical or geocentric one.
    """
    if grid.crs is None:
        return
    a, b, _, d, e, _ = tuple(grid.affine)[:6]
    wrong = (
        "a rotated one"
        if b or d
        else "rows from south to north"
        if e > 0
        else "columns from east to west"
        if a < 0
        else ""
    )
    expect(
        not wrong, expected="north-up rasters", got=f"{wrong} in {name}", remedy="rectify the files first (gdalwarp)"
    )
    if _find_unit(str(grid.crs)) is None:
        reference = CRS.from_user_input(str(grid.crs))
        raise UserError(
            f"expected a reference system with a place on Earth in {name}, got {reference.name!r} "
            f"({reference.type_name}); georeference the file in a geographic or projected "
            "system"
        )


def measure_pixel_m(grid: GeoBox) -> tuple[float, float]:
    """Return width and height of the middle pixel in metres on the ground, from whatever unit its system has.

    Raises:
        UserError: the reference system has no place on Earth, or the grid lies outside its area.
    """
    to_geodetic, geod, degrees = _relate_to_earth(str(grid.crs))
    column, row = grid.width / 2, grid.height / 2
    ends = [(column - 0.5, row), (column + 0.5, row), (column, row - 0.5), (column, row + 0.5)]
    x, y = np.array([grid.affine * end for end in ends]).T
    place = np.array(to_geodetic.transform(x, y)) * degrees
    expect(
        bool(np.isfinite(place).all()),
        expected=f"the grid to lie within the area of {str(grid.crs)[:40]}",
        got=f"the transform {read_transform(grid)}",
        remedy="correct crs or transform of the file or card",
    )
    (lon, other_lon), (lat, other_lat) = place.reshape(2, 2, 2).swapaxes(1, 2)
    _, _, sides = geod.inv(lon, lat, other_lon, other_lat)
    return float(sides[0]), float(sides[1])


def measure_unit_m(grid: GeoBox) -> float:
    """Return how many metres a unit of a projected system is (1, or 0.3048 for feet), 0 for degrees or without one."""
    return (_find_unit(str(grid.crs)) or 0.0) if grid.crs is not None else 0.0


def is_metric(grid: GeoBox) -> bool:
    """Return whether the grid's units are metres."""
    return measure_unit_m(grid) == 1.0


@lru_cache(maxsize=256)
def _find_unit(crs: str) -> float | None:
    """Metres of a unit of a projected system, 0 for a geographic one, None for one without a place on Earth."""
    reference = CRS.from_user_input(crs)
    if reference.is_projected:
        return float(reference.axis_info[0].unit_conversion_factor)
    return 0.0 if reference.is_geographic else None


@lru_cache(maxsize=256)
def _relate_to_earth(crs: str) -> tuple[Transformer, Geod, float]:
    """Transformer to longitude and latitude of the system's own datum, its ellipsoid, and degrees of a unit of them."""
    reference = CRS.from_user_input(crs)
    own = reference.geodetic_crs or reference
    degrees = float(np.degrees(own.axis_info[0].unit_conversion_factor))  # some systems count in grads
    return Transformer.from_crs(reference, own, always_xy=True), reference.get_geod() or Geod(ellps="WGS84"), degrees
