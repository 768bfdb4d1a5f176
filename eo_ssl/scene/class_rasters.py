"""Class rasters (scene classification, land cover, labels) beside an image, brought to its grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.cards import Card
from eo_ssl.errors import expect
from eo_ssl.scene import gdal_files
from eo_ssl.scene.layers import UNKNOWN_CLASS, Layer, Range
from eo_ssl.scene.raster_facts import check_single_band, list_masks
from eo_ssl.scene.resampling import compute_grid_taps, pick_nearest


@dataclass(frozen=True, slots=True)
class ClassRaster(Layer):
    """A class raster (scene classification, land cover) brought to the common grid by nearest neighbour."""

    grid: GeoBox
    path: Path
    index: int
    own_grid: GeoBox
    masks: tuple[gdal_files.MaskBand, ...] = ()

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return stored class values [y, x], -1 outside the raster and where its own mask says that there is none."""
        if self.own_grid == self.grid:
            return self._read_own(rows, columns)
        along_y, along_x = compute_grid_taps(self.grid, self.own_grid, rows=rows, columns=columns, method="nearest")
        stored = self._read_own(along_y.span, along_x.span)
        return pick_nearest(stored, along_y, along_x, outside=UNKNOWN_CLASS)

    def _read_own(self, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        values = convert_classes(gdal_files.read_window(self.path, (self.index,), rows=rows, columns=columns)[0])
        for masked in (
            gdal_files.read_masks(self.path, self.masks, rows=rows, columns=columns).values() if self.masks else ()
        ):
            values[masked] = UNKNOWN_CLASS
        return values


def convert_classes(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return stored classes as integers, -1 where a float raster has none (NaN)."""
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, UNKNOWN_CLASS)
    return values.astype(np.int64)


def open_classes(card: Card, path: Path, *, grid: GeoBox, band: int = 0) -> ClassRaster:
    """Return a class raster on ``grid``; a file without georeference must have its shape.

    Args:
        card: its ``mask`` may say that masks of the file do not count.
        path: of the file.
        grid: of the image.
        band: 1-based band of the classes; 0 for a file that has but one.

    Raises:
        UserError: the file is absent, damaged, or without georeference and of another shape, or which of its bands
            holds the classes is not said.
    """
    expect(
        path.is_file(),
        expected=f"the mask or label file {path.name} in {path.parent}",
        got="none",
        remedy=f"fetch it or correct card {card.name}",
    )
    if not band:
        check_single_band(path)
    own = gdal_files.read_grid(path)
    if own.crs is None:
        expect(
            own.shape == grid.shape,
            expected=f"{path} without georeference to have the image's {grid.height} x {grid.width} pixels",
            got=f"{own.height} x {own.width}",
            remedy="georeference it",
        )
        own = grid
    index = band or 1
    return ClassRaster(grid, path, index, own, list_masks(card, path, index))
