"""Terrain heights above the WGS 84 ellipsoid, from an elevation raster whose datum the card declares.

Radar geometry needs ellipsoid heights. Most elevation models give heights above a geoid, which lies up to 106 m below
and 85 m above the ellipsoid; taken for ellipsoid heights they move a pixel seen at 35 degrees by up to 150 m. A raster
seldom says which it has: the card does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene import gdal_files
from eo_ssl.scene.band_stack import add_own_nodata, check_gsd
from eo_ssl.scene.grids import is_metric, locate_pixels, read_crs
from eo_ssl.scene.layers import Range
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.raster_facts import check_single_band, list_masks
from eo_ssl.sensors import Quantity

_GEOIDS = {"egm96": "us_nga_egm96_15.tif", "egm2008": "us_nga_egm08_25.tif"}
"""Grids of geoid heights as PROJ names them (cdn.proj.org, us_nga_README)."""
_EARTH_M = (-12_000.0, 9_000.0)  # deepest trench and highest summit, with room for the geoid


@dataclass(frozen=True, slots=True)
class Elevation:
    """An elevation raster that can be read by window."""

    path: Path
    grid: GeoBox
    datum: str
    "ellipsoid, egm96 or egm2008"
    nodata: tuple[float, ...]
    content: FileIdentity
    "what identifies the present content of the file"
    masks: tuple[gdal_files.MaskBand, ...] = ()
    "masks and alpha bands of the file that say which heights are known, beside nodata values"
    beside: FileIdentity | None = None
    "what identifies the mask that lies beside the file, where one does"

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.float64]:
        """Return metres above the ellipsoid [y, x] float64 of a half-open window that may reach beyond the raster.

        NaN where unknown.

        Raises:
            UserError: the file is damaged, its values are no heights, or the geoid's grid is absent.
        """
        out = np.full((rows[1] - rows[0], columns[1] - columns[0]), np.nan)
        inner = [
            (max(part[0], 0), min(part[1], size))
            for part, size in zip((rows, columns), self.grid.shape.yx, strict=True)
        ]
        if any(low >= high for low, high in inner):
            return out
        stored = gdal_files.read_window(self.path, (1,), rows=inner[0], columns=inner[1])[0]
        heights = Radiometry(Quantity.DN, 1.0, 0.0, self.nodata).physical(stored).astype(np.float64)
        if self.masks:
            for masked in gdal_files.read_masks(self.path, self.masks, rows=inner[0], columns=inner[1]).values():
                heights[masked] = np.nan
        known = heights[np.isfinite(heights)]
        if known.size and not (_EARTH_M[0] <= known.min() and known.max() <= _EARTH_M[1]):
            raise UserError(
                f"expected heights in metres in {self.path}, got {known.min():g} to {known.max():g}; convert the file, "
                "or declare its nodata value in it"
            )
        if self.datum != "ellipsoid":
            heights += self._geoid(inner[0], inner[1])
        out[inner[0][0] - rows[0] : inner[0][1] - rows[0], inner[1][0] - columns[0] : inner[1][1] - columns[0]] = (
            heights
        )
        return out

    def _geoid(self, rows: Range, columns: Range) -> npt.NDArray[np.float64]:
        """Heights of the geoid above the ellipsoid [y, x] in metres."""
        y, x = locate_pixels(self.grid)
        eastings, northings = np.meshgrid(x[slice(*columns)], y[slice(*rows)])
        to_degrees, undulation = _transformers(read_crs(self.grid), self.datum)
        longitude, latitude = to_degrees.transform(eastings, northings)
        heights = np.asarray(undulation.transform(longitude, latitude, np.zeros_like(longitude))[2])
        if not np.isfinite(heights).all():
            raise UserError(
                f"expected the grid {_GEOIDS[self.datum]} to cover {self.path}, got no geoid height for part of it; "
                "fetch the whole grid or convert the DEM"
            )
        return heights


def open_elevation(card: Card, root: Path) -> Elevation:
    """Return the elevation raster that ``card.radar`` names, checked.

    Raises:
        UserError: the card names none or not its datum, the file is absent, has no metric north-up grid of the card's
            ``gsd_m``, or the grid of the declared geoid is not at hand.
    """
    radar = card.radar
    if radar is None or not radar.dem or not radar.dem_datum:
        missing = "radar.dem" if radar is None or not radar.dem else "radar.dem_datum"
        raise UserError(
            f"expected `{missing}` in card {card.name} with geocoding terrain, got none; name the elevation raster and "
            "what its heights are above"
        )
    path = root / radar.dem
    grid = gdal_files.read_grid(path)
    if not is_metric(grid) or grid.affine.b or grid.affine.d:
        raise UserError(
            f"expected a north-up elevation raster in metres (UTM) in {path}, got "
            f"{read_crs(grid)[:40] or 'no reference system'}; "
            "reproject it to the grid that the pixels shall have"
        )
    check_gsd(card, grid, path=path)
    if radar.dem_datum != "ellipsoid":
        _transformers(read_crs(grid), radar.dem_datum)
    check_single_band(path)
    nodata = add_own_nodata(Radiometry(Quantity.DN, 1.0, 0.0, ()), path, index=1).nodata
    beside = gdal_files.find_mask_file(path)
    return Elevation(
        path,
        grid,
        radar.dem_datum,
        nodata,
        identify_file(path),
        masks=list_masks(card, path, 1),
        beside=identify_file(beside) if beside else None,
    )


@lru_cache(maxsize=16)
def _transformers(crs: str, datum: str) -> tuple[Any, Any]:
    """Return transformers to longitude and latitude, and from (longitude, latitude, 0) to the geoid's height."""
    pipeline = (
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad "
        f"+step +proj=vgridshift +grids={_GEOIDS[datum]} +multiplier=1 +step +proj=unitconvert +xy_in=rad +xy_out=deg"
    )
    try:
        undulation = pyproj.Transformer.from_pipeline(pipeline)
    except ProjError as error:
        raise UserError(
            f"expected the geoid grid {_GEOIDS[datum]} among PROJ's data to convert {datum} heights, found none; run "
            f"`pyproj sync --file {_GEOIDS[datum]}`, or convert the DEM to ellipsoid heights and declare dem_datum "
            "ellipsoid"
        ) from error
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True), undulation
