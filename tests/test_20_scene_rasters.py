"""Band folders and multi-band rasters: radiometry against the formula, laziness, masks, and reading each byte once."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import Affine

from eo_ssl.cards import Card, load_card
from eo_ssl.scene import check_cube, gdal_files, list_products

COMMON = {"licence": "Apache-2.0", "attribution": "made in a test", "source": "a test", "title": "synthetic"}
LEFT, TOP = 500_000.0, 4_000_000.0


def card(where: Path, /, **fields: Any) -> Card:
    path = where / "set.yaml"
    path.write_text(yaml.safe_dump(COMMON | fields))
    return load_card(path)


def write(path: Path, values: np.ndarray, *, gsd: float = 10.0, crs: str | None = "EPSG:32629", **profile: Any) -> None:
    values = values[np.newaxis] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    place = {"transform": Affine(gsd, 0.0, LEFT, 0.0, -gsd, TOP), "crs": crs} if crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values.dtype.name, **place, **profile
    ) as file:
        file.write(values)


def folder_card(folder: Path, **changes: Any) -> Card:
    fields = {
        "sensor": "sentinel2_l2a",
        "reader": "band_folder",
        "folder": "scenes/*",
        "bands": ["B11", "B02", "B01"],
        "quantity": "boa_reflectance",
        "files": {"B02": "B02.tif", "B11": "B11.tif", "B01": "B01.tif"},
        "gsd_m": 10.0,
        "scale": 1e-4,
        "nodata": 0,
        "resampling": {"default": "bilinear", "B11": "nearest"},
        "metadata": {
            "file": "product.json",
            "datetime": "when",
            "processing_baseline": "facts.baseline",
            "offset": "facts.offset",
        },
        "mask": {
            "source": "SCL.tif",
            "classes": {"nodata": [0], "saturated": [1], "shadow": [3], "cloud": [8, 9, 10], "snow": [11]},
        },
    }
    return card(folder, **(fields | changes))


def write_scene(folder: Path, rng: np.random.Generator, *, offset: int = 0, size: int = 48) -> dict[str, np.ndarray]:
    """Three bands at 10, 20 and 60 m, their reflectance x 10000 before the offset is added, and a classification at 20 m."""
    truth = {
        name: rng.integers(200, 6000, (size // step, size // step))
        for name, step in (("B02", 1), ("B11", 2), ("B01", 6))
    }
    for name, step in (("B02", 1), ("B11", 2), ("B01", 6)):
        write(folder / f"{name}.tif", (truth[name] - offset).astype(np.uint16), gsd=10.0 * step)
    truth["SCL"] = np.full((size // 2, size // 2), 4, dtype=np.uint8)
    for place, value in enumerate((0, 1, 3, 8, 9, 10, 11)):
        truth["SCL"][place, : 5 + place] = value
    write(folder / "SCL.tif", truth["SCL"], gsd=20.0)
    facts = {"when": "2023-07-05T10:20:30Z", "facts": {"baseline": "05.09" if offset else "02.14", "offset": offset}}
    (folder / "product.json").write_text(json.dumps(facts))
    return truth


def test_a_folder_of_bands_becomes_one_cube_in_physical_units(tmp_path: Path, rng: np.random.Generator) -> None:
    truth = write_scene(tmp_path / "scenes" / "one", rng)
    (product,) = list_products(folder_card(tmp_path), tmp_path).products
    cube = check_cube(product.open())
    assert list(cube["band"].values) == ["B01", "B02", "B11"]  # the sensor's order, not the card's
    assert product.bands == ("B01", "B02", "B11")
    assert product.shape == cube["image"].shape == (3, 48, 48)
    assert cube.attrs["datetime"] == "2023-07-05T10:20:30Z"
    assert cube.attrs["processing_baseline"] == "02.14"
    assert cube.attrs["crs"] == "EPSG:32629"
    assert float(cube["x"][0]) == LEFT + 5.0
    assert float(cube["y"][-1]) == TOP - 475.0
    classes = np.repeat(np.repeat(truth["SCL"], 2, axis=0), 2, axis=1)
    image = cube["image"].values
    valid = classes != 0
    np.testing.assert_allclose(image[1][valid], truth["B02"][valid] * 1e-4, rtol=1e-6)
    nearest = np.repeat(np.repeat(truth["B11"], 2, axis=0), 2, axis=1)
    np.testing.assert_allclose(image[2][valid], nearest[valid] * 1e-4, rtol=1e-6)
    assert np.isnan(image[:, ~valid]).all()
    for flag, members in {"cloud": (8, 9, 10), "shadow": (3,), "snow": (11,), "saturated": (1,)}.items():
        assert np.array_equal(cube[flag].values, np.isin(classes, members)), flag


def test_both_baselines_give_the_same_reflectance(tmp_path: Path, rng: np.random.Generator) -> None:
    seed = int(rng.integers(1 << 30))
    write_scene(tmp_path / "scenes" / "new", np.random.default_rng(seed), offset=-1000)
    write_scene(tmp_path / "scenes" / "old", np.random.default_rng(seed))
    new, old = list_products(folder_card(tmp_path), tmp_path).products
    assert (new.offset, old.offset) == (-1000.0, 0.0)
    np.testing.assert_allclose(new.open()["image"].values, old.open()["image"].values, rtol=1e-5, atol=1e-7)
    assert new.checksum() != old.checksum()


def test_any_split_into_windows_gives_the_bits_of_the_whole(tmp_path: Path, rng: np.random.Generator) -> None:
    write_scene(tmp_path / "scenes" / "one", rng)
    (product,) = list_products(folder_card(tmp_path), tmp_path).products
    whole = product.open().load()
    for _ in range(10):
        rows = [0, *np.sort(rng.choice(np.arange(1, 48), 4, replace=False)).tolist(), 48]
        columns = [0, *np.sort(rng.choice(np.arange(1, 48), 2, replace=False)).tolist(), 48]
        for name in ("image", "cloud", "saturated"):
            strips = [
                np.concatenate(
                    [product.open()[name].isel(y=slice(a, b), x=slice(c, d)).values for c, d in pairwise(columns)],
                    axis=-1,
                )
                for a, b in pairwise(rows)
            ]
            assert np.concatenate(strips, axis=-2).tobytes() == whole[name].values.tobytes()


def test_indexing_means_what_numpy_means(tmp_path: Path, rng: np.random.Generator) -> None:
    write_scene(tmp_path / "scenes" / "one", rng)
    (product,) = list_products(folder_card(tmp_path), tmp_path).products
    whole = product.open()["image"].values
    image = product.open()["image"]
    np.testing.assert_array_equal(image[1].values, whole[1])
    np.testing.assert_array_equal(image[:, 5, 3:9:2].values, whole[:, 5, 3:9:2])
    np.testing.assert_array_equal(image[::-1, 10:2:-3].values, whole[::-1, 10:2:-3])
    np.testing.assert_array_equal(image.isel(y=[3, 1, 40]).values, whole[:, [3, 1, 40]])
    assert image[:, 4:4].values.shape == (3, 0, 48)
    np.testing.assert_array_equal(image.sel(band="B11").values, whole[2])


def test_only_the_window_is_read(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scene(tmp_path / "scenes" / "one", rng)
    (product,) = list_products(folder_card(tmp_path, mask=None), tmp_path).products
    cube = product.open()
    seen: list[tuple[str, int, int]] = []
    plain = gdal_files.read_window

    def spy(path: Path, indexes: tuple[int, ...], *, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        seen.append((path.stem, rows[1] - rows[0], columns[1] - columns[0]))
        return plain(path, indexes, rows=rows, columns=columns)

    monkeypatch.setattr(gdal_files, "read_window", spy)
    cube["image"].isel(y=slice(12, 18), x=slice(0, 12)).load()
    assert sorted(seen) == [("B01", 3, 3), ("B02", 6, 12), ("B11", 3, 6)]  # 60 m: one pixel and its neighbours
    seen.clear()
    cube["image"].sel(band="B02").isel(y=slice(0, 4)).load()
    assert seen == [("B02", 4, 48)]


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs the byte counter of Linux")
@pytest.mark.parametrize("strip", [128, 100])
def test_strips_read_each_block_once(tmp_path: Path, rng: np.random.Generator, strip: int) -> None:
    """Also where strips cut blocks: the handle stays open, so GDAL's cache serves the second half."""
    noise = rng.integers(200, 60_000, (3, 512, 512)).astype(
        np.uint16
    )  # does not compress, so blocks are as long as their pixels
    write(
        tmp_path / "scene.tif",
        noise,
        tiled=True,
        blockxsize=128,
        blockysize=128,
        compress="deflate",
        interleave="pixel",
    )
    made = card(
        tmp_path,
        sensor="sentinel2_l2a",
        reader="raster",
        files="*.tif",
        bands=["B02", "B03", "B04"],
        quantity="boa_reflectance",
        gsd_m=10.0,
        scale=3e-5,
    )
    (product,) = list_products(made, tmp_path).products
    before = bytes_read()
    cube = product.open()
    assert cube["image"].encoding["preferred_chunks"] == {"band": 3, "y": 128, "x": 128}
    for top in range(0, 512, strip):
        cube["image"].isel(y=slice(top, top + strip)).load()
    size = (tmp_path / "scene.tif").stat().st_size
    assert 0.8 * size < bytes_read() - before < 1.1 * size


def opened_in_child(product: Any) -> float:
    return float(product.open()["image"].isel(y=slice(0, 5)).values.sum(dtype=np.float64))


def test_products_travel_to_processes_and_threads(tmp_path: Path, rng: np.random.Generator) -> None:
    write_scene(tmp_path / "scenes" / "one", rng)
    (product,) = list_products(folder_card(tmp_path, mask=None), tmp_path).products
    cube = product.open()
    expected = opened_in_child(product)  # leaves handles open in this process: a forked child must not touch them
    again = pickle.loads(pickle.dumps(cube))
    assert again["image"].values.tobytes() == cube["image"].values.tobytes()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(opened_in_child, [product] * 4) == [expected] * 4
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(opened_in_child, [product] * 16)) == [expected] * 16


def test_a_coarser_grid_averages_the_finer_band(tmp_path: Path, rng: np.random.Generator) -> None:
    truth = write_scene(tmp_path / "scenes" / "one", rng)
    made = folder_card(tmp_path, gsd_m=20.0, mask=None, resampling={"B02": "average", "default": "nearest"})
    cube = list_products(made, tmp_path).products[0].open()
    expected = truth["B02"].reshape(24, 2, 24, 2).mean(axis=(1, 3)) * 1e-4
    np.testing.assert_allclose(cube["image"].sel(band="B02").values, expected, rtol=1e-5)
    assert cube.attrs["gsd_m"] == 20.0
    assert cube.attrs["transform"] == (20.0, 0.0, LEFT, 0.0, -20.0, TOP)


def test_the_files_own_nodata_and_saturation_are_seen(tmp_path: Path) -> None:
    values = np.full((2, 6, 6), 3000, dtype=np.uint16)
    values[0, 0, 0], values[1, 2, 2], values[1, 3, 3] = 7, 0, 65535
    write(tmp_path / "scene.tif", values, nodata=7)
    made = card(
        tmp_path,
        sensor="sentinel2_l1c",
        reader="raster",
        files="*.tif",
        bands=["B04", "B03"],
        quantity="toa_reflectance",
        gsd_m=10.0,
        scale=1e-4,
        nodata=0,
        dtype_max=65535,
    )
    cube = list_products(made, tmp_path).products[0].open()
    assert np.argwhere(np.isnan(cube["image"].values)).tolist() == [[0, 2, 2], [1, 0, 0]]  # B03 first: canonical order
    assert np.argwhere(cube["saturated"].values).tolist() == [[3, 3]]


def radar(folder: Path, values: np.ndarray, **changes: Any) -> Card:
    write(folder / "burst_A_20240105T010203_VV.tif", values[0], nodata=float("nan"))
    write(folder / "burst_A_20240105T010203_VH.tif", values[1], nodata=float("nan"))
    fields = {
        "sensor": "sentinel1_rtc",
        "reader": "raster",
        "files": "*.tif",
        "bands": ["VV", "VH"],
        "quantity": "gamma0",
        "gsd_m": 10.0,
        "group": {
            "pattern": r"(?P<product>burst_(?P<orbit>[A-Z])_(?P<datetime>\d+T\d+))_(?P<band>V[VH])",
            "datetime_format": "%Y%m%dT%H%M%S",
        },
    }
    return card(folder, **(fields | changes))


def test_polarisations_in_files_of_their_own_make_one_product(tmp_path: Path, rng: np.random.Generator) -> None:
    power = rng.gamma(4.0, 0.02, (2, 16, 16)).astype(np.float32)
    power[0, 0, :4] = [np.nan, np.inf, 0.0, -0.001]
    (product,) = list_products(radar(tmp_path, power), tmp_path).products
    assert product.product_id == "set/burst_A_20240105T010203"
    cube = product.open()
    assert (cube.attrs["datetime"], cube.attrs["orbit"]) == ("2024-01-05T01:02:03Z", "A")
    image = cube["image"].values
    assert np.isnan(image[0, 0, :2]).all()  # no measurement
    assert image[0, 0, 2:4].tolist() == [0.0, np.float32(-0.001)]  # below the noise that was subtracted: a measurement
    np.testing.assert_array_equal(image[1], power[1])


def test_decibels_stay_decibels(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(-12.0, 2.0, (2, 16, 16))
    values[1, 0, 0] = -np.inf  # the dB of a pixel without power
    cube = list_products(radar(tmp_path, values, quantity="gamma0_db"), tmp_path).products[0].open()
    assert cube.attrs["quantity"] == "gamma0_db"
    assert np.isnan(cube["image"].values[1, 0, 0])
    np.testing.assert_allclose(cube["image"].values[0], values[0], rtol=1e-6)


def test_two_dates_in_one_file_are_two_products(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(300, 3000, (4, 8, 8)).astype(np.uint16)
    write(tmp_path / "stack.tif", values)
    made = card(
        tmp_path,
        sensor="sentinel2_l2a",
        reader="raster",
        files="stack.tif",
        bands=["B04", "B03"],
        quantity="boa_reflectance",
        gsd_m=10.0,
        scale=1e-4,
        layers={"spring": [1, 2], "autumn": [3, 4]},
    )
    autumn, spring = list_products(made, tmp_path).products
    assert (autumn.product_id, spring.product_id) == ("set/stack/autumn", "set/stack/spring")
    np.testing.assert_allclose(autumn.open()["image"].values, values[[3, 2]] * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(spring.open()["image"].values, values[[1, 0]] * 1e-4, rtol=1e-6)
    assert autumn.checksum() != spring.checksum()


def test_labels_beside_the_image_follow_its_grid(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "image" / "a.tif", rng.integers(300, 3000, (1, 8, 8)).astype(np.uint16))
    cover = rng.integers(0, 5, (4, 4)).astype(np.uint8)
    write(tmp_path / "cover" / "a.tif", cover, gsd=20.0)
    made = card(
        tmp_path,
        sensor="sentinel2_l2a",
        reader="raster",
        files="image/*.tif",
        bands=["B04"],
        quantity="boa_reflectance",
        gsd_m=10.0,
        scale=1e-4,
        labels={"source": "../cover/{stem}.tif", "classes": {1: "water", 4: "crop"}},
    )
    label = list_products(made, tmp_path).products[0].open()["label"].values
    fine = np.repeat(np.repeat(cover, 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(label, np.where(np.isin(fine, (1, 4)), fine.astype(int), -1))
