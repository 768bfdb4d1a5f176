"""Bad input: one sentence that says what was expected, what came and what to do, and never a half-read cube."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.scene import Product, check_cube, list_products

RASTER = {
    "title": "synthetic",
    "licence": "Apache-2.0",
    "attribution": "made in a test",
    "source": "a test",
    "sensor": "sentinel2_l1c",
    "reader": "raster",
    "files": "*.tif",
    "bands": ["B02", "B03"],
    "quantity": "toa_reflectance",
    "gsd_m": 10.0,
    "scale": 1e-4,
}
FOLDER = RASTER | {
    "reader": "band_folder",
    "folder": "scene",
    "files": {"B02": "B02.tif", "B03": "B03.tif"},
    "resampling": {"default": "nearest"},
}
RADAR = RASTER | {"sensor": "sentinel1_rtc", "bands": ["VV", "VH"], "quantity": "gamma0", "scale": 1.0}
Make = Callable[[Path, np.random.Generator], None]


def write(path: Path, values: np.ndarray, *, gsd: float = 10.0, crs: str | None = "EPSG:32629", **profile: Any) -> None:
    values = values[np.newaxis] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"transform": Affine(gsd, 0.0, 5e5, 0.0, -gsd, 4e6), "crs": crs} if crs else {}
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # of this writer; the reader must not warn
        with rasterio.open(path, "w", driver="GTiff", dtype=values.dtype.name, **shape, **place, **profile) as file:
            file.write(values)


def listed(folder: Path, fields: dict[str, Any], **changes: Any) -> tuple[Product, ...]:
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (fields | changes).items() if value is not None}))
    return list_products(load_card(path), folder).products


def scene(rng: np.random.Generator, count: int = 2) -> np.ndarray:
    return rng.integers(300, 5000, (count, 128, 128)).astype(np.uint16)


def one_sentence(error: pytest.ExceptionInfo[UserError]) -> bool:
    text = str(error.value)
    return text.startswith("expected ") and "got" in text.replace("found", "got") and ";" in text and "\n" not in text


def refused(folder: Path, fields: dict[str, Any], words: str, **changes: Any) -> None:
    """List, open and read everything: the refusal must come, and in words."""
    with pytest.raises(UserError, match=words) as error:
        for product in listed(folder, fields, **changes):
            product.open().load()
    assert one_sentence(error), str(error.value)


@pytest.mark.parametrize("profile", [{}, {"compress": "deflate"}, {"tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_truncated_geotiff(tmp_path: Path, rng: np.random.Generator, profile: dict[str, Any]) -> None:
    write(tmp_path / "cut.tif", scene(rng), **profile)
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) * 6 // 10])
    refused(tmp_path, RASTER, r"cut\.tif.*(truncated|damaged)")


def test_a_file_that_is_no_raster(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("not an image")
    refused(tmp_path, RASTER, r"readable raster in .*text\.tif")


def test_missing_band(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "scene" / "B02.tif", scene(rng, 1))
    refused(tmp_path, FOLDER, r"file of band B03 as .*B03\.tif, found none; fetch it")


def test_missing_polarisation(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "a_VV.tif", rng.gamma(4, 0.01, (64, 64)).astype(np.float32))
    refused(tmp_path, RADAR, "got none of VH", group={"pattern": "(?P<product>a)_(?P<band>V[VH])"})


def test_band_count(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "three.tif", scene(rng, 3))
    refused(tmp_path, RASTER, r"expected 2 bands in .*three\.tif.*got 3")


WRONG_UNITS: list[tuple[dict[str, Any], Make, str]] = [
    (
        RASTER | {"scale": 1.0},
        lambda f, g: write(f / "a.tif", scene(g)),
        "toa_reflectance between -0.2 and 2.8.*correct quantity, scale or offset",
    ),
    (RASTER | {"scale": 1e-8}, lambda f, g: write(f / "a.tif", scene(g)), "the scale seems to be applied twice"),
    (
        RADAR,
        lambda f, g: write(f / "a.tif", g.normal(-12, 3, (2, 64, 64)).astype(np.float32)),
        "gamma0 between -0.01 and 50",
    ),
    (
        RADAR | {"quantity": "gamma0_db"},
        lambda f, g: write(f / "a.tif", g.gamma(4, 0.02, (2, 64, 64)).astype(np.float32)),
        "gamma0_db with negative values.*declare gamma0",
    ),
    (
        RADAR | {"quantity": "gamma0"},
        lambda f, g: write(f / "a.tif", g.integers(90, 300, (2, 64, 64)).astype(np.uint16)),
        "gamma0 between -0.01 and 50",
    ),
]


@pytest.mark.parametrize(("fields", "make", "words"), WRONG_UNITS)
def test_wrong_unit(tmp_path: Path, rng: np.random.Generator, fields: dict[str, Any], make: Make, words: str) -> None:
    make(tmp_path, rng)
    refused(tmp_path, fields, words)


def test_a_scale_that_contradicts_the_tags_of_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    """GDAL's band scale and offset used to be ignored, so a file that says -0.1 was read 0.1 too bright."""
    write(tmp_path / "a.tif", scene(rng))
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.scales, file.offsets = (1e-4, 1e-4), (-0.1, -0.1)
    refused(tmp_path, RASTER, r"a\.tif, got scale_factor 0.0001 and add_offset -0.1, which is -1000 stored units")
    (product,) = listed(tmp_path, RASTER, offset=-1000.0)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_allclose(product.open()["image"].values, file.read() * 1e-4 - 0.1, atol=1e-6)


def test_a_complex_image_does_not_lose_its_imaginary_part(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "slc.tif", (rng.normal(size=(2, 64, 64)) + 1j * rng.normal(size=(2, 64, 64))).astype(np.complex64))
    refused(tmp_path, RADAR, "real numbers of gamma0, got stored values of complex64; detect complex images")


def test_pixels_that_are_not_square(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "a.tif", scene(rng))
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.transform = Affine(20.0, 0.0, 5e5, 0.0, -10.0, 4e6)  # only the height used to be looked at
    refused(tmp_path, RASTER, r"pixels of 10 m in .*a\.tif, got 20 x 10 m")


def test_an_absolute_pattern(tmp_path: Path, rng: np.random.Generator) -> None:
    refused(tmp_path, RASTER, "a pattern relative to", files=str(tmp_path / "*.tif"))


def test_mixed_offsets(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "old.tif", scene(rng))
    write(tmp_path / "new.tif", scene(rng) + 1000)
    write(tmp_path / "who.tif", scene(rng))
    table = {"old.tif": 0, "new.tif": -1000}
    refused(
        tmp_path,
        RASTER,
        r"offset of who\.tif .*\(1 of 3 products\).*--accept-unknown-offset drop",
        offset_by_file=table,
    )
    card = load_card(tmp_path / "set.yaml")
    found = list_products(card, tmp_path, accept_unknown_offset="drop")
    assert [(product.product_id, product.offset) for product in found.products] == [
        ("set/new", -1000.0),
        ("set/old", 0.0),
    ]
    assert found.dropped == (("set/who", "radiometric offset unknown: not in offset_by_file"),)


def test_no_georeference(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "scene" / "B02.tif", scene(rng, 1))
    write(tmp_path / "scene" / "B03.tif", scene(rng, 1), crs=None)
    refused(tmp_path, FOLDER, r"georeference in .*B03\.tif, got none; name a band of equal shape in `grid_from`")
    (product,) = listed(tmp_path, FOLDER, grid_from="blue")
    assert product.open()["image"].shape == (2, 128, 128)
    write(tmp_path / "scene" / "B03.tif", scene(rng, 1)[:, :64], crs=None)
    refused(tmp_path, FOLDER, "to have the 128 x 128 pixels of band B02, got 64 x 128", grid_from="B02")


def test_another_resolution_than_declared(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "scene" / "B02.tif", scene(rng, 1), gsd=100.0)
    write(tmp_path / "scene" / "B03.tif", scene(rng, 1), gsd=100.0)
    write(tmp_path / "decimated.tif", scene(rng), gsd=100.0)
    refused(tmp_path, FOLDER, "pixels of 10 m or finer, got 100 m; set gsd_m to what the files have")
    refused(tmp_path, RASTER, r"pixels of 10 m in .*decimated\.tif, got 100 m")


def test_no_method_for_another_grid(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "scene" / "B02.tif", scene(rng, 1))
    write(tmp_path / "scene" / "B03.tif", scene(rng, 1)[:, ::2, ::2], gsd=20.0)
    refused(
        tmp_path,
        FOLDER,
        "a resampling method for bands on another grid, got none for B03",
        resampling={"B02": "nearest"},
    )


def test_nothing_found_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected files of card set as '\*\.tif' below .*found none; set the root"):
        listed(tmp_path, RASTER)
    with pytest.raises(UserError, match=r"expected the folder .*nowhere.*EO_SSL_DATA"):
        list_products(load_card(tmp_path / "set.yaml"), tmp_path / "nowhere")
    with pytest.raises(UserError, match="got the benchmark eurosat; evaluate it with its loader"):
        list_products(load_card("eurosat"), tmp_path)


def test_metadata_that_is_not_there(tmp_path: Path, rng: np.random.Generator) -> None:
    write(tmp_path / "a.tif", scene(rng))
    refused(
        tmp_path, RASTER, "one metadata file a.json in .*got 0", metadata={"file": "{stem}.json", "datetime": "when"}
    )
    (tmp_path / "a.json").write_text('{"then": "2020-01-01"}')
    refused(
        tmp_path,
        RASTER,
        "the key 'when' in .*a.json, found no 'when'",
        metadata={"file": "{stem}.json", "datetime": "when"},
    )
    refused(tmp_path, RASTER, "ISO 8601 date such as 2020-02-19T11:34:25Z, got 'July'", datetime="July")
    refused(
        tmp_path,
        RASTER,
        "date of the form %Y in the name .*got 'a'",
        datetime_pattern=r"(?P<datetime>\w)\.tif",
        datetime_format="%Y",
    )


def test_an_all_nodata_product_is_seen_by_its_valid_fraction(tmp_path: Path) -> None:
    """It opens, because emptiness is the ingest's business; nothing in it is valid, and its values are not called implausible."""
    write(tmp_path / "empty.tif", np.zeros((2, 128, 128), dtype=np.uint16))
    (product,) = listed(tmp_path, RASTER, nodata=0)
    assert not np.isfinite(product.open()["image"].values).any()


def good_cube() -> xr.Dataset:
    attrs = {
        "sensor": "sentinel2_l1c",
        "quantity": "toa_reflectance",
        "product_id": "p",
        "datetime": "",
        "processing_baseline": "",
        "orbit": "",
        "crs": "",
        "gsd_m": 10.0,
        "transform": (),
        "licence": "",
        "attribution": "",
        "source": "",
    }
    image = np.zeros((2, 4, 5), dtype=np.float32)
    flags = np.zeros((4, 5), dtype=bool)
    coordinates = {"band": ["B02", "B8A"], "y": np.arange(4.0), "x": np.arange(5.0)}
    return xr.Dataset(
        {"image": (("band", "y", "x"), image), "cloud": (("y", "x"), flags)}, coords=coordinates, attrs=attrs
    )


BROKEN: list[tuple[Callable[[xr.Dataset], xr.Dataset], str]] = [
    (lambda cube: cube.rename(image="pixels"), "a variable 'image', got .*pixels"),
    (lambda cube: cube.transpose("y", "x", "band"), r"image dims \(band, y, x\)"),
    (lambda cube: cube.assign(image=cube["image"].astype("float64")), "float32, got float64"),
    (lambda cube: cube.assign_attrs(quantity="boa_reflectance"), "a quantity of sentinel2_l1c .*got boa_reflectance"),
    (lambda cube: cube.assign_attrs(sensor="sentinel2"), "expected a sensor out of"),
    (
        lambda cube: cube.assign_coords(band=["B8A", "B02"]),
        "canonical bands of sentinel2_l1c in its order, got B8A, B02",
    ),
    (lambda cube: cube.assign_coords(band=["B2", "B8A"]), "canonical bands .*got B2, B8A"),
    (lambda cube: cube.assign_attrs(gsd_m=0.0), "gsd_m above 0"),
    (lambda cube: cube.assign_attrs(crs="EPSG:32629"), "crs and transform together"),
    (lambda cube: cube.assign(cloud=cube["cloud"].astype("uint8")), r"cloud \[y, x\] of bool, got .*uint8"),
    (
        lambda cube: cube.drop_attrs().assign_attrs({k: v for k, v in cube.attrs.items() if k != "orbit"}),
        "none called orbit",
    ),
]


@pytest.mark.parametrize(("spoil", "words"), BROKEN)
def test_the_contract_of_a_cube(spoil: Callable[[xr.Dataset], xr.Dataset], words: str) -> None:
    cube = good_cube()
    assert check_cube(cube) is cube
    with pytest.raises(UserError, match=words) as error:
        check_cube(spoil(cube))
    assert one_sentence(error)
