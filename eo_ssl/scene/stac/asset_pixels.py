"""Pixels of an item's assets on the card's grid, each asset read at its own grid by odc-stac.

``odc.stac.load`` is asked for a window of the asset's own grid, which makes it copy pixels instead of warping them;
bands of other pixel sizes reach the common grid by :mod:`eo_ssl.scene.resampling`, so that any window has the same
bits. The item that odc-stac gets is made from the asset and its verified header: odc-stac leaves out pixels beyond the
footprint an item states, and takes its grid, number type and nodata on trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.fingerprints import FileIdentity
from eo_ssl.scene.band_stack import convert_classes
from eo_ssl.scene.grids import measure_gsd, read_crs, read_transform
from eo_ssl.scene.layers import UNKNOWN_CLASS, Blocks, Image, Layer, Range
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.resampling import Method, Taps, compute_grid_taps, pick_nearest, resample
from eo_ssl.scene.stac import access
from eo_ssl.scene.stac.access import Header


@dataclass(frozen=True, slots=True)
class AssetPixels:
    """The stored numbers of one asset on its own grid. Opens nothing until read, and keeps nothing open."""

    place: str
    sign: str
    header: Header

    def read(self, rows: Range, columns: Range) -> npt.NDArray[Any]:
        """Return stored numbers [y, x] of a half-open window of the asset's own grid, in its own number type.

        Raises:
            UserError: the file is absent, unreachable or damaged.
        """
        return load_windows((self,), rows=rows, columns=columns)[0]


def load_windows(assets: Sequence[AssetPixels], *, rows: Range, columns: Range) -> list[npt.NDArray[Any]]:
    """Return the stored numbers [y, x] of a window of assets that have equal headers.

    Odc-stac's cost per call is paid once.

    Raises:
        UserError: a file is absent, unreachable or damaged.
    """
    import odc.stac  # seconds and hundreds of megabytes, which only processes that read items pay

    header, sign = assets[0].header, assets[0].sign
    places = tuple(asset.place for asset in assets)
    names = [str(number) for number in range(len(places))]
    with access.configure_gdal(" or ".join(places)):
        cube = odc.stac.load(
            [_item(places, header.grid)],
            bands=names,
            geobox=header.grid[rows[0] : rows[1], columns[0] : columns[1]],
            dtype=header.dtype,
            nodata=header.nodata,
            resampling="nearest",
            chunks=None,
            patch_url=partial(access.sign_link, sign=sign),
            stac_cfg={"*": {"warnings": "ignore"}},
        )
    return [np.asarray(cube[name].values[0]) for name in names]


@lru_cache(maxsize=256)
def _item(places: tuple[str, ...], grid: GeoBox) -> Any:
    """An item whose assets, named by their number, have the projection that their files were found to have."""
    import pystac

    footprint, crs = grid.extent.to_crs("EPSG:4326"), read_crs(grid)
    reference = {"proj:code": crs} if crs.startswith("EPSG:") else {"proj:code": None, "proj:wkt2": crs}
    return pystac.Item.from_dict(
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": "asset",
            "collection": "asset",
            "links": [],
            "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
            "geometry": footprint.json,
            "bbox": list(footprint.boundingbox.bbox),
            "properties": {"datetime": "2000-01-01T00:00:00Z", **reference},
            "assets": {
                str(number): {
                    "href": place,
                    "roles": ["data"],
                    "type": "image/tiff; application=geotiff",
                    "proj:shape": list(grid.shape.yx),
                    "proj:transform": list(read_transform(grid)),
                }
                for number, place in enumerate(places)
            },
        },
        preserve_dict=False,
    )


@dataclass(frozen=True, slots=True)
class AssetBand:
    """One band: its pixels, and how they become values of the common grid."""

    pixels: AssetPixels
    method: Method
    "``nearest`` where the asset's grid is the common one"
    radiometry: Radiometry

    def taps(self, grid: GeoBox, *, rows: Range, columns: Range) -> tuple[Taps, Taps]:
        """Return which of the asset's pixels make a window of ``grid``, along y and x."""
        return compute_grid_taps(grid, self.pixels.header.grid, rows=rows, columns=columns, method=self.method)


@dataclass(frozen=True, slots=True)
class SceneClasses(Layer):
    """The scene classification on the common grid, by nearest neighbour."""

    grid: GeoBox
    pixels: AssetPixels

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return class values [y, x], -1 outside the raster."""
        return _classes(self, rows, columns, access.identify_content(self.pixels.place))


@lru_cache(maxsize=1)  # nodata and every flag of a window ask for the same classes, one after the other
def _classes(scene: SceneClasses, rows: Range, columns: Range, content: FileIdentity) -> npt.NDArray[np.int64]:
    own = scene.pixels.header.grid
    along_y, along_x = compute_grid_taps(scene.grid, own, rows=rows, columns=columns, method="nearest")
    stored = convert_classes(scene.pixels.read(rows=along_y.span, columns=along_x.span))
    picked = pick_nearest(stored, along_y, along_x, outside=UNKNOWN_CLASS)
    picked.flags.writeable = False
    return picked


@dataclass(frozen=True, slots=True)
class ItemImage(Image):
    """Bands of one item on the common grid; saturation is a class of its scene classification, not a stored number."""

    grid: GeoBox
    bands: tuple[AssetBand, ...]

    def read(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window of the common grid."""
        out = np.empty((len(bands), rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
        alike: dict[tuple[Header, Method], list[int]] = {}
        for position, number in enumerate(bands):
            alike.setdefault((self.bands[number].pixels.header, self.bands[number].method), []).append(position)
        for (header, method), positions in alike.items():
            chosen = [self.bands[bands[position]] for position in positions]
            y, x = chosen[0].taps(self.grid, rows=rows, columns=columns)
            stored = load_windows([band.pixels for band in chosen], rows=y.span, columns=x.span)
            for position, band, numbers in zip(positions, chosen, stored, strict=True):
                if header.grid == self.grid:
                    band.radiometry.physical(numbers, out=out[position])
                else:
                    near_y, near_x = y.shifted(y.span[0]), x.shifted(x.span[0])
                    values = band.radiometry.physical(numbers)
                    resample(values, out[position], along_y=near_y, along_x=near_x, method=method)
        return out

    @property
    def blocks(self) -> Blocks:
        """Full rows, as many as one row of storage blocks covers, the largest over the bands."""
        gsd = measure_gsd(self.grid)
        headers = [band.pixels.header for band in self.bands]
        heights = [round(header.block_rows * measure_gsd(header.grid) / gsd) for header in headers]
        height = min(max(1, *heights), self.grid.height)
        return Blocks(height, self.grid.width, (height, self.grid.width))
