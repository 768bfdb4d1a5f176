"""Bands of GDAL rasters (GeoTIFF, COG, JPEG 2000 ...) on one grid, and the class rasters beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene import gdal_files
from eo_ssl.scene.grids import (
    compute_gsd_m,
    is_metric,
    is_same_gsd,
    make_grid,
    measure_gsd,
    read_crs,
    read_transform,
    rescale_grid,
)
from eo_ssl.scene.layers import UNKNOWN_CLASS, Blocks, Image, Layer, Range
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.resampling import Method, compute_grid_taps, pick_nearest, resample
from eo_ssl.sensors import sensor


@dataclass(frozen=True, slots=True)
class BandFile:
    """One band: where it is stored, on what grid, and how it reaches the common one."""

    path: Path
    index: int
    "1-based band in the file"
    grid: GeoBox
    method: Method
    radiometry: Radiometry


@dataclass(frozen=True, slots=True)
class BandStack(Image):
    """Bands of one product on a common grid."""

    grid: GeoBox
    bands: tuple[BandFile, ...]
    saturation: float | None = None
    "stored value that marks a saturated pixel"

    def read(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return physical values [band, y, x] float32, NaN invalid, of a half-open window of the common grid."""
        out = np.empty((len(bands), rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
        wanted: dict[Path, list[int]] = {}
        for position, number in enumerate(bands):
            if self.bands[number].grid == self.grid:
                wanted.setdefault(self.bands[number].path, []).append(position)
            else:
                self._resample(self.bands[number], rows, columns, out[position])
        for path, positions in wanted.items():  # one read per file: pixel-interleaved blocks hold all bands
            chosen = [self.bands[bands[position]] for position in positions]
            stored = gdal_files.read_window(path, tuple(band.index for band in chosen), rows=rows, columns=columns)
            for position, band, values in zip(positions, chosen, stored, strict=True):
                band.radiometry.physical(values, out=out[position])
        return out

    def _resample(self, band: BandFile, rows: Range, columns: Range, out: npt.NDArray[np.float32]) -> None:
        along_y, along_x = compute_grid_taps(self.grid, band.grid, rows=rows, columns=columns, method=band.method)
        stored = gdal_files.read_window(band.path, (band.index,), rows=along_y.span, columns=along_x.span)[0]
        values = band.radiometry.physical(stored)
        y, x = along_y.shifted(along_y.span[0]), along_x.shifted(along_x.span[0])
        resample(values, out, along_y=y, along_x=x, method=band.method)

    @property
    def has_saturation(self) -> bool:
        """Whether a stored value marks saturation."""
        return self.saturation is not None

    def saturated(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether any band is stored as the saturation value."""
        flags = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for band in self.bands:
            if band.grid == self.grid:
                stored = gdal_files.read_window(band.path, (band.index,), rows=rows, columns=columns)[0]
                flags |= stored == self.saturation
                continue
            y, x = compute_grid_taps(self.grid, band.grid, rows=rows, columns=columns, method="nearest")
            stored = gdal_files.read_window(band.path, (band.index,), rows=y.span, columns=x.span)[0]
            marked = stored == self.saturation
            if marked.any():  # seldom, so that most windows are never brought to the common grid
                flags |= pick_nearest(marked, y, x, outside=False)
        return flags

    @property
    def blocks(self) -> Blocks:
        """Storage blocks in pixels of the common grid, the largest over the bands.

        The period is at most half the image. A band whose blocks would make the period longer is left out, those with
        fewest pixels first: Sentinel-2 has blocks of 1,024 px at 10 m and 640 px at 20 m, which meet every 5,120 px;
        those of 192 px at 60 m meet both nowhere in a scene.
        """
        heights, widths = zip(*self._block_shapes(), strict=True)
        period = (
            _find_common(heights, limit=self.grid.height // 2),
            _find_common(widths, limit=self.grid.width // 2),
        )
        return Blocks(min(max(heights), self.grid.height), min(max(widths), self.grid.width), period)

    def _block_shapes(self) -> list[tuple[int, int]]:
        """Height and width of each band's blocks in pixels of the common grid, the finest band first."""
        shapes = []
        for band in sorted(self.bands, key=lambda band: -band.grid.height * band.grid.width):
            height, width = gdal_files.open_raster(band.path).block_shapes[band.index - 1]
            known = band.grid.crs is not None and self.grid.crs is not None
            down = abs(band.grid.affine.e / self.grid.affine.e) if known else 1.0
            across = abs(band.grid.affine.a / self.grid.affine.a) if known else 1.0
            shapes.append((max(1, round(height * down)), max(1, round(width * across))))
        return shapes


def _find_common(lengths: Sequence[int], *, limit: int) -> int:
    """Return the least common multiple of ``lengths``, without those that would lift it beyond ``limit``.

    At least the first.
    """
    period = lengths[0]
    for length in lengths[1:]:
        longer = lcm(period, length)
        period = longer if longer <= limit else period
    return period


@dataclass(frozen=True, slots=True)
class ClassRaster(Layer):
    """A class raster (scene classification, land cover) brought to the common grid by nearest neighbour."""

    grid: GeoBox
    path: Path
    index: int
    own_grid: GeoBox

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.int64]:
        """Return stored class values [y, x], -1 outside the raster."""
        if self.own_grid == self.grid:
            return convert_classes(gdal_files.read_window(self.path, (self.index,), rows=rows, columns=columns)[0])
        along_y, along_x = compute_grid_taps(self.grid, self.own_grid, rows=rows, columns=columns, method="nearest")
        stored = gdal_files.read_window(self.path, (self.index,), rows=along_y.span, columns=along_x.span)[0]
        return pick_nearest(convert_classes(stored), along_y, along_x, outside=UNKNOWN_CLASS)


def convert_classes(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return stored classes as integers, -1 where a float raster has none (NaN)."""
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, UNKNOWN_CLASS)
    return values.astype(np.int64)


def open_classes(card: Card, path: Path, *, grid: GeoBox, band: int = 1) -> ClassRaster:
    """Return a class raster on ``grid``; a file without georeference must have its shape.

    Raises:
        UserError: the file is absent, damaged, or without georeference and of another shape.
    """
    expect(
        path.is_file(),
        expected=f"the mask or label file {path.name} in {path.parent}",
        got="none",
        remedy=f"fetch it or correct card {card.name}",
    )
    own = gdal_files.read_grid(path)
    if own.crs is None:
        expect(
            own.shape == grid.shape,
            expected=f"{path} without georeference to have the image's {grid.height} x {grid.width} pixels",
            got=f"{own.height} x {own.width}",
            remedy="georeference it",
        )
        own = grid
    return ClassRaster(grid, path, band, own)


def add_own_nodata(radiometry: Radiometry, path: Path, *, index: int) -> Radiometry:
    """Return the radiometry with the nodata value that the file itself declares for a band added, if any.

    Raises:
        UserError: the file's own scale and offset, if it states any, are not the card's.
    """
    file = gdal_files.open_raster(path)
    value, stated = file.nodatavals[index - 1], (file.scales[index - 1], file.offsets[index - 1])
    if stated != (1.0, 0.0):  # what GDAL says of a band without tags
        radiometry.check_stated(*stated, name=str(path))
    return radiometry if value is None else replace(radiometry, nodata=(*radiometry.nodata, float(value)))


def stack_files(
    card: Card,
    files: Mapping[str, Path],
    *,
    radiometry: Radiometry,
    anchor: GeoBox | None = None,
    default: Method | None = None,
) -> BandStack:
    """Return the bands of one file each on the card's common grid.

    Args:
        card: pixel size, resampling methods and the value that marks saturation.
        files: canonical band -> file, in the order of the image.
        radiometry: how stored numbers become the card's quantity; nodata that a file declares is added.
        anchor: grid of files without georeference.
        default: resampling method where the card names none.

    Raises:
        UserError: a file is damaged or has no place, or a band on another grid has no resampling method.
    """
    grids = {band: locate_file(card, path, anchor=anchor) for band, path in files.items()}
    common = choose_common_grid(card, list(grids.values()))
    bands = []
    for band, path in files.items():
        method = "nearest" if grids[band] == common else choose_method(card, band, default=default)
        bands.append(BandFile(path, 1, grids[band], method, add_own_nodata(radiometry, path, index=1)))
    return BandStack(common, tuple(bands), card.dtype_max)


def choose_method(card: Card, band: str, *, default: Method | None = None) -> Method:
    """Return the card's resampling method of a canonical band: its own, else the card's default, else ``default``.

    Raises:
        UserError: there is none.
    """
    methods = {sensor(card.sensor).resolve(name): how for name, how in card.resampling.items() if name != "default"}
    method = methods.get(band) or card.resampling.get("default") or default
    if method is None:
        raise UserError(
            f"expected card {card.name} to name a resampling method for bands on another grid, got none for {band}; "
            "add it or `default`"
        )
    return method


def locate_file(card: Card, path: Path, *, anchor: GeoBox | None = None) -> GeoBox:
    """Return the grid of ``path``, taking the card's or the anchor's georeference where the file has none.

    Raises:
        UserError: no georeference anywhere, or an anchor of another shape.
    """
    grid = gdal_files.read_grid(path)
    if grid.crs is not None:
        return grid
    if anchor is not None:
        expect(
            anchor.shape == grid.shape,
            expected=f"{path.name} without georeference to have the {anchor.height} x {anchor.width} pixels of band "
            f"{card.grid_from}",
            got=f"{grid.height} x {grid.width} in {path}",
            remedy="use files of one shape or georeference this one",
        )
        return anchor
    if card.transform is not None and card.crs:
        return make_grid(grid.height, grid.width, card.transform, card.crs)
    raise UserError(
        f"expected a georeference in {path}, got none; name a band of equal shape in `grid_from`, or give `crs` and "
        f"`transform`, in card {card.name}"
    )


def choose_common_grid(card: Card, grids: Sequence[GeoBox]) -> GeoBox:
    """Return the grid all bands are brought to: the finest band's, or the same extent at the card's coarser ``gsd_m``.

    Raises:
        UserError: the card declares finer pixels than any file has.
    """
    finest = min(grids, key=lambda grid: (measure_gsd(grid), -grid.height * grid.width))
    gsd = measure_gsd(finest)
    if not is_metric(finest) or is_same_gsd(gsd, card.gsd_m):
        return finest
    expect(
        gsd <= card.gsd_m,
        expected=f"files of card {card.name} with pixels of {card.gsd_m:g} m or finer",
        got=f"{gsd:g} m",
        remedy="set gsd_m to what the files have",
    )
    return rescale_grid(finest, card.gsd_m)


def check_gsd(card: Card, grid: GeoBox, *, path: Path) -> None:
    """Refuse a file whose pixel size in metres, where it has a place, is not the card's ``gsd_m`` (up to 2 %).

    Pixels in degrees are narrower than they are high; ``gsd_m`` may be either or lie between.

    Raises:
        UserError: the two differ; a decimated copy is not at its sensor's resolution.
    """
    if grid.crs is None:
        return
    sides = compute_gsd_m(read_crs(grid), read_transform(grid), (grid.height, grid.width))
    between = grid.crs.geographic and min(sides) <= card.gsd_m <= max(sides)
    near = (any if grid.crs.geographic else all)(is_same_gsd(side, card.gsd_m) for side in sides)
    expect(
        between or near,
        expected=f"pixels of {card.gsd_m:g} m in {path}",
        got=" x ".join(dict.fromkeys(f"{side:.4g}" for side in sides)) + " m",
        remedy=f"set gsd_m of card {card.name} to what the file has",
    )
