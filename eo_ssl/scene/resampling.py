"""Resampling onto the common grid of a product that gives the same pixel for any window.

Every output pixel is a fixed function of absolute source pixels: taps (source index, weight) are computed from the
absolute target index, sums run elementwise over taps, and a pixel whose taps are all valid is never divided. Hence
reading a scene in strips, in tiles or at once gives identical bits. GDAL's warper is not used because its result near
nodata grows or shrinks with the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from eo_ssl.errors import expect
from eo_ssl.scene.grids import read_crs

Method = Literal["nearest", "bilinear", "average"]
Float = npt.NDArray[np.float32]
# source pixels; a centre this close to a pixel edge counts as lying on the far side, so that rounding cannot decide
_EDGE = 1e-6
_ROWS_AT_ONCE = 32  # 32 rows of a 10,980-pixel strip are 1.4 MB of float32
_MIN_AVERAGE_COVER = 0.5  # share of an averaged cell that must be valid


@dataclass(frozen=True, slots=True)
class Taps:
    """Along one axis: which source pixels make each target pixel. ``n`` target pixels, ``t`` taps."""

    index: npt.NDArray[np.int64]
    "[n, t] absolute source indices, clipped to the source"
    weight: Float
    "[n, t], each row sums to 1"
    nearest: npt.NDArray[np.int64]
    "[n] source pixel that holds the target centre"
    inside: npt.NDArray[np.bool_]
    "[n] whether the target centre lies on the source at all"

    @property
    def span(self) -> tuple[int, int]:
        """First and one past the last source pixel needed."""
        return int(self.index.min()), int(self.index.max()) + 1

    def shifted(self, start: int) -> Taps:
        """Return the same taps counted from source pixel ``start``."""
        return Taps(self.index - start, self.weight, self.nearest - start, self.inside)


def compute_taps(window: tuple[int, int], *, ratio: float, shift: float, size: int, method: Method) -> Taps:
    """Return the taps of target pixels ``window[0] <= i < window[1]`` on a source axis of ``size`` pixels.

    Args:
        window: half-open range of absolute target indices.
        ratio: target pixel size / source pixel size.
        shift: position of the target's origin on the source axis, in source pixels from its first edge.
        size: number of source pixels.
        method: ``nearest``; ``bilinear`` between the two nearest centres (edges repeat); ``average`` by overlap of the
            cells.
    """
    targets = np.arange(*window, dtype=np.float64)
    centre = (targets + 0.5) * ratio + shift
    nearest = np.clip(np.floor(centre + _EDGE).astype(np.int64), 0, size - 1)
    inside = (centre > -_EDGE) & (centre < size + _EDGE)
    if method == "nearest":
        index, weight = nearest[:, None], np.ones((len(targets), 1))
    elif method == "bilinear":
        lower = np.floor(centre - 0.5)
        upper_weight = centre - 0.5 - lower
        index = lower.astype(np.int64)[:, None] + np.arange(2)
        weight = np.stack([1.0 - upper_weight, upper_weight], axis=1)
    else:
        low, high = targets * ratio + shift, (targets + 1) * ratio + shift
        index = np.floor(low + _EDGE).astype(np.int64)[:, None] + np.arange(ceil(ratio) + 1)
        overlap = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
        weight = np.where((index >= 0) & (index < size) & (overlap > _EDGE), overlap, 0.0)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), _EDGE)
    return Taps(np.clip(index, 0, size - 1), weight.astype(np.float32), nearest, inside)


def compute_grid_taps(
    target: GeoBox, source: GeoBox, *, rows: tuple[int, int], columns: tuple[int, int], method: Method
) -> tuple[Taps, Taps]:
    """Return the taps along y and x for a window of ``target`` read from ``source``.

    Raises:
        UserError: the two grids are in different reference systems, or one is rotated.
    """
    if target.crs != source.crs:
        expect(
            False,
            expected="all bands of a product in one reference system",
            got=f"{read_crs(target)} and {read_crs(source)}",
            remedy="reproject the files first",
        )
    ta, tb, tc, td, te, tf = tuple(target.affine)[:6]
    sa, sb, sc, sd, se, sf = tuple(source.affine)[:6]
    expect(
        not any((tb, td, sb, sd)), expected="north-up rasters", got="a rotated one", remedy="rectify the files first"
    )
    along_y = compute_taps(rows, ratio=te / se, shift=(tf - sf) / se, size=source.height, method=method)
    along_x = compute_taps(columns, ratio=ta / sa, shift=(tc - sc) / sa, size=source.width, method=method)
    return along_y, along_x


def resample(values: Float, out: Float, *, along_y: Taps, along_x: Taps, method: Method) -> None:
    """Write ``values`` [h, w] float32 (NaN invalid) at the target pixels of the taps into ``out`` float32 [n_y, n_x].

    Invalid source pixels carry no weight, so their value never bleeds. A ``bilinear`` pixel is valid where the source
    pixel that holds its centre is; an ``average`` pixel where at least half of its cell is. Indices of the taps count
    from the first pixel of ``values``.
    """
    inside = along_y.inside[:, None] & along_x.inside[None, :]
    if method == "nearest":
        np.take(np.take(values, along_x.nearest, axis=1), along_y.nearest, axis=0, out=out)
    else:
        invalid = np.isnan(values)
        some_invalid = bool(invalid.any())
        _weigh(np.where(invalid, np.float32(0), values) if some_invalid else values, along_y, along_x, out)
        if some_invalid:
            cover = np.empty_like(out)
            _weigh((~invalid).astype(np.float32), along_y, along_x, cover)
            np.divide(out, np.maximum(cover, np.float32(_EDGE)), out=out, where=_any(invalid, along_y, along_x))
            if method == "bilinear":
                inside &= ~invalid[along_y.nearest[:, None], along_x.nearest[None, :]]
            else:
                inside &= cover >= _MIN_AVERAGE_COVER
    if not inside.all():
        np.putmask(out, ~inside, np.nan)


def _weigh(values: Float, along_y: Taps, along_x: Taps, out: Float) -> None:
    """Sum over taps, along x on the source rows first.

    In bands of rows that stay in the cache, into memory that is there already.
    """
    columns = np.empty((values.shape[0], out.shape[1]), dtype=np.float32)
    for first in range(0, len(columns), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        np.multiply(np.take(values[part], along_x.index[:, 0], axis=1), along_x.weight[:, 0], out=columns[part])
        for t in range(1, along_x.index.shape[1]):
            columns[part] += np.take(values[part], along_x.index[:, t], axis=1) * along_x.weight[:, t]
    for first in range(0, len(out), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        np.multiply(columns[along_y.index[part, 0]], along_y.weight[part, 0, None], out=out[part])
        for t in range(1, along_y.index.shape[1]):
            out[part] += columns[along_y.index[part, t]] * along_y.weight[part, t, None]


def _any(flags: npt.NDArray[np.bool_], along_y: Taps, along_x: Taps) -> npt.NDArray[np.bool_]:
    rows = np.logical_or.reduce([flags[along_y.index[:, t]] for t in range(along_y.index.shape[1])])
    return np.asarray(
        np.logical_or.reduce([rows[:, along_x.index[:, t]] for t in range(along_x.index.shape[1])]), dtype=bool
    )


def pick_nearest(values: npt.NDArray[Any], along_y: Taps, along_x: Taps, *, outside: float) -> npt.NDArray[Any]:
    """Return the nearest of ``values`` [h, w], which begin where the taps do, at each target pixel [n_y, n_x]."""
    y, x = along_y.shifted(along_y.span[0]), along_x.shifted(along_x.span[0])
    picked = values[y.nearest[:, None], x.nearest[None, :]]
    return np.where(y.inside[:, None] & x.inside[None, :], picked, picked.dtype.type(outside))
