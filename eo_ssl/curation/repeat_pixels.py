"""Whether two tiles of one place and time show the same pixels: their overlap, and the correlation of what they share.

Correlation does not see a gain or an offset, so that products of two processors compare as they are. On one grid pixels
are compared one by one. On two grids (another zone, a shift by part of a pixel) the second tile is interpolated at the
pixels of the first, after both were smoothed by a Gaussian of one pixel: else what interpolation takes from noise would
count as a difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eo_ssl.curation.embeddings import Floats
from eo_ssl.curation.weights import Doubles
from eo_ssl.pairing import ShiftEstimator
from eo_ssl.sensors import Quantity

ON_GRID_PX = 0.05  # tiles whose corners fit whole pixels as closely are on one grid
SMOOTHING_PX = 1.0
LEAST_PIXELS = 8  # fewer in common say nothing
LEAST_SCORE = 6.0  # of a shift that counts as told, as in docs/pairs.md
FLAT = {"reflectance": 0.005, "dB": 0.5}
"""Standard deviation below which a band of a tile has no texture of its own (ours: some five times the noise of
Sentinel-2's bands; less than speckle leaves after any usual filter)."""
FLAT_SHARE = 0.02  # the same of other quantities, in parts of their mean
EQUAL_SHARE = 0.05  # by which the means of a flat band may differ beside that: what atmospheric correction does


@dataclass(frozen=True, slots=True)
class PixelEvidence:
    """What was measured on two tiles."""

    first_seen: float
    "share of the valid pixels of the first tile that the second shows too"
    second_seen: float
    "the same of the second"
    correlation: float
    "median over the bands with texture; NaN where none has, or there is too little in common"
    flat: bool
    "no band has texture"
    equal: bool
    "whether the means of all bands agree, where they are flat"
    shift_px: float
    "by how much the second was moved to fit; 0 where the geometry of the index was good enough"


def compare_tiles(
    first: Floats, second: Floats, mapping: Doubles, *, quantity: Quantity, enough: float, search_px: float
) -> PixelEvidence:
    """Return what two tiles [C, H, W], NaN where invalid, have in common.

    Args:
        first: in the quantity that images are compared in (a power in dB).
        second: of the same bands.
        mapping: where pixels of the first lie in the second, [2, 3] as of `map_pixels`.
        quantity: of both.
        enough: correlation at which no shift is looked for.
        search_px: largest shift that is; 0 for none.
    """
    valid = tuple(np.asarray(np.isfinite(image).all(axis=0)) for image in (first, second))
    evidence = _compare(first, second, valid, mapping, quantity)
    if evidence.flat or not search_px or not evidence.correlation < enough:
        return evidence
    moved = _estimate_shift(first, second, valid, mapping, search_px)
    if moved is None:
        return evidence
    again = _compare(first, second, valid, mapping + np.pad(moved[:, None], ((0, 0), (2, 0))), quantity)
    if not again.correlation > evidence.correlation:
        return evidence
    shift = float(np.hypot(*moved))
    return PixelEvidence(again.first_seen, again.second_seen, again.correlation, again.flat, again.equal, shift)


def _compare(
    first: Floats, second: Floats, valid: tuple[NDArray[np.bool_], ...], mapping: Doubles, quantity: Quantity
) -> PixelEvidence:
    offset = find_whole_offset(mapping, first.shape[1:])
    if offset is not None:
        cuts = [_cut(first.shape[1:], sign * offset) for sign in (-1, 1)]
        pixels = [image[:, rows, cols] for image, (rows, cols) in zip((first, second), cuts, strict=True)]
        both = valid[0][cuts[0]] & valid[1][cuts[1]]
        area = 1.0
    else:
        sampled, seen = sample_tile(smooth_valid(second, valid[1]), valid[1], mapping)
        pixels, both = [smooth_valid(first, valid[0]), sampled], valid[0] & seen
        area = float(abs(np.linalg.det(mapping[:, :2])))
    count = int(np.count_nonzero(both))
    shares = [
        min(1.0, count * scale / max(int(np.count_nonzero(own)), 1))
        for own, scale in zip(valid, (1, area), strict=True)
    ]
    correlation, flat, equal = correlate_bands(*(part[:, both] for part in pixels), quantity=quantity)
    return PixelEvidence(shares[0], shares[1], correlation, flat, equal, 0.0)


def find_whole_offset(mapping: Doubles, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Return the offset [row, column] of two tiles on one grid, int64 [2]; None where they are on two."""
    height, width = shape
    corners = np.array([[0, 0, height, height], [0, width, 0, width]], dtype=np.float64)
    moved = mapping[:, :2] @ corners + mapping[:, 2:] - corners
    whole = np.rint(moved.mean(axis=1))
    fits = np.abs(moved - whole[:, None]).max() <= ON_GRID_PX
    return whole.astype(np.int64) if fits else None


def _cut(shape: tuple[int, ...], offset: NDArray[np.int64]) -> tuple[slice, slice]:
    """Return the part of a tile that one of its size covers which lies ``offset`` further down and right."""
    rows, cols = (
        slice(max(0, step), max(0, min(side, side + step))) for side, step in zip(shape, offset.tolist(), strict=True)
    )
    return rows, cols


def smooth_valid(image: Floats, valid: NDArray[np.bool_]) -> Floats:
    """Return ``image`` [C, H, W] smoothed over its valid pixels [H, W]; others become what is near them."""
    weight = ndimage.gaussian_filter(valid.astype(np.float32), SMOOTHING_PX)
    filled = np.where(valid, image, np.float32(0))
    total = ndimage.gaussian_filter(filled, (0, SMOOTHING_PX, SMOOTHING_PX))
    smooth: Floats = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)
    return smooth


def sample_tile(image: Floats, valid: NDArray[np.bool_], mapping: Doubles) -> tuple[Floats, NDArray[np.bool_]]:
    """Return ``image`` [C, H, W] at the pixel centres of another tile of its size, and where that is on valid ground.

    Bilinear; within half a pixel of the edge the outermost pixel.
    """
    height, width = valid.shape
    centres = np.stack(np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")).reshape(2, -1)
    there = mapping[:, :2] @ centres + mapping[:, 2:]
    inside = ((there >= 0) & (there <= [[height], [width]])).all(axis=0)
    nearest = np.clip(there.astype(np.int64), 0, [[height - 1], [width - 1]])
    seen = inside & valid[tuple(nearest)]
    sampled = np.stack([ndimage.map_coordinates(band, there - 0.5, order=1, mode="nearest") for band in image])
    return sampled.reshape(image.shape).astype(np.float32), seen.reshape(valid.shape)


def correlate_bands(first: Floats, second: Floats, *, quantity: Quantity) -> tuple[float, bool, bool]:
    """Return how values [C, n] correlate: the median over bands with texture, whether none has, whether means agree.

    A band with texture in one tile and none in the other correlates by 0. The correlation is NaN where no band has
    texture or n is below `LEAST_PIXELS`.
    """
    if first.shape[1] < LEAST_PIXELS:
        return float("nan"), False, False
    values = np.stack([first, second]).astype(np.float64)
    mean = values.mean(axis=2)
    centred = values - mean[..., None]
    spread = np.sqrt(np.square(centred).mean(axis=2))
    level = np.abs(mean).max(axis=0)
    kind = "dB" if quantity.is_db else "reflectance" if quantity.is_reflectance else ""
    floor = np.full(len(level), FLAT[kind]) if kind else FLAT_SHARE * level
    textured = spread.max(axis=0) > floor
    if not textured.any():
        allowed = floor if quantity.is_db else floor + EQUAL_SHARE * level
        return float("nan"), True, bool((np.abs(mean[0] - mean[1]) <= allowed).all())
    both = (centred[0] * centred[1]).mean(axis=1)
    scale = spread[0] * spread[1]
    correlation = np.divide(both, scale, out=np.zeros_like(both), where=scale > 0)
    return float(np.median(correlation[textured])), False, False


def _estimate_shift(
    first: Floats, second: Floats, valid: tuple[NDArray[np.bool_], ...], mapping: Doubles, search_px: float
) -> Doubles | None:
    """Return by how much further down and right the second lies than the index says, [2]; None if that is not told."""
    if min(first.shape[1:]) < 4:
        return None
    filled = np.where(valid[1], second, np.float32(0))
    sampled, seen = sample_tile(filled, valid[1], mapping)
    estimator = ShiftEstimator(first.shape[1], search_px=search_px)
    estimator.add(np.where(valid[0], first, np.nan), np.where(seen, sampled, np.nan))
    shift = estimator.estimate()
    moved = np.array([shift.row_px, shift.col_px])
    told = shift.score >= LEAST_SCORE and np.hypot(*moved) <= search_px
    # The shift was found on the grid of the first tile.
    return mapping[:, :2] @ moved if told else None
