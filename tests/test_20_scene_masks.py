"""Masks of raster files (inside, beside, alpha, per band) take pixels out, in every route, at any resolution, and of no other pixel."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from catalogues import asset, item, only
from catalogues import card as stac_card
from catalogues import write as write_json
from eo_ssl.cards import Mask
from eo_ssl.errors import UserError
from eo_ssl.scene import gdal_files, list_products
from rasters import FOLDER, RASTER, card, image_of, write

SIZE = 48


def mask_file(path: Path, valid: np.ndarray, *, inside: bool) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as file:
        file.write_mask(valid)


@pytest.fixture
def stored(rng: np.random.Generator) -> np.ndarray:
    """What a masked-out pixel holds looks like any other: nothing in the numbers tells."""
    return rng.integers(300, 6000, (3, SIZE, SIZE)).astype(np.uint16)


@pytest.fixture
def valid() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return (y - 20) ** 2 + (x - 25) ** 2 > 90


def masked_as(image: np.ndarray, stored: np.ndarray, valid: np.ndarray) -> None:
    np.testing.assert_array_equal(np.isfinite(image), np.broadcast_to(valid, image.shape))
    np.testing.assert_allclose(image[:, valid], stored[:, valid] * 1e-4, rtol=1e-6)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("nodata", [None, 7])
def test_a_mask_of_the_file_counts_beside_nodata(
    tmp_path: Path, stored: np.ndarray, valid: np.ndarray, inside: bool, nodata: int | None
) -> None:
    stored[:, 3, 4] = 7
    path = write(tmp_path / "a.tif", stored)
    mask_file(path, valid, inside=inside)
    assert (tmp_path / "a.tif.msk").exists() != inside
    expected = valid.copy()
    expected[3, 4] &= nodata is None
    masked_as(image_of(tmp_path, card(tmp_path, RASTER, nodata=nodata)), stored, expected)
    with rasterio.open(path) as file:  # GDAL's own word for the mask
        np.testing.assert_array_equal(file.dataset_mask() > 0, valid)


def test_any_window_has_the_mask_of_the_whole(tmp_path: Path, stored: np.ndarray, valid: np.ndarray) -> None:
    mask_file(write(tmp_path / "a.tif", stored, tiled=True, blockxsize=16, blockysize=16), valid, inside=True)
    (product,) = list_products(card(tmp_path, RASTER), tmp_path).products
    cube = product.open()
    part = cube["image"].isel(band=[2, 0], y=slice(11, 30), x=slice(9, 41)).values
    np.testing.assert_array_equal(part, cube["image"].values[[2, 0], 11:30, 9:41])
    assert 0 < np.isnan(part).mean() < 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_alpha_band_is_a_mask_and_no_band(tmp_path: Path, stored: np.ndarray, valid: np.ndarray, dtype: str) -> None:
    """GDAL's flags tell an alpha only of 2 or 4 bands; a fifth after four bands counts as well."""
    stored = (stored // 30).astype(dtype)
    for bands in (["B02", "B03", "B04"], ["B02", "B03"]):
        planes = np.concatenate([stored[: len(bands)], valid[None].astype(dtype) * 200])
        path = write(tmp_path / "a.tif", planes, photometric="MINISBLACK")
        with rasterio.open(path, "r+") as file:
            file.colorinterp = (*file.colorinterp[:-1], ColorInterp.alpha)
        masked_as(image_of(tmp_path, card(tmp_path, RASTER, bands=bands)), stored[: len(bands)], valid)


def test_an_alpha_tag_on_a_measurement_is_refused_unless_the_card_ignores_it(
    tmp_path: Path, stored: np.ndarray
) -> None:
    """GDAL calls the fourth of four bands of bytes alpha when nobody says otherwise, also near infrared."""
    four = np.concatenate([stored, stored[:1]]) // 30
    four[3, :9] = 0
    with rasterio.open(write(tmp_path / "a.tif", four.astype(np.uint8))) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    bands = ["red", "green", "blue", "nir"]
    with pytest.raises(
        UserError, match=r"expected B08 in band 4 of .*a\.tif, got an alpha band.*mask: \{ignore: why\}"
    ):
        image_of(tmp_path, card(tmp_path, RASTER, bands=bands))
    image = image_of(tmp_path, card(tmp_path, RASTER, bands=bands, mask={"ignore": "band 4 is near infrared"}))
    assert np.isfinite(image).all()
    np.testing.assert_allclose(image[3], four[3] * 1e-4, rtol=1e-6)


def test_a_mask_of_one_band_takes_out_that_band_alone(tmp_path: Path, stored: np.ndarray, valid: np.ndarray) -> None:
    """A nodata value that differs from band to band, and one for all bands together (NODATA_VALUES)."""
    path = write(tmp_path / "a.tif", stored)
    with rasterio.open(path, "r+") as file:
        file.update_tags(NODATA_VALUES=" ".join(str(value) for value in stored[:, 5, 6]))
    image = image_of(tmp_path, card(tmp_path, RASTER))
    same = (stored == stored[:, 5:6, 6:7]).all(axis=0)
    masked_as(image, stored, ~same)
    assert same.sum() < 5 and (stored[0] == stored[0, 5, 6]).sum() >= same.sum()


def test_a_card_ignores_masks_only_with_a_reason(tmp_path: Path, stored: np.ndarray, valid: np.ndarray) -> None:
    mask_file(write(tmp_path / "a.tif", stored), valid, inside=True)
    image = image_of(tmp_path, card(tmp_path, RASTER, mask={"ignore": "the mask marks water, which is wanted"}))
    assert np.isfinite(image).all()
    for mask in ("ignore", {"ignore": ""}, {"ignore": "  "}, {"source": "m.tif"}, {"ignore": True}):
        with pytest.raises(UserError, match="ignore"):
            card(tmp_path, RASTER, mask=mask)
    with pytest.raises(UserError, match=r"mask.ignore .* a reader of raster"):
        card(tmp_path, RASTER, mask={"ignore": "why not"}, reader="array", array={"dims": "byx"})


def test_a_card_without_it_keeps_its_fingerprint(tmp_path: Path) -> None:
    declared = card(tmp_path, FOLDER, mask={"source": "SCL.tif", "classes": {"cloud": [9]}}).to_json()
    assert declared["mask"] == {"source": "SCL.tif", "classes": {"cloud": (9,)}}


def test_nothing_is_read_for_files_without_a_mask(
    tmp_path: Path, stored: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tif", stored, nodata=0)
    (product,) = list_products(card(tmp_path, RASTER), tmp_path).products
    monkeypatch.setattr(gdal_files, "read_masked", lambda *_, **__: pytest.fail("a mask was read"))
    assert np.isfinite(product.open()["image"].values).all()


def test_one_read_of_the_mask_serves_all_bands(
    tmp_path: Path, stored: np.ndarray, valid: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask_file(write(tmp_path / "a.tif", stored), valid, inside=True)
    (product,) = list_products(card(tmp_path, RASTER), tmp_path).products
    cube, asked, read = product.open(), [], gdal_files.read_masked
    monkeypatch.setattr(gdal_files, "read_masked", lambda *args, **named: asked.append(args[1]) or read(*args, **named))
    cube["image"].values  # noqa: B018 - reads
    assert asked == [("mask", 1)]


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_an_invalid_pixel_of_a_coarser_band_never_bleeds(
    tmp_path: Path, stored: np.ndarray, valid: np.ndarray, method: str
) -> None:
    """Invalid pixels hold 60,000 (reflectance 6): one tap of them would lift a value out of the range of the valid."""
    coarse_valid = valid[::2, ::2]
    coarse = np.where(coarse_valid, stored[1, ::2, ::2], 60_000).astype(np.uint16)
    write(tmp_path / "scene" / "B02.tif", stored[:1])
    mask_file(write(tmp_path / "scene" / "B03.tif", coarse[None], gsd=20.0), coarse_valid, inside=True)
    write(tmp_path / "scene" / "B04.tif", stored[2:])
    image = image_of(tmp_path, card(tmp_path, FOLDER, resampling={"default": method}))
    assert np.isfinite(image[[0, 2]]).all()
    np.testing.assert_array_equal(np.isfinite(image[1]), np.kron(coarse_valid, np.ones((2, 2), bool)))
    assert np.nanmax(image[1]) <= 0.6


def test_labels_under_a_mask_are_unknown(tmp_path: Path, stored: np.ndarray, valid: np.ndarray) -> None:
    """Masked pixels of a label raster hold 0, which is a class."""
    write(tmp_path / "a.tif", stored)
    labels = np.where(valid, 2, 0).astype(np.uint8)
    mask_file(write(tmp_path / "labels" / "y.tif", labels[None]), valid, inside=True)
    known = card(tmp_path, RASTER, labels={"source": "labels/y.tif", "classes": {0: "water", 2: "forest"}})
    (product,) = list_products(known, tmp_path).products
    np.testing.assert_array_equal(product.open()["label"].values, np.where(valid, 2, -1))


def test_the_mask_beside_a_file_is_part_of_what_it_is(tmp_path: Path, stored: np.ndarray, valid: np.ndarray) -> None:
    path = write(tmp_path / "a.tif", stored)
    known = card(tmp_path, RASTER)
    (product,) = list_products(known, tmp_path).products
    before = product.checksum()
    mask_file(path, valid, inside=False)
    assert product.checksum() != before
    (tmp_path / "a.tif.msk").unlink()
    assert product.checksum() == before


def test_a_mask_that_is_no_tiff_is_refused(tmp_path: Path, stored: np.ndarray) -> None:
    """GDAL opens what lies beside a file with any of its drivers: text could name an address."""
    write(tmp_path / "a.tif", stored)
    (tmp_path / "a.tif.msk").write_text("<VRTDataset/>")
    with pytest.raises(UserError, match=r"expected .*a\.tif\.msk to be the TIFF that GDAL writes beside a raster"):
        image_of(tmp_path, card(tmp_path, RASTER))


@pytest.mark.parametrize("inside", [True, False])
def test_the_mask_of_an_asset_counts(tmp_path: Path, stored: np.ndarray, valid: np.ndarray, inside: bool) -> None:
    path = write(tmp_path / "B02.tif", stored[:1] + 1000)
    mask_file(path, valid, inside=inside)
    said = item(assets={"blue": asset("B02.tif", (SIZE, SIZE), 10)}, **{"s2:processing_baseline": "05.09"})
    with rasterio.open(path) as file:
        said["assets"]["blue"]["proj:transform"] = list(file.transform)[:6]
    write_json(tmp_path / "item.json", said)
    masked_as(only(stac_card(bands=("B02",)), tmp_path).open()["image"].values, stored[:1], valid)
    ignoring = stac_card(bands=("B02",), mask=Mask(ignore="the mask marks water"))
    assert np.isfinite(only(ignoring, tmp_path).open()["image"].values).all()


def chip_bytes(kind: str, planes: np.ndarray, valid: np.ndarray) -> bytes:
    if kind.startswith("tiff"):
        alpha = kind == "tiff-alpha"
        count = len(planes) + alpha
        place = {"transform": Affine(1, 0, 5e5, 0, -1, 4e6), "crs": "EPSG:32632", "photometric": "RGB"}
        place |= {"alpha": "YES"} if alpha else {}
        shape = place | {"driver": "GTiff", "height": 8, "width": 8, "count": count, "dtype": "uint8"}
        with MemoryFile() as memory:
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                memory.open(**shape, nodata=9 if kind == "tiff-nodata" else None) as file,
            ):
                file.write(np.concatenate([planes, valid[None] * np.uint8(255)]) if alpha else planes)
                if kind == "tiff-mask":
                    file.write_mask(valid)
            return memory.read()
    picture, options = np.moveaxis(planes, 0, 2), {}
    if kind == "png-alpha":
        picture = np.dstack([picture, valid * np.uint8(255)])
    else:
        options["transparency"] = (9, 9, 9)
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, format="PNG", **options)
    return memory.getvalue()


@pytest.mark.parametrize("kind", ["tiff-mask", "tiff-alpha", "tiff-nodata", "png-alpha", "png-clear"])
def test_masks_of_chips_count(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    planes = rng.integers(20, 250, (3, 8, 8)).astype(np.uint8)
    valid = rng.random((8, 8)) > 0.3
    if kind in ("tiff-nodata", "png-clear"):
        planes[:, ~valid] = 9
    (tmp_path / "chips").mkdir()
    (tmp_path / "chips" / "a.img").write_bytes(chip_bytes(kind, planes, valid))
    with (tmp_path / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], ["a.img"]])
    chips = {"archive": "chips", "manifest": "all.csv", "path_column": "path", "crop_px": 8, "undersized": "pad"}
    known = card(tmp_path, RASTER, reader="chips", files="", chips=chips, scale=1e-3, bands=["red", "green", "blue"])
    (product,) = list_products(known, tmp_path).products
    (chip,) = product.open_chips()
    np.testing.assert_array_equal(chip.valid, valid)
    np.testing.assert_allclose(chip.image[:, valid], planes[:, valid] * 1e-3, rtol=1e-6)
