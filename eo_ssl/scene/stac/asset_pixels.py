"""Pixels of an item's assets on the card's grid, each asset read at its own grid.

Bands of other pixel sizes reach the common grid by :mod:`eo_ssl.scene.resampling`, so that any window has the same
bits. Loaders of STAC items (odc-stac, stackstac) take grid, number type and nodata of an item on trust, know no masks
inside the files, and open them with whatever driver of GDAL takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.fingerprints import FileIdentity
from eo_ssl.scene.class_rasters import convert_classes
from eo_ssl.scene.gdal_files import MaskBand, place_window, read_masked
from eo_ssl.scene.grids import measure_gsd
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
    masks: tuple[MaskBand, ...] = ()
    "those of the file that count"

    def read(self, rows: Range, columns: Range) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return stored numbers [y, x] of a half-open window of the asset's own grid, in its own number type.

        And which pixels [y, x] the file's masks say are no measurement.

        Raises:
            UserError: the file is absent, unreachable or damaged.
        """
        window = place_window(rows, columns)
        with access.open_place(self.place, sign=self.sign) as file:
            stored = np.asarray(file.read(1, window=window))
            masked = np.zeros(stored.shape, dtype=bool)
            for mask in self.masks:
                masked |= read_masked(file, mask, window=window)
        return stored, masked


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
    numbers, masked = scene.pixels.read(rows=along_y.span, columns=along_x.span)
    stored = np.where(masked, UNKNOWN_CLASS, convert_classes(numbers))
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
        for values, number in zip(out, bands, strict=True):
            band = self.bands[number]
            y, x = band.taps(self.grid, rows=rows, columns=columns)
            stored, masked = band.pixels.read(rows=y.span, columns=x.span)
            aligned = band.pixels.header.grid == self.grid
            physical = band.radiometry.physical(stored, out=values if aligned else None)
            np.putmask(physical, masked, np.nan)
            if aligned:
                continue
            near_y, near_x = y.shifted(y.span[0]), x.shifted(x.span[0])
            resample(physical, values, along_y=near_y, along_x=near_x, method=band.method)
        return out

    @property
    def blocks(self) -> Blocks:
        """Full rows, as many as one row of storage blocks covers, the largest over the bands."""
        gsd = measure_gsd(self.grid)
        headers = [band.pixels.header for band in self.bands]
        heights = [round(header.block_rows * measure_gsd(header.grid) / gsd) for header in headers]
        height = min(max(1, *heights), self.grid.height)
        return Blocks(height, self.grid.width, (height, self.grid.width))
