"""Terrain heights above the WGS 84 ellipsoid, from an elevation raster whose datum the card declares.

Radar geometry needs ellipsoid heights. Most elevation models give heights above a geoid, which lies up to 106 m below and 85 m above the
ellipsoid; taken for ellipsoid heights they move a pixel seen at 35 degrees by up to 150 m. A raster seldom says which it has: the card does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from pyproj.exceptions import ProjError

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.manifest import file_sha256
from eo_ssl.scene import handles
from eo_ssl.scene.grid import Grid
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.rasters import check_gsd, is_metric, with_own_nodata
from eo_ssl.sensors import Quantity

Range = tuple[int, int]
_GEOIDS = {"egm96": "us_nga_egm96_15.tif", "egm2008": "us_nga_egm08_25.tif"}
"""Grids of geoid heights as PROJ names them (cdn.proj.org, us_nga_README)."""
_EARTH_M = (-12_000.0, 9_000.0)  # deepest trench and highest summit, with room for the geoid


@dataclass(frozen=True, slots=True)
class Elevation:
    """An elevation raster that can be read by window."""

    path: Path
    grid: Grid
    datum: str
    "ellipsoid, egm96 or egm2008"
    nodata: tuple[float, ...]
    content: tuple[str, int, int]
    "what identifies the present content of the file"

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.float64]:
        """Return metres above the ellipsoid [y, x] float64 of a half-open window that may reach beyond the raster; NaN where unknown.

        Raises:
            UserError: the file is damaged, its values are no heights, or the geoid's grid is absent.
        """
        out = np.full((rows[1] - rows[0], columns[1] - columns[0]), np.nan)
        inner = [
            (max(part[0], 0), min(part[1], size)) for part, size in zip((rows, columns), self.grid.shape, strict=True)
        ]
        if any(low >= high for low, high in inner):
            return out
        stored = handles.read(self.path, (1,), rows=inner[0], columns=inner[1])[0]
        heights = Radiometry(Quantity.DN, 1.0, 0.0, self.nodata).physical(stored).astype(np.float64)
        known = heights[np.isfinite(heights)]
        if known.size and not (_EARTH_M[0] <= known.min() and known.max() <= _EARTH_M[1]):
            raise UserError(
                f"expected heights in metres in {self.path}, got {known.min():g} to {known.max():g}; convert the file, or declare its nodata value in it"
            )
        if self.datum != "ellipsoid":
            heights += self._geoid(inner[0], inner[1])
        out[inner[0][0] - rows[0] : inner[0][1] - rows[0], inner[1][0] - columns[0] : inner[1][1] - columns[0]] = (
            heights
        )
        return out

    def _geoid(self, rows: Range, columns: Range) -> npt.NDArray[np.float64]:
        """Heights of the geoid above the ellipsoid [y, x] in metres."""
        y, x = self.grid.centres()
        eastings, northings = np.meshgrid(x[slice(*columns)], y[slice(*rows)])
        to_degrees, undulation = _transformers(self.grid.crs, self.datum)
        longitude, latitude = to_degrees.transform(eastings, northings)
        heights = np.asarray(undulation.transform(longitude, latitude, np.zeros_like(longitude))[2])
        if not np.isfinite(heights).all():
            raise UserError(
                f"expected the grid {_GEOIDS[self.datum]} to cover {self.path}, got no geoid height for part of it; fetch the whole grid or convert the DEM"
            )
        return heights


def open_elevation(card: Card, root: Path) -> Elevation:
    """Return the elevation raster that ``card.radar`` names, checked.

    Raises:
        UserError: the card names none or not its datum, the file is absent, has no metric north-up grid of the card's ``gsd_m``, or
            the grid of the declared geoid is not at hand.
    """
    radar = card.radar
    if radar is None or not radar.dem or not radar.dem_datum:
        missing = "radar.dem" if radar is None or not radar.dem else "radar.dem_datum"
        raise UserError(
            f"expected `{missing}` in card {card.name} with geocoding terrain, got none; name the elevation raster and what its heights are above"
        )
    path = root / radar.dem
    grid = handles.grid_of(path)
    if not is_metric(grid) or grid.transform[1] or grid.transform[3]:
        raise UserError(
            f"expected a north-up elevation raster in metres (UTM) in {path}, got {grid.crs[:40] or 'no reference system'}; "
            "reproject it to the grid that the pixels shall have"
        )
    check_gsd(card, grid, path=path)
    if radar.dem_datum != "ellipsoid":
        _transformers(grid.crs, radar.dem_datum)
    nodata = with_own_nodata(Radiometry(Quantity.DN, 1.0, 0.0, ()), path, index=1).nodata
    return Elevation(path, grid, radar.dem_datum, nodata, handles.stamp(path))


def elevation_sha256(card: Card, root: Path) -> str:
    """Return the sha256 (hex) of the file that ``card.radar`` names, computed once per process.

    Raises:
        UserError: the file is absent.
    """
    return _sha256(handles.stamp(root / card.radar.dem)) if card.radar else ""


@lru_cache(maxsize=16)
def _sha256(content: tuple[str, int, int]) -> str:
    return file_sha256(Path(content[0]))


@lru_cache(maxsize=16)
def _transformers(crs: str, datum: str) -> tuple[Any, Any]:
    """Return the transformers to longitude and latitude, and from (longitude, latitude, 0) to the geoid's height above the ellipsoid."""
    pipeline = (
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad "
        f"+step +proj=vgridshift +grids={_GEOIDS[datum]} +multiplier=1 +step +proj=unitconvert +xy_in=rad +xy_out=deg"
    )
    try:
        undulation = pyproj.Transformer.from_pipeline(pipeline)
    except ProjError as error:
        raise UserError(
            f"expected the geoid grid {_GEOIDS[datum]} among PROJ's data to convert {datum} heights, found none; run "
            f"`pyproj sync --file {_GEOIDS[datum]}`, or convert the DEM to ellipsoid heights and declare dem_datum ellipsoid"
        ) from error
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True), undulation
