"""Terrain correction: each pixel of an elevation raster is looked up in the image where the orbit says it was seen.

sigma0 and beta0 are resampled (geometric correction; they refer to the ellipsoid's incidence angle as in the product).
gamma0 is beta0 divided by the area that the terrain in a cell shows to the radar (Small, "Flattening Gamma: Radiometric
Terrain Correction for SAR Imagery", IEEE TGRS 49(8), 2011). Power comes from the reader, with its noise already
removed: sarsen, which solves the geometry, would not remove it.

Blocks of ``BLOCK`` pixels lie at fixed places of the output grid. Each is solved as a whole, with the terrain within
``REACH_M`` around it, so that a pixel has the same bits whatever window asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import pyproj
from odc.geo.geobox import GeoBox
from scipy import ndimage

from eo_ssl.errors import UserError
from eo_ssl.fingerprints import FileIdentity, identify_file
from eo_ssl.scene.grids import make_grid, measure_gsd, read_crs
from eo_ssl.scene.layers import Blocks, Image, Layer, Layers, Range
from eo_ssl.scene.sentinel1.annotation import Annotation
from eo_ssl.scene.sentinel1.geocoding import open_geolocation
from eo_ssl.scene.sentinel1.heights import Elevation
from eo_ssl.scene.sentinel1.image_sampling import average_cells, is_inside, locate_nearest, sample_bilinear
from eo_ssl.scene.sentinel1.power import RadarImage
from eo_ssl.scene.sentinel1.rangedoppler import Patch, compute_flattening, solve
from eo_ssl.sensors import Quantity

BLOCK = 768  # pixels; with the terrain around it 2.5 million pixels of 10 m, 0.9 GB while they are solved
REACH_M = 4_000.0  # terrain this far off can be folded onto a pixel: 2300 m of relief seen at 30 degrees
_CELLS = 3  # facets along a cell's side: fewer, and the number of facets in a cell shows
_LEAST_AREA = (
    0.05  # of the slant plane's: terrain that turns away by more than 87 degrees from the line of sight is in shadow
)
Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TerrainScene:
    """One image over one elevation raster. Equal when their contents and grid are.

    Pickles, holds no pixels of either.
    """

    content: FileIdentity
    "what identifies the image"
    elevation: Elevation
    grid: GeoBox
    "of the output: the part of the elevation raster that the image covers"
    origin: tuple[int, int]
    "row and column of the grid's first pixel in the elevation raster"
    flatten: bool
    annotation: Annotation = field(compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Solved geometry of one block."""

    line: Float
    "[y, x] radar line, NaN where the height is unknown"
    sample: Float
    area: Float
    "[y, x] divisor of the power"


def correct_terrain(images: tuple[RadarImage, ...], elevation: Elevation) -> Layers:
    """Return images on the grid of ``elevation``, with border noise, saturation and the ellipsoid's incidence angle.

    Args:
        images: polarisations of one product; they share their geometry, of which the first one's annotation is taken.
        elevation: terrain, on the grid that the pixels shall have.

    Raises:
        UserError: the images lie beyond the elevation raster, or an image is incomplete or not as its annotation says.
    """
    flatten = images[0].quantity is Quantity.GAMMA0
    if flatten:
        images = tuple(replace(image, quantity=Quantity.BETA0) for image in images)
    for image in images:
        image.check()
    annotation, name = images[0].annotation, str(images[0].path)
    grid, origin = _covered(annotation, elevation, name)
    scene = TerrainScene(identify_file(images[0].path), elevation, grid, origin, flatten, annotation)
    flags, fields = {"border_noise": _Border(scene, images)}, {"incidence_deg": _Incidence(scene, images[0])}
    return Layers(TerrainImage(grid, scene, images), flags=flags, fields=fields)


@dataclass(frozen=True, slots=True)
class TerrainImage(Image):
    """Polarisations of one product on the grid of the elevation raster."""

    grid: GeoBox
    scene: TerrainScene
    images: tuple[RadarImage, ...]

    @property
    def blocks(self) -> Blocks:
        """What is solved together."""
        block = min(BLOCK, self.grid.height), min(BLOCK, self.grid.width)
        return Blocks(*block, block)

    @property
    def has_saturation(self) -> bool:
        """The largest amplitude that can be stored marks saturation."""
        return True

    def read(self, bands: Sequence[int], rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        """Return power [band, y, x] float32 of a half-open window.

        NaN outside the image, in shadow and where the height is unknown.

        Where pixels are coarser than the image's, cells of as many lines and samples as fit are averaged first.
        """
        out = np.empty((len(bands), rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
        about = self.scene.annotation
        side = max(1, round(measure_gsd(self.grid) / max(about.azimuth_spacing_m, about.range_spacing_m)))
        for block, inner, place in _blocks(self.scene, rows, columns):
            line, sample = (
                (part[inner].astype(np.float64) - (side - 1) / 2) / side for part in (block.line, block.sample)
            )
            for position, band in enumerate(bands):
                cells = partial(_cells, self.images[band], side)
                values = sample_bilinear(cells, line, sample, shape=(about.lines // side, about.samples // side))
                out[(position, *place)] = values / block.area[inner]
        return out

    def saturated(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        """Return [y, x]: whether the nearest sample of any polarisation holds the largest storable amplitude."""
        out = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for line, sample, on, place in _nearest(self.scene, rows, columns):
            if on.any():
                (top, bottom), (left, right) = (
                    (int(part[on].min()), int(part[on].max()) + 1) for part in (line, sample)
                )
                at = np.where(on, line - top, 0), np.where(on, sample - left, 0)
                for image in self.images:
                    out[place] |= on & image.saturated((top, bottom), (left, right))[at]
        return out


@dataclass(frozen=True, slots=True)
class _Border(Layer):
    """Border noise of the nearest sample of any polarisation."""

    scene: TerrainScene
    images: tuple[RadarImage, ...]

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.bool_]:
        out = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), dtype=bool)
        for line, sample, on, place in _nearest(self.scene, rows, columns):
            for image in self.images:
                out[place] |= on & image.border.at(line, sample)
        return out


@dataclass(frozen=True, slots=True)
class _Incidence(Layer):
    """Incidence angle against the ellipsoid, degrees, NaN outside the image."""

    scene: TerrainScene
    image: RadarImage

    def read(self, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
        out = np.full((rows[1] - rows[0], columns[1] - columns[0]), np.nan, dtype=np.float32)
        about, way = (
            self.scene.annotation,
            open_geolocation(self.image.safe, self.image.image, read_crs(self.scene.grid)),
        )
        for block, inner, place in _blocks(self.scene, rows, columns):
            line, sample = block.line[inner].astype(np.float64), block.sample[inner].astype(np.float64)
            on = is_inside(line, sample, (about.lines, about.samples))
            out[place][on] = way.incidence(line[on], sample[on])
        return out


def _cells(image: RadarImage, side: int, rows: Range, columns: Range) -> npt.NDArray[np.float32]:
    """Power of a window of cells of ``side`` by ``side`` samples."""
    own = [(low * side, high * side) for low, high in (rows, columns)]
    return average_cells(image.power(rows=own[0], columns=own[1]), side)


def _covered(annotation: Annotation, elevation: Elevation, name: str) -> tuple[GeoBox, tuple[int, int]]:
    """Return the part of the elevation raster around the geolocation grid, and its first row and column."""
    whole, grid = elevation.grid, annotation.grid
    a, b, c, d, e, f = tuple(whole.affine)[:6]
    crs = read_crs(whole)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(grid.longitude, grid.latitude)
    across = np.sort((np.array([x.min() - REACH_M, x.max() + REACH_M]) - c) / a)
    along = np.sort((np.array([y.min() - REACH_M, y.max() + REACH_M]) - f) / e)
    left, right = max(floor(across[0]), 0), min(ceil(across[1]), whole.width)
    top, bottom = max(floor(along[0]), 0), min(ceil(along[1]), whole.height)
    if right - left < 2 or bottom - top < 2:
        raise UserError(
            f"expected the elevation raster {elevation.path} to cover {name}, got another place; name a raster of its "
            "area in radar.dem"
        )
    return make_grid(bottom - top, right - left, (a, b, c + a * left, d, e, f + e * top), crs), (top, left)


def _blocks(
    scene: TerrainScene, rows: Range, columns: Range
) -> Iterator[tuple[_Block, tuple[slice, slice], tuple[slice, slice]]]:
    """Yield the blocks of a window: geometry, the part of the block that is wanted, and its place in the window."""
    for i in range(rows[0] // BLOCK, -(-rows[1] // BLOCK)):
        for j in range(columns[0] // BLOCK, -(-columns[1] // BLOCK)):
            spans = [(max(part[0], n * BLOCK), min(part[1], (n + 1) * BLOCK)) for part, n in ((rows, i), (columns, j))]
            inside = (
                slice(spans[0][0] - i * BLOCK, spans[0][1] - i * BLOCK),
                slice(spans[1][0] - j * BLOCK, spans[1][1] - j * BLOCK),
            )
            place = (
                slice(spans[0][0] - rows[0], spans[0][1] - rows[0]),
                slice(spans[1][0] - columns[0], spans[1][1] - columns[0]),
            )
            yield _solved(scene, i, j), inside, place


@lru_cache(
    maxsize=16
)  # more than the blocks of one region of ingestion, which each band, flag and field asks for; 7 MB each
def _solved(scene: TerrainScene, i: int, j: int) -> _Block:
    margin = ceil(REACH_M / measure_gsd(scene.grid)) if scene.flatten else 1
    spans = [
        (n * BLOCK - margin, min((n + 1) * BLOCK, size) + margin)
        for n, size in ((i, scene.grid.height), (j, scene.grid.width))
    ]
    around = [(low + first, high + first) for (low, high), first in zip(spans, scene.origin, strict=True)]
    heights = scene.elevation.read(around[0], around[1])
    across, _, left, _, step, top = tuple(scene.grid.affine)[:6]
    patch = Patch(
        heights,
        x=left + across * (np.arange(*spans[1], dtype=np.float64) + 0.5),
        y=top + step * (np.arange(*spans[0], dtype=np.float64) + 0.5),
        crs=read_crs(scene.grid),
    )
    sight = solve(patch, scene.annotation, facets=scene.flatten)
    area = np.ones_like(heights)
    if scene.flatten:
        cell = _CELLS * max(
            measure_gsd(scene.grid), scene.annotation.azimuth_spacing_m, scene.annotation.range_spacing_m
        )
        area = compute_flattening(sight, scene.annotation, cell_m=cell)
        rim = ceil(2 * cell / measure_gsd(scene.grid)) + 1  # cells here may lack facets beyond the known terrain
        unknown = ndimage.maximum_filter(~np.isfinite(heights), size=2 * rim + 1, mode="constant", cval=False)
        area[unknown | ~(area >= _LEAST_AREA)] = np.nan
    inner = slice(margin, -margin), slice(margin, -margin)
    return _Block(*(part[inner].astype(np.float32) for part in (sight.line, sight.sample, area)))


def _nearest(
    scene: TerrainScene, rows: Range, columns: Range
) -> Iterator[tuple[Index, Index, npt.NDArray[np.bool_], tuple[slice, slice]]]:
    """Yield per block of a window the nearest line and sample [y, x], whether it lies on the image, and its part."""
    shape = scene.annotation.lines, scene.annotation.samples
    for block, inner, place in _blocks(scene, rows, columns):
        line, sample = block.line[inner].astype(np.float64), block.sample[inner].astype(np.float64)
        yield *locate_nearest(line, sample, shape), is_inside(line, sample, shape), place
