"""npy, npz and NetCDF with a card: axes in any order, one product per date, masks and labels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import yaml

from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.scene import Product, list_products

FIELDS = {
    "title": "synthetic",
    "licence": "Apache-2.0",
    "attribution": "made in a test",
    "source": "a test",
    "sensor": "sentinel2_l2a",
    "reader": "array",
    "bands": ["B8A", "B04"],
    "quantity": "boa_reflectance",
    "gsd_m": 20.0,
    "scale": 1e-4,
    "nodata": 0,
}


def listed(folder: Path, **changes: Any) -> tuple[Product, ...]:
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(FIELDS | changes))
    return list_products(load_card(path), folder).products


@pytest.mark.parametrize("dims", ["tyxb", "tbyx", "byxt", "xytb"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_axes_in_any_order(tmp_path: Path, rng: np.random.Generator, dims: str, suffix: str) -> None:
    sizes = {"t": 3, "y": 7, "x": 5, "b": 2}
    stored = rng.integers(1, 6000, [sizes[name] for name in dims]).astype(np.uint16)
    np.save(tmp_path / "a.npy", stored) if suffix == "npy" else np.savez_compressed(tmp_path / "a.npz", cube=stored)
    found = listed(tmp_path, files=f"a.{suffix}", array={"dims": dims, "key": None if suffix == "npy" else "cube"})
    assert [product.product_id for product in found] == ["set/a/0000", "set/a/0001", "set/a/0002"]
    assert len({product.checksum() for product in found}) == 3
    plain = stored.transpose([dims.index(name) for name in "tbyx"])
    for product, expected in zip(found, plain, strict=True):
        cube = product.open()
        assert product.shape == cube["image"].shape == (2, 7, 5)
        assert (cube.attrs["crs"], cube.attrs["transform"]) == ("", ())
        assert cube["x"].values.tolist() == [0, 1, 2, 3, 4]  # pixel indices without georeference
        np.testing.assert_allclose(cube["image"].sel(band="B8A").values, expected[0] * 1e-4, rtol=1e-6)
        np.testing.assert_array_equal(
            cube["image"].isel(y=slice(2, 6), x=slice(1, 3)).values, cube["image"].values[:, 2:6, 1:3]
        )


def test_mask_and_labels_in_the_archive_and_beside_it(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.uniform(0.01, 0.6, (6, 6, 2)).astype(np.float32)
    kinds = rng.integers(0, 5, (6, 6, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", img=image, msk=kinds)
    np.save(tmp_path / "cover.npy", kinds[..., 0])
    (product,) = listed(
        tmp_path,
        files="a.npz",
        scale=1.0,
        nodata=None,
        array={"dims": "yxb", "key": "img"},
        mask={"source": "msk", "classes": {"cloud": [4], "shadow": [0]}},
        labels={"source": "cover.npy", "classes": {1: "water", 3: "land"}},
    )
    cube = product.open()
    np.testing.assert_array_equal(cube["cloud"].values, kinds[..., 0] == 4)
    np.testing.assert_array_equal(cube["shadow"].values, kinds[..., 0] == 0)
    np.testing.assert_array_equal(
        cube["label"].values, np.where(np.isin(kinds[..., 0], (1, 3)), kinds[..., 0].astype(int), -1)
    )
    np.testing.assert_array_equal(cube["image"].values, image.transpose(2, 0, 1)[::-1])  # B04 before B8A


def write_netcdf(path: Path, rng: np.random.Generator, *, scale: float = 1e-4) -> np.ndarray:
    stored = rng.integers(1, 6000, (2, 3, 4, 5)).astype(np.uint16)  # band, time, y, x
    with netCDF4.Dataset(path, "w") as file:
        for name, size in {"time": 3, "y": 4, "x": 5}.items():
            file.createDimension(name, size)
        for name, values in {"y": 4e6 - 20.0 * np.arange(4), "x": 5e5 + 20.0 * np.arange(5)}.items():
            file.createVariable(name, "f8", (name,))[:] = values
        when = file.createVariable("time", "i8", ("time",))
        when.units, when[:] = "days since 2020-02-27 10:30:00", [0, 2, 3]  # over a leap day
        file.createVariable("spatial_ref", "i4", ()).crs_wkt = __import__("rasterio").crs.CRS.from_epsg(32631).to_wkt()
        for name, values in {"red": stored[0], "nir08": stored[1], "SCL": np.full((3, 4, 5), 4)}.items():
            variable = file.createVariable(name, "u2", ("time", "y", "x"), fill_value=np.uint16(9))
            variable.set_auto_maskandscale(False)
            variable.grid_mapping, variable.scale_factor = "spatial_ref", scale if name != "SCL" else 1.0
            values = values.astype(np.uint16)
            if name == "SCL":
                values[1, 0, 0] = 8
            variable[:] = values
    return stored


NETCDF = {"dims": "tyx", "variables": {"red": "red", "nir08": "nir08"}, "time": "time"}


def test_netcdf_with_a_variable_per_band_and_dates(tmp_path: Path, rng: np.random.Generator) -> None:
    stored = write_netcdf(tmp_path / "a.nc", rng)
    stored[stored == 9] = 0  # the file's fill value
    found = listed(tmp_path, files="*.nc", array=NETCDF, mask={"source": "SCL", "classes": {"cloud": [8]}})
    assert [product.acquisition.datetime for product in found] == [
        "2020-02-27T10:30:00Z",
        "2020-02-29T10:30:00Z",
        "2020-03-01T10:30:00Z",
    ]
    for step, product in enumerate(found):
        cube = product.open()
        assert (cube.attrs["crs"], cube.attrs["transform"]) == (
            "EPSG:32631",
            (20.0, 0.0, 499_990.0, 0.0, -20.0, 4_000_010.0),
        )
        expected = np.where(stored[:, step] == 0, np.nan, stored[:, step] * 1e-4)
        np.testing.assert_allclose(cube["image"].values, expected, rtol=1e-6)
        assert cube["cloud"].values.sum() == (1 if step == 1 else 0)
    assert np.allclose(found[0].open()["y"].values, 4e6 - 20.0 * np.arange(4))


def test_a_scale_that_contradicts_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    write_netcdf(tmp_path / "a.nc", rng, scale=1e-3)
    with pytest.raises(
        UserError, match=r"the card's scale 0.0001 and offset 0 in red of .*a\.nc, got scale_factor 0.001"
    ):
        listed(tmp_path, files="a.nc", array=NETCDF)[0].open()


@pytest.mark.parametrize(
    ("name", "attribute", "value", "words"),
    [
        ("nir08", "scale_factor", 1e-3, "in nir08 of .*got scale_factor 0.001"),  # only the first band was looked at
        ("red", "add_offset", -0.1, "got scale_factor 0.0001 and add_offset -0.1, which is -1000 stored units"),
    ],
)
def test_every_variable_and_its_offset_are_compared_with_the_card(
    tmp_path: Path, rng: np.random.Generator, name: str, attribute: str, value: float, words: str
) -> None:
    write_netcdf(tmp_path / "a.nc", rng)
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        file[name].setncattr(attribute, value)
    with pytest.raises(UserError, match=words):
        listed(tmp_path, files="a.nc", array=NETCDF)[0].open()
    if attribute == "add_offset":  # a card that says the same is right, and the offset is applied once
        cube = listed(tmp_path, files="a.nc", array=NETCDF, offset=-1000.0)[0].open()
        with netCDF4.Dataset(tmp_path / "a.nc") as file:
            own = np.ma.filled(file["red"][0].astype(float), np.nan)  # netCDF4 applies scale and offset itself
        np.testing.assert_allclose(cube["image"].sel(band="B04").values, own, atol=1e-6)


def test_irregular_coordinates_are_no_grid(tmp_path: Path, rng: np.random.Generator) -> None:
    write_netcdf(tmp_path / "a.nc", rng)
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        file["x"][3:] = file["x"][3:] + 20.0  # a column is missing
    with pytest.raises(UserError, match="expected equal steps of x and y"):
        listed(tmp_path, files="a.nc", array=NETCDF)[0].open()


def test_wide_integers_keep_their_digits(tmp_path: Path) -> None:
    """float32 holds integers up to 2^24; a stored 2^24 + 1 must be scaled before it is rounded."""
    stored = np.array([[[2**24 + 1, 2**30 + 3]]], dtype=np.int32)
    np.save(tmp_path / "a.npy", stored)
    (product,) = listed(tmp_path, files="a.npy", bands=["B04"], array={"dims": "byx"}, scale=1e-9, offset=-1.0)
    expected = ((stored.astype(np.float64) - 1.0) * 1e-9).astype(np.float32)
    assert product.open()["image"].values.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"array": {"dims": "yxb", "key": "imgs"}}, "the array 'imgs' in .*, got img"),
        ({"array": {"dims": "yx", "key": "img"}}, "either an axis b or one variable per band, got dims 'yx'"),
        ({"array": {"dims": "yyb", "key": "img"}}, "out of t, y, x, b with y and x, got 'yyb'"),
        ({"array": {"dims": "tyxb", "key": "img"}}, r"tyxb.*shape \(6, 6, 2\)|axes 'tyxb'"),
        ({"bands": ["B04"]}, "expected 1 bands in .* got 2"),
        ({"files": "broken.npz"}, r"readable npz of plain numbers in .*broken\.npz"),
        ({"files": "objects.npz"}, r"readable npz of plain numbers in .*objects\.npz"),
        ({"files": "objects.npy", "array": {"dims": "yxb"}}, r"plain numpy array in .*objects\.npy"),
        ({"files": "broken.nc", "array": {"dims": "yxb", "key": "img"}}, r"readable NetCDF file in .*broken\.nc"),
        ({"files": "text.txt"}, r"an array file \(\.npy, .*\.hdf5\), got .*text\.txt"),
        ({"transform": [50.0, 0.0, 5e5, 0.0, -50.0, 4e6], "crs": "EPSG:32629"}, "pixels of 20 m in .*, got 50 m"),
    ],
)
def test_refusals(tmp_path: Path, rng: np.random.Generator, changes: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "good.npz", img=rng.integers(1, 6000, (6, 6, 2)))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:200])
    (tmp_path / "broken.nc").write_bytes(b"CDF?")
    (tmp_path / "text.txt").write_text("1 2 3")
    hostile = np.empty((6, 6, 2), dtype=object)  # would run code on loading if pickles were allowed
    np.savez(tmp_path / "objects.npz", img=hostile)
    np.save(tmp_path / "objects.npy", hostile)
    with pytest.raises(UserError, match=words) as error:
        for product in listed(tmp_path, **({"files": "good.npz", "array": {"dims": "yxb", "key": "img"}} | changes)):
            product.open().load()
    assert "\n" not in str(error.value)
