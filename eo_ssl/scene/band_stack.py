"""Bands of GDAL rasters (GeoTIFF, COG, JPEG 2000 ...) on one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.scene import gdal_files
from eo_ssl.scene.grids import (
    check_place,
    find_other_size,
    make_grid,
    measure_gsd,
    measure_unit_m,
    rescale_grid,
)
from eo_ssl.scene.layers import Blocks, Image, Range
from eo_ssl.scene.radiometry import Radiometry
from eo_ssl.scene.raster_facts import check_names, check_single_band, list_masks
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
    masks: tuple[gdal_files.MaskBand, ...] = ()
    "masks and alpha bands of the file that say which pixels are valid, beside nodata values"


def read_bands(
    bands: Sequence[BandFile], outs: Sequence[npt.NDArray[np.float32]], *, rows: Range, columns: Range
) -> None:
    """Write physical values float32, NaN invalid, of a half-open window of bands of one file into ``outs`` [y, x].

    Pixels and each mask are read once: pixel-interleaved blocks hold all bands.
    """
    path, wanted = bands[0].path, {mask for band in bands for mask in band.masks}
    stored = gdal_files.read_window(path, tuple(band.index for band in bands), rows=rows, columns=columns)
    masked = gdal_files.read_masks(path, wanted, rows=rows, columns=columns) if wanted else {}
    for band, numbers, values in zip(bands, stored, outs, strict=True):
        band.radiometry.physical(numbers, out=values)
        for mask in band.masks:
            np.putmask(values, masked[mask], np.nan)


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
        for positions in wanted.values():
            chosen = [self.bands[bands[position]] for position in positions]
            read_bands(chosen, [out[position] for position in positions], rows=rows, columns=columns)
        return out

    def _resample(self, band: BandFile, rows: Range, columns: Range, out: npt.NDArray[np.float32]) -> None:
        along_y, along_x = compute_grid_taps(self.grid, band.grid, rows=rows, columns=columns, method=band.method)
        values = np.empty((along_y.span[1] - along_y.span[0], along_x.span[1] - along_x.span[0]), dtype=np.float32)
        read_bands([band], [values], rows=along_y.span, columns=along_x.span)
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


def open_band(card: Card, path: Path, index: int, *, grid: GeoBox, method: Method, radiometry: Radiometry) -> BandFile:
    """Return a band with the nodata value and the masks that its file declares.

    Raises:
        UserError: the file's own scale and offset, if it states any, are not the card's.
    """
    own = add_own_nodata(radiometry, path, index=index)
    return BandFile(path, index, grid, method, own, list_masks(card, path, index))


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
    check_names(card, {band: (path, 1) for band, path in files.items()})
    common = choose_common_grid(card, list(grids.values()))
    bands = []
    for band, path in files.items():
        check_single_band(path)
        method = "nearest" if grids[band] == common else choose_method(card, band, default=default)
        bands.append(open_band(card, path, 1, grid=grids[band], method=method, radiometry=radiometry))
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
        placed = make_grid(grid.height, grid.width, card.transform, card.crs)
        check_place(placed, name=f"card {card.name}")
        return placed
    raise UserError(
        f"expected a georeference in {path}, got none; name a band of equal shape in `grid_from`, or give `crs` and "
        f"`transform`, in card {card.name}"
    )


def choose_common_grid(card: Card, grids: Sequence[GeoBox]) -> GeoBox:
    """Return the grid all bands are brought to: the finest band's, or the same extent at the card's coarser ``gsd_m``.

    Raises:
        UserError: the card declares finer pixels than any file has, or, where they are degrees, other ones.
    """
    finest = min(grids, key=lambda grid: (measure_gsd(grid), -grid.height * grid.width))
    unit_m = measure_unit_m(finest)
    if unit_m and find_other_size(finest, card.gsd_m):
        gsd = max(abs(finest.affine.a), abs(finest.affine.e)) * unit_m
        expect(
            gsd <= card.gsd_m,
            expected=f"files of card {card.name} with pixels of {card.gsd_m:g} m or finer",
            got=f"{gsd:g} m",
            remedy="set gsd_m to what the files have",
        )
        finest = rescale_grid(finest, card.gsd_m / unit_m)
    _check_size(card, finest, name=f"the files of card {card.name}")
    return finest


def check_gsd(card: Card, grid: GeoBox, *, path: Path) -> None:
    """Refuse a file whose pixel size in metres is not the card's ``gsd_m``; see `grids.find_other_size`.

    Raises:
        UserError: the two differ, because a decimated copy is not at its sensor's resolution; or the file is rotated or
            has no place on Earth, so that its pixels have no such size.
    """
    check_place(grid, name=str(path))
    _check_size(card, grid, name=str(path))


def _check_size(card: Card, grid: GeoBox, *, name: str) -> None:
    other = find_other_size(grid, card.gsd_m)
    expect(
        not other,
        expected=f"pixels of {card.gsd_m:g} m in {name}",
        got=other,
        remedy=f"set gsd_m of card {card.name} to what the files have, or reproject them to square metres (gdalwarp)",
    )
