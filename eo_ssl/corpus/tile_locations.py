"""Where tiles lie on Earth: cells, footprints in longitude and latitude, and the split by location."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from eo_ssl.errors import UserError
from eo_ssl.tiling import locate_cells, name_location

Affine6 = tuple[float, float, float, float, float, float]
Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TileLocations:
    """Where n tiles lie."""

    bbox: Points
    "float64 [n, 4]: xmin, ymin, xmax, ymax in OGC:CRS84 degrees; NaN without CRS; xmin > xmax across the antimeridian"
    geometry: list[bytes | None]
    "WKB polygons in OGC:CRS84"
    location: list[str]


@lru_cache(maxsize=64)
def resolve_epsg(crs: str) -> int:
    """Return the EPSG code of ``crs``, 0 for a system without one.

    Raises:
        UserError: the text names no coordinate reference system.
    """
    try:
        return int(CRS.from_user_input(crs).to_epsg() or 0)
    except CRSError as error:
        raise UserError(
            f"expected a coordinate reference system such as EPSG:32629, got {crs[:60]!r}; correct the card or the file"
        ) from error


def find_far_centre(crs: str, west: float, east: float) -> float | None:
    """Return the middle of longitudes that run on beyond -180 or 180 degrees, as of a mosaic from 0 to 360.

    None where they do not, or the system has other coordinates than degrees.
    """
    reference = CRS.from_user_input(crs)
    degrees = reference.is_geographic and math.isclose(reference.axis_info[0].unit_conversion_factor, math.pi / 180)
    return (west + east) / 2 if degrees and (west < -180 or east > 180) else None


def centre_longitudes(crs: str, centre: float) -> str:
    """Return a geographic ``crs`` as WKT by which GDAL counts longitudes from ``centre - 180`` to ``centre + 180``.

    Its own count from -180 to 180 degrees misses the pixels of a file that runs on beyond. The extension is GDAL's
    (``OGRCoordinateTransformation``, CENTER_LONG) and leaves the datum as it is. The name says the centre too, because
    GDAL keeps transformations by the system without its extensions and would use that of another centre again.
    """
    text = CRS.from_user_input(crs).to_2d().to_wkt("WKT1_GDAL")
    before, _, code = text.rpartition(',AUTHORITY["')
    whole = before if code.count("]") == 2 else text.removesuffix("]")
    named = whole.replace('GEOGCS["', f'GEOGCS["about {centre!r}: ', 1)
    return f'{named},EXTENSION["CENTER_LONG","{centre!r}"]]'


def is_utm(epsg: int) -> bool:
    """Whether ``epsg`` is a WGS 84 UTM zone."""
    return 32601 <= epsg <= 32660 or 32701 <= epsg <= 32760


def find_utm_zone(lon: float, lat: float) -> int:
    """Return the EPSG code of the WGS 84 UTM zone of a point, without the exceptions of Norway and Svalbard."""
    number = min(int((lon + 180) // 6) % 60 + 1, 60)
    return (32600 if lat >= 0 else 32700) + number


@lru_cache(maxsize=64)
def make_transformer(source: str, target: str) -> Transformer:
    """Return a transformer with x (or longitude) first on both sides.

    Raises:
        UserError: nothing leads from one system to the other, as from a local one to the Earth.
    """
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise UserError(
            f"expected a reference system with a place on Earth, got {source[:60]!r}; correct the card or the file"
        ) from error


def locate_corners(windows: npt.NDArray[np.int32], transform: Affine6) -> Points:
    """Return the corners of ``windows`` [n, 4] in CRS units, float64 [n, 4, 2], anticlockwise from the lower left."""
    a, b, c, d, e, f = transform
    row, col, height, width = windows.astype(np.float64).T
    rows = np.stack([row + height, row + height, row, row], axis=1)
    cols = np.stack([col, col + width, col + width, col], axis=1)
    return np.stack([a * cols + b * rows + c, d * cols + e * rows + f], axis=-1)


@dataclass(frozen=True, slots=True)
class ProductGrid:
    """The grid of a product on Earth."""

    crs: str
    "empty if unknown; then every tile of the product is at one location, its name"
    transform: Affine6 | tuple[()]
    "a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f"
    zone: int
    "EPSG code of the UTM zone whose cells name locations, 0 without CRS"
    cell_m: float
    "side of a location cell in metres"
    name: str
    "of the product (or chip)"

    @classmethod
    def of(
        cls, crs: str, transform: Affine6 | tuple[()], *, shape: tuple[int, int], cell_m: float, name: str
    ) -> ProductGrid:
        """Return the frame of a product of ``shape`` (height, width).

        A CRS that is no UTM zone takes the zone of the product's middle.
        """
        if not crs or not transform:
            return cls("", (), 0, cell_m, name)
        zone = resolve_epsg(crs)
        if not is_utm(zone):
            middle = locate_corners(np.array([[0, 0, *shape]], dtype=np.int32), transform)[0].mean(axis=0)
            lon, lat = make_transformer(crs, "OGC:CRS84").transform(*middle)
            if not (math.isfinite(lon) and math.isfinite(lat)):
                raise UserError(
                    f"expected {name} to lie within the area of {crs}, got a place outside it; correct crs or "
                    "transform of the card"
                )
            zone = find_utm_zone(lon, lat)
        return cls(crs, transform, zone, cell_m, name)


def locate(windows: npt.NDArray[np.int32], frame: ProductGrid) -> TileLocations:
    """Return where the tiles ``windows`` (int32 [n, 4] row, col, height, width) of a product lie.

    Raises:
        UserError: a tile lies where the CRS is not defined.
    """
    count = len(windows)
    if not frame.transform or count == 0:
        return TileLocations(np.full((count, 4), np.nan), [None] * count, [frame.name] * count)
    ring = locate_corners(windows, frame.transform)
    lon, lat = make_transformer(frame.crs, "OGC:CRS84").transform(ring[..., 0], ring[..., 1])
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise UserError(
            f"expected {frame.name} to lie within the area of {frame.crs}, got coordinates outside it; correct crs "
            "or transform of the card"
        )
    bbox, geometry = _footprints(np.asarray(lon), np.asarray(lat))
    centre = ring.mean(axis=1)
    x, y = centre[:, 0], centre[:, 1]
    if resolve_epsg(frame.crs) != frame.zone:
        x, y = make_transformer(frame.crs, f"EPSG:{frame.zone}").transform(x, y)
    rows, cols = locate_cells(x, y, cell_m=frame.cell_m)
    return TileLocations(
        bbox, geometry, [name_location(frame.zone, row, col) for row, col in zip(rows, cols, strict=True)]
    )


def locate_footprint(corners: Sequence[Sequence[float]], *, cell_m: float) -> TileLocations:
    """Return where one tile lies that is known by its corners (longitude, latitude in degrees, OGC:CRS84) in order.

    Its location is the cell of the UTM zone of its middle, as for tiles of a product in another system.

    Raises:
        UserError: there are fewer than three corners, or one is no place on Earth.
    """
    ring = np.asarray(corners, dtype=np.float64)
    if ring.ndim != 2 or len(ring) < 3 or not (np.abs(ring) <= (180, 90)).all():  # False for NaN
        raise UserError(
            "expected at least three corners as longitude and latitude in degrees, got "
            f"{np.round(ring, 3).tolist()}; correct the product's geolocation"
        )
    lon, lat = ring.T
    east = np.where((lon < 0) & (lon.max() - lon.min() > 180), lon + 360, lon)
    middle = (float(east.mean()) + 180) % 360 - 180, float(lat.mean())
    bbox, geometry = _footprints(lon[None], lat[None])
    zone = find_utm_zone(*middle)
    x, y = make_transformer("OGC:CRS84", f"EPSG:{zone}").transform(*middle)
    row, col = (int(value) for value in locate_cells(x, y, cell_m=cell_m))
    return TileLocations(bbox, geometry, [name_location(zone, row, col)])


def _footprints(lon: Points, lat: Points) -> tuple[Points, list[bytes | None]]:
    """Return bounding boxes and WKB polygons of rings of corners [n, k].

    Those across the antimeridian are cut in two.
    """
    lon = (lon + 180) % 360 - 180
    crosses = lon.max(axis=1) - lon.min(axis=1) > 180
    east = np.where(crosses[:, None] & (lon < 0), lon + 360, lon)
    shapes = shapely.polygons(np.stack([east, lat], axis=-1))
    for i in np.flatnonzero(east.max(axis=1) > 180):
        west = shapely.intersection(shapes[i], shapely.box(180, -90, 540, 90))
        shapes[i] = shapely.union(
            shapely.intersection(shapes[i], shapely.box(-180, -90, 180, 90)),
            shapely.transform(west, lambda points: points - (360, 0)),
        )
    xmax = east.max(axis=1)
    bbox = np.stack(
        [east.min(axis=1), lat.min(axis=1), np.where(xmax > 180, xmax - 360, xmax), lat.max(axis=1)], axis=1
    )
    wkb: Any = shapely.to_wkb(shapes, byte_order=1)
    return bbox, list(wkb)


def assign_split(location: str, *, shares: tuple[float, float, float], seed: int) -> str:
    """Return ``train``, ``val`` or ``test``.

    Decided by the place alone, so that no place is in two splits whatever its dates.
    """
    digest = hashlib.blake2b(f"{seed}/{location}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "little") / 2**64
    if position < shares[0]:
        return "train"
    return "val" if position < shares[0] + shares[1] or math.isclose(shares[2], 0.0) else "test"
