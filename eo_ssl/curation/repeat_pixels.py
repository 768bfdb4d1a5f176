"""Whether two tiles of one place and time show the same pixels: their overlap, and the correlation of what they share.

Correlation does not see a gain or an offset, so that products of two processors compare as they are. On one grid pixels
are compared one by one. On two grids (another zone, a shift by part of a pixel) the second tile is interpolated at the
pixels of the first, after both were smoothed by a Gaussian of one pixel: else what interpolation takes from noise would
count as a difference.

Of radar the detail is compared, the decibels less their local mean. Speckle is the fingerprint of an acquisition, and
the two looks at the ground where bursts overlap show the same land with other speckle.
"""

from __future__ import annotations

from collections.abc import Iterable
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
DETAIL_PX = 2.0  # width of the Gaussian whose mean is no detail; docs/duplicates.md has what it tells apart
LEAST_PIXELS = 8  # fewer in common say nothing
LEAST_SCORE = 6.0  # of a shift that counts as told, as in docs/pairs.md
TILES_OF_SHIFT = 64  # of two products, whose shift is common to all
FLAT = {"reflectance": 0.005, "dB": 0.1}
"""Standard deviation below which a band of a tile has no texture of its own (ours: some five times the noise of
Sentinel-2's bands; far below what is left of speckle)."""
FLAT_SHARE = 0.02  # the same of other quantities, in parts of their mean
EQUAL_SHARE = 0.05  # of their mean by which flat bands may differ beside that: what atmospheric correction does
EQUAL_DB = 0.5


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


def compare_tiles(first: Floats, second: Floats, mapping: Doubles, *, quantity: Quantity) -> PixelEvidence:
    """Return what two tiles [C, H, W], NaN where invalid, have in common.

    Args:
        first: in the quantity that images are compared in (a power in dB).
        second: of the same bands.
        mapping: where pixels of the first lie in the second, [2, 3] as of `map_pixels`.
        quantity: of both.
    """
    images, valid = [first, second], [_find_valid(image) for image in (first, second)]
    offset = find_whole_offset(mapping, first.shape[1:])
    if offset is None:
        images = [smooth_valid(image, known, SMOOTHING_PX) for image, known in zip(images, valid, strict=True)]
    if quantity.is_db:
        images = [keep_detail(image, known) for image, known in zip(images, valid, strict=True)]
    if offset is None:
        images[1], seen = sample_tile(images[1], valid[1], mapping)
        both, area = valid[0] & seen, float(abs(np.linalg.det(mapping[:, :2])))
    else:
        cuts = [_cut(first.shape[1:], sign * offset) for sign in (-1, 1)]
        images = [image[:, rows, cols] for image, (rows, cols) in zip(images, cuts, strict=True)]
        both, area = valid[0][cuts[0]] & valid[1][cuts[1]], 1.0
    count = int(np.count_nonzero(both))
    shares = [
        min(1.0, count * scale / max(int(np.count_nonzero(own)), 1))
        for own, scale in zip(valid, (1, area), strict=True)
    ]
    correlation, flat, equal = measure_correlation(*(image[:, both] for image in images), quantity=quantity)
    return PixelEvidence(shares[0], shares[1], correlation, flat, equal)


def _find_valid(image: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(image).all(axis=0))


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


def smooth_valid(image: Floats, valid: NDArray[np.bool_], sigma_px: float) -> Floats:
    """Return ``image`` [C, H, W] smoothed by a Gaussian over its valid pixels [H, W]; 0 far from any."""
    weight = ndimage.gaussian_filter(valid.astype(np.float32), sigma_px)
    total = ndimage.gaussian_filter(np.where(valid, image, np.float32(0)), (0, sigma_px, sigma_px))
    smooth: Floats = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)
    return smooth


def keep_detail(image: Floats, valid: NDArray[np.bool_]) -> Floats:
    """Return ``image`` [C, H, W] with the mean of its valid pixels [H, W] in place of their local mean."""
    mean = image[:, valid].mean(axis=1) if valid.any() else np.zeros(len(image), dtype=np.float32)
    detail: Floats = image - smooth_valid(image, valid, DETAIL_PX) + mean[:, None, None]
    return detail


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


def measure_correlation(first: Floats, second: Floats, *, quantity: Quantity) -> tuple[float, bool, bool]:
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
        allowed = np.full(len(level), EQUAL_DB) if quantity.is_db else floor + EQUAL_SHARE * level
        return float("nan"), True, bool((np.abs(mean[0] - mean[1]) <= allowed).all())
    both = (centred[0] * centred[1]).mean(axis=1)
    scale = spread[0] * spread[1]
    correlation = np.divide(both, scale, out=np.zeros_like(both), where=scale > 0)
    return float(np.median(correlation[textured])), False, False


def estimate_shift(
    tiles: Iterable[tuple[Floats, Floats, Doubles]], *, size_px: int, search_px: float
) -> Doubles | None:
    """Return by how many rows and columns of the first the second of two products lies off, float64 [2].

    None where that is not told, or further than ``search_px``. Summed over pairs of their tiles.

    Args:
        tiles: of the first and the second product [C, size_px, size_px], NaN where invalid, and where pixels of the
            first should lie in the second, [2, 3].
        size_px: side of the tiles.
        search_px: largest shift that is looked for.
    """
    estimator = ShiftEstimator(size_px, search_px=search_px)
    for first, second, mapping in tiles:
        valid = _find_valid(second)
        sampled, seen = sample_tile(np.where(valid, second, np.float32(0)), valid, mapping)
        estimator.add(first, np.where(seen, sampled, np.float32(np.nan)))
    shift = estimator.estimate()
    moved = np.array([shift.row_px, shift.col_px])
    return moved if shift.score >= LEAST_SCORE and np.hypot(*moved) <= search_px else None


def move_map(mapping: Doubles, shift: Doubles) -> Doubles:
    """Return where pixels of the first lie in the second, [2, 3], if that is ``shift`` [2] pixels of the first off."""
    moved = mapping.copy()
    moved[:, 2] += mapping[:, :2] @ shift
    return moved
