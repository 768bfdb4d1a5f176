"""Values of an image at places between its pixels, the same bits whatever window is asked for.

Each result is a fixed function of the pixels around its absolute place: weights come from the place alone, sums run
elementwise in one order, and a result whose pixels are all valid is never divided (as in
:mod:`eo_ssl.scene.resampling`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from eo_ssl.scene.layers import Range

Float = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
_LEAST_COVER = 0.5  # share of an averaged cell that must be valid


def is_inside(lines: Array, samples: Array, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which places lie on an image of ``shape``; pixels count from 0 at their centres, NaN lies nowhere."""
    return (lines > -0.5) & (lines < shape[0] - 0.5) & (samples > -0.5) & (samples < shape[1] - 0.5)


def span(lines: Array, samples: Array, shape: tuple[int, int]) -> tuple[Range, Range]:
    """Return the half-open window of pixels around the places that lie on the image; at least one must."""
    on = is_inside(lines, samples, shape)
    windows = []
    for places, size in zip((lines[on], samples[on]), shape, strict=True):
        windows.append((max(int(np.floor(places.min())), 0), min(int(np.floor(places.max())) + 2, size)))
    return windows[0], windows[1]


def locate_nearest(
    lines: Array, samples: Array, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return line and sample of the pixel that holds each place.

    Of some pixel for places that do not lie on the image.
    """
    nearest = []
    for places, size in zip((lines, samples), shape, strict=True):
        nearest.append(np.clip(np.floor(np.nan_to_num(places) + 0.5).astype(np.int64), 0, size - 1))
    return nearest[0], nearest[1]


def sample_bilinear(
    read: Callable[[Range, Range], Float], lines: Array, samples: Array, *, shape: tuple[int, int]
) -> Float:
    """Return the image at places [n, m], float32, NaN where there is nothing.

    Invalid pixels carry no weight; a place is valid where the pixel that holds it is. Beyond the outermost centres the
    edge repeats.

    Args:
        read: gives a half-open window of the image, float32, NaN invalid.
        lines: absolute places, float64 [n, m].
        samples: likewise.
        shape: lines and samples of the whole image.
    """
    on = is_inside(lines, samples, shape)
    if not on.any():
        return np.full(lines.shape, np.nan, dtype=np.float32)
    rows, columns = span(lines, samples, shape)
    values = read(rows, columns)
    invalid = np.isnan(values)
    lower_line, lower_sample = np.floor(np.where(on, lines, 0.0)), np.floor(np.where(on, samples, 0.0))
    down, right = (lines - lower_line).astype(np.float32), (samples - lower_sample).astype(np.float32)
    above, below = (
        np.clip(lower_line.astype(np.int64) + k - rows[0], 0, len(values) - 1) * values.shape[1] for k in (0, 1)
    )
    first, second = (np.clip(lower_sample.astype(np.int64) + k - columns[0], 0, values.shape[1] - 1) for k in (0, 1))
    unit = np.float32(1)
    taps = (
        (above + first, (unit - down) * (unit - right)),
        (above + second, (unit - down) * right),
        (below + first, down * (unit - right)),
        (below + second, down * right),
    )
    some_invalid = bool(invalid.any())
    filled = np.where(invalid, np.float32(0), values) if some_invalid else values
    out = np.zeros(lines.shape, dtype=np.float32)
    for index, weight in taps:
        out += filled.take(index) * weight
    if some_invalid:
        cover, touched = np.zeros_like(out), np.zeros(out.shape, dtype=bool)
        for index, weight in taps:
            missing = invalid.take(index)
            cover += np.where(missing, np.float32(0), weight)
            touched |= missing
        np.divide(out, cover, out=out, where=touched & (cover > 0))
        own_line, own_sample = locate_nearest(lines, samples, shape)
        own_line, own_sample = (
            np.where(on, own_line, rows[0]) - rows[0],
            np.where(on, own_sample, columns[0]) - columns[0],
        )
        on &= ~invalid[own_line, own_sample]
    out[~on] = np.nan
    return out


def average_cells(values: Float, side: int) -> Float:
    """Return the mean of each cell of ``side`` by ``side`` values, float32.

    NaN where less than half of the cell is valid.
    """
    if side == 1:
        return values
    valid = ~np.isnan(values)
    filled = np.where(valid, values, np.float32(0))
    total = np.zeros((len(values) // side, values.shape[1] // side), dtype=np.float32)
    count = np.zeros_like(total)
    for row in range(side):
        for column in range(side):
            total += filled[row::side, column::side]
            count += valid[row::side, column::side]
    enough = count >= _LEAST_COVER * side * side
    return np.where(enough, total / np.maximum(count, np.float32(1)), np.float32(np.nan))
