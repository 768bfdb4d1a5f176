"""From a cube to its tiles: read a region once, cut it, judge each tile. Nothing larger than a region is held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.streams import Stream
from eo_ssl.corpus.tile_locations import Affine6, ProductGrid, centre_longitudes, find_far_centre, is_utm, resolve_epsg
from eo_ssl.errors import UserError
from eo_ssl.scene import FIELDS, FLAGS
from eo_ssl.sensors import Quantity, convert, sensor
from eo_ssl.tiling import TilePlan, place_windows, plan_grid

REGION_BYTES = 48_000_000  # float32 pixels of all bands in one read
_MARGIN_PX = 3  # source pixels beyond a warped region: the reach of bilinear and of the rounding of its bounds
_TOLERANCE_PX = 1e-9  # of coordinates, in source pixels; GDAL refuses 0
_METHODS = {"nearest": Resampling.nearest, "bilinear": Resampling.bilinear, "average": Resampling.average}
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RegionPixels:
    """What was read of one rectangle."""

    image: npt.NDArray[np.float32]
    "[C, h, w] physical units of the stream, NaN invalid"
    layers: dict[str, npt.NDArray[Any]]
    "flags (bool), fields (float32) and label (int16), those the product has, [h, w]"


class Raster(Protocol):
    """A product, opened, on the grid its tiles are cut from; it pickles as what was read of the product's headers."""

    tiles: TilePlan
    "where they lie on this grid"
    facts: dict[str, Any]
    "what the product says of itself: name, date, orbit, licence and the rest of a cube's attributes"

    @property
    def grid(self) -> ProductGrid:
        """Where the grid lies on Earth."""
        ...

    def read(self, rows: Range, cols: Range) -> RegionPixels:
        """Read one rectangle."""
        ...


class NativeRaster:
    """A cube on its own grid; nothing is resampled."""

    def __init__(self, cube: xr.Dataset, stream: Stream, config: IngestConfig) -> None:
        self._cube, self._stream = cube.drop_vars(("x", "y"), errors="ignore"), stream  # the transform says the same
        names = [str(name) for name in cube["band"].values]
        missing = [name for name in stream.bands if name not in names]
        if missing:
            raise UserError(
                f"expected band {missing[0]} in {cube.attrs['product_id']}, got {', '.join(names)}; leave it out of "
                "bands"
            )
        self._bands = [names.index(name) for name in stream.bands]
        shape = (int(cube.sizes["y"]), int(cube.sizes["x"]))
        chunks = cube["image"].encoding.get("preferred_chunks", {})
        block = (int(chunks.get("y", config.size_px)), int(chunks.get("x", shape[1])))
        period = tuple(cube["image"].encoding.get("block_period", block))
        self.tiles = TilePlan(shape, config.size_px, config.edge, block, period, _budget_px(stream))
        self.facts: dict[str, Any] = dict(cube.attrs)

    @cached_property
    def grid(self) -> ProductGrid:
        """The product's own grid."""
        facts, cell_m = self.facts, self._stream.size_px * self._stream.gsd_m
        name, transform = facts["product_id"], tuple(facts["transform"])
        return ProductGrid.of(facts["crs"], transform, shape=self.tiles.shape, cell_m=cell_m, name=name)

    def read(self, rows: Range, cols: Range) -> RegionPixels:
        """Read one rectangle of the cube; dB becomes linear power."""
        part = self._cube.isel(y=slice(*rows), x=slice(*cols))
        image = part["image"].values
        if self._bands != list(range(len(image))):
            image = image[self._bands]
        source = Quantity(self._cube.attrs["quantity"])
        image = convert(image, source=source, target=self._stream.quantity)
        layers = {name: part[name].values for name in (*FLAGS, *FIELDS, "label") if name in part}
        return RegionPixels(np.asarray(image, dtype=np.float32), layers)


class GridRaster:
    """A cube resampled once onto the grid of its UTM zone.

    Images by the named method, all else by nearest neighbour.
    """

    def __init__(self, source: NativeRaster, stream: Stream, config: IngestConfig) -> None:
        grid, size, gsd_m = source.grid, stream.size_px, stream.gsd_m
        step = size * gsd_m
        if not grid.transform:
            raise UserError(
                f"expected a georeferenced product for the grid tiling, got {grid.name} without CRS; use tiling native"
            )
        self._source, self._method, self.facts = source, _METHODS[config.resampling], source.facts
        self._affine: Affine6 = grid.transform
        zone = resolve_epsg(grid.crs) if is_utm(resolve_epsg(grid.crs)) else grid.zone
        self._crs = f"EPSG:{zone}"
        height, width = source.tiles.shape
        west, east = grid.transform[2], _apply(grid.transform, width, 0)[0]
        self._centre = find_far_centre(grid.crs, west, east)
        self._source_crs = centre_longitudes(grid.crs, self._centre) if self._centre is not None else grid.crs
        outline = [_apply(self._affine, *corner) for corner in ((0, 0), (width, 0), (0, height), (width, height))]
        xs, ys = zip(*outline, strict=True)
        bounds = transform_bounds(grid.crs, self._crs, min(xs), min(ys), max(xs), max(ys))
        spread = (bounds[2] - bounds[0]) / width, (bounds[3] - bounds[1]) / height
        if self._crs == grid.crs:
            spread = abs(grid.transform[0]), abs(grid.transform[4])
        self._per_source = spread[0] / gsd_m, spread[1] / gsd_m  # pixels of the grid per source pixel
        cells = plan_grid(bounds, size_px=size, gsd_m=gsd_m, edge=config.edge)
        top, left = (int(cells[:, 0].max()) + 1, int(cells[:, 1].min())) if len(cells) else (0, 0)
        spans = place_windows(cells, size_px=size)[:, :2].max(axis=0) + size if len(cells) else (0, 0)
        shape = int(spans[0]), int(spans[1])
        tall = int(source.tiles.block[0] * self._per_source[1]) // size
        block = (max(tall, 1) * size, shape[1])
        self.tiles = TilePlan(shape, size, config.edge, block, block, _budget_px(stream), bounds, gsd_m)
        self._transform: Affine6 = (gsd_m, 0.0, left * step, 0.0, -gsd_m, top * step)
        self.grid = ProductGrid(self._crs, self._transform, zone, step, grid.name)

    def read(self, rows: Range, cols: Range) -> RegionPixels:
        """Read the source pixels under one rectangle of the grid and resample them.

        The result does not depend on the rectangle.
        """
        target = _shifted(self._transform, cols[0], rows[0])
        height, width = rows[1] - rows[0], cols[1] - cols[0]
        inner_rows, inner_cols = self._under(target, height, width)
        count = len(self._source._bands)
        image = np.full((count, height, width), np.nan, dtype=np.float32)
        if inner_rows[0] >= inner_rows[1] or inner_cols[0] >= inner_cols[1]:
            return RegionPixels(image, {})
        pixels = self._source.read(inner_rows, inner_cols)
        begin = _shifted(self._affine, inner_cols[0], inner_rows[0])
        goal = (target, height, width)
        image = self._warp(pixels.image, begin, goal, method=self._method, nodata=np.nan)
        layers: dict[str, npt.NDArray[Any]] = {}
        for kind, nodata, names in ((np.int16, -1, (*FLAGS, "label")), (np.float32, np.nan, FIELDS)):
            held = {name: pixels.layers[name].astype(kind) for name in names if name in pixels.layers}
            if held:
                stack = np.stack(list(held.values()))
                warped = self._warp(stack, begin, goal, method=Resampling.nearest, nodata=nodata)
                layers |= dict(zip(held, warped, strict=True))
        return RegionPixels(image, {name: layer > 0 if name in FLAGS else layer for name, layer in layers.items()})

    def _warp(
        self,
        values: npt.NDArray[Any],
        begin: Affine6,
        goal: tuple[Affine6, int, int],
        *,
        method: Resampling,
        nodata: float,
    ) -> npt.NDArray[Any]:
        """Return ``values`` [n, y, x] on the grid ``goal`` (transform, height, width).

        A warped VRT, because it takes a tolerance: GDAL otherwise interpolates coordinates along the rows of whatever
        rectangle is asked for, up to an eighth of a pixel off, and the same tile would depend on its neighbours in the
        read. For the same reason the scale, which widens the kernels when shrinking, is that of the product and not
        estimated from the rectangle.
        """
        transform, height, width = goal
        count, rows, cols = values.shape
        shape = {"driver": "GTiff", "count": count, "height": rows, "width": cols, "dtype": values.dtype.name}
        with MemoryFile() as memory:
            with memory.open(**shape, crs=self._source.grid.crs, transform=Affine(*begin), nodata=nodata) as file:
                file.write(values)
            with (
                memory.open() as file,
                WarpedVRT(
                    file,
                    src_crs=self._source_crs,
                    crs=self._crs,
                    transform=Affine(*transform),
                    height=height,
                    width=width,
                    resampling=method,
                    src_nodata=nodata,
                    nodata=nodata,
                    tolerance=_TOLERANCE_PX,
                    XSCALE=repr(self._per_source[0]),
                    YSCALE=repr(self._per_source[1]),
                ) as warped,
            ):
                return np.asarray(warped.read())

    def _under(self, target: Affine6, height: int, width: int) -> tuple[Range, Range]:
        """Return the source rows and columns under a rectangle of the grid, with a margin, within the source."""
        left, top = _apply(target, 0, 0)
        right, bottom = _apply(target, width, height)
        west, south, east, north = transform_bounds(self._crs, self._source.grid.crs, left, bottom, right, top)
        if self._centre is not None:
            west, east = ((lon - self._centre + 180) % 360 - 180 + self._centre for lon in (west, east))
        inverse: Affine6 = tuple((~Affine(*self._affine))[:6])
        cols, rows = zip(
            *(_apply(inverse, *point) for point in ((west, south), (west, north), (east, south), (east, north))),
            strict=True,
        )
        margin = _MARGIN_PX + int(np.ceil(1 / min(self._per_source)))
        limit_rows, limit_cols = self._source.tiles.shape
        return (
            (max(int(np.floor(min(rows))) - margin, 0), min(int(np.ceil(max(rows))) + margin, limit_rows)),
            (max(int(np.floor(min(cols))) - margin, 0), min(int(np.ceil(max(cols))) + margin, limit_cols)),
        )


def _apply(transform: Affine6, col: float, row: float) -> tuple[float, float]:
    """Return x and y of a point given in columns and rows."""
    a, b, c, d, e, f = transform
    return a * col + b * row + c, d * col + e * row + f


def _shifted(transform: Affine6, col: int, row: int) -> Affine6:
    """Return the transform of the part of a grid that begins at (col, row)."""
    a, b, _, d, e, _ = transform
    x, y = _apply(transform, col, row)
    return a, b, x, d, e, y


def derive_stream(cube: xr.Dataset, config: IngestConfig) -> Stream:
    """Return the stream that the tiles of ``cube`` belong to."""
    attrs = cube.attrs
    quantity = Quantity(attrs["quantity"])
    bands = (
        tuple(str(name) for name in cube["band"].values)
        if config.bands is None
        else sensor(attrs["sensor"]).resolve_all(config.bands)
    )
    gsd_m = float(attrs["gsd_m"]) if config.gsd_m is None else config.gsd_m
    return Stream(attrs["sensor"], quantity.in_power if quantity.is_db else quantity, bands, gsd_m, config.size_px)


def open_raster(cube: xr.Dataset, stream: Stream, config: IngestConfig) -> Raster:
    """Return ``cube`` on the grid its tiles are cut from.

    Raises:
        UserError: a band is missing, or the grid tiling is asked of a product without CRS.
    """
    native = NativeRaster(cube, stream, config)
    return GridRaster(native, stream, config) if config.tiling == "grid" else native


def _budget_px(stream: Stream) -> int:
    """Return how many pixels of one band may be in memory at a time."""
    return REGION_BYTES // (4 * len(stream.bands))


@dataclass(frozen=True, slots=True)
class CutTile:
    """One tile as it was read."""

    number: int
    "position in the product's plan"
    image: npt.NDArray[np.float32]
    "[C, size, size], NaN invalid or padded"
    valid: npt.NDArray[np.bool_]
    "[h, w] all bands valid; h, w < size where padded"
    layers: dict[str, npt.NDArray[Any]]


def cut_tiles(raster: Raster, region: npt.NDArray[np.intp], *, size_px: int) -> Iterator[CutTile]:
    """Read the region that spans the tiles ``region`` once and yield its tiles in order."""
    windows = raster.tiles.windows[region]
    row0, col0 = (int(value) for value in windows[:, :2].min(axis=0))
    row1, col1 = (int(value) for value in (windows[:, :2] + windows[:, 2:]).max(axis=0))
    pixels = raster.read((row0, row1), (col0, col1))
    valid = np.asarray(np.isfinite(pixels.image).all(axis=0))
    for number, (row, col, height, width) in zip(region.tolist(), windows.tolist(), strict=True):
        box = (slice(row - row0, row - row0 + height), slice(col - col0, col - col0 + width))
        image = pixels.image[(slice(None), *box)]
        if (height, width) != (size_px, size_px):
            padded = np.full((len(image), size_px, size_px), np.nan, dtype=np.float32)
            padded[:, :height, :width] = image
            image = padded
        yield CutTile(number, image, valid[box], {name: layer[box] for name, layer in pixels.layers.items()})
