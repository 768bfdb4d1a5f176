"""Sentinel-2 products as others made them: pilots of 2017, mistaken metadata, GeoTIFF images, files left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from safe_products import card_of, edit, only, unlisted
from worlds.safe import S2SafeSpec, S2SafeTruth, make_s2_safe
from worlds.safe.s2_metadata import list_by_resolution

SIZE = 96
PILOT = S2SafeSpec(level="L2A", baseline="02.05", size_px=SIZE, seed=5, pilot=True, stated_saturated=6, edge=False)


def opened(truth: S2SafeTruth, **changes: Any) -> Any:
    return only(card_of(truth.spec.level, **changes), truth.path.parent).open().load()


def compare(truth: S2SafeTruth) -> None:
    """All twelve bands are read, at their own resolution, with the values that were planted."""
    for gsd in (10, 20, 60):
        bands = [band for band in load_card("s2_safe_l2a").bands if _own_gsd(band) == gsd]
        cube = opened(truth, bands=bands, gsd_m=float(gsd))
        for band in bands:
            got, expected = cube["image"].sel(band=band).values, truth.reflectance[band]
            np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
            assert np.nanmax(np.abs(got - expected)) < 5.01e-5


def _own_gsd(band: str) -> int:
    return {"B01": 60, "B09": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}.get(band, 20)


def test_a_pilot_product_of_2017_is_read_as_gdal_reads_it(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, PILOT)
    compare(truth)
    cube = opened(truth, bands=["B02"])
    scene = np.repeat(np.repeat(truth.scl, 2, 0), 2, 1)
    np.testing.assert_array_equal(cube["cloud"].values, np.isin(scene, (8, 9, 10)))
    percent = np.repeat(np.repeat(truth.cloud_probability, 2, 0), 2, 1)
    np.testing.assert_allclose(cube["cloud_probability"].values, percent / 100, atol=1e-6)
    assert (cube.attrs["platform"], cube.attrs["processing_baseline"]) == ("S2A", "02.05")
    compared = 0
    for gsd in (10, 20, 60):
        with rasterio.open(f"SENTINEL2_L2A:{truth.path}/MTD_MSIL2A.xml:{gsd}m:EPSG_32632") as file:
            for index in file.indexes:
                band = f"B{file.tags(index).get('BANDNAME', 'B')[1:].zfill(2)}"
                if band in card_of("L2A").bands and _own_gsd(band) == gsd:
                    got = opened(truth, bands=[band], gsd_m=float(gsd))["image"].values[0]
                    valid = np.isfinite(got)
                    np.testing.assert_allclose(got[valid], file.read(index)[valid] / 10000, atol=1e-7)
                    compared += 1
    assert compared == 12


def test_a_granule_that_is_listed_once_per_resolution_has_all_its_images(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="02.12", size_px=SIZE, seed=5, edge=False))
    unlisted(truth.path)
    file = truth.path / "MTD_MSIL2A.xml"
    text = file.read_text()
    head, _, rest = text.partition("<Granule_List>")
    body, _, tail = rest.rpartition("</Granule_List>")
    opening = body[body.index("<Granule ") : body.index(">", body.index("<Granule ")) + 1]
    names = [part.partition("<")[0] for part in body.split("<IMAGE_FILE>")[1:]]
    lists = [
        f"<Granule_List>{opening}{''.join(f'<IMAGE_FILE>{name}</IMAGE_FILE>' for name in part)}</Granule></Granule_List>"
        for part in list_by_resolution(names)
    ]
    file.write_text(head + "".join(lists) + tail)
    compare(truth)
    assert "cloud" in opened(truth, bands=["B02"])
    other = file.read_text().replace('granuleIdentifier="S2A', 'granuleIdentifier="S2B', 1)
    file.write_text(other)  # two granules are two tiles
    with pytest.raises(UserError, match=r"expected one tile in .*, got 2"):
        opened(truth)


def plant(image: Path, values: dict[tuple[int, int], int]) -> None:
    """Store some pixels of an image of a product anew."""
    with rasterio.open(image) as file:
        stored, place = file.read(1), {"crs": file.crs, "transform": file.transform}
    for pixel, value in values.items():
        stored[pixel] = value
    image.unlink()
    shape = dict(zip(("height", "width"), stored.shape, strict=True))
    with rasterio.open(
        image, "w", driver="JP2OpenJPEG", count=1, dtype="uint16", QUALITY=100, REVERSIBLE="YES", **shape, **place
    ) as file:
        file.write(stored, 1)


@pytest.mark.parametrize("stated", [6, 65535, 4095])
def test_six_is_dark_water_whatever_early_metadata_say_and_65535_saturates(tmp_path: Path, stated: int) -> None:
    """Level-2A metadata of 2017 and 2018 say SATURATED 6, and pixels saturate at 65535; another value is believed."""
    spec = S2SafeSpec(
        level="L2A", baseline="02.08", size_px=SIZE, saturated=0, cloud_cover=0.0, edge=False, stated_saturated=stated
    )
    truth = make_s2_safe(tmp_path, spec)
    unlisted(truth.path)
    plant(next(truth.path.glob("GRANULE/*/IMG_DATA/R10m/*_B08_10m.jp2")), {(0, 0): 6, (1, 1): 65535, (2, 2): 4095})
    cube = opened(truth, bands=["B08"])
    got = [cube["image"].values[0, k, k] for k in range(3)]
    flagged = [bool(cube["saturated"].values[k, k]) for k in range(3)]
    if stated == 4095:
        np.testing.assert_allclose(got, [0.0006, 6.5535, np.nan], atol=1e-7)
    else:
        np.testing.assert_allclose(got, [0.0006, np.nan, 0.4095], atol=1e-7)
        assert flagged == [False, True, False]


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("manifest", ["of the images", "without the images", "absent"])
def test_images_as_geotiff_are_those_in_jpeg_2000(tmp_path: Path, level: str, manifest: str) -> None:
    """As the Planetary Computer stores SAFE products; its manifests know the images of ESA, or none."""
    spec = {"level": level, "baseline": "02.12", "size_px": SIZE, "seed": 7}
    expected = opened(make_s2_safe(tmp_path / "esa", S2SafeSpec(**spec)), bands=["B02", "B8A"])
    truth = make_s2_safe(tmp_path / "pc", S2SafeSpec(**spec, image_format="GeoTIFF"))
    if manifest == "absent":
        unlisted(truth.path)
    elif manifest == "without the images":
        file = truth.path / "manifest.safe"
        file.write_text(file.read_text().replace(".tif", ".jp2"))
    product = only(card_of(level, bands=["B02", "B8A"]), truth.path.parent)
    cube = product.open().load()
    assert set(cube.data_vars) == set(expected.data_vars)
    for name in expected.data_vars:
        np.testing.assert_array_equal(cube[name].values, expected[name].values)
    before = product.checksum()
    assert len(before) == 64 and product.nbytes > 0
    (image,) = truth.path.glob(f"GRANULE/*/IMG_DATA/{'*_B02.tif' if level == 'L1C' else 'R10m/*_B02_10m.tif'}")
    data = bytearray(image.read_bytes())
    data[-9] ^= 0x20
    image.write_bytes(data)
    changed = only(card_of(level, bands=["B02", "B8A"]), truth.path.parent)
    if manifest == "of the images":
        with pytest.raises(UserError, match="to have the checksum"):
            changed.checksum()
    else:
        assert changed.checksum() != before


def test_images_stored_anew_are_found_though_the_metadata_say_jpeg_2000(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="02.12", size_px=SIZE, image_format="GeoTIFF"))
    unlisted(truth.path)
    edit(truth.path / "MTD_MSIL2A.xml", (('imageFormat="GeoTIFF"', 'imageFormat="JPEG2000"'),))
    assert set(opened(truth, bands=["B02"]).data_vars) > {"image", "cloud", "cloud_probability"}


FOUR = ("B02", "B03", "B04", "B08")


def fetched(tmp_path: Path, *kinds: str) -> S2SafeTruth:
    """A product of which only metadata, manifest and some images were fetched."""
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="05.11", size_px=SIZE, platform="S2C"))
    for file in truth.path.rglob("*.jp2"):
        if not any(kind in file.name for kind in kinds):
            file.unlink()
    return truth


def test_a_product_fetched_in_part_is_read_and_says_what_it_lacks(tmp_path: Path) -> None:
    truth = fetched(tmp_path, *(f"{band}_10m" for band in FOUR), "SCL_20m")
    product = only(card_of("L2A", bands=FOUR), tmp_path)
    cube = product.open()
    assert cube.attrs["remarks"] == "MSK_CLDPRB (cloud probability) is absent"
    assert set(cube.data_vars) == {"image", "cloud", "shadow", "snow", "saturated"}
    assert (cube.attrs["platform"], cube.attrs["processing_baseline"]) == ("S2C", "05.11")
    for band in FOUR:
        got = cube["image"].sel(band=band).values
        assert np.nanmax(np.abs(got - truth.reflectance[band])) < 5.01e-5
    assert len(product.checksum()) == 64
    (image,) = truth.path.glob("GRANULE/*/IMG_DATA/R20m/*_SCL_20m.jp2")
    data = bytearray(image.read_bytes())
    data[-9] ^= 0x20
    image.write_bytes(data)
    with pytest.raises(UserError, match=r"_SCL_20m\.jp2 to have the checksum"):  # of what is there
        only(card_of("L2A", bands=FOUR), tmp_path).checksum()


@pytest.mark.parametrize(("lacking", "words"), [("SCL_20m", r"_SCL_20m\.jp2"), ("B03_10m", r"_B03_10m\.jp2")])
def test_what_pixels_or_flags_depend_on_is_missed(tmp_path: Path, lacking: str, words: str) -> None:
    kinds = {*(f"{band}_10m" for band in FOUR), "SCL_20m"} - {lacking}
    fetched(tmp_path, *kinds)
    with pytest.raises(UserError, match=words):
        only(card_of("L2A", bands=FOUR), tmp_path).open()


def test_a_complete_product_has_no_remarks(tmp_path: Path) -> None:
    make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="05.11", size_px=SIZE))
    assert only(card_of("L2A", bands=FOUR), tmp_path).open().attrs["remarks"] == ""


def test_a_pilot_gives_way_to_the_reprocessing_of_its_sensing(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, PILOT)
    newer = make_s2_safe(
        tmp_path, S2SafeSpec(level="L2A", baseline="05.00", size_px=SIZE, generated="2023-01-01T00:00:00Z")
    )
    found = list_products(card_of("L2A", files="*"), tmp_path)
    assert [product.source.name for product in found.products] == [newer.name]
    assert truth.name.removesuffix(".SAFE") in found.dropped[0][0]
    shutil.rmtree(newer.path)
    assert only(card_of("L2A", files="*"), tmp_path).source.name == truth.name
