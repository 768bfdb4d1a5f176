"""Terrain correction: real orbits and range polynomials, level ground, planes with a known slope, and products with a known truth."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio import Affine

from eo_ssl.cards import Card, Radar
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.scene.folder_or_zip import Archive
from eo_ssl.scene.grids import locate_pixels, make_grid, read_crs
from eo_ssl.scene.layers import Layers
from eo_ssl.scene.readers import list_products
from eo_ssl.scene.sentinel1 import terrain
from eo_ssl.scene.sentinel1.annotation import Annotation, read_annotation
from eo_ssl.scene.sentinel1.geocoding import geocode
from eo_ssl.scene.sentinel1.heights import Elevation, open_elevation
from eo_ssl.scene.sentinel1.power import RadarImage
from eo_ssl.scene.sentinel1.rangedoppler import Patch, compute_flattening, solve
from eo_ssl.sensors import Quantity
from safe_products import radar_safe
from worlds.safe import S1GrdSpec, S1GrdTruth, make_s1_grd_safe

pytest.importorskip("sarsen", reason="terrain correction needs the extra `sar`")
HEIGHT_M = 210.0


def _card(*, gsd_m: float = 10.0, **radar: Any) -> Card:
    return Card(
        name="grd",
        title="",
        sensor="sentinel1_grd",
        reader="sentinel1_grd_safe",
        bands=("VV",),
        quantity=Quantity.GAMMA0,
        gsd_m=gsd_m,
        licence="",
        attribution="",
        source="",
        files="*",
        radar=Radar(geocoding="terrain", **radar),
    )


def _write(path: Path, grid: GeoBox, heights: np.ndarray, *, nodata: float | None = None) -> Path:
    profile = {
        "driver": "GTiff",
        "height": heights.shape[0],
        "width": heights.shape[1],
        "count": 1,
        "dtype": "float32",
        "nodata": nodata,
    }
    with rasterio.open(path, "w", crs=read_crs(grid), transform=grid.affine, **profile) as file:
        file.write(heights.astype(np.float32), 1)
    return path


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little terrain around small blocks: level ground and low hills need no more."""
    monkeypatch.setattr(terrain, "REACH_M", 300.0)
    monkeypatch.setattr(terrain, "BLOCK", 160)
    terrain._solved.cache_clear()
    yield
    terrain._solved.cache_clear()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> S1GrdTruth:
    spec = S1GrdSpec(lines=300, samples=360, height_m=HEIGHT_M, looks=None, border_px=0, polarisations=("VV",))
    return make_s1_grd_safe(tmp_path_factory.mktemp("s1"), spec)


def _images(truth: S1GrdTruth, quantity: Quantity) -> tuple[RadarImage, ...]:
    safe = radar_safe(truth.path)
    return tuple(RadarImage(safe, image, quantity, True) for image in safe.images)


def _over(
    truth: S1GrdTruth,
    folder: Path,
    heights: float | np.ndarray,
    quantity: Quantity,
    *,
    margin: int = 20,
    gsd_m: float = 10.0,
) -> Layers:
    """Layers over terrain on the grid that geocoding through the geolocation grid chooses, ``margin`` pixels wider on each side."""
    grid = geocode(_images(truth, Quantity.SIGMA0), gsd_m=gsd_m).image.grid
    a, b, c, d, e, f = tuple(grid.affine)[:6]
    wide = make_grid(
        grid.height + 2 * margin, grid.width + 2 * margin, (a, b, c - margin * a, d, e, f - margin * e), read_crs(grid)
    )
    path = _write(folder / "dem.tif", wide, np.broadcast_to(heights, wide.shape))
    return terrain.correct_terrain(
        _images(truth, quantity), open_elevation(_card(gsd_m=gsd_m, dem="dem.tif", dem_datum="ellipsoid"), path.parent)
    )


def _whole(layers: Layers, band: int = 0) -> np.ndarray:
    grid = layers.image.grid
    return layers.image.read([band], rows=(0, grid.height), columns=(0, grid.width))[0]


# --- real annotations ----------------------------------------------------------------------------------------------------------------


def _real(real_data: Path) -> list[Annotation]:
    found = []
    for path in sorted((real_data / "s1_grd_annotations").glob("*.zip")):
        archive = Archive(path)
        name = next(name for name in archive.names() if "/annotation/s1" in name and "-vv-" in name)
        found.append(read_annotation(archive.xml(name), name=name))
    return found


def _points(annotation: Annotation) -> tuple[np.ndarray, np.ndarray]:
    """Line and sample that the range-Doppler equations find for each point of the geolocation grid, as 2 x 2 patches of level ground."""
    grid = annotation.grid
    crs = f"+proj=aeqd +lat_0={grid.latitude[5, 10]} +lon_0={grid.longitude[5, 10]} +datum=WGS84"
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(grid.longitude, grid.latitude)
    lines, samples = np.empty_like(x), np.empty_like(x)
    for i, j in [(i, j) for i in range(0, x.shape[0] - 1, 4) for j in range(0, x.shape[1], 5)]:
        patch = Patch(
            np.full((2, 2), grid.height[i, j]), x[i, j] + np.array([0.0, 10.0]), y[i, j] + np.array([0.0, 10.0]), crs
        )
        sight = solve(patch, annotation, facets=False)
        lines[i, j], samples[i, j] = sight.line[0, 0] - grid.lines[i], sight.sample[0, 0] - grid.pixels[j]
    taken = slice(0, x.shape[0] - 1, 4), slice(0, x.shape[1], 5)
    return lines[taken], samples[taken]


def test_points_of_real_geolocation_grids_are_found_where_they_are(real_data: Path) -> None:
    """ESA's processor solved these points itself; its last line lies beyond the last conversion record and is left out."""
    for annotation in _real(real_data):
        lines, samples = _points(annotation)
        assert np.abs(samples).max() < 0.01
        assert (
            np.abs(lines).max() < 0.5
        )  # 5 m along the track: rounding of azimuth times in the grid, and orbits updated since


def test_level_ground_has_the_gamma0_of_the_incidence_angle(real_data: Path) -> None:
    for annotation in _real(real_data)[::2]:
        grid = annotation.grid
        i, j = 5, 10
        crs = f"EPSG:{(32600 if grid.latitude[i, j] > 0 else 32700) + int((grid.longitude[i, j] + 180) // 6) + 1}"
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(
            grid.longitude[i, j], grid.latitude[i, j]
        )
        step = 10.0 * np.arange(-60, 60)
        sight = solve(Patch(np.full((120, 120), grid.height[i, j]), x + step, y - step, crs), annotation, facets=True)
        found = compute_flattening(sight, annotation, cell_m=30.0)[20:-20, 20:-20]
        expected = 1 / np.tan(np.deg2rad(grid.incidence_deg[i, j]))
        assert found.mean() == pytest.approx(expected, rel=0.003)
        assert found.std() / found.mean() < 0.002  # no flicker of facets in cells


# --- planes and products with a truth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope_deg", [-15.0, 10.0, 20.0])
def test_a_plane_that_leans_to_the_radar_has_the_gamma0_of_its_own_angle(truth: S1GrdTruth, slope_deg: float) -> None:
    """In the plane of sight the local incidence angle is the incidence minus the slope; gamma0 = beta0 tan(local)."""
    annotation = radar_safe(truth.path).annotation(radar_safe(truth.path).images[0])
    geometry = truth.geometry
    here, there = (np.array(geometry.point(150, sample)) for sample in (180, 181))
    up = here / np.linalg.norm(here)
    away = there - here - ((there - here) @ up) * up
    crs = "+proj=tmerc +datum=WGS84 +lat_0={} +lon_0={}".format(*(float(v) for v in geometry.locate(150, 180)))
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*reversed(geometry.locate(150, 181)))
    across = np.array([x, y]) / np.hypot(x, y)  # on the map, away from the radar
    assert np.linalg.norm(away) == pytest.approx(10.0, rel=0.02)
    step = 5.0 * (np.arange(160) - 79.5)
    rise = np.tan(np.deg2rad(slope_deg)) * (step[None, :] * across[0] - step[:, None] * across[1])
    sight = solve(Patch(HEIGHT_M + rise, step, -step, crs), annotation, facets=True)
    found = compute_flattening(sight, annotation, cell_m=30.0)[60:100, 60:100]
    incidence = float(geometry.incidence(150, 180))
    assert found.mean() == pytest.approx(1 / np.tan(np.deg2rad(incidence - slope_deg)), rel=0.01)


def test_a_steep_hill_folds_and_unknown_terrain_has_no_area(truth: S1GrdTruth) -> None:
    annotation = radar_safe(truth.path).annotation(radar_safe(truth.path).images[0])
    step = 10.0 * np.arange(-40, 40)
    crs = "+proj=tmerc +datum=WGS84 +lat_0={} +lon_0={}".format(*(float(v) for v in truth.geometry.locate(150, 180)))
    heights = HEIGHT_M + 300.0 * np.exp(-(np.add.outer(step**2, step**2)) / 2 / 80.0**2)
    heights[5:8, 5:8] = np.nan
    sight = solve(Patch(heights, step, -step, crs), annotation, facets=True)
    assert (sight.facet_m2[4:9, 4:9] == 0).all()
    assert np.isnan(sight.line[5:8, 5:8]).all()
    seen = compute_flattening(sight, annotation, cell_m=30.0)
    assert np.nanmax(seen) > 3 * np.nanmedian(seen)  # layover
    assert np.isfinite(seen).sum() == heights.size - 9


@pytest.mark.parametrize("ascending", [False, True])
def test_level_ground_agrees_with_geocoding_by_tie_points(tmp_path: Path, ascending: bool) -> None:
    truth = make_s1_grd_safe(
        tmp_path, S1GrdSpec(lines=300, samples=360, height_m=HEIGHT_M, looks=None, ascending=ascending)
    )
    by_points = geocode(_images(truth, Quantity.SIGMA0), gsd_m=10.0)
    layers = _over(truth, tmp_path, HEIGHT_M, Quantity.SIGMA0, margin=0)
    assert layers.image.grid == by_points.image.grid
    grid = layers.image.grid
    rows, columns = np.arange(grid.height) + 0.5, np.arange(grid.width) + 0.5
    line, sample = by_points.image.geolocation.image_positions(grid, rows, columns)
    block = terrain._solved(layers.image.scene, 0, 0)
    on = (line > 0) & (line < 299) & (sample > 0) & (sample < 359)
    assert on.sum() > 100_000
    assert np.abs(block.line - line)[on].max() < 0.05
    assert np.abs(block.sample - sample)[on].max() < 0.05
    for band in range(2):
        ours, theirs = _whole(layers, band), _whole(by_points, band)
        both = np.isfinite(ours) & np.isfinite(theirs)
        assert both[on].mean() > 0.8  # without border noise
        np.testing.assert_allclose(ours[both], theirs[both], rtol=0.05, atol=1e-4)
        assert np.abs(ours[both] / theirs[both] - 1).mean() < 0.003
    window = {"rows": (0, grid.height), "columns": (0, grid.width)}
    for flag in ("border_noise",):
        same = layers.flags[flag].read(**window) == by_points.flags[flag].read(**window)
        assert same.mean() > 0.995
    ours, theirs = (item.fields["incidence_deg"].read(**window) for item in (layers, by_points))
    assert np.nanmax(np.abs(ours - theirs)) < 1e-3


def test_truth_is_recovered_where_it_lies(truth: S1GrdTruth, tmp_path: Path) -> None:
    """A pixel at a line and sample of the truth, located by the truth's own geometry, has the truth's sigma0."""
    layers = _over(truth, tmp_path, HEIGHT_M, Quantity.SIGMA0)
    grid, values = layers.image.grid, _whole(layers)
    for line, sample in [(40, 60), (150, 180), (260, 300)]:
        latitude, longitude = truth.locate(line, sample)
        x, y = pyproj.Transformer.from_crs("EPSG:4326", read_crs(grid), always_xy=True).transform(longitude, latitude)
        row, column = int((y - grid.affine[5]) / -10), int((x - grid.affine[2]) / 10)
        around = truth.sigma0["VV"][line - 2 : line + 3, sample - 2 : sample + 3]
        assert values[row, column] == pytest.approx(
            float(truth.sigma0["VV"][line, sample]), abs=float(np.ptp(around) + 0.02 * around.mean())
        )


@pytest.mark.usefixtures("near")
def test_gamma0_of_level_ground_is_the_tables_gamma0(truth: S1GrdTruth, tmp_path: Path) -> None:
    """On the ellipsoid gamma0 = beta0 tan(incidence); the ellipsoidal table of the product says nearly the same."""
    gamma, beta = (
        _over(truth, tmp_path, HEIGHT_M, quantity, margin=60) for quantity in (Quantity.GAMMA0, Quantity.BETA0)
    )
    angle = gamma.fields["incidence_deg"].read(rows=(0, gamma.image.grid.height), columns=(0, gamma.image.grid.width))
    ratio = _whole(gamma) / (_whole(beta) * np.tan(np.deg2rad(angle)))
    known = np.isfinite(ratio)
    assert known.mean() > 0.3
    assert np.abs(ratio[known] - 1).max() < 0.02
    assert ratio[known].mean() == pytest.approx(1.0, abs=0.005)


@pytest.mark.usefixtures("near")
def test_a_product_opens_as_a_cube_and_its_checksum_tells_the_terrain(truth: S1GrdTruth, tmp_path: Path) -> None:
    _over(truth, tmp_path, HEIGHT_M, Quantity.GAMMA0, margin=60)
    (tmp_path / truth.path.name).symlink_to(truth.path)
    card = replace(_card(dem="dem.tif", dem_datum="ellipsoid"), files="S1*")
    (product,) = list_products(card, tmp_path).products
    cube = product.open()
    assert set(cube.data_vars) >= {"image", "border_noise", "incidence_deg", "saturated"}
    part = cube["image"].isel(y=slice(200, 210), x=slice(200, 210)).values
    angle = cube["incidence_deg"].isel(y=205, x=205).item()
    assert np.isfinite(part).all()
    assert angle == pytest.approx(truth.geometry.middle_incidence_deg, abs=1.0)
    assert not cube["saturated"].isel(y=slice(200, 210), x=slice(200, 210)).values.any()
    before = product.checksum()
    _over(truth, tmp_path, HEIGHT_M + 1, Quantity.GAMMA0, margin=60)
    assert list_products(card, tmp_path).products[0].checksum() != before


def test_coarse_pixels_hold_the_mean_of_the_samples_in_them(truth: S1GrdTruth, tmp_path: Path) -> None:
    by_points = geocode(_images(truth, Quantity.SIGMA0), gsd_m=20.0)
    layers = _over(truth, tmp_path, HEIGHT_M, Quantity.SIGMA0, margin=0, gsd_m=20.0)
    ours, theirs = (
        _whole(layers),
        by_points.image.read([0], rows=(0, by_points.image.grid.height), columns=(0, by_points.image.grid.width))[0],
    )
    both = np.isfinite(ours) & np.isfinite(theirs)
    assert both.sum() > 20_000
    assert ours[both].mean() == pytest.approx(theirs[both].mean(), rel=5e-3)
    window = truth.sigma0["VV"][100:200, 120:240]
    sight = terrain._solved(layers.image.scene, 0, 0)
    here = both & (sight.line > 99.5) & (sight.line < 199.5) & (sight.sample > 119.5) & (sight.sample < 239.5)
    assert ours[here].mean() == pytest.approx(float(window.mean()), rel=0.01)


@pytest.mark.parametrize("gsd_m", [10.0, 25.0])
@pytest.mark.usefixtures("near")
def test_any_window_holds_the_same_bits(truth: S1GrdTruth, tmp_path: Path, gsd_m: float) -> None:
    rng = np.random.default_rng(0)
    grid = geocode(_images(truth, Quantity.SIGMA0), gsd_m=gsd_m).image.grid
    y, x = np.indices((grid.height + 40, grid.width + 40))
    heights = HEIGHT_M + 60 * np.sin(x / 17) * np.cos(y / 23)
    heights[50:60, 70:90] = np.nan
    layers = _over(truth, tmp_path, heights, Quantity.GAMMA0, gsd_m=gsd_m)
    whole = _whole(layers)
    size = layers.image.grid.shape.yx
    border = layers.flags["border_noise"].read(rows=(0, size[0]), columns=(0, size[1]))
    angle = layers.fields["incidence_deg"].read(rows=(0, size[0]), columns=(0, size[1]))
    again = pickle.loads(pickle.dumps(layers))
    for _ in range(6):
        top, left = int(rng.integers(0, size[0] - 8)), int(rng.integers(0, size[1] - 8))
        rows, columns = (top, int(rng.integers(top + 1, size[0] + 1))), (left, int(rng.integers(left + 1, size[1] + 1)))
        part = slice(*rows), slice(*columns)
        terrain._solved.cache_clear()
        np.testing.assert_array_equal(again.image.read([0], rows=rows, columns=columns)[0], whole[part])
        np.testing.assert_array_equal(again.flags["border_noise"].read(rows=rows, columns=columns), border[part])
        np.testing.assert_array_equal(again.fields["incidence_deg"].read(rows=rows, columns=columns), angle[part])
    assert np.isfinite(whole).mean() > 0.2


@pytest.mark.usefixtures("near")
def test_terrain_that_is_not_known_gives_no_pixel(truth: S1GrdTruth, tmp_path: Path) -> None:
    """A raster that ends inside the image is no reason for wrong numbers: what cells lack is left out, the rest is as over the large one."""
    large = _over(truth, tmp_path, HEIGHT_M, Quantity.GAMMA0)
    grid = large.image.grid
    top, left = grid.height // 3, grid.width // 3
    a, b, c, d, e, f = tuple(grid.affine)[:6]
    small = make_grid(90, 100, (a, b, c + left * a, d, e, f + top * e), read_crs(grid))
    _write(tmp_path / "small.tif", small, np.full(small.shape, HEIGHT_M))
    layers = terrain.correct_terrain(
        _images(truth, Quantity.GAMMA0), open_elevation(_card(dem="small.tif", dem_datum="ellipsoid"), tmp_path)
    )
    assert layers.image.grid == small
    values, expected = _whole(layers), _whole(large)[top : top + 90, left : left + 100]
    known = np.isfinite(values)
    assert not known[:7].any()
    assert known[8:-8, 8:-8].all()
    np.testing.assert_allclose(values[known], expected[known], rtol=2e-3)


# --- elevation rasters -----------------------------------------------------------------------------------------------------------------

UTM = make_grid(20, 30, (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_900_000.0), "EPSG:32632")


def _geoid(folder: Path, name: str, north: float, east: float) -> None:
    """A grid of geoid heights that is ``10 + north * latitude + east * longitude`` metres."""
    latitude, longitude = np.linspace(90, -90, 181), np.linspace(-180, 179, 360)
    values = (10 + north * latitude[:, None] + east * longitude[None, :]).astype(np.float32)
    profile = {"driver": "GTiff", "height": 181, "width": 360, "count": 1, "dtype": "float32", "crs": "EPSG:4326"}
    with rasterio.open(folder / name, "w", transform=Affine(1, 0, -180.5, 0, -1, 90.5), **profile) as file:
        file.write(values, 1)
        file.update_tags(TYPE="VERTICAL_OFFSET_GEOGRAPHIC_TO_VERTICAL", AREA_OR_POINT="Point")
        file.set_band_description(1, "geoid_undulation")
        file.set_band_unit(1, "metre")


CONVERSION = """
import sys
from pathlib import Path
import numpy as np
import pyproj
from eo_ssl.scene.grids import make_grid
from eo_ssl.fingerprints import identify_file
from eo_ssl.scene.sentinel1.heights import Elevation
folder = Path(sys.argv[1])
pyproj.datadir.append_data_dir(str(folder))
grid = make_grid(20, 30, (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_900_000.0), "EPSG:32632")
elevation = Elevation(folder / "dem.tif", grid, "egm96", (), identify_file(folder / "dem.tif"))
np.save(folder / "found.npy", elevation.read((5, 9), (-2, 6)))
"""


def test_geoid_heights_are_converted_with_the_declared_geoid(tmp_path: Path) -> None:
    """In a process of its own: PROJ remembers the grids it has seen."""
    _geoid(tmp_path, "us_nga_egm96_15.tif", 0.5, 0.25)
    _write(tmp_path / "dem.tif", UTM, np.full(UTM.shape, 100.0))
    subprocess.run([sys.executable, "-c", CONVERSION, str(tmp_path)], check=True)
    found = np.load(tmp_path / "found.npy")
    y, x = locate_pixels(UTM)
    longitude, latitude = pyproj.Transformer.from_crs(read_crs(UTM), "EPSG:4326", always_xy=True).transform(
        *np.meshgrid(x[0:6], y[5:9])
    )
    np.testing.assert_allclose(found[:, 2:], 100 + 10 + 0.5 * latitude + 0.25 * longitude, atol=1e-4)
    assert np.isnan(found[:, :2]).all()


@pytest.mark.parametrize("datum", ["egm96", "egm2008"])
def test_a_geoid_without_its_grid_is_refused(tmp_path: Path, datum: str) -> None:
    _write(tmp_path / "dem.tif", UTM, np.zeros(UTM.shape))
    grids = {"egm96": "us_nga_egm96_15.tif", "egm2008": "us_nga_egm08_25.tif"}
    installed = any(
        (Path(folder) / grids[datum]).exists() for folder in pyproj.datadir.get_data_dir().split(os.pathsep)
    )
    if installed or pyproj.network.is_network_enabled():
        pytest.skip("the geoid's grid is installed here")
    with pytest.raises(UserError, match="pyproj sync --file us_nga_egm"):
        open_elevation(_card(dem="dem.tif", dem_datum=datum), tmp_path)


def test_nodata_and_impossible_heights(tmp_path: Path) -> None:
    values = np.full(UTM.shape, 50.0)
    values[3, 4] = -32768
    _write(tmp_path / "dem.tif", UTM, values, nodata=-32768)
    found = open_elevation(_card(dem="dem.tif", dem_datum="ellipsoid"), tmp_path).read((0, 20), (0, 30))
    assert np.isnan(found[3, 4])
    assert (np.delete(found.ravel(), 3 * 30 + 4) == 50).all()
    _write(tmp_path / "bad.tif", UTM, values)
    with pytest.raises(UserError, match="heights in metres"):
        open_elevation(_card(dem="bad.tif", dem_datum="ellipsoid"), tmp_path).read((0, 20), (0, 30))


@pytest.mark.parametrize("inside", [True, False])
def test_masked_heights_are_unknown(tmp_path: Path, inside: bool) -> None:
    """What a masked pixel of an elevation model holds (sea, a void that was filled) looks like any height."""
    rng = np.random.default_rng(5)
    values, valid = rng.uniform(0, 900, UTM.shape).astype(np.float32), rng.random(UTM.shape) > 0.2
    path = _write(tmp_path / "dem.tif", UTM, values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    found = open_elevation(_card(dem="dem.tif", dem_datum="ellipsoid"), tmp_path).read((-2, 17), (3, 33))
    np.testing.assert_array_equal(found[2:, :27], np.where(valid, values, np.nan)[:17, 3:])
    assert np.isnan(found[:2]).all() and np.isnan(found[:, 27:]).all()


def test_the_mask_beside_an_elevation_raster_makes_it_another_one(tmp_path: Path) -> None:
    """Blocks of solved geometry are kept by what identifies the raster."""
    path = _write(tmp_path / "dem.tif", UTM, np.full(UTM.shape, 50.0))
    before = open_elevation(_card(dem="dem.tif", dem_datum="ellipsoid"), tmp_path)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(np.arange(UTM.shape[0] * UTM.shape[1]).reshape(UTM.shape) % 7 > 0)
    after = open_elevation(_card(dem="dem.tif", dem_datum="ellipsoid"), tmp_path)
    assert after != before and after.masks == (("mask", 1),)


def test_an_elevation_raster_of_two_bands_is_refused(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "height": 20, "width": 30, "count": 2, "dtype": "float32"}
    with rasterio.open(tmp_path / "dem.tif", "w", crs=read_crs(UTM), transform=UTM.affine, **profile) as file:
        file.write(np.zeros((2, 20, 30), dtype=np.float32))
    with pytest.raises(UserError, match=r"expected one band in .*dem\.tif, got 2"):
        open_elevation(_card(dem="dem.tif", dem_datum="ellipsoid"), tmp_path)


@pytest.mark.parametrize(
    ("radar", "grid", "message"),
    [
        ({"dem_datum": "ellipsoid"}, UTM, "radar.dem` in card"),
        ({"dem": "dem.tif"}, UTM, "radar.dem_datum"),
        ({"dem": "none.tif", "dem_datum": "ellipsoid"}, UTM, "none.tif"),
        (
            {"dem": "dem.tif", "dem_datum": "ellipsoid"},
            make_grid(20, 30, (30.0, 0.0, 5e5, 0.0, -30.0, 4.9e6), "EPSG:32632"),
            "pixels of 10 m",
        ),
        (
            {"dem": "dem.tif", "dem_datum": "ellipsoid"},
            make_grid(20, 30, (1e-4, 0.0, 9.0, 0.0, -1e-4, 45.0), "EPSG:4326"),
            "in metres",
        ),
    ],
)
def test_rasters_that_do_not_fit_are_refused(tmp_path: Path, radar: dict[str, Any], grid: GeoBox, message: str) -> None:
    _write(tmp_path / "dem.tif", grid, np.zeros(grid.shape))
    with pytest.raises(UserError, match=message):
        open_elevation(_card(**radar), tmp_path)


def test_a_raster_of_another_place_is_refused(truth: S1GrdTruth, tmp_path: Path) -> None:
    away = Elevation(
        tmp_path / "dem.tif",
        make_grid(20, 30, (10.0, 0.0, 5e5, 0.0, -10.0, 1e6), "EPSG:32632"),
        "ellipsoid",
        (),
        ("", 0, 0),
    )
    with pytest.raises(UserError, match="got another place"):
        terrain.correct_terrain(_images(truth, Quantity.GAMMA0), away)


def test_without_sarsen_the_remedy_is_named(truth: S1GrdTruth, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("sarsen"):
            raise ImportError("No module named 'sarsen'")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    safe = radar_safe(truth.path)
    with pytest.raises(UserError, match=r"pip install eo_ssl\[sar\]"):
        solve(
            Patch(np.zeros((2, 2)), np.arange(2.0), np.arange(2.0), UTM.crs),
            safe.annotation(safe.images[0]),
            facets=False,
        )


@pytest.mark.usefixtures("near")
def test_a_corpus_over_terrain_holds_the_cube_and_is_the_same_from_threads(truth: S1GrdTruth, tmp_path: Path) -> None:
    _over(truth, tmp_path, HEIGHT_M, Quantity.GAMMA0)  # writes the elevation raster
    (tmp_path / truth.path.name).symlink_to(truth.path)
    card = replace(_card(dem="dem.tif", dem_datum="ellipsoid"), files="*.SAFE")
    found = list_products(card, tmp_path).products
    made = {}
    for client in ("synchronous", "threads"):
        report = ingest(found, out=tmp_path / client, config=IngestConfig(size_px=64, min_valid=0.2), client=client)
        assert not report.quarantined
        made[client] = Corpus.open(tmp_path / client)
    assert made["threads"].fingerprint == made["synchronous"].fingerprint
    (name,) = made["threads"].streams
    index = made["threads"].index(name, columns=["row_off", "col_off", "incidence_deg"]).to_pylist()
    assert len(index) > 10
    cube = found[0].open()
    tiles = made["threads"].stream(name).read(np.arange(len(index)))
    for tile, row in zip(tiles, index, strict=True):
        place = {"y": slice(row["row_off"], row["row_off"] + 64), "x": slice(row["col_off"], row["col_off"] + 64)}
        expected = cube["image"].isel(**place).values
        np.testing.assert_array_equal(np.isnan(tile), np.isnan(expected))
        np.testing.assert_allclose(tile, expected, rtol=2**-10, atol=1e-6)  # stored as float16
        assert row["incidence_deg"] == pytest.approx(float(cube["incidence_deg"].isel(**place).mean()), rel=1e-3)
