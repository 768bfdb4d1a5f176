"""Pixels of GDAL rasters (GeoTIFF, COG, JPEG 2000 ...) on one grid: a band per file, or several bands per file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS

from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene import handles
from eo_ssl.scene.grid import Grid, Method, Taps, agrees, grid_taps, resample
from eo_ssl.scene.radiometry import Radiometry

Range = tuple[int, int]
_UNKNOWN_CLASS = -1


@dataclass(frozen=True, slots=True)
class BandFile:
    """One band: where it is stored, on what grid, and how it reaches the common one."""

    path: Path
    index: int
    "1-based band in the file"
    grid: Grid
    method: Method
    radiometry: Radiometry


@dataclass(frozen=True, slots=True)
class RasterImage:
    """Bands of one product on a common grid, read window by window."""

    grid: Grid
    bands: tuple[BandFile, ...]
    saturation: float | None = None
    "stored value that marks a saturated pixel"

    def read(self, bands: Sequence[int], *, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window of the common grid."""
        out = np.empty((len(bands), rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
        wanted: dict[tuple[Path, Grid], list[int]] = {}
        for position, number in enumerate(bands):
            wanted.setdefault((self.bands[number].path, self.bands[number].grid), []).append(position)
        for (path, grid), positions in wanted.items():  # one read per file: pixel-interleaved blocks hold all bands
            chosen = [self.bands[bands[position]] for position in positions]
            if grid == self.grid:
                stored = handles.read(path, tuple(band.index for band in chosen), rows=rows, columns=columns)
                for position, band, values in zip(positions, chosen, stored, strict=True):
                    band.radiometry.physical(values, out=out[position])
                continue
            for position, band in zip(positions, chosen, strict=True):
                self._resample(band, rows=rows, columns=columns, out=out[position])
        return out

    def _resample(self, band: BandFile, *, rows: Range, columns: Range, out: npt.NDArray[np.float32]) -> None:
        along_y, along_x = grid_taps(self.grid, band.grid, rows=rows, columns=columns, method=band.method)
        stored = handles.read(band.path, (band.index,), rows=along_y.span, columns=along_x.span)[0]
        values = band.radiometry.physical(stored)
        y, x = along_y.shifted(along_y.span[0]), along_x.shifted(along_x.span[0])
        resample(values, out, along_y=y, along_x=x, method=band.method)

    def saturated(self, *, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether any band is stored as the saturation value."""
        flags = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for band in self.bands:
            if band.grid == self.grid:
                flags |= handles.read(band.path, (band.index,), rows=rows, columns=columns)[0] == self.saturation
                continue
            y, x = grid_taps(self.grid, band.grid, rows=rows, columns=columns, method="nearest")
            stored = handles.read(band.path, (band.index,), rows=y.span, columns=x.span)[0]
            marked = stored == self.saturation
            if marked.any():  # seldom, so that most windows are never brought to the common grid
                flags |= _picked(marked, y, x, outside=False)
        return flags

    @property
    def block_height(self) -> int:
        """Rows of the common grid that one row of storage blocks covers, the largest over the bands: the natural strip height."""
        return min(max(height for height, _ in self._blocks()), self.grid.height)

    @property
    def block_width(self) -> int:
        """Columns of the common grid that one block covers, the largest over the bands."""
        return min(max(width for _, width in self._blocks()), self.grid.width)

    @property
    def block_period(self) -> tuple[int, int]:
        """Rows and columns after which blocks of the bands begin anew together, up to half the image.

        A band whose blocks would make it longer is left out, those with fewest pixels first: Sentinel-2 has blocks of 1,024 px at 10 m
        and 640 px at 20 m, which meet every 5,120 px; those of 192 px at 60 m meet both nowhere in a scene.
        """
        heights, widths = zip(*self._blocks(), strict=True)
        return _common(heights, limit=self.grid.height // 2), _common(widths, limit=self.grid.width // 2)

    def _blocks(self) -> list[tuple[int, int]]:
        """Height and width of each band's blocks in pixels of the common grid, the finest band first."""
        blocks = []
        for band in sorted(self.bands, key=lambda band: -band.grid.height * band.grid.width):
            shape = handles.opened(band.path).block_shapes[band.index - 1]
            known = band.grid.transform and self.grid.transform
            ratios = [abs(band.grid.transform[k] / self.grid.transform[k]) if known else 1.0 for k in (4, 0)]
            blocks.append((max(1, round(shape[0] * ratios[0])), max(1, round(shape[1] * ratios[1]))))
        return blocks


def _common(lengths: Sequence[int], *, limit: int) -> int:
    """Return the least common multiple of ``lengths``, without those that would lift it beyond ``limit``; at least the first."""
    period = lengths[0]
    for length in lengths[1:]:
        longer = lcm(period, length)
        period = longer if longer <= limit else period
    return period


@dataclass(frozen=True, slots=True)
class RasterClasses:
    """A class raster (scene classification, land cover) brought to the common grid by nearest neighbour."""

    grid: Grid
    path: Path
    index: int
    own_grid: Grid

    def read(self, *, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return stored class values [y, x], -1 outside the raster."""
        if self.own_grid == self.grid:
            return class_values(handles.read(self.path, (self.index,), rows=rows, columns=columns)[0])
        along_y, along_x = grid_taps(self.grid, self.own_grid, rows=rows, columns=columns, method="nearest")
        stored = class_values(handles.read(self.path, (self.index,), rows=along_y.span, columns=along_x.span)[0])
        return _picked(stored, along_y, along_x, outside=_UNKNOWN_CLASS)


def _picked(values: npt.NDArray[Any], along_y: Taps, along_x: Taps, *, outside: int) -> npt.NDArray[Any]:
    """Return the nearest of ``values`` [h, w], which begin where the taps do, at each target pixel [n_y, n_x]."""
    y, x = along_y.shifted(along_y.span[0]), along_x.shifted(along_x.span[0])
    return np.where(y.inside[:, None] & x.inside[None, :], values[y.nearest[:, None], x.nearest[None, :]], outside)


def class_values(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return stored classes as integers, -1 where a float raster has none (NaN)."""
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, _UNKNOWN_CLASS)
    return values.astype(np.int64)


def with_own_nodata(radiometry: Radiometry, path: Path, *, index: int) -> Radiometry:
    """Return the radiometry with the nodata value that the file itself declares for a band added, if any.

    Raises:
        UserError: the file's own scale and offset, if it states any, are not the card's.
    """
    file = handles.opened(path)
    value, stated = file.nodatavals[index - 1], (file.scales[index - 1], file.offsets[index - 1])
    if stated != (1.0, 0.0):  # what GDAL says of a band without tags
        radiometry.check_stated(*stated, name=str(path))
    return radiometry if value is None else replace(radiometry, nodata=(*radiometry.nodata, float(value)))


def located(card: Card, path: Path, *, anchor: Grid | None = None) -> Grid:
    """Return the grid of ``path``, taking the card's or the anchor's georeference where the file has none.

    Raises:
        UserError: no georeference anywhere, or an anchor of another shape.
    """
    grid = handles.grid_of(path)
    if grid.transform:
        return grid
    if anchor is not None:
        if anchor.shape != grid.shape:
            raise UserError(
                f"expected {path.name} without georeference to have the {anchor.height} x {anchor.width} pixels of band {card.grid_from}, "
                f"got {grid.height} x {grid.width} in {path}; use files of one shape or georeference this one"
            )
        return anchor
    if card.transform is not None and card.crs:
        return Grid(grid.height, grid.width, card.transform, card.crs)
    raise UserError(
        f"expected a georeference in {path}, got none; name a band of equal shape in `grid_from`, or give `crs` and `transform`, in card {card.name}"
    )


def common_grid(card: Card, grids: Sequence[Grid]) -> Grid:
    """Return the grid all bands are brought to: the finest band's, or the same extent at the card's coarser ``gsd_m``.

    Raises:
        UserError: the card declares finer pixels than any file has.
    """
    finest = min(grids, key=lambda grid: (grid.gsd, -grid.height * grid.width))
    if not is_metric(finest) or agrees(finest.gsd, card.gsd_m):
        return finest
    if finest.gsd > card.gsd_m:
        raise UserError(
            f"expected files of card {card.name} with pixels of {card.gsd_m:g} m or finer, got {finest.gsd:g} m; set gsd_m to what the files have"
        )
    return finest.at(card.gsd_m)


def check_gsd(card: Card, grid: Grid, *, path: Path) -> None:
    """Refuse a file whose pixel size, where it is in metres, is not the card's ``gsd_m`` (up to 2 %).

    Raises:
        UserError: the two differ; a decimated copy is not at its sensor's resolution.
    """
    sides = (abs(grid.transform[0]), abs(grid.transform[4])) if is_metric(grid) else ()
    if not all(agrees(side, card.gsd_m) for side in sides):
        found = " x ".join(dict.fromkeys(f"{side:g}" for side in sides))
        raise UserError(
            f"expected pixels of {card.gsd_m:g} m in {path}, got {found} m; set gsd_m of card {card.name} to what the file has"
        )


def is_metric(grid: Grid) -> bool:
    """Return whether the grid's units are metres, so that its pixel size can be compared with a card's."""
    if not grid.crs:
        return False
    return _in_metres(grid.crs)


@lru_cache(maxsize=256)
def _in_metres(crs: str) -> bool:
    reference = CRS.from_user_input(crs)
    return bool(reference.is_projected) and str(reference.linear_units).lower() in ("metre", "meter")
