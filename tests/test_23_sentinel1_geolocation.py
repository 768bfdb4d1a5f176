"""Geocoding through the geolocation grid: against a closed form, GDAL's thin plate spline, and itself in other windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.transform import GCPTransformer
from rasterio.warp import reproject

from eo_ssl.scene.grids import make_grid
from eo_ssl.scene.sentinel1.annotation import GeolocationGrid
from eo_ssl.scene.sentinel1.geolocation import Geolocation, choose_crs
from eo_ssl.scene.sentinel1.image_sampling import average_cells, sample_bilinear
from safe_products import radar_safe
from worlds.safe import S1GrdSpec, make_s1_grd_safe

IW = "S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B/measurement/iw-vv.tiff"
SM = "S1A_S1_GRDH_1SDV_20230809T020729_20230809T020754_049792_05FCE6_1175/measurement/s1-vh.tiff"


def _grid(gcps: list[rasterio.control.GroundControlPoint], shift: float = 0.0) -> GeolocationGrid:
    """A geolocation grid of the points of a measurement file."""
    rows, columns = np.unique([p.row for p in gcps]), np.unique([p.col for p in gcps])
    shape = len(rows), len(columns)
    at = {(p.row, p.col): (p.y, p.x) for p in gcps}
    held = np.array([[at[row, column] for column in columns] for row in rows])
    empty = np.zeros(shape)
    return GeolocationGrid(
        rows + shift, columns + shift, held[..., 0], held[..., 1], empty, empty, empty, empty, empty.astype("M8[ns]")
    )


def _plain(longitude: float, latitude: float) -> GeolocationGrid:
    y, x = np.meshgrid(latitude - np.arange(4) * 0.1, longitude + np.arange(5) * 0.1, indexing="ij")
    x = (x + 180) % 360 - 180
    empty = np.zeros(y.shape)
    return GeolocationGrid(
        np.arange(4) * 1000.0, np.arange(5) * 1000.0, y, x, empty, empty, empty, empty, empty.astype("M8[ns]")
    )


@pytest.mark.parametrize(
    ("longitude", "latitude", "crs"),
    [
        (8.8, 47.0, "EPSG:32632"),
        (-71.0, -33.0, "EPSG:32719"),
        (179.7, 10.0, "EPSG:32660"),
        (-179.9, 10.0, "EPSG:32601"),
        (20.0, 86.0, "EPSG:5041"),
        (20.0, -86.0, "EPSG:5042"),
    ],
)
def test_zone_of_the_centre_and_back(longitude: float, latitude: float, crs: str) -> None:
    grid = _plain(longitude, latitude)
    assert choose_crs(grid) == crs
    way = Geolocation(grid, crs)
    lines, pixels = np.array([0.0, 700.5, 3000.0]), np.array([4000.0, 1234.25, 10.0])
    back = way.to_image(*way.to_map(lines, pixels))
    np.testing.assert_allclose(back, [lines, pixels], atol=1e-6)
    own = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(grid.longitude[2, 3], grid.latitude[2, 3])
    np.testing.assert_allclose(way.to_map(np.array([2000.0]), np.array([3000.0])), np.array(own)[:, None], atol=1e-6)


@pytest.mark.parametrize("ascending", [False, True])
def test_the_grid_leads_where_the_orbit_does(tmp_path: Path, ascending: bool) -> None:
    truth = make_s1_grd_safe(tmp_path, S1GrdSpec(lines=400, samples=500, ascending=ascending, height_m=250.0))
    safe = radar_safe(truth.path)
    grid = safe.annotation(safe.images[0]).grid
    crs = choose_crs(grid)
    way = Geolocation(grid, crs)
    target = way.grid(400, 500, 10.0)
    rows, columns = np.arange(0, target.height, 7) + 0.5, np.arange(0, target.width, 7) + 0.5
    lines, pixels = way.image_positions(target, rows, columns)
    latitude, longitude = truth.locate(lines, pixels)
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
    on = (lines >= 0) & (lines <= 399) & (pixels >= 0) & (pixels <= 499)
    assert on.mean() > 0.5
    left, top = target.affine[2], target.affine[5]
    assert (left % 10, top % 10) == (0, 0)
    np.testing.assert_allclose(
        x[on], np.broadcast_to(left + 10 * columns, x.shape)[on], atol=0.1
    )  # metres: 0.01 pixels
    np.testing.assert_allclose(y[on], np.broadcast_to((top - 10 * rows)[:, None], y.shape)[on], atol=0.1)


def test_nodes_stay_within_a_twentieth_of_a_pixel_of_the_full_solution(
    real_data: Path, rng: np.random.Generator
) -> None:
    for path in sorted((real_data / "s1_grd_annotations").glob("*.zip")):
        safe = radar_safe(path)
        about = safe.annotation(safe.images[0])
        way = Geolocation(about.grid, choose_crs(about.grid))
        target = way.grid(about.lines, about.samples, 10.0)
        seen = 0
        for _ in range(25):
            row, column = int(rng.integers(target.height - 64)), int(rng.integers(target.width - 64))
            rows, columns = np.arange(row, row + 64) + 0.5, np.arange(column, column + 64) + 0.5
            lines, pixels = way.image_positions(target, rows, columns)
            y, x = np.meshgrid(target.affine[5] - 10 * rows, target.affine[2] + 10 * columns, indexing="ij")
            full = way.to_image(x, y)
            on = (np.abs(full[0] / about.lines - 0.5) <= 0.5) & (np.abs(full[1] / about.samples - 0.5) <= 0.5)
            if on.any():
                seen += 1
                assert max(np.abs(lines - full[0])[on].max(), np.abs(pixels - full[1])[on].max()) < 0.05
        assert seen > 8
        drawn = rng.uniform(0, about.lines - 1, 5000), rng.uniform(0, about.samples - 1, 5000)
        np.testing.assert_allclose(way.to_image(*way.to_map(*drawn)), drawn, atol=1e-6)  # none lost


def test_positions_have_the_same_bits_in_any_window(real_data: Path) -> None:
    safe = radar_safe(next((real_data / "s1_grd_annotations").glob("*8255.zip")))
    about = safe.annotation(safe.images[0])
    way = Geolocation(about.grid, choose_crs(about.grid))
    for gsd in (10.0, 30.0):
        target = way.grid(about.lines, about.samples, gsd)
        whole = way.image_positions(target, np.arange(3000, 3200) + 0.5, np.arange(4000, 4300) + 0.5)
        part = way.image_positions(target, np.arange(3017, 3018) + 0.5, np.arange(4111, 4299) + 0.5)
        for ours, all_of_it in zip(part, whole, strict=True):
            assert np.array_equal(ours, all_of_it[17:18, 111:299])


@pytest.mark.parametrize("name", [IW, SM])
def test_real_points_lead_where_gdals_thin_plate_spline_does(
    real_data: Path, name: str, rng: np.random.Generator
) -> None:
    with rasterio.open(real_data / "s1_grd_iw_decimated" / name) as file:
        gcps, shape = file.gcps[0], file.shape
    grid = _grid(gcps)
    way = Geolocation(grid, choose_crs(grid))
    lines, pixels = rng.uniform(0, shape[0] - 1, 500), rng.uniform(0, shape[1] - 1, 500)
    x, y = way.to_map(lines, pixels)
    longitude, latitude = Transformer.from_crs(way.crs, "EPSG:4326", always_xy=True).transform(x, y)
    with GCPTransformer(gcps, tps=True) as spline:
        rows, columns = spline.rowcol(longitude, latitude, op=lambda value: value)
    apart = np.hypot(np.asarray(rows) - lines, np.asarray(columns) - pixels)
    assert np.median(apart) < 0.05
    assert apart.max() < 0.5


def test_real_pixels_lie_where_gdal_warps_them(real_data: Path) -> None:
    with rasterio.open(real_data / "s1_grd_iw_decimated" / IW) as file:
        stored, gcps = file.read(1).astype(np.float32), file.gcps[0]
    power = stored**2
    grid = _grid(gcps, shift=-0.5)  # GDAL counts from the corner of the first pixel
    way = Geolocation(grid, choose_crs(grid))
    target = way.grid(*stored.shape, 200.0)
    a, b, c, d, e, f = target.affine[:6]
    part = make_grid(300, 300, (a, b, c + 80_000.0, d, e, f - 60_000.0), way.crs)
    theirs = np.full(part.shape, np.nan, dtype=np.float32)
    reproject(
        power,
        theirs,
        gcps=gcps,
        src_crs="EPSG:4326",
        dst_crs=way.crs,
        dst_transform=part.affine,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
        SRC_METHOD="GCP_TPS",
        tolerance=0.0,
    )
    places = way.image_positions(part, np.arange(300) + 0.5, np.arange(300) + 0.5)
    ours = sample_bilinear(lambda rows, columns: power[slice(*rows), slice(*columns)], *places, shape=stored.shape)
    both = np.isfinite(ours) & np.isfinite(theirs)
    assert both.mean() > 0.6
    scale = float(theirs[both].std())
    exact = np.corrcoef(np.log(ours[both] + 1), np.log(theirs[both] + 1))[0, 1]
    moved = np.roll(ours, 1, axis=1)
    shifted = both & np.isfinite(moved)
    assert exact > 0.99  # GDAL widens its kernel a little, the target being 3 % coarser
    assert exact > np.corrcoef(np.log(moved[shifted] + 1), np.log(theirs[shifted] + 1))[0, 1] + 0.02
    assert float(np.median(np.abs(ours - theirs)[both])) < 0.05 * scale


def test_bilinear_is_exact_on_a_plane_and_repeats_the_edge() -> None:
    line, sample = np.meshgrid(np.arange(6.0), np.arange(8.0), indexing="ij")
    plane = (3 * line + 10 * sample).astype(np.float32)
    lines, samples = np.array([[0.25, 4.5, -0.4, -0.6, 5.4]]), np.array([[1.5, 6.25, 3.0, 3.0, np.nan]])
    out = sample_bilinear(lambda rows, columns: plane[slice(*rows), slice(*columns)], lines, samples, shape=(6, 8))
    np.testing.assert_allclose(out, [[15.75, 76.0, 30.0, np.nan, np.nan]], rtol=1e-6)


def test_invalid_pixels_carry_no_weight_and_do_not_spread() -> None:
    image = np.array([[1.0, np.nan, 5.0]], dtype=np.float32)
    lines, samples = np.zeros((1, 4)), np.array([[0.25, 0.75, 1.75, 0.0]])
    out = sample_bilinear(lambda rows, columns: image[slice(*rows), slice(*columns)], lines, samples, shape=(1, 3))
    np.testing.assert_array_equal(out, [[1.0, np.nan, 5.0, 1.0]])
    cells = np.array([[1, 3, np.nan, np.nan], [np.nan, np.nan, 7, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(average_cells(cells, 2), [[2.0, np.nan]])


def test_a_folded_grid_leads_nowhere() -> None:
    grid = _plain(8.8, 47.0)
    folded = grid.longitude.copy()
    folded[:, 2:] = folded[:, 2:][:, ::-1]
    way = Geolocation(replace(grid, longitude=folded), "EPSG:32632")
    x, y = way.to_map(np.full(50, 1500.0), np.linspace(0, 4000, 50))
    lines, pixels = way.to_image(x + 1.0, y)
    known = np.isfinite(lines)
    again = way.to_map(lines[known], pixels[known])
    np.testing.assert_allclose(again, [x[known] + 1.0, y[known]], atol=1.0)  # a position is right or absent
