"""Look-up tables over an image: vectors at some lines, each with values at some pixels.

Between vectors and between their pixels a table is linear, in pixel first and in line after; the pixels may differ from
vector to vector. Outside it holds its outermost values. That is how ESA's denoising and calibration notes use the
tables (MPC-0392, DI-MPC-TN), whose vectors reach both ends of the image; a table that does not is refused by
``check_cover``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError
from eo_ssl.scene.layers import Range

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """Values at pixels of one line."""

    line: float
    pixels: Array
    "[n] ascending"
    values: Array
    "[n]"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Vectors in the order of their lines."""

    vectors: tuple[Vector, ...]

    @property
    def lines(self) -> Array:
        """Lines of the vectors [k]."""
        return np.array([vector.line for vector in self.vectors])

    def at(self, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return the table at every pixel of a half-open window, float32 [rows, columns].

        A value depends on its absolute line and pixel alone, so that any window holds the same bits.
        """
        wanted = np.arange(*rows, dtype=np.float64)
        lower, weight = _place(wanted, self.lines)
        pixels = np.arange(*columns, dtype=np.float64)
        last = len(self.vectors) - 1
        used = range(int(lower.min()), min(int(lower.max()) + 1, last) + 1)
        profiles = np.stack([interpolate(pixels, self.vectors[k].pixels, self.vectors[k].values) for k in used])
        upper = np.minimum(lower + 1, last) - used[0]
        below, above = (1.0 - weight).astype(np.float32)[:, None], weight.astype(np.float32)[:, None]
        values: npt.NDArray[np.float32] = profiles[lower - used[0]] * below + profiles[upper] * above
        return values

    def check_cover(self, lines: int, samples: int, *, name: str) -> None:
        """Refuse a table that ends more than one spacing of its vectors before the end of the image."""
        ends = self.lines
        step = float(np.diff(ends).max()) if len(ends) > 1 else float(lines)
        pixel_ends = [(vector.pixels[0], vector.pixels[-1]) for vector in self.vectors]
        pixel_step = max(
            float(np.diff(vector.pixels).max()) if len(vector.pixels) > 1 else samples for vector in self.vectors
        )
        covered = ends[0] <= step and ends[-1] >= lines - 1 - step
        covered &= all(first <= pixel_step and last >= samples - 1 - pixel_step for first, last in pixel_ends)
        if not covered:
            raise UserError(
                f"expected a table over {lines} lines and {samples} samples in {name}, got lines {ends[0]:g} to "
                f"{ends[-1]:g} and samples "
                f"{max(first for first, _ in pixel_ends):g} to {min(last for _, last in pixel_ends):g}; the file is "
                "not of this image or is cut short"
            )


def interpolate(wanted: Array, known: Array, values: Array) -> npt.NDArray[np.float32]:
    """Return ``values`` [n] at ascending positions ``known`` [n], linear at ``wanted`` [m], held at both ends.

    Float32 [m].
    """
    k, w = _place(wanted, known)
    upper = np.minimum(k + 1, len(known) - 1)
    return (values[k] * (1.0 - w) + values[upper] * w).astype(np.float32)


def _place(wanted: Array, known: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """Return for each wanted position the index of the known one below it and the weight (0..1) of the one above.

    Held at both ends.
    """
    if len(known) == 1:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted))
    lower = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, len(known) - 2)
    return lower, np.clip((wanted - known[lower]) / (known[lower + 1] - known[lower]), 0.0, 1.0)


def check_ascending(values: Array, *, what: str, name: str) -> None:
    """Refuse positions of a table that do not ascend.

    Raises:
        UserError: two positions are equal or fall.
    """
    if not (np.diff(values) > 0).all():
        raise UserError(
            f"expected ascending {what} in {name}, got {values[:8].tolist()} ...; the file is damaged, fetch it again"
        )


def check_lengths(positions: Array, values: Array, *, what: str, name: str) -> None:
    """Refuse a vector whose values are not as many as its positions, or whose positions do not ascend.

    Raises:
        UserError: the two lists do not belong together.
    """
    if len(positions) != len(values) or not len(values):
        raise UserError(
            f"expected as many values of {what} as positions in {name}, got {len(values)} and {len(positions)}; the "
            "file is damaged, fetch it again"
        )
    check_ascending(positions, what=f"positions of {what}", name=name)
