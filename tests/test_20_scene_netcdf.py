"""Dialects of NetCDF: what attributes and coordinates say of the numbers is what netCDF4 and xarray make of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pyproj
import pytest
import rasterio
import xarray as xr
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products

CARD = {
    "title": "synthetic",
    "licence": "Apache-2.0",
    "attribution": "made in a test",
    "source": "a test",
    "sensor": "sentinel2_l2a",
    "reader": "array",
    "files": "a.nc",
    "bands": ["B04"],
    "quantity": "boa_reflectance",
    "gsd_m": 20.0,
    "scale": 1e-4,
    "array": {"dims": "yx", "variables": {"red": "red"}},
}
NUMBERS = np.array([[0, 1, 7, 300], [5000, 6000, 9999, 10000], [-1, -2, -32767, 32767], [40, 50, 60, 70]])
UTM = pyproj.CRS.from_epsg(32632)


def opened(folder: Path, **changes: Any) -> xr.Dataset:
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(CARD | changes))
    (product,) = list_products(load_card(path), folder).products
    return product.open()


def write(
    path: Path,
    stored: np.ndarray = NUMBERS,
    *,
    dtype: str = "i2",
    fill: Any = None,
    axes: tuple[str, str] = ("y", "x"),
    y: np.ndarray | None = None,
    x: np.ndarray | None = None,
    crs: pyproj.CRS | None = UTM,
    form: Any = "NETCDF4",
    coordinates: dict[str, dict[str, Any]] | None = None,
    **attributes: Any,
) -> None:
    """A file with the variable ``red`` [y, x] on 20 m pixels, with attributes and coordinates as given."""
    with netCDF4.Dataset(path, "w", format=form) as file:
        for name, size, given, even in zip(
            axes, stored.shape, (y, x), (5_000_010 - 20.0 * np.arange(64), 600_010 + 20.0 * np.arange(64)), strict=True
        ):
            file.createDimension(name, size)
            variable = file.createVariable(name, "f8", (name,))
            variable[:] = even[:size] if given is None else given
            variable.setncatts((coordinates or {}).get(name, {}))
        if crs is not None:
            file.createVariable("crs", "i4").crs_wkt = crs.to_wkt()
        endian = "big" if dtype[0] == ">" else "native"
        red = file.createVariable("red", dtype, axes, fill_value=fill, endian=endian)
        red.set_auto_maskandscale(False)
        red.setncatts({"scale_factor": 1e-4} | ({} if crs is None else {"grid_mapping": "crs"}) | attributes)
        red[:] = stored.astype(dtype)
        if stored.dtype.kind != "f":
            file.createVariable("SCL", "i2", axes)[:] = stored


DIALECTS: dict[str, dict[str, Any]] = {
    "_FillValue": {"fill": 7},
    "missing_value": {"missing_value": np.int16(7)},
    "missing_value in another type": {"missing_value": np.float64(7)},
    "several missing values": {"missing_value": np.int16([7, 300])},
    "missing_value beside _FillValue": {"fill": -1, "missing_value": np.int16(7)},
    "default fill": {},  # -32767 of short
    "default fill of unsigned": {"dtype": "u2"},  # 65535
    "a byte has no default fill": {"dtype": "u1", "stored": np.array([[255, 0], [1, 129]])},
    "unsigned": {"fill": -1, "_Unsigned": "true"},
    "unsigned in a classic file": {"fill": -1, "_Unsigned": "true", "form": "NETCDF3_CLASSIC"},
    "unsigned byte": {"dtype": "i1", "fill": -1, "_Unsigned": "true", "stored": np.array([[-1, -2], [-128, 5]])},
    "unsigned with missing_value": {"_Unsigned": "true", "missing_value": np.int16(-2), "fill": -1},
    "valid_range": {"valid_range": np.int16([1, 6000])},
    "valid_range of unsigned": {"_Unsigned": "true", "fill": -1, "valid_range": np.int16([0, -2])},
    "valid_min": {"valid_min": np.int16(0)},
    "valid_max": {"valid_max": np.int16(5000)},
    "valid_range goes before valid_min": {"valid_range": np.int16([-5, 6000]), "valid_min": np.int16(50)},
    "packed with an offset": {"add_offset": -0.1, "fill": 7, "card": {"offset": -1000.0}},
    "big-endian": {"dtype": ">i2", "fill": 7, "_Unsigned": "true"},
    "floats": {"dtype": "f4", "scale_factor": 1.0, "missing_value": np.float32(7), "card": {"scale": 1.0}},
    "floats with a valid range": {
        "dtype": "f4",
        "scale_factor": 1.0,
        "valid_range": np.float32([0.0, 1.5]),
        "stored": np.array([[-0.5, 0.2], [1.6, np.nan]]),
        "card": {"scale": 1.0},
    },
}


KNOWN_TO_XARRAY = {  # which knows neither default fills nor valid ranges, and takes a missing_value for signed
    name
    for name, settings in DIALECTS.items()
    if (settings.get("fill") or "byte" in name) and "valid_range" not in name and name != "unsigned with missing_value"
}


@pytest.mark.parametrize("name", DIALECTS)
def test_what_netcdf4_decodes_is_read(tmp_path: Path, name: str) -> None:
    settings = dict(DIALECTS[name])
    changes = settings.pop("card", {})
    write(tmp_path / "a.nc", **settings)
    got = read_values(tmp_path, **changes)
    if "byte" not in name:  # netCDF4 takes 255 for the default fill, against the NetCDF User's Guide
        with netCDF4.Dataset(tmp_path / "a.nc") as file:
            expected = np.ma.filled(file["red"][:].astype(float), np.nan)
        assert_allclose(got, expected, rtol=2e-6)
    if name in KNOWN_TO_XARRAY:
        with warnings.catch_warnings(), xr.open_dataset(tmp_path / "a.nc", decode_cf=False) as file:
            warnings.simplefilter("ignore", xr.SerializationWarning)  # of several values that mean nothing
            decoded = xr.decode_cf(file)["red"].values
        assert_allclose(got, decoded.astype(float), rtol=2e-6)


def read_values(folder: Path, **changes: Any) -> np.ndarray:
    """Values [y, x] of the image, before plausibility is looked at: numbers here are chosen for their bits."""
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(CARD | changes))
    (product,) = list_products(load_card(path), folder).products
    image = product.source.layers(("B04",)).image
    return image.read((0,), (0, image.grid.height), (0, image.grid.width))[0].astype(float)


def test_bands_may_mark_what_is_missing_by_different_values(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for name in "yx":
            file.createDimension(name, 2)
        for name, fill in {"red": 7, "blue": 300}.items():
            variable = file.createVariable(name, "u2", ("y", "x"), fill_value=np.uint16(fill))
            variable.set_auto_maskandscale(False)
            variable[:] = [[7, 300], [1000, 2000]]
    array = {"dims": "yx", "variables": {"red": "red", "blue": "blue"}}
    image = opened(tmp_path, bands=["red", "blue"], array=array)["image"].load()
    assert_array_equal(np.isfinite(image.sel(band="B04").values), [[False, True], [True, True]])
    assert_array_equal(np.isfinite(image.sel(band="B02").values), [[True, False], [True, True]])


@pytest.mark.parametrize(
    ("dtype", "attributes", "words"),
    [
        ("f4", {}, "got floats in blue and packed integers in red; write the bands alike"),  # reflectance already
        ("u2", {}, "got integers in blue and packed integers in red"),
        ("f4", {"scale_factor": 1e-4}, "got packed floats in blue and packed integers in red"),
    ],
)
def test_one_scale_is_not_applied_to_numbers_of_two_kinds(
    tmp_path: Path, dtype: str, attributes: dict[str, float], words: str
) -> None:
    write(tmp_path / "a.nc", RAMP, dtype="u2")
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        blue = file.createVariable("blue", dtype, ("y", "x"))
        blue.setncatts({"grid_mapping": "crs"} | attributes)
    array = {"dims": "yx", "variables": {"red": "red", "blue": "blue"}}
    with pytest.raises(UserError, match=words):
        opened(tmp_path, bands=["red", "blue"], array=array)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"missing_value": np.float32(1e6)}, "missing_value of red of .* to be a number that int16 can store, got 1e"),
        ({"dtype": "u2", "missing_value": np.int16(-9999)}, "a number that uint16 can store, got -9999"),
        ({"missing_value": "none"}, "expected numbers as missing_value of red of .*, got 'none'"),
        ({"valid_range": np.float64([0, 1])}, "valid_range of red of .* stored type int16, got float64, which readers"),
        ({"valid_range": np.int16([9, 1])}, "valid range from low to high in red of .*, got 9 to 1"),
        ({"valid_range": np.int16([1, 2, 3])}, "two numbers as valid_range of red of .*, got 3"),
        ({"dtype": "u2", "_Unsigned": "false"}, "uint16 with _Unsigned = 'false', which readers take in both ways"),
        ({"scale_factor": 1e-3}, "the card's scale 0.0001 .* got scale_factor 0.001"),
    ],
)
def test_attributes_that_can_be_understood_in_several_ways_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    write(tmp_path / "a.nc", **settings)
    with pytest.raises(UserError, match=words):
        opened(tmp_path)


RAMP = np.arange(1000, 1012).reshape(4, 3)  # rows from the north, columns from the west
NORTH, EAST = 5_000_010 - 20.0 * np.arange(4), 600_010 + 20.0 * np.arange(3)


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("suffix", ["nc", "nc4", "h5", "npy"])
def test_rows_from_the_south_and_columns_from_the_east_are_turned(
    tmp_path: Path, flips: tuple[int, int], suffix: str
) -> None:
    """Tiles are north-up, with their coordinates, mask and labels, however a file stores its rows."""
    down, across = flips
    stored = RAMP[::down, ::across].astype("u2")
    if suffix == "npy":
        a, e = 20.0 * across, -20.0 * down
        c, f = EAST[::across][0] - a / 2, NORTH[::down][0] - e / 2
        np.save(tmp_path / "a.npy", stored[..., None])
        place = [a, 0.0, float(c), 0.0, e, float(f)]
        changes: dict[str, Any] = {"crs": "EPSG:32632", "transform": place, "array": {"dims": "yxb"}}
    else:
        write(tmp_path / f"a.{suffix}", stored, dtype="u2", y=NORTH[::down], x=EAST[::across])
        changes = {"mask": {"source": "SCL", "classes": {"cloud": [1002]}}}
    np.save(tmp_path / "cover.npy", stored)  # beside the image, in its order
    cube = opened(
        tmp_path,
        files=f"a.{suffix}",
        labels={"source": "cover.npy", "classes": {1011: "south-east"}},
        **changes,
    )
    assert_allclose(cube["image"].values[0], RAMP * 1e-4, rtol=1e-6)
    assert_array_equal(cube["y"].values, NORTH)
    assert_array_equal(cube["x"].values, EAST)
    assert cube.attrs["transform"] == (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_000_020.0)
    assert_array_equal(cube["label"].values, np.where(RAMP == 1011, 1011, -1))
    if "mask" in changes:
        assert_array_equal(cube["cloud"].values, RAMP == 1002)
    part = cube["image"].isel(y=slice(1, 3), x=slice(0, 2))  # read by its window alone
    assert_array_equal(part.values, cube["image"].values[:, 1:3, 0:2])


@pytest.mark.parametrize("down", [1, -1])
@pytest.mark.parametrize("role", ["labels", "mask"])
def test_classes_may_be_a_raster_of_other_pixels_beside_the_array(tmp_path: Path, role: str, down: int) -> None:
    """A land cover of 10 m that reaches 20 m further north than the image, one file for each image."""
    write(tmp_path / "a.nc", RAMP[::down].astype("u2"), dtype="u2", y=NORTH[::down], x=EAST)
    cover = np.kron(np.vstack([np.full((1, 3), 7), RAMP - 1000]), np.ones((2, 2))).astype(np.uint8)
    (tmp_path / "cover").mkdir()
    place = rasterio.Affine(10.0, 0.0, 600_000.0, 0.0, -10.0, 5_000_040.0)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32632", "transform": place}
    with rasterio.open(tmp_path / "cover" / "of_a.tif", "w", height=10, width=6, **profile) as file:
        file.write(cover, 1)
    classes = {"labels": {"classes": {4: "four", 7: "seven"}}, "mask": {"classes": {"cloud": [4, 7]}}}
    cube = opened(tmp_path, **{role: {"source": "cover/of_{stem}.tif", **classes[role]}})
    found = np.isin(RAMP, [1004, 1007])
    assert_array_equal(cube["cloud"].values if role == "mask" else cube["label"].values >= 0, found)
    if role == "labels":
        assert_array_equal(cube["label"].values[found], [4, 7])


@pytest.mark.parametrize("down", [1, -1])
@pytest.mark.parametrize(
    "attributes", [{"fill": 1003}, {"missing_value": np.uint16(1003)}, {"valid_max": np.uint16(1009)}]
)
def test_gdal_reads_the_same_where_it_lies(tmp_path: Path, down: int, attributes: dict[str, Any]) -> None:
    axes = {name: {"standard_name": f"projection_{name}_coordinate", "units": "m"} for name in "yx"}
    write(tmp_path / "a.nc", RAMP[::down], dtype="u2", y=NORTH[::down], x=EAST, coordinates=axes, **attributes)
    cube = opened(tmp_path)
    with rasterio.open(f"NETCDF:{tmp_path}/a.nc:red") as file:
        expected = file.read(1, masked=True).astype(float).filled(np.nan) * file.scales[0]
        if "valid_max" in attributes:  # which GDAL stores as nodata
            expected[RAMP > 1009] = np.nan
        assert tuple(file.transform)[:6] == cube.attrs["transform"]
        assert f"EPSG:{file.crs.to_epsg()}" == cube.attrs["crs"]
    assert_allclose(cube["image"].values[0], expected, rtol=1e-6)
    assert np.isnan(expected).any()


@pytest.mark.parametrize("beside", [0, 20])
def test_a_mask_with_its_own_coordinates_is_turned_by_them(tmp_path: Path, beside: int) -> None:
    write(tmp_path / "a.nc", RAMP, dtype="u2", y=NORTH[::-1], x=EAST)
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        file.createDimension("row", 4)
        file.createVariable("row", "f8", ("row",))[:] = NORTH + beside
        classes = file.createVariable("QA", "u1", ("row", "x"))
        classes.grid_mapping, classes[:] = "crs", [[9, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    mask = {"source": "QA", "classes": {"cloud": [9]}}
    if beside:
        with pytest.raises(UserError, match=r"QA of .* on the grid of the image, got other coordinates"):
            opened(tmp_path, mask=mask)
    else:
        assert_array_equal(np.argwhere(opened(tmp_path, mask=mask)["cloud"].values), [[0, 0]])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_classes_are_unsigned_where_they_say_so_and_never_packed(tmp_path: Path, scale: float) -> None:
    write(tmp_path / "a.nc", RAMP, dtype="u2", y=NORTH, x=EAST)
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        classes = file.createVariable("cover", "i1", ("y", "x"))
        classes.set_auto_maskandscale(False)
        classes._Unsigned, classes.grid_mapping, classes.scale_factor = "true", "crs", scale
        classes[:] = np.full((4, 3), -56)  # 200
    labels = {"source": "cover", "classes": {200: "tree"}}
    if scale == 1.0:
        assert (opened(tmp_path, labels=labels)["label"].values == 200).all()
    else:
        with pytest.raises(UserError, match=r"classes in cover of .*, got numbers packed with scale_factor 2"):
            opened(tmp_path, labels=labels)


LONLAT = pyproj.CRS.from_epsg(4326)
STEP = (20 / 111_132.0, 20 / 78_847.0)  # degrees of latitude and of longitude in 20 m at 45 degrees


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        ({"y": NORTH * [1, 1, 1, 1.00001], "x": EAST}, {}, "equal steps of x and y in red of .*, got irregular"),
        ({"y": NORTH, "x": EAST[[0, 0, 2]]}, {}, "equal steps"),
        ({"y": NORTH, "x": 2 * EAST}, {}, "pixels of 20 m in .*, got 40 x 20 m"),
        ({"y": NORTH, "x": EAST}, {"gsd_m": 10.0}, "pixels of 10 m in .*, got 20 m"),
        (
            {"y": 45 - 1e-3 * np.arange(4), "x": 11 + 1e-3 * np.arange(3), "crs": LONLAT},
            {},
            r"got 78\.8\d* x 111(\.\d)? m",
        ),
        ({"y": NORTH, "x": EAST, "crs": pyproj.CRS.from_epsg(2263)}, {}, r"pixels of 20 m in .*, got 6\.096\d* m"),
        ({"y": NORTH, "x": EAST, "crs": None}, {"crs": "EPSG:2263"}, r"pixels of 20 m in .*, got 6\.096\d* m"),
        ({"y": NORTH, "x": EAST}, {"crs": "EPSG:32633"}, "system EPSG:32633 of the card in red of .*, got EPSG:32632"),
        (
            {"y": NORTH, "x": EAST, "axes": ("x", "y")},
            {},
            "axes 'yx' of the card in red of .*, got x, y, of which x is x",
        ),
        (
            {"y": NORTH, "x": EAST, "axes": ("p", "q"), "coordinates": {"q": {"standard_name": "latitude"}}},
            {},
            "got p, q, of which q is y",
        ),
        (
            {"y": NORTH[::-1], "x": EAST, "crs": None},
            {},
            "a reference system for .*, got none, and rows or columns that",
        ),
        (
            {"y": NORTH, "x": EAST, "crs": None, "coordinates": {"y": {"units": "degrees_north"}}},
            {},
            "a reference system for .*, got none, and coordinates in degrees; name it in `crs`",
        ),
        (
            {"y": NORTH, "x": EAST},
            {"crs": "EPSG:32632", "transform": [20.0, 0.0, 6e5, 0.0, -20.0, 5_000_000.0]},
            r"the transform \(20.0, .* of card set in .*, got coordinates of \(20.0",
        ),
        (
            {"y": NORTH, "x": EAST, "crs": None},
            {"crs": "EPSG:32632", "transform": [14.0, 14.0, 6e5, 14.0, -14.0, 5e6]},
            "expected north-up rasters, got a rotated one",
        ),
    ],
)
def test_places_that_contradict_the_card_are_refused(
    tmp_path: Path, settings: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    write(tmp_path / "a.nc", RAMP, dtype="u2", **settings)
    with pytest.raises(UserError, match=words):
        opened(tmp_path, **changes)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_degrees_of_the_cards_size_are_read(tmp_path: Path, dtype: str) -> None:
    """Coordinates in float32 are uneven by their rounding, 1e-6 degrees."""
    size = 64
    y, x = 45 + STEP[0] * np.arange(size), (11 + STEP[1] * np.arange(size)).astype(dtype).astype(float)
    write(tmp_path / "a.nc", np.full((size, size), 1000), dtype="u2", axes=("lat", "lon"), y=y, x=x, crs=LONLAT)
    if dtype == "f4":
        with xr.open_dataset(tmp_path / "a.nc", mask_and_scale=False) as file:
            file.load().assign_coords(lon=file["lon"].astype("f4")).to_netcdf(tmp_path / "b.nc")
        (tmp_path / "b.nc").replace(tmp_path / "a.nc")
    cube = opened(tmp_path)
    assert cube.attrs["crs"] == "EPSG:4326"
    assert_allclose(cube["y"].values, y[::-1], rtol=1e-9)  # turned
    assert_allclose(cube["x"].values, x, rtol=1e-6)


def test_rows_that_are_only_counted_say_no_place(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", RAMP, dtype="u2", y=np.arange(4.0), x=np.arange(3.0))
    cube = opened(tmp_path)
    assert (cube.attrs["crs"], cube.attrs["transform"]) == ("", ())
    assert_allclose(cube["image"].values[0], RAMP * 1e-4, rtol=1e-6)


def test_a_system_without_code_and_mappings_for_each_pair_of_axes(tmp_path: Path) -> None:
    polar = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=11 +datum=WGS84 +units=m")
    write(tmp_path / "a.nc", RAMP, dtype="u2", y=NORTH, x=EAST, crs=None)
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        mapping = file.createVariable("laea", "i4")
        mapping.setncatts({k: v for k, v in polar.to_cf().items() if k != "crs_wkt"})
        file.createVariable("wgs", "i4").crs_wkt = LONLAT.to_wkt()
        file["red"].grid_mapping = "wgs: lon lat laea: y x"
    attrs = opened(tmp_path).attrs
    assert pyproj.CRS(attrs["crs"]).to_cf()["grid_mapping_name"] == "lambert_azimuthal_equal_area"
    assert attrs["transform"] == (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_000_020.0)


def test_packed_coordinates_are_unpacked(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for name, places in {"y": NORTH, "x": EAST}.items():
            file.createDimension(name, len(places))
            axis = file.createVariable(name, "i2", (name,))
            axis.scale_factor, axis.add_offset = 20.0, places[0]
            axis[:] = places
        file.createVariable("crs", "i4").crs_wkt = UTM.to_wkt()
        red = file.createVariable("red", "u2", ("y", "x"))
        red.grid_mapping, red[:] = "crs", RAMP
    assert opened(tmp_path).attrs["transform"] == (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_000_020.0)


def test_names_on_the_axis_of_bands_are_compared_with_the_card(tmp_path: Path) -> None:
    names, array = ["B02", "B08"], {"dims": "byx", "key": "img"}
    data = np.stack([RAMP, RAMP + 500]).astype("u2")
    xr.Dataset({"img": (("band", "y", "x"), data)}, {"band": names}).to_netcdf(tmp_path / "a.nc")
    cube = opened(tmp_path, bands=["blue", "nir"], array=array)
    assert_allclose(cube["image"].sel(band="B08").values, (RAMP + 500) * 1e-4, rtol=1e-6)
    with pytest.raises(UserError, match=r"B08 as entry 0 of axis b in .*, got 'B02', which is B02; set bands to \[B02"):
        opened(tmp_path, bands=["B08", "B02"], array=array)
    xr.Dataset({"img": (("band", "y", "x"), data)}, {"band": ["490 nm", "842 nm"]}).to_netcdf(tmp_path / "b.nc")
    opened(tmp_path, files="b.nc", bands=["B08", "B02"], array=array)  # nothing that names a band


def test_hdf5_and_groups_are_read_as_netcdf(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["refl/red"] = RAMP.astype("u2")
        file["refl/red"].attrs["missing_value"] = np.uint16(1000)
    array = {"dims": "yx", "variables": {"refl/red": "red"}}
    cube = opened(tmp_path, files="a.h5", array=array)
    assert_allclose(cube["image"].values[0], np.where(RAMP == 1000, np.nan, RAMP * 1e-4), rtol=1e-6)
    with pytest.raises(UserError, match=r"the variable 'refl' in .*; correct the card"):
        opened(tmp_path, files="a.h5", array={"dims": "yx", "variables": {"refl": "red"}})


def test_damaged_chunks_are_told_in_words(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(1, 9000, (64, 64))
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for name in "yx":
            file.createDimension(name, 64)
        file.createVariable("red", "u2", ("y", "x"), zlib=True, fletcher32=True)[:] = stored
    data = bytearray((tmp_path / "a.nc").read_bytes())
    data[-2000] ^= 0xFF  # within the compressed chunk, which fills most of the file
    (tmp_path / "a.nc").write_bytes(data)
    with pytest.raises(UserError, match=r"readable numbers in red of .*a\.nc, got: .*; the file is damaged"):
        opened(tmp_path)["image"].load()


@pytest.mark.parametrize("units", [None, "days", "days since yesterday"])
def test_dates_without_a_beginning_are_refused(tmp_path: Path, units: str | None) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        for name in "tyx":
            file.createDimension(name, 2)
        time = file.createVariable("time", "i4", ("t",))
        time[:] = [0, 1]
        if units is not None:
            time.units = units
        file.createVariable("red", "u2", ("t", "y", "x"))[:] = 1000
    with pytest.raises(UserError, match=r"dates as `units` since a day in time of .*, got units"):
        opened(tmp_path, array={"dims": "tyx", "variables": {"red": "red"}, "time": "time"})


def test_a_zarr_store_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(UserError, match=r"array files .* got the folder a\.zarr; this reader takes no Zarr stores"):
        opened(tmp_path, files="*.zarr")
