"""Pixels of an item's assets on the card's grid, each asset read at its own grid by odc-stac.

``odc.stac.load`` is asked for a window of the asset's own grid, which makes it copy pixels instead of warping them; bands of other
pixel sizes reach the common grid by :mod:`eo_ssl.scene.grid`, so that any window has the same bits. The item that odc-stac gets is
made from the asset and its verified header: odc-stac leaves out pixels beyond the footprint an item states, and takes its grid, number
type and nodata on trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from eo_ssl.scene.grid import Grid, Method, Taps, grid_taps, resample
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.rasters import class_values
from eo_ssl.scene.stac import access
from eo_ssl.scene.stac.access import Header

Range = tuple[int, int]
_OUTSIDE = -1
SCL_NODATA = 0


@dataclass(frozen=True, slots=True)
class Pixels:
    """The stored numbers of one asset on its own grid. Opens nothing until read, and keeps nothing open."""

    place: str
    sign: str
    header: Header

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[Any]:
        """Return stored numbers [y, x] of a half-open window of the asset's own grid, in its own number type.

        Raises:
            UserError: the file is absent, unreachable or damaged.
        """
        return load((self,), rows=rows, columns=columns)[0]


def load(assets: Sequence[Pixels], *, rows: Range, columns: Range) -> list[npt.NDArray[Any]]:
    """Return the stored numbers [y, x] of a window of assets that have equal headers; odc-stac's cost per call is paid once.

    Raises:
        UserError: a file is absent, unreachable or damaged.
    """
    import odc.stac  # seconds and hundreds of megabytes, which only processes that read items pay

    header, sign = assets[0].header, assets[0].sign
    places = tuple(asset.place for asset in assets)
    names = [str(number) for number in range(len(places))]
    with access.gdal(" or ".join(places)):
        cube = odc.stac.load(
            [_item(places, header.grid)],
            bands=names,
            geobox=_geobox(header.grid)[rows[0] : rows[1], columns[0] : columns[1]],
            dtype=header.dtype,
            nodata=header.nodata,
            resampling="nearest",
            chunks=None,
            patch_url=partial(access.signed, sign=sign),
            stac_cfg={"*": {"warnings": "ignore"}},
        )
    return [np.asarray(cube[name].values[0]) for name in names]


@lru_cache(maxsize=256)
def _geobox(grid: Grid) -> GeoBox:
    return GeoBox(grid.shape, Affine(*grid.transform), grid.crs)


@lru_cache(maxsize=256)
def _item(places: tuple[str, ...], grid: Grid) -> Any:
    """An item whose assets, named by their number, have the projection that their files were found to have."""
    import pystac

    box = _geobox(grid)
    footprint = box.extent.to_crs("EPSG:4326")
    reference = {"proj:code": grid.crs} if grid.crs.startswith("EPSG:") else {"proj:code": None, "proj:wkt2": grid.crs}
    return pystac.Item.from_dict(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": "asset", "collection": "asset", "links": [],
            "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
            "geometry": footprint.json, "bbox": list(footprint.boundingbox.bbox),
            "properties": {"datetime": "2000-01-01T00:00:00Z", **reference},
            "assets": {
                str(number): {
                    "href": place, "roles": ["data"], "type": "image/tiff; application=geotiff",
                    "proj:shape": list(grid.shape), "proj:transform": list(grid.transform),
                }
                for number, place in enumerate(places)
            },
        },
        preserve_dict=False,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AssetBand:
    """One band: its pixels, and how they become values of the common grid."""

    pixels: Pixels
    method: Method
    "``nearest`` where the asset's grid is the common one"
    radiometry: Radiometry

    def taps(self, grid: Grid, *, rows: Range, columns: Range) -> tuple[Taps, Taps]:
        """Return which of the asset's pixels make a window of ``grid``, along y and x."""
        return grid_taps(grid, self.pixels.header.grid, rows=rows, columns=columns, method=self.method)


@dataclass(frozen=True, slots=True)
class SceneClasses:
    """The scene classification on the common grid, by nearest neighbour."""

    grid: Grid
    pixels: Pixels

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return class values [y, x], -1 outside the raster."""
        return _classes(self, rows, columns, access.content(self.pixels.place))


@lru_cache(maxsize=1)  # nodata and every flag of a window ask for the same classes, one after the other
def _classes(scene: SceneClasses, rows: Range, columns: Range, content: tuple[str, int, int]) -> npt.NDArray[np.int64]:
    own = scene.pixels.header.grid
    along_y, along_x = grid_taps(scene.grid, own, rows=rows, columns=columns, method="nearest")
    stored = class_values(scene.pixels.read(rows=along_y.span, columns=along_x.span))
    y, x = along_y.shifted(along_y.span[0]), along_x.shifted(along_x.span[0])
    picked = stored[y.nearest[:, None], x.nearest[None, :]]
    found = np.where(y.inside[:, None] & x.inside[None, :], picked, _OUTSIDE)
    found.flags.writeable = False
    return found


@dataclass(frozen=True, slots=True)
class SceneFlag:
    """Where the scene classification is one of some classes."""

    classes: SceneClasses
    members: tuple[int, ...]

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return flags [y, x]."""
        return np.isin(self.classes.read(rows=rows, columns=columns), self.members)


@dataclass(frozen=True, slots=True)
class ItemImage:
    """Bands of one item on the common grid, invalid where its scene classification says no data."""

    grid: Grid
    bands: tuple[AssetBand, ...]
    classes: SceneClasses | None

    def read(self, bands: Sequence[int], *, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window of the common grid."""
        out = np.empty((len(bands), rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
        alike: dict[tuple[Header, Method], list[int]] = {}
        for position, number in enumerate(bands):
            alike.setdefault((self.bands[number].pixels.header, self.bands[number].method), []).append(position)
        for (header, method), positions in alike.items():
            chosen = [self.bands[bands[position]] for position in positions]
            y, x = chosen[0].taps(self.grid, rows=rows, columns=columns)
            stored = load([band.pixels for band in chosen], rows=y.span, columns=x.span)
            for position, band, numbers in zip(positions, chosen, stored, strict=True):
                if header.grid == self.grid:
                    band.radiometry.physical(numbers, out=out[position])
                else:
                    near_y, near_x = y.shifted(y.span[0]), x.shifted(x.span[0])
                    values = band.radiometry.physical(numbers)
                    resample(values, out[position], along_y=near_y, along_x=near_x, method=method)
        if self.classes is not None:
            out[:, self.classes.read(rows=rows, columns=columns) == SCL_NODATA] = np.nan
        return out

    def saturated(self, *, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return all False [y, x]: saturation is a class of the scene classification, not a stored number."""
        return np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)

    @property
    def block_height(self) -> int:
        """Rows of the common grid that one row of storage blocks covers, the largest over the bands."""
        heights = [
            round(band.pixels.header.block_rows * band.pixels.header.grid.gsd / self.grid.gsd) for band in self.bands
        ]
        return min(max(1, *heights), self.grid.height)
