"""Outlines of tiles on the ground: read from the index, laid on a plane, overlapped, and mapped pixel to pixel.

All is done on the unit sphere and on planes that touch it, so that neither the antimeridian nor the borders of zones
are special. Within a tile such a plane differs from the tile's own grid by less than its size^3 / (6 R^2), some
millimetres for 5 km, and the ellipsoid's flattening is a change of scale common to both tiles, which drops out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from eo_ssl.curation.weights import Doubles

EARTH_M = 6_371_008.8  # mean radius (Moritz 2000, Geodetic Reference System 1980)
_SEAM = 180.0 - 1e-9  # degrees: corners that a cut along the antimeridian adds lie here
_POLYGON, _MULTI_POLYGON = 3, 6  # type numbers of shapely


def read_outlines(geometry: pa.Array | pa.ChunkedArray, epsg: NDArray[np.integer[Any]]) -> Doubles:
    """Return the corners of tiles as the index holds them: longitude and latitude in degrees, float64 [n, 4, 2].

    In the order lower left, lower right, upper right, upper left of the *pixels* (which a south-up or turned grid has
    elsewhere on the ground); NaN where a tile has no place or no four corners.

    A ring keeps the order it was written in. One that was cut along the antimeridian has lost it and is taken to be
    north up; one of a chip (``epsg`` 0) that runs clockwise begins at the upper left.

    Args:
        geometry: WKB of polygons or multipolygons in OGC:CRS84, null where unknown.
        epsg: of the tile's grid, int [n]; 0 for chips, whose readers begin the ring at another corner.
    """
    shapes = shapely.from_wkb(geometry.to_numpy(zero_copy_only=False))
    corners = np.full((len(shapes), 4, 2), np.nan)
    kinds, counts = shapely.get_type_id(shapes), shapely.get_num_coordinates(shapes)
    rings = (kinds == _POLYGON) & (counts == 5)
    corners[rings] = shapely.get_coordinates(shapes[rings]).reshape(-1, 5, 2)[:, :4]
    clockwise = rings & (np.asarray(epsg) == 0)
    clockwise[clockwise] = [not shapely.is_ccw(ring) for ring in shapely.get_exterior_ring(shapes[clockwise])]
    corners[clockwise] = corners[clockwise, ::-1]
    for row in np.flatnonzero(kinds == _MULTI_POLYGON).tolist():
        corners[row] = _order_cut_corners(shapely.get_coordinates(shapes[row]))
    return corners


def _order_cut_corners(points: Doubles) -> Doubles:
    """Return the four corners among ``points`` [k, 2] of a cut ring, as of a north-up tile; NaN if there are others."""
    real = np.unique(points[np.abs(points[:, 0]) < _SEAM], axis=0)
    if len(real) != 4:
        return np.full((4, 2), np.nan)
    plane = lay_on_plane(place_on_sphere(real)[None], place_on_sphere(real).mean(axis=0)[None])[0]
    east, north = plane.T
    picked = [np.argmin(east + north), np.argmax(east - north), np.argmax(east + north), np.argmin(east - north)]
    return real[picked]


def place_on_sphere(lonlat: Doubles) -> Doubles:
    """Return the unit vectors [..., 3] of longitudes and latitudes in degrees [..., 2]."""
    lon, lat = np.radians(lonlat[..., 0]), np.radians(lonlat[..., 1])
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def lay_on_plane(vectors: Doubles, centre: Doubles) -> Doubles:
    """Return points [n, k, 3] of the sphere in metres east and north of ``centre`` [n, 3] on its plane: [n, k, 2].

    Orthographic projection, in which the pixels of a tile are a parallelogram.
    """
    up = centre / np.linalg.norm(centre, axis=-1, keepdims=True)
    east = np.stack([-up[:, 1], up[:, 0], np.zeros(len(up))], axis=-1)
    length = np.linalg.norm(east, axis=-1, keepdims=True)
    east = np.where(length > 1e-12, east / np.maximum(length, 1e-12), [[0.0, 1.0, 0.0]])  # anywhere at a pole
    north = np.cross(up, east)
    return EARTH_M * np.stack([np.einsum("nkc,nc->nk", vectors, axis) for axis in (east, north)], axis=-1)


def measure_areas(first: Doubles, second: Doubles) -> tuple[Doubles, Doubles]:
    """Return areas of outlines ``first`` [n, 4, 2] on a plane and of what they share with ``second``: float64 [n] each.

    Both in square metres.
    """
    one, other = (shapely.convex_hull(shapely.polygons(outline)) for outline in (first, second))  # valid whatever came
    return shapely.area(one), shapely.area(shapely.intersection(one, other))


def map_pixels(first: Doubles, first_px: Doubles, second: Doubles, second_px: Doubles) -> Doubles:
    """Return how pixels of the first tiles lie among those of the second, as affine maps float64 [n, 2, 3].

    ``map @ (row, column, 1)`` is row and column in the second tile, counted from the upper left corner of its first
    pixel (whose centre is at 0.5, 0.5).

    Args:
        first: outlines on a plane, [n, 4, 2], in the order of `read_outlines`.
        first_px: height and width of their windows in pixels, [n, 2].
        second: outlines of the others on the same planes.
        second_px: height and width of those.
    """
    (origin, steps), (other, other_steps) = _lay_axes(first, first_px), _lay_axes(second, second_px)
    back = np.linalg.inv(other_steps)
    shift = np.einsum("nij,nj->ni", back, origin - other)
    return np.concatenate([back @ steps, shift[..., None]], axis=-1)


def _lay_axes(outline: Doubles, size_px: Doubles) -> tuple[Doubles, Doubles]:
    """Return the upper left corner [n, 2] and the steps per row and column [n, 2, (row, column)] of outlines."""
    low_left, low_right, up_right, up_left = np.moveaxis(outline, 1, 0)
    down = (low_left - up_left + low_right - up_right) / (2 * size_px[:, :1])
    right = (low_right - low_left + up_right - up_left) / (2 * size_px[:, 1:])
    origin = outline.mean(axis=1) - (down * size_px[:, :1] + right * size_px[:, 1:]) / 2
    return origin, np.stack([down, right], axis=-1)
