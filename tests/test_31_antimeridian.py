"""The grid tiling of files in longitude and latitude that run on beyond 180 degrees: no pixel lost, none moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio.warp
import shapely
from rasterio.transform import Affine

from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.cutting import GridRaster, Raster, cut_tiles, derive_stream, open_raster
from eo_ssl.corpus.tile_locations import centre_longitudes, find_far_centre, locate, make_transformer
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from rasters import RASTER, card, write

STEP, NORTH, ROWS, COLUMNS = 1e-4, -16.0, 200, 900
CONFIG = {"size_px": 32, "tiling": "grid", "gsd_m": 20.0, "edge": "pad"}


def opened(root: Path, values: np.ndarray, west: float, **changes: object) -> Raster:
    write(root / "a.tif", values, crs="EPSG:4326", transform=Affine(STEP, 0, west, 0, -STEP, NORTH))
    (product,) = list_products(card(root, RASTER, bands=["B02"]), root).products
    cube, config = product.open(), IngestConfig(**{**CONFIG, **changes})
    return open_raster(cube, derive_stream(cube, config), config)


def read_all(raster: Raster) -> dict[int, np.ndarray]:
    return {
        tile.number: tile.image[0]
        for region in raster.tiles.regions
        for tile in cut_tiles(raster, region.tiles, size_px=32)
    }


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(300, 9000, (1, ROWS, COLUMNS)).astype(np.uint16)


@pytest.mark.parametrize("west", [179.95, 180.0, 190.0, -180.04, -190.0, 179.0, 11.0, 355.0])
def test_every_pixel_is_where_its_longitude_says(tmp_path: Path, values: np.ndarray, west: float) -> None:
    """Against pixels that pyproj looks up one by one, longitudes counted from the file's western edge."""
    raster = opened(tmp_path, values, west, resampling="nearest")
    assert isinstance(raster, GridRaster)
    tiles, zone = read_all(raster), raster.grid.crs
    back = pyproj.Transformer.from_crs(zone, "EPSG:4326", always_xy=True)
    a, _, left, _, e, top = raster.grid.transform
    seen = 0
    for number, (row, col, high, wide) in enumerate(raster.tiles.windows.tolist()):
        x, y = np.meshgrid(left + a * (col + 0.5 + np.arange(wide)), top + e * (row + 0.5 + np.arange(high)))
        lon, lat = back.transform(x, y)
        across, down = (((lon - west) % 360) / STEP), (NORTH - lat) / STEP
        inside = (across < COLUMNS) & (down >= 0) & (down < ROWS)
        near = np.abs(np.stack([across, down]) - np.round([across, down])).min(axis=0) < 1e-3  # edges of pixels
        looked_up = (
            values[0, np.clip(down, 0, ROWS - 1).astype(int), np.clip(across, 0, COLUMNS - 1).astype(int)] * 1e-4
        )
        sure = ~near
        np.testing.assert_array_equal(np.isfinite(tiles[number])[sure], inside[sure])
        np.testing.assert_allclose(tiles[number][inside & sure], looked_up[inside & sure], rtol=1e-6)
        seen += int(inside.sum())
    area_px = ROWS * COLUMNS * (STEP * 111_000 / 20) * (STEP * 111_320 * np.cos(np.radians(16)) / 20)
    assert seen == pytest.approx(area_px, rel=0.02), "the grid's cells hold the whole file"


@pytest.mark.parametrize("resampling", ["bilinear", "average"])
def test_there_is_no_seam(tmp_path: Path, values: np.ndarray, resampling: str) -> None:
    """A smooth surface stays one: a pixel at the meridian has its neighbours of both sides."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    smooth = (3000 + 2 * x + 5 * y).astype(np.uint16)
    raster = opened(tmp_path, smooth[None], 179.95, resampling=resampling)
    back = pyproj.Transformer.from_crs(raster.grid.crs, "EPSG:4326", always_xy=True)
    a, _, left, _, e, top = raster.grid.transform
    for number, tile in read_all(raster).items():
        row, col, high, wide = raster.tiles.windows[number].tolist()
        x, y = np.meshgrid(left + a * (col + 0.5 + np.arange(wide)), top + e * (row + 0.5 + np.arange(high)))
        lon, lat = back.transform(x, y)
        across, down = ((lon - 179.95) % 360) / STEP, (NORTH - lat) / STEP
        inner = (across > 3) & (across < COLUMNS - 3) & (down > 3) & (down < ROWS - 3)
        np.testing.assert_allclose(tile[inner], (3000 + 2 * (across - 0.5) + 5 * (down - 0.5))[inner] * 1e-4, atol=3e-4)


def test_a_file_within_the_meridians_is_read_as_ever(tmp_path: Path, values: np.ndarray) -> None:
    assert opened(tmp_path, values, 11.0)._source_crs == "EPSG:4326"


def test_tiles_lie_on_both_sides(tmp_path: Path, values: np.ndarray) -> None:
    raster = opened(tmp_path, values, 179.95)
    found = locate(raster.tiles.windows, raster.grid)
    boxes = found.bbox
    assert (boxes[:, [0, 2]] >= -180).all() and (boxes[:, [0, 2]] <= 180).all()
    east, west = boxes[:, 0] > 179, boxes[:, 2] < -179
    assert east.any() and west.any() and (boxes[:, 0] > boxes[:, 2]).any()
    for shape in shapely.from_wkb(found.geometry):
        assert shape.bounds[2] - shape.bounds[0] <= 360 and shape.area < 1e-3


@pytest.mark.parametrize(
    ("crs", "west", "east", "centre"),
    [
        ("EPSG:4326", 11, 12, None),
        ("EPSG:4326", -180, 180, None),
        ("EPSG:4326", 179, 181, 180),
        ("EPSG:4167", 190, 191, 190.5),
        ("EPSG:4326", -181, -180, -180.5),
        ("EPSG:4807", 199, 201, None),
        ("EPSG:32601", 200_000, 300_000, None),
    ],
)
def test_the_centre_of_far_longitudes(crs: str, west: float, east: float, centre: float | None) -> None:
    assert find_far_centre(crs, west, east) == centre


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4167", "EPSG:4269", pyproj.CRS("EPSG:4326").to_wkt(), "OGC:CRS84"])
def test_gdal_counts_longitudes_from_there(crs: str) -> None:
    """And the datum stays: at other longitudes the same numbers come out, to a micrometre."""
    centred = centre_longitudes(crs, 180.0)
    x, y = rasterio.warp.transform("EPSG:32760", centred, [833_000.0, 500_000.0], [8_226_000.0, 8_226_000.0])
    plain, same = rasterio.warp.transform("EPSG:32760", crs, [833_000.0, 500_000.0], [8_226_000.0, 8_226_000.0])
    assert x[0] > 180 > x[1] and plain[0] < 0
    assert (x[0] - 360, x[1]) == pytest.approx(plain, abs=1e-11)
    assert y == pytest.approx(same, abs=1e-11)


def test_nothing_leads_from_a_local_system_to_the_earth() -> None:
    with pytest.raises(UserError, match="a reference system with a place on Earth"):
        make_transformer('LOCAL_CS["site grid",UNIT["metre",1]]', "EPSG:32632")
