"""Outlines, maps between pixels and what two tiles have in common, against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import shapely
from scipy import ndimage

from eo_ssl.curation.repeat_pixels import compare_tiles, find_whole_offset, keep_detail, sample_tile, smooth_valid
from eo_ssl.curation.tile_outlines import (
    EARTH_M,
    lay_on_plane,
    map_pixels,
    measure_areas,
    place_on_sphere,
    read_outlines,
)
from eo_ssl.sensors import Quantity

BOA, DB = Quantity.BOA_REFLECTANCE, Quantity.GAMMA0_DB


def outline(epsg: int, left: float, top: float, *, pixel_m: float, height: int, width: int) -> np.ndarray:
    """Corners of a north-up window as the index holds them, [4, 2]."""
    x = left + pixel_m * np.array([0, width, width, 0])
    y = top - pixel_m * np.array([height, height, 0, 0])
    return np.stack(pyproj.Transformer.from_crs(epsg, "OGC:CRS84", always_xy=True).transform(x, y), axis=-1)


def mapped(first: np.ndarray, second: np.ndarray, first_px: tuple, second_px: tuple) -> np.ndarray:
    centre = place_on_sphere(first)[None].mean(axis=1)
    planes = [lay_on_plane(place_on_sphere(one)[None], centre) for one in (first, second)]
    return map_pixels(planes[0], np.array([first_px], float), planes[1], np.array([second_px], float))[0]


@pytest.mark.parametrize("lat", [0.0, 45.0, -78.0])
@pytest.mark.parametrize("size", [64, 512])
def test_pixels_of_one_grid_map_by_their_offset(lat: float, size: int) -> None:
    epsg = 32631 if lat >= 0 else 32731
    left, top = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(5.9, lat)
    first = outline(epsg, left, top, pixel_m=10, height=size, width=size)
    second = outline(epsg, left - 120, top + 70, pixel_m=10, height=size, width=size // 2)
    mapping = mapped(first, second, (size, size), (size, size // 2))
    np.testing.assert_allclose(mapping, [[1, 0, 7], [0, 1, 12]], atol=2e-3 * size / 64)
    assert find_whole_offset(mapping, (size, size)).tolist() == [7, 12]
    assert find_whole_offset(mapping + [[0, 0, 0.3], [0, 0, 0]], (size, size)) is None
    assert find_whole_offset(mapping + [[0.002, 0, 0], [0, 0, 0]], (size, size)) is None, "turned or stretched"


@pytest.mark.parametrize(("one", "two", "lon"), [(32632, 32633, 12.0), (32660, 32601, 180.0), (32733, 4326, 15.0)])
def test_pixels_of_two_zones_map_as_pyproj_says(one: int, two: int, lon: float) -> None:
    """Also across the antimeridian, and to degrees: to a fiftieth of a pixel over 64."""
    lat = 52.0 if one < 32700 else -33.0
    x, y = pyproj.Transformer.from_crs(4326, one, always_xy=True).transform(lon - 1e-3, lat)
    u, v = pyproj.Transformer.from_crs(one, two, always_xy=True).transform(x, y)
    step = 10.0 if two != 4326 else 1e-4
    first = outline(one, x, y, pixel_m=10, height=64, width=64)
    second = outline(two, u - 5.25 * step, v + 3.5 * step, pixel_m=step, height=64, width=64)
    mapping = mapped(first, second, (64, 64), (64, 64))
    rows, cols = np.array([[0.5, 10.5, 63.5], [0.5, 40.5, 63.5]])
    there = pyproj.Transformer.from_crs(one, two, always_xy=True).transform(x + 10 * cols, y - 10 * rows)
    expected = np.stack([(v + 3.5 * step - there[1]) / step, (there[0] - u + 5.25 * step) / step])
    np.testing.assert_allclose(mapping[:, :2] @ [rows, cols] + mapping[:, 2:], expected, atol=0.02)


def test_areas_are_those_of_the_ground() -> None:
    first = outline(32632, 500000, 5000000, pixel_m=10, height=64, width=64)
    centre = place_on_sphere(first)[None].mean(axis=1)
    planes = [
        lay_on_plane(
            place_on_sphere(outline(32632, 500000 + east, 5000000, pixel_m=10, height=64, width=64))[None], centre
        )
        for east in (0, 160, 640, 1280)
    ]
    area, own = measure_areas(planes[0], planes[0])
    assert area == pytest.approx(own) and area[0] == pytest.approx(640**2, rel=0.01)
    for plane, share in zip(planes[1:], (0.75, 0, 0), strict=True):
        assert measure_areas(planes[0], plane)[1][0] / area[0] == pytest.approx(share, abs=1e-4)


def test_a_plane_touches_the_sphere_anywhere() -> None:
    for point in ((10.0, 50.0), (180.0, 0.0), (-179.99, -89.0), (0.0, 90.0)):
        centre = place_on_sphere(np.array([point]))
        near = place_on_sphere(np.array([[[point[0], point[1]], [point[0], point[1] - 0.01]]]))
        plane = lay_on_plane(near, centre)[0]
        np.testing.assert_allclose(plane[0], 0, atol=1e-6)
        assert np.hypot(*plane[1]) == pytest.approx(EARTH_M * np.radians(0.01), rel=1e-6)
        if abs(point[1]) < 90:
            np.testing.assert_allclose(plane[1], [0, -EARTH_M * np.radians(0.01)], rtol=1e-6, atol=1e-6)


def wkb(*rings: object) -> pa.Array:
    return pa.array([None if ring is None else shapely.to_wkb(ring) for ring in rings], pa.binary())


def test_outlines_keep_their_order_and_the_unknown_stay_unknown() -> None:
    ring = [(10, 50), (11, 50), (11, 51), (10, 51)]
    south_up = [(10, 51), (11, 51), (11, 50), (10, 50)]
    found = read_outlines(
        wkb(*(shapely.Polygon(r) for r in (ring, south_up, south_up)), None, shapely.Polygon(ring[:3])),
        np.array([32632, 32632, 0, 0, 0]),
    )
    assert found[0].tolist() == [list(map(float, point)) for point in ring]
    assert found[1].tolist() == [list(map(float, point)) for point in south_up], "a south-up grid"
    assert found[2].tolist() == found[0].tolist(), "a chip whose ring begins at the upper left"
    assert np.isnan(found[3:]).all()


def test_an_outline_that_was_cut_in_two_is_whole_again() -> None:
    west = shapely.Polygon([(179.9, -17.2), (180, -17.19), (180, -16.99), (179.92, -17.0)])
    east = shapely.Polygon([(-180, -17.19), (-179.9, -17.18), (-179.88, -16.98), (-180, -16.99)])
    (found,) = read_outlines(wkb(shapely.MultiPolygon([west, east])), np.array([32660]))
    assert found.tolist() == [[179.9, -17.2], [-179.9, -17.18], [-179.88, -16.98], [179.92, -17.0]]
    beyond = shapely.Polygon([(179.9, -17.2), (179.95, -17.3), (180, -17.19), (180, -16.99), (179.92, -17.0)])
    assert np.isnan(read_outlines(wkb(shapely.MultiPolygon([beyond, east])), np.array([32660]))).all()


SAME = np.array([[1.0, 0, 0], [0, 1, 0]])


def test_shares_and_correlation_on_one_grid_are_those_of_a_loop(rng: np.random.Generator) -> None:
    ground = rng.normal(0.3, 0.05, (2, 48, 48)).astype(np.float32)
    first, second = ground[:, :32, :32].copy(), ground[:, 5:37, 9:41] * 1.1 + 0.02
    first[0, :, 20] = np.nan
    second[1, 3] = np.nan
    found = compare_tiles(first, second, SAME - [[0, 0, 5], [0, 0, 9]], quantity=BOA)
    values: list[list[float]] = [[], [], [], []]
    for row in range(32):
        for col in range(32):
            down, right = row - 5, col - 9
            if down >= 0 and right >= 0 and np.isfinite([*first[:, row, col], *second[:, down, right]]).all():
                for band in range(2):
                    values[band].append(first[band, row, col])
                    values[2 + band].append(second[band, down, right])
    assert found.first_seen == pytest.approx(len(values[0]) / (32 * 31))
    assert found.second_seen == pytest.approx(len(values[0]) / (32 * 31))
    expected = [np.corrcoef(values[band], values[2 + band])[0, 1] for band in range(2)]
    assert found.correlation == pytest.approx(np.median(expected), abs=1e-6) == pytest.approx(1)
    apart = compare_tiles(first, second, SAME - [[0, 0, 40], [0, 0, 0]], quantity=BOA)
    assert (apart.first_seen, apart.second_seen) == (0, 0) and np.isnan(apart.correlation) and not apart.flat


def test_gain_and_offset_do_not_count_and_a_mirrored_tile_does(rng: np.random.Generator) -> None:
    image = rng.normal(0.3, 0.05, (3, 32, 32)).astype(np.float32)
    assert compare_tiles(image, 0.5 * image - 0.1, SAME, quantity=BOA).correlation == pytest.approx(1)
    assert abs(compare_tiles(image, image[:, ::-1], SAME, quantity=BOA).correlation) < 0.1
    assert compare_tiles(image, -image, SAME, quantity=BOA).correlation == pytest.approx(-1)


def test_one_flat_tile_beside_a_textured_one_is_no_match(rng: np.random.Generator) -> None:
    image = rng.normal(0.3, 0.05, (1, 32, 32)).astype(np.float32)
    found = compare_tiles(image, np.full_like(image, 0.3), SAME, quantity=BOA)
    assert found.correlation == 0 and not found.flat


@pytest.mark.parametrize(
    ("quantity", "levels", "flat", "equal"),
    [
        (BOA, (0.03, 0.036), True, True),  # 0.005 and a twentieth of the mean
        (BOA, (0.03, 0.038), True, False),
        (BOA, (0.50, 0.52), True, True),
        (DB, (-20.0, -20.4), True, True),
        (DB, (-20.0, -20.6), True, False),
        (Quantity.DN, (1000.0, 1060.0), True, True),
        (Quantity.DN, (1000.0, 1100.0), True, False),
    ],
)
def test_flat_tiles_are_told_by_their_means(
    quantity: Quantity, levels: tuple[float, float], flat: bool, equal: bool
) -> None:
    tiles = [np.full((2, 32, 32), level, dtype=np.float32) for level in levels]
    for tile in tiles:
        tile[:, ::2] *= 1.0001
    found = compare_tiles(*tiles, SAME, quantity=quantity)
    assert (found.flat, found.equal) == (flat, equal) and np.isnan(found.correlation)


def test_speckle_tells_two_looks_at_one_land_apart(rng: np.random.Generator) -> None:
    """Land against water: the values correlate by the land, the detail by the speckle alone."""
    land = np.where(np.arange(64) < 32, 0.01, 0.3)[None, None, :] * np.ones((2, 64, 64))
    looks = [(land * rng.gamma(4.4, 1 / 4.4, land.shape)).astype(np.float32) for _ in range(2)]
    first, second = (10 * np.log10(image) for image in looks)
    plain = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    other = compare_tiles(first, second, SAME, quantity=DB).correlation
    again = compare_tiles(first, 0.99 * first - 2, SAME, quantity=DB).correlation
    assert plain > 0.9 and abs(other) < 0.35 and again > 0.999


def test_another_grid_is_sampled_at_the_pixel_centres(rng: np.random.Generator) -> None:
    row, col = np.mgrid[:32, :32] + 0.5
    plane = np.stack([0.1 + 0.01 * row - 0.02 * col, 0.03 * row])
    mapping = np.array([[0.98, 0.03, 1.7], [-0.03, 0.98, 2.2]])
    sampled, seen = sample_tile(plane.astype(np.float32), np.ones((32, 32), bool), mapping)
    there = mapping[:, :2] @ np.stack([row.ravel(), col.ravel()]) + mapping[:, 2:]
    inside = ((there > 0.5) & (there < 31.5)).all(axis=0).reshape(32, 32)
    expected = np.stack([0.1 + 0.01 * there[0] - 0.02 * there[1], 0.03 * there[0]]).reshape(2, 32, 32)
    np.testing.assert_allclose(sampled[:, inside], expected[:, inside], atol=1e-5)
    assert (seen == ((there >= 0) & (there <= 32)).all(axis=0).reshape(32, 32)).all()


def test_half_a_pixel_of_white_noise_still_correlates(rng: np.random.Generator) -> None:
    """The hardest case: nothing but noise, brought to a grid between its pixels by bilinear interpolation."""
    noise = rng.normal(0.3, 0.05, (2, 64, 64)).astype(np.float32)
    moved = np.stack([ndimage.shift(band, (0.5, 0.5), order=1, mode="nearest") for band in noise])
    found = compare_tiles(noise, moved, SAME + [[0, 0, 0.5], [0, 0, 0.5]], quantity=BOA)
    assert found.correlation > 0.9
    assert compare_tiles(noise, moved, SAME, quantity=BOA).correlation < 0.6, "where the grids are said to be one"


def test_smoothing_uses_valid_pixels_only(rng: np.random.Generator) -> None:
    image = np.full((1, 16, 16), 0.2, dtype=np.float32)
    valid = rng.random((16, 16)) > 0.3
    image[:, ~valid] = np.nan
    np.testing.assert_allclose(smooth_valid(image, valid, 1.0), 0.2, atol=1e-6)
    np.testing.assert_allclose(keep_detail(image, valid)[:, valid], 0.2, atol=1e-6)
