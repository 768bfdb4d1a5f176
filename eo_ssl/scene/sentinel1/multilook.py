"""From single-look samples in slant range to averaged power in square pixels on the ground.

Sentinel-1 wave mode comes as single-look complex images: rows follow the flight at a constant spacing, columns follow
the slant range. A slant interval dr covers dr / sin(incidence) on the ground, so a column in near range covers more
ground than one in far range. Power is averaged by area: a ground pixel is the mean of the samples it covers, each
weighted with the length (m) it covers along the flight times the length across it. Hence a constant field stays the
same constant, and where pixels hold whole numbers of samples the result is the plain mean of the block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from eo_ssl.errors import UserError

Float = npt.NDArray[np.float64]
_MIN_COVER = 0.5  # share of a ground pixel's area that must be measured, as for averaged cells of optical bands


@dataclass(frozen=True, slots=True, eq=False)
class GroundAxis:
    """One axis of a single-look image laid out on the ground."""

    edges: Float
    "[n + 1] metres on the ground from the first sample's outer edge to each sample's edges, increasing"
    pixel_m: float
    "side of the ground pixels"

    @property
    def size(self) -> int:
        """Number of ground pixels; a remainder smaller than a pixel at the far end is left out."""
        return int(
            self.edges[-1] / self.pixel_m + 1e-9
        )  # 1e-9: rounding of a sum of 10^4 spacings must not lose a pixel

    def weights(self) -> Any:
        """Return the sparse matrix [ground pixel, sample] of the metres of each pixel that each sample covers."""
        count = len(self.edges) - 1
        bounds = self.pixel_m * np.arange(self.size + 1)
        cuts = np.union1d(self.edges, bounds)
        cuts = cuts[cuts <= bounds[-1]]
        middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
        sample = np.clip(np.searchsorted(self.edges, middle, side="right") - 1, 0, count - 1)
        pixel = np.clip((middle / self.pixel_m).astype(np.int64), 0, self.size - 1)
        return sparse.csr_matrix((length, (pixel, sample)), shape=(self.size, count))

    def sample_at(self, pixel_edge: float) -> float:
        """Return the sample coordinate (integers are centres) of the edge before ground pixel ``pixel_edge``."""
        place = np.interp(pixel_edge * self.pixel_m, self.edges, np.arange(len(self.edges)) - 0.5)
        return float(place)


def lay_even_axis(count: int, *, spacing_m: float, pixel_m: float) -> GroundAxis:
    """Return the axis of ``count`` samples ``spacing_m`` apart on the ground: the azimuth of an image.

    Raises:
        UserError: less than one ground pixel.
    """
    return _checked(spacing_m * np.arange(count + 1, dtype=np.float64), pixel_m)


def lay_slant_axis(incidence_deg: npt.NDArray[np.floating[Any]], *, spacing_m: float, pixel_m: float) -> GroundAxis:
    """Return the ground axis of samples ``spacing_m`` apart in slant range.

    edge[k + 1] = edge[k] + spacing / sin(incidence[k]).

    A slant interval is the ground interval seen along the line of sight, dr = dg sin(incidence); summing sample by
    sample follows the change of the angle across the image.

    Args:
        incidence_deg: [n] incidence angle at each sample's centre.
        spacing_m: slant range spacing, ``rangePixelSpacing`` of the annotation.
        pixel_m: side of the ground pixels.

    Raises:
        UserError: an angle outside 0 to 90 degrees, or less than one ground pixel.
    """
    angle = np.asarray(incidence_deg, dtype=np.float64)
    if not ((angle > 0) & (angle < 90)).all():
        raise UserError(
            f"expected incidence angles between 0 and 90 degrees, got {angle.min():g} to {angle.max():g}; the "
            "annotation is damaged, fetch the product again"
        )
    edges = np.concatenate([[0.0], np.cumsum(spacing_m / np.sin(np.deg2rad(angle)))])
    return _checked(edges, pixel_m)


def _checked(edges: Float, pixel_m: float) -> GroundAxis:
    axis = GroundAxis(edges, pixel_m)
    if axis.size < 1:
        raise UserError(
            f"expected an image of at least one pixel of {pixel_m:g} m, got {edges[-1]:.1f} m; set gsd_m to a smaller "
            "pixel"
        )
    return axis


def average(
    strips: Iterable[tuple[int, npt.NDArray[np.float32]]], *, along: GroundAxis, across: GroundAxis
) -> npt.NDArray[np.float32]:
    """Return the area-weighted mean power [row, column] float32 on the ground, NaN where less than half was measured.

    Args:
        strips: (first line, power [line, sample] float32 with NaN where nothing was measured), together each line once.
        along: the lines on the ground; rows of the result.
        across: the samples on the ground; columns of the result.
    """
    by_line, by_sample = along.weights().tocsc(), across.weights()
    whole = np.asarray(by_sample.sum(axis=1)).ravel()
    total = np.zeros((along.size, across.size))
    area = np.zeros_like(total)
    for first, power in strips:
        measured = np.isfinite(power)
        complete = bool(measured.all())
        lines = by_line[:, first : first + len(power)]
        total += lines @ (by_sample @ (power if complete else np.where(measured, power, 0)).T.astype(np.float64)).T
        cover = (
            np.broadcast_to(whole, (len(power), len(whole)))
            if complete
            else (by_sample @ measured.T.astype(np.float64)).T
        )
        area += lines @ cover
    enough = area >= _MIN_COVER * along.pixel_m * across.pixel_m
    return np.divide(total, area, out=np.full_like(total, np.nan), where=enough).astype(np.float32)
