"""From image coordinates to the map and back, through the geolocation grid of the annotation.

The map coordinates of the grid points are interpolated by a bicubic spline of line and pixel; beyond the outermost
points it goes on linearly. The way back solves that spline by Newton's method at nodes of the target grid and is
bilinear between them: nodes have absolute indices, the first guess and the number of steps are fixed, hence a pixel's
image coordinates do not depend on the window that asks.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy.interpolate import RectBivariateSpline

from eo_ssl.errors import UserError
from eo_ssl.scene.grids import make_grid, measure_gsd
from eo_ssl.scene.sentinel1.annotation import GeolocationGrid

Array = npt.NDArray[np.float64]
# metres between nodes; going linearly between them errs by 0.012 pixels of 10 m on the roughest of five real grids
NODE_M = 160.0
_STEPS = 6  # Newton from an affine guess; the error is about squared at each step
_CONVERGED_PX = 1e-3
_PATCH = 4  # extra points beyond the outline of the image between two grid points
_POLAR_DEG = 84.0  # UTM ends there


def choose_crs(grid: GeolocationGrid) -> str:
    """Return the EPSG code of the UTM zone (beyond 84 degrees: polar stereographic) of the middle grid point."""
    n, m = grid.latitude.shape
    latitude, longitude = float(grid.latitude[n // 2, m // 2]), float(grid.longitude[n // 2, m // 2])
    if abs(latitude) > _POLAR_DEG:
        return "EPSG:5041" if latitude > 0 else "EPSG:5042"
    zone = min(int((longitude + 180.0) // 6.0) + 1, 60)
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


class Geolocation:
    """The two ways between an image's lines and pixels and the coordinates of a map."""

    def __init__(self, grid: GeolocationGrid, crs: str) -> None:
        self.crs = crs
        self._lines, self._pixels = grid.lines, grid.pixels
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(grid.longitude, grid.latitude)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise UserError(
                "expected latitudes and longitudes on the globe in the geolocation grid, got a point that has no place "
                "on the map; "
                "the annotation is damaged, fetch the product again"
            )
        self._x, self._y, self._incidence = (self._spline(values) for values in (x, y, grid.incidence_deg))
        along, across = self._lines[-1] - self._lines[0], self._pixels[-1] - self._pixels[0]
        xs, ys = np.asarray(x)[[0, 0, -1, -1], [0, -1, 0, -1]], np.asarray(y)[[0, 0, -1, -1], [0, -1, 0, -1]]
        per_line = [float(v[2] - v[0] + v[3] - v[1]) / 2 / along for v in (xs, ys)]
        per_pixel = [float(v[1] - v[0] + v[3] - v[2]) / 2 / across for v in (xs, ys)]
        self._affine = per_line[0], per_pixel[0], per_line[1], per_pixel[1], float(xs.mean()), float(ys.mean())

    def _spline(self, values: Array) -> RectBivariateSpline:
        degrees = (min(3, len(self._lines) - 1), min(3, len(self._pixels) - 1))
        return RectBivariateSpline(self._lines, self._pixels, values, kx=degrees[0], ky=degrees[1], s=0)

    def to_map(self, lines: Array, pixels: Array) -> tuple[Array, Array]:
        """Return map x and y of image positions (any equal shapes)."""
        x, y, *_ = self._forward(lines, pixels)
        return x, y

    def _forward(self, lines: Array, pixels: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
        """Return x, y and their derivatives by line and by pixel; linear beyond the grid."""
        (x, x_line, x_pixel), (y, y_line, y_pixel) = (self._value(part, lines, pixels) for part in (self._x, self._y))
        return x, y, x_line, x_pixel, y_line, y_pixel

    def _value(self, spline: RectBivariateSpline, lines: Array, pixels: Array) -> tuple[Array, Array, Array]:
        """Return a spline's value and derivatives; linear beyond the grid."""
        at = np.clip(lines, self._lines[0], self._lines[-1]), np.clip(pixels, self._pixels[0], self._pixels[-1])
        by_line, by_pixel = spline.ev(*at, dx=1), spline.ev(*at, dy=1)
        return spline.ev(*at) + by_line * (lines - at[0]) + by_pixel * (pixels - at[1]), by_line, by_pixel

    def to_image(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return line and pixel of map positions (any equal shapes), NaN where the grid does not lead there."""
        a, b, c, d, x0, y0 = self._affine
        scale = a * d - b * c
        lines = (d * (x - x0) - b * (y - y0)) / scale + (self._lines[0] + self._lines[-1]) / 2
        pixels = (a * (y - y0) - c * (x - x0)) / scale + (self._pixels[0] + self._pixels[-1]) / 2
        step = np.zeros_like(lines)
        with np.errstate(all="ignore"):  # far from the image a step may lead to infinity: lost
            for _ in range(_STEPS):
                fx, fy, x_line, x_pixel, y_line, y_pixel = self._forward(lines, pixels)
                determinant = x_line * y_pixel - x_pixel * y_line
                by_line = ((x - fx) * y_pixel - (y - fy) * x_pixel) / determinant
                by_pixel = ((y - fy) * x_line - (x - fx) * y_line) / determinant
                lines, pixels = lines + by_line, pixels + by_pixel
                step = np.abs(by_line) + np.abs(by_pixel)
        lost = ~(step < _CONVERGED_PX)
        return np.where(lost, np.nan, lines), np.where(lost, np.nan, pixels)

    def incidence(self, lines: Array, pixels: Array) -> Array:
        """Return the incidence angle (degrees, against the ellipsoid) at image positions.

        Linear beyond the grid, NaN at NaN.
        """
        lost = np.isnan(lines) | np.isnan(pixels)
        angle, *_ = self._value(self._incidence, np.where(lost, 0.0, lines), np.where(lost, 0.0, pixels))
        return np.where(lost, np.nan, angle)

    def grid(self, lines: int, samples: int, gsd_m: float) -> GeoBox:
        """Return the smallest north-up grid with corners at multiples of ``gsd_m`` that holds the image."""
        along = np.linspace(-0.5, lines - 0.5, _PATCH * len(self._lines))
        across = np.linspace(-0.5, samples - 0.5, _PATCH * len(self._pixels))
        edges = [(along, np.full_like(along, end)) for end in across[[0, -1]]]
        edges += [(np.full_like(across, end), across) for end in along[[0, -1]]]
        x, y = (np.concatenate(part) for part in zip(*(self.to_map(*edge) for edge in edges), strict=True))
        left, top = floor(x.min() / gsd_m), ceil(y.max() / gsd_m)
        width, height = ceil(x.max() / gsd_m) - left, top - floor(y.min() / gsd_m)
        return make_grid(height, width, (gsd_m, 0.0, left * gsd_m, 0.0, -gsd_m, top * gsd_m), self.crs)

    def image_positions(self, grid: GeoBox, rows: Array, columns: Array) -> tuple[Array, Array]:
        """Return line and pixel [n, m] of points at ``rows`` [n] and ``columns`` [m], counted from the grid's corner.

        The centre of the first pixel is at row 0.5 and column 0.5. Bilinear between nodes every ``NODE_M``.
        """
        lines, pixels = _between_nodes(grid, rows, columns, self.to_image)
        return lines, pixels

    def incidence_on(self, grid: GeoBox, rows: Array, columns: Array) -> Array:
        """Return the incidence angle [n, m] at the same points."""
        return _between_nodes(grid, rows, columns, lambda x, y: (self.incidence(*self.to_image(x, y)),))[0]


def _between_nodes(
    grid: GeoBox, rows: Array, columns: Array, solve: Callable[[Array, Array], tuple[Array, ...]]
) -> tuple[Array, ...]:
    """Return what ``solve`` gives at map x and y: solved at nodes around the points, bilinear between them."""
    per_node = measure_gsd(grid) / NODE_M
    along, across = rows * per_node, columns * per_node
    left, top = grid.affine.c, grid.affine.f
    k, j = np.floor(along).astype(np.int64), np.floor(across).astype(np.int64)
    nodes_y, nodes_x = np.arange(k[0], k[-1] + 2), np.arange(j[0], j[-1] + 2)
    y, x = np.meshgrid(top - NODE_M * nodes_y, left + NODE_M * nodes_x, indexing="ij")
    v, w = (along - k)[:, None], across - j
    k, j = k - k[0], j - j[0]
    interpolated = []
    for values in solve(x, y):
        by_row = values[k] * (1 - v) + values[k + 1] * v
        interpolated.append(by_row[:, j] * (1 - w) + by_row[:, j + 1] * w)
    return tuple(interpolated)
