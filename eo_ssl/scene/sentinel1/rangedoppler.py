"""Where a radar saw a piece of terrain, and how much of the terrain one of its cells holds.

Zero-Doppler times and facet areas are sarsen's (UZH, "Guide to Sentinel-1 Geocoding", UZH-S1-GC-AD 1.10). Two steps are
not:

* Ground range comes from the conversion record nearest in time, by inverting its ground-to-slant polynomial. That is
  what the processor
  did: it reproduces the geolocation grids of real annotations to a centimetre, while interpolating records in time, as
  sarsen does, is up to 9 m off, and the slant-to-ground polynomials of early processors up to 40 m.
* The area of a facet is spread bilinearly over the four nearest cells and read back the same way. Sarsen adds a facet
  to one cell, whose count of facets then flickers by the facets along its rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from numpy.polynomial import polynomial
from scipy import ndimage

from eo_ssl.errors import UserError
from eo_ssl.scene.sentinel1.annotation import Annotation, GeolocationGrid

Array = npt.NDArray[np.float64]
_HALF_LIGHT = 299_792_458.0 / 2  # m/s; two-way
_STEPS = 4  # Newton steps on a polynomial that is nearly straight over 250 km; the error is squared at each


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Terrain on a regular map grid."""

    height_m: Array
    "[y, x] above the ellipsoid, NaN where unknown"
    x: Array
    "[x] centres in CRS units"
    y: Array
    "[y]"
    crs: str


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """How the radar saw each pixel of a patch."""

    line: Array
    "[y, x] image line, integers are centres; NaN where the height is unknown"
    sample: Array
    "[y, x] image sample"
    slant_m: Array
    "[y, x] distance from the satellite"
    facet_m2: Array
    "[y, x] area of the facet projected across the line of sight; 0 where it faces away or its corners are unknown"


def solve(patch: Patch, annotation: Annotation, *, facets: bool) -> Sight:
    """Return where in the image of ``annotation`` the pixels of ``patch`` were seen.

    Args:
        patch: terrain, at least 2 by 2 pixels.
        annotation: of an image in ground range.
        facets: whether facet areas are wanted; zeros otherwise.

    Raises:
        UserError: sarsen is not installed, or the image is not in ground range.
    """
    geocoding, orbits, radiometry, xr = _sarsen()
    unknown = ~np.isfinite(patch.height_m)
    ground = xr.DataArray(
        _earth_fixed(patch, unknown), dims=("axis", "y", "x"), coords={"axis": [0, 1, 2], "y": patch.y, "x": patch.x}
    )
    flown = xr.DataArray(
        annotation.orbit.position_m,
        dims=("azimuth_time", "axis"),
        coords={"azimuth_time": annotation.orbit.time, "axis": [0, 1, 2]},
    )
    seen = geocoding.backward_geocode(ground, orbits.OrbitPolyfitInterpolator.from_position(flown))
    slant = np.sqrt((seen.dem_distance**2).sum("axis"))
    elapsed = (seen.azimuth_time.values - annotation.first_line_time).astype(np.float64) * 1e-9
    line = np.where(unknown, np.nan, elapsed / annotation.line_interval_s)
    sample = _ground_range(annotation, elapsed=elapsed, slant_m=slant.values) / annotation.range_spacing_m
    area = np.zeros(unknown.shape)
    if facets:
        rim = ndimage.maximum_filter(unknown, size=3)
        projected = radiometry.compute_gamma_area(ground, seen.dem_distance / slant).transpose("y", "x").values
        area = np.where(rim, 0.0, projected)
    return Sight(line, np.where(unknown, np.nan, sample), slant.transpose("y", "x").values, area)


def compute_flattening(sight: Sight, annotation: Annotation, *, cell_m: float) -> Array:
    """Return the terrain's area across the line of sight per area of the slant plane, [y, x]: gamma0 = beta0 / this.

    Over level ground it is cos(incidence) / sin(incidence). It is low where terrain faces away and high where slopes
    facing the radar fold many facets into one cell (Small 2011, equations 4 to 8).

    Args:
        sight: with facets.
        annotation: of the image.
        cell_m: side on the ground of the cells that facets are added up in; several facets wide.
    """
    across_m = cell_m * float(np.sin(np.deg2rad(annotation.incidence_mid_deg)))
    known = np.isfinite(sight.line)
    u = np.where(known, sight.line, 0.0) * (annotation.azimuth_spacing_m / cell_m)
    v = sight.slant_m / across_m
    u0, v0 = np.floor(u[known].min(initial=np.inf)), np.floor(v[known].min(initial=np.inf))
    if not np.isfinite(u0):
        return np.full(known.shape, np.nan)
    corners = _corners(np.where(known, u - u0, 0.0), np.where(known, v - v0, 0.0))
    size = max(int(index.max()) for index, _, _ in corners) + 1, max(int(index.max()) for _, index, _ in corners) + 1
    total = np.zeros(size[0] * size[1])
    for i, j, weight in corners:
        total += np.bincount((i * size[1] + j).ravel(), weights=(weight * sight.facet_m2).ravel(), minlength=len(total))
    cells = total.reshape(size)
    gathered = np.zeros(known.shape)
    for i, j, weight in corners:
        gathered += cells[i, j] * weight
    stretch = (
        polynomial.polyval(np.where(known, sight.sample, 0.0), measure_line_spacing(annotation.grid))
        / annotation.azimuth_spacing_m
    )
    return np.where(known, gathered / (cell_m * across_m * stretch), np.nan)


def measure_line_spacing(grid: GeolocationGrid) -> Array:
    """Distance on the ground between two lines in metres, as a polynomial [2] of the sample.

    Fitted to the geolocation grid: lines follow each other in time, and their distance shrinks from near to far range;
    the annotated ``azimuthPixelSpacing`` of real detected products is one to two percent less.
    """
    metres = pyproj.Geod(ellps="WGS84").inv(
        grid.longitude[:-1], grid.latitude[:-1], grid.longitude[1:], grid.latitude[1:]
    )[2]
    spacing = np.median(metres / np.diff(grid.lines)[:, None], axis=0)
    return np.asarray(polynomial.polyfit(grid.pixels, spacing, 1))


def _corners(u: Array, v: Array) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]]:
    """The four cells around each place and their bilinear weights."""
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    du, dv = u - i, v - j
    return [(i + di, j + dj, (du if di else 1 - du) * (dv if dj else 1 - dv)) for di in (0, 1) for dj in (0, 1)]


def _ground_range(annotation: Annotation, *, elapsed: Array, slant_m: Array) -> Array:
    """Metres on the ground from the first sample; ``elapsed`` is in seconds since the first line."""
    if not annotation.conversions:
        raise UserError(
            f"expected an image in ground range for terrain correction, got {annotation.product_type} without "
            "coordinate conversions; use GRD products"
        )
    times = np.array([record.azimuth_time for record in annotation.conversions])
    since = (times - annotation.first_line_time).astype(np.float64) * 1e-9
    nearest = np.searchsorted((since[1:] + since[:-1]) / 2, elapsed)
    out = np.empty_like(slant_m)
    for number in np.unique(nearest).tolist():
        record, here = annotation.conversions[number], nearest == number
        slope = polynomial.polyder(record.ground_to_slant)
        slant = slant_m[here]
        ground = np.clip(polynomial.polyval(slant - record.slant_origin_m, record.slant_to_ground), -5e4, 1e6)
        for _ in range(_STEPS):
            from_origin = ground - record.ground_origin_m
            ground -= (polynomial.polyval(from_origin, record.ground_to_slant) - slant) / polynomial.polyval(
                from_origin, slope
            )
        out[here] = ground
    return out


def _earth_fixed(patch: Patch, unknown: npt.NDArray[np.bool_]) -> Array:
    """Earth-centred coordinates [3, y, x] in metres; unknown heights count as 0 and are masked by the caller."""
    x, y = np.meshgrid(patch.x, patch.y)
    longitude, latitude = pyproj.Transformer.from_crs(patch.crs, "EPSG:4326", always_xy=True).transform(x, y)
    to_earth = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    return np.stack(to_earth.transform(longitude, latitude, np.where(unknown, 0.0, patch.height_m)))


def _sarsen() -> tuple[Any, Any, Any, Any]:
    try:
        import xarray as xr
        from sarsen import geocoding, orbit, radiometry
    except ImportError as error:
        raise UserError(
            f"expected the package sarsen for terrain correction, got: {error}; install it with `pip install "
            "eo_ssl[sar]`"
        ) from error
    return geocoding, orbit, radiometry, xr
