"""Resampling: against loops, against GDAL, bit-equal for any window, and nodata that neither bleeds nor spreads."""

from __future__ import annotations

import numpy as np
import pytest
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.warp import reproject

from eo_ssl.errors import UserError
from eo_ssl.scene.grids import make_grid, measure_gsd
from eo_ssl.scene.resampling import compute_grid_taps, resample

UTM = "EPSG:32629"


def grid(height: int, width: int, gsd: float, left: float = 0.0, top: float = 0.0) -> GeoBox:
    return make_grid(height, width, (gsd, 0.0, left, 0.0, -gsd, top), UTM)


def whole(values: np.ndarray, source: GeoBox, target: GeoBox, method: str) -> np.ndarray:
    return window(values, source, target, method, (0, target.height), (0, target.width))


def window(
    values: np.ndarray, source: GeoBox, target: GeoBox, method: str, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    y, x = compute_grid_taps(target, source, rows=rows, columns=columns, method=method)
    part = values[slice(*y.span), slice(*x.span)]
    out = np.empty((rows[1] - rows[0], columns[1] - columns[0]), dtype=np.float32)
    resample(part, out, along_y=y.shifted(y.span[0]), along_x=x.shifted(x.span[0]), method=method)
    return out


def by_loops(values: np.ndarray, source: GeoBox, target: GeoBox, method: str) -> np.ndarray:
    """The definition, one pixel at a time, in float64."""
    out = np.full(target.shape, np.nan)
    ratio = measure_gsd(target) / measure_gsd(source)
    shift_y, shift_x = (
        (source.affine[5] - target.affine[5]) / measure_gsd(source),
        (target.affine[2] - source.affine[2]) / measure_gsd(source),
    )
    for i in range(target.height):
        for j in range(target.width):
            cy, cx = (i + 0.5) * ratio + shift_y, (j + 0.5) * ratio + shift_x
            if not (0 <= cy < source.height and 0 <= cx < source.width):
                continue
            weights: dict[tuple[int, int], float] = {}
            if method == "nearest":
                weights[int(cy), int(cx)] = 1.0
            elif method == "bilinear":
                for y in (int(np.floor(cy - 0.5)), int(np.floor(cy - 0.5)) + 1):
                    for x in (int(np.floor(cx - 0.5)), int(np.floor(cx - 0.5)) + 1):
                        key = (min(max(y, 0), source.height - 1), min(max(x, 0), source.width - 1))
                        weights[key] = weights.get(key, 0.0) + (1 - abs(cy - 0.5 - y)) * (1 - abs(cx - 0.5 - x))
            else:
                for y in range(source.height):
                    for x in range(source.width):
                        high = min(y + 1, cy + ratio / 2) - max(y, cy - ratio / 2)
                        wide = min(x + 1, cx + ratio / 2) - max(x, cx - ratio / 2)
                        if high > 1e-9 and wide > 1e-9:
                            weights[y, x] = high * wide
            valid = {key: weight for key, weight in weights.items() if np.isfinite(values[key])}
            share = sum(valid.values()) / sum(weights.values())
            centre_valid = bool(np.isfinite(values[min(int(cy), source.height - 1), min(int(cx), source.width - 1)]))
            if share > 0 and (centre_valid if method != "average" else share >= 0.5):
                out[i, j] = sum(values[key] * weight for key, weight in valid.items()) / sum(valid.values())
    return out


CASES = [
    ("bilinear", grid(8, 9, 60.0), grid(48, 54, 10.0)),  # 60 m band on the 10 m grid
    ("bilinear", grid(8, 9, 20.0, 3.0, -7.0), grid(17, 18, 10.0)),  # shifted by a fraction of a pixel
    ("nearest", grid(8, 9, 20.0), grid(16, 18, 10.0)),
    ("average", grid(18, 21, 10.0), grid(6, 7, 30.0)),
    ("average", grid(18, 21, 10.0), grid(7, 8, 25.0)),  # cells cut source pixels
]


@pytest.mark.parametrize(("method", "source", "target"), CASES)
@pytest.mark.parametrize("holes", [False, True])
def test_equals_the_definition_by_loops(
    rng: np.random.Generator, method: str, source: GeoBox, target: GeoBox, holes: bool
) -> None:
    values = rng.normal(0.3, 0.1, source.shape).astype(np.float32)
    if holes:
        values[rng.random(source.shape) < 0.3] = np.nan
    np.testing.assert_allclose(
        whole(values, source, target, method), by_loops(values, source, target, method), rtol=2e-6, atol=1e-7
    )


@pytest.mark.parametrize(("method", "source", "target"), CASES)
def test_any_window_gives_the_bits_of_the_whole(
    rng: np.random.Generator, method: str, source: GeoBox, target: GeoBox
) -> None:
    values = rng.normal(0.3, 0.1, source.shape).astype(np.float32)
    values[2:4, 1:5] = np.nan
    expected = whole(values, source, target, method)
    for _ in range(60):
        top, bottom = np.sort(rng.choice(target.height + 1, 2, replace=False))
        left, right = np.sort(rng.choice(target.width + 1, 2, replace=False))
        part = window(values, source, target, method, (int(top), int(bottom)), (int(left), int(right)))
        assert part.tobytes() == expected[top:bottom, left:right].tobytes()


@pytest.mark.parametrize(
    ("method", "gdal"),
    [("bilinear", Resampling.bilinear), ("nearest", Resampling.nearest), ("average", Resampling.average)],
)
def test_equals_gdal_where_all_is_valid(rng: np.random.Generator, method: str, gdal: Resampling) -> None:
    source, target = (
        (grid(30, 36, 20.0), grid(60, 72, 10.0)) if method != "average" else (grid(60, 72, 10.0), grid(20, 24, 30.0))
    )
    values = rng.normal(0.3, 0.1, source.shape).astype(np.float32)
    expected = np.zeros(target.shape, dtype=np.float32)
    reproject(
        values,
        expected,
        resampling=gdal,
        src_crs=UTM,
        dst_crs=UTM,
        src_transform=source.affine,
        dst_transform=target.affine,
    )
    inner = (slice(3, -3), slice(3, -3))  # at the border GDAL shortens its kernel, we repeat the edge
    np.testing.assert_allclose(whole(values, source, target, method)[inner], expected[inner], rtol=1e-5)


def test_nodata_neither_bleeds_nor_spreads(rng: np.random.Generator) -> None:
    source, target = grid(10, 10, 20.0), grid(20, 20, 10.0)
    values = np.full(source.shape, 0.25, dtype=np.float32)
    values[:, 4:] = np.nan  # a bled nodata value would pull the border away from 0.25
    result = whole(values, source, target, "bilinear")
    assert np.array_equal(np.isfinite(result), np.broadcast_to(np.arange(20) < 8, (20, 20)))
    np.testing.assert_allclose(result[:, :8], 0.25, rtol=1e-6)


def test_pixels_outside_the_source_are_invalid() -> None:
    source, target = grid(4, 4, 20.0), grid(10, 10, 10.0)
    result = whole(np.ones(source.shape, dtype=np.float32), source, target, "bilinear")
    assert np.isfinite(result[:8, :8]).all()
    assert np.isnan(result[8:]).all()
    assert np.isnan(result[:, 8:]).all()


def test_bands_in_two_reference_systems_are_refused() -> None:
    other = make_grid(4, 4, (20.0, 0.0, 0.0, 0.0, -20.0, 0.0), "EPSG:32630")
    with pytest.raises(UserError, match="one reference system, got EPSG:32629 and EPSG:32630"):
        compute_grid_taps(grid(8, 8, 10.0), other, rows=(0, 8), columns=(0, 8), method="nearest")


def test_the_centre_of_gravity_of_a_blob_stays_in_place() -> None:
    """A shifted grid (half a pixel, the classic mistake) would move the blob by metres."""
    source, target = grid(24, 24, 60.0), grid(144, 144, 10.0)
    y, x = np.indices(source.shape)
    blob = np.exp(-((y - 10.0) ** 2 + (x - 13.0) ** 2) / 8.0).astype(np.float32)
    fine = whole(blob, source, target, "bilinear")
    for axis in (0, 1):
        coarse_at = ((np.arange(24) + 0.5) * 60.0 * blob.sum(axis=1 - axis)).sum() / blob.sum()
        fine_at = ((np.arange(144) + 0.5) * 10.0 * fine.sum(axis=1 - axis)).sum() / fine.sum()
        assert abs(coarse_at - fine_at) < 0.5  # metres
