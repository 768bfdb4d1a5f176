"""Pixels of STAC items: against rasterio and written numbers, in any window, with masks, checksums, and every lie about the grid refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import reproject

from catalogues import GSD, asset, card, item, only, tile, write, write_cog
from eo_ssl.errors import UserError

__all__ = ["tile"]
BASE = "s2:processing_baseline"
SIZE = 192


def test_a_static_catalogue_gives_reflectance_flags_and_facts(
    tile: tuple[Path, dict[str, Any], dict[str, np.ndarray]],
) -> None:
    root, _, stored = tile
    product = only(card("catalog.json"), root)
    assert product.product_id == "stac_set/sentinel-2-l2a/S2A_32TPS_20230601_0_L2A"
    assert product.nbytes == sum((root / "2023" / "tile" / f"{band}.tif").stat().st_size for band in GSD)
    ds = product.open()
    assert ds.attrs["processing_baseline"] == "05.09"
    assert ds.attrs["crs"] == "EPSG:32632"
    scl = np.kron(stored["SCL"], np.ones((2, 2), dtype=np.uint8))
    blue = (stored["B02"].astype(np.float64) - 1000) / 10000
    blue[(stored["B02"] == 0) | (scl == 0)] = np.nan
    np.testing.assert_allclose(ds["image"].sel(band="B02").values, blue, rtol=1e-6, atol=1e-7)
    for name, classes in {"cloud": (8, 9, 10), "shadow": (3,), "snow": (11,), "saturated": (1,)}.items():
        np.testing.assert_array_equal(ds[name].values, np.isin(scl, classes))


def test_coarser_bands_are_resampled_as_gdal_does_it(tile: tuple[Path, dict[str, Any], dict[str, np.ndarray]]) -> None:
    """GDAL's warper is the oracle away from nodata and the border, where it follows other rules."""
    root, _, stored = tile
    ds = only(card("catalog.json", resampling={"B05": "bilinear", "B09": "nearest"}), root).open()
    inside = (slice(24, SIZE - 12), slice(24, SIZE - 12))
    for band, method in (("B05", Resampling.bilinear), ("B09", Resampling.nearest)):
        with rasterio.open(root / "2023" / "tile" / f"{band}.tif") as file:
            source = (file.read(1).astype(np.float32) - 1000) * 1e-4
            out = np.empty((SIZE, SIZE), dtype=np.float32)
            with rasterio.open(root / "2023" / "tile" / "B02.tif") as blue:
                reproject(
                    source,
                    out,
                    src_transform=file.transform,
                    src_crs=file.crs,
                    dst_transform=blue.transform,
                    dst_crs=file.crs,
                    resampling=method,
                )
        np.testing.assert_allclose(ds["image"].sel(band=band).values[inside], out[inside], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        ds["image"].sel(band="B09").values[6:],
        np.kron((stored["B09"].astype(np.float32) - 1000) * np.float32(1e-4), np.ones((6, 6)))[6:],
    )


@pytest.mark.parametrize(
    ("method", "gsd_m"), [("nearest", 10.0), ("bilinear", 10.0), ("average", 20.0), ("average", 60.0)]
)
def test_any_window_has_the_bits_of_the_whole(
    tile: tuple[Path, dict[str, Any], dict[str, np.ndarray]], rng: np.random.Generator, method: str, gsd_m: float
) -> None:
    root, _, _ = tile
    ds = only(card("catalog.json", gsd_m=gsd_m, resampling={"default": method}), root).open()
    whole, cloud = ds["image"].values, ds["cloud"].values
    assert whole.shape[1:] == (SIZE * 10 // int(gsd_m),) * 2
    size = whole.shape[1]
    for _ in range(6):
        top, left = rng.integers(0, size - 3, 2)
        bottom, right = rng.integers(top + 1, size + 1), rng.integers(left + 1, size + 1)
        part = ds.isel(y=slice(top, bottom), x=slice(left, right))
        assert part["image"].values.tobytes() == np.ascontiguousarray(whole[:, top:bottom, left:right]).tobytes()
        np.testing.assert_array_equal(part["cloud"].values, cloud[top:bottom, left:right])
    strips = [ds["image"].isel(y=slice(row, row + 7)).values for row in range(0, size, 7)]
    assert np.concatenate(strips, axis=1).tobytes() == whole.tobytes()


def test_a_product_pickles_into_another_process(tile: tuple[Path, dict[str, Any], dict[str, np.ndarray]]) -> None:
    root, _, _ = tile
    product = only(card("catalog.json"), root)
    ds = product.open()
    (root / "product.pickle").write_bytes(pickle.dumps(product))
    code = (
        "import hashlib, pickle, sys; from pathlib import Path\n"
        "product = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print(hashlib.sha256(product.open()['image'].values.tobytes()).hexdigest(), product.checksum())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(root / "product.pickle")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.stdout.split() == [hashlib.sha256(ds["image"].values.tobytes()).hexdigest(), product.checksum()]


def test_only_the_items_offset_counts_not_the_files_tags(tmp_path: Path) -> None:
    """A file that carries scale and offset tags, as some catalogues write, is not offset a second time."""
    values = np.full((64, 64), 3000, dtype=np.uint16)
    path = write_cog(tmp_path / "B02.tif", values)
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.scales, file.offsets = (1e-4,), (-0.1,)
    assets = {"blue": asset(path, (64, 64), 10, **{"raster:bands": [{"scale": 1e-4, "offset": -0.1}]})}
    for flag, expected in ((True, 0.3), (False, 0.2)):
        said = item(f"S2A_{flag}", assets=assets, **{BASE: "05.09", "earthsearch:boa_offset_applied": flag})
        write(tmp_path / "item.json", said)
        ds = only(card(bands=("B02",)), tmp_path).open()
        np.testing.assert_allclose(ds["image"].values, expected, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------------ grids that lie


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"proj:shape": [640, 640]}, "64 x 64 pixels, not 640 x 640"),
        (
            {"proj:transform": [1, 0, 600000, 0, -1, 5100000]},
            "transform .10, 0, 600000, 0, -10, 5100000., not .1, 0, 600000",
        ),
        ({"proj:transform": [10, 0, 600005, 0, -10, 5100000]}, "not .10, 0, 600005"),
        ({"proj:transform": [10, 0, 600000, 0, -10, 5100000, 0, 0, 1]}, ""),
        ({"proj:transform": [10, 0, 600000]}, "transform"),
        ({"proj:shape": "64x64"}, "expected numbers as proj:shape"),
        ({"proj:code": "EPSG:32633"}, "EPSG:32632, not EPSG:32633"),
        ({"proj:epsg": 32632}, ""),
        ({"proj:code": "nowhere"}, "expected a reference system"),
        ({"proj:shape": None, "proj:transform": None}, ""),  # nothing stated: the file's own header counts
    ],
)
def test_a_file_that_is_not_as_its_item_says_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write_cog(tmp_path / "B02.tif", np.full((64, 64), 3000, dtype=np.uint16))
    said = item(assets={"blue": {**asset(path, (64, 64), 10), **change}}, **{BASE: "05.09"})
    write(tmp_path / "item.json", said)
    product = only(card(bands=("B02",)), tmp_path)
    if not says:
        np.testing.assert_allclose(product.open()["image"].values, 0.2, rtol=1e-6)
        return
    with pytest.raises(UserError, match=says):
        product.open()


def test_projection_stated_for_the_whole_item_counts(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "B02.tif", np.full((64, 64), 3000, dtype=np.uint16))
    said = item(assets={"blue": {"href": str(path)}}, **{BASE: "05.09", "proj:shape": [640, 640]})
    write(tmp_path / "item.json", said)
    with pytest.raises(UserError, match=r"64 x 64 pixels, not 640 x 640"):
        only(card(bands=("B02",)), tmp_path).open()


def test_the_decimated_real_tile_is_refused_and_read_with_a_true_item(real_data: Path, tmp_path: Path) -> None:
    """The item of 29RKH says 10, 20 and 60 m; the files are decimated 1:10. By the item alone they would be upsampled tenfold."""
    folder = real_data / "s2_tile_29RKH_l2a"
    said = json.loads((folder / "S2A_29RKH_20200219_0_L2A.json").read_text())
    for content in said["assets"].values():
        file = folder / content["href"].rpartition("/")[2]
        if file.suffix == ".tif" and file.is_file():
            content["href"] = str(file)
    write(tmp_path / "item.json", said)
    bands = ("B01", "B02", "B04", "B08", "B8A", "B11")
    with pytest.raises(UserError, match=r"got 183 x 183 pixels, not 1830 x 1830; transform .600, 0, 199980"):
        only(card(bands=bands, gsd_m=100.0), tmp_path, allow_outside=True).open()
    for content in said["assets"].values():
        if content["href"].startswith("/"):
            with rasterio.open(content["href"]) as file:
                content["proj:shape"], content["proj:transform"] = list(file.shape), list(file.transform)[:6]
    write(tmp_path / "item.json", said)
    product = only(card(bands=bands, gsd_m=100.0), tmp_path, allow_outside=True)
    assert product.acquisition.processing_baseline == "02.14"
    ds = product.open()
    with rasterio.open(folder / "SCL.tif") as file:
        scl = file.read(1)
    for band in ("B02", "B04", "B08"):  # finest pixels: values of the file
        with rasterio.open(folder / f"{band}.tif") as file:
            stored = file.read(1)
        expected = np.where(stored == 0, np.nan, stored / 10000)
        np.testing.assert_allclose(ds["image"].sel(band=band).values, expected, rtol=1e-6)
    assert abs(float(ds["cloud"].mean()) - float(np.isin(scl, (8, 9, 10)).mean())) < 1e-3
    with rasterio.open(folder / "B8A.tif") as file:  # 200 m to 100 m: the mean is kept
        assert abs(float(ds["image"].sel(band="B8A").mean()) - file.read(1).mean() / 10000) < 1e-4


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("driver", "count", "says"),
    [
        ("VRT", 1, "damaged, or no GTiff or JP2OpenJPEG"),
        ("GTiff", 2, "got 2 bands"),
        ("unplaced", 1, "got no georeference"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, driver: str, count: int, says: str) -> None:
    path = write_cog(tmp_path / "real.tif", np.full((64, 64), 3000, dtype=np.uint16))
    other = tmp_path / "other.tif"
    with rasterio.open(path) as file:
        profile = {**file.profile, "driver": "GTiff", "count": count}
        if driver == "unplaced":
            profile.pop("transform")
        if driver == "VRT":
            other.write_text(
                f'<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32632</SRS><VRTRasterBand dataType="UInt16" band="1">'
                f"<SimpleSource><SourceFilename>{path}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
            )
        else:
            with rasterio.open(other, "w", **profile) as copy:
                copy.write(np.repeat(file.read(), count, axis=0))
    write(tmp_path / "item.json", item(assets={"blue": {"href": "other.tif"}}, **{BASE: "05.09"}))
    with pytest.raises(UserError, match=says):
        only(card(bands=("B02",)), tmp_path).open()


def test_a_file_cut_short_or_absent_is_said_in_words(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_cog(tmp_path / "B02.tif", rng.integers(1001, 9000, (256, 256), dtype=np.uint16))
    write(tmp_path / "item.json", item(assets={"blue": asset("B02.tif", (256, 256), 10)}, **{BASE: "05.09"}))
    product = only(card(bands=("B02",)), tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"expected a readable raster in .*B02.tif, got: "):
        _ = product.open(plausible=False)["image"].values
    path.unlink()
    for use in (product.checksum, product.open, lambda: product.nbytes):
        with pytest.raises(UserError, match=r"B02.tif"):
            use()
