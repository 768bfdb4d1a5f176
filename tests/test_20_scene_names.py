"""Files that call their bands otherwise than their card, and offsets listed by file: said, never overruled or mixed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from eo_ssl.diagnosis import collect_offsets, examine_products
from eo_ssl.diagnosis import list_products as list_for_doctor
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from eo_ssl.scene.raster_facts import find_band
from rasters import FOLDER, RASTER, card, image_of, write


def scene(rng: np.random.Generator, bands: int = 3) -> np.ndarray:
    return rng.integers(300, 6000, (bands, 32, 32)).astype(np.uint16)


def describe(path: Path, *names: str, colours: tuple[str, ...] = ()) -> None:
    with rasterio.open(path, "r+") as file:
        file.descriptions = names or (None,) * file.count
        if colours:
            file.colorinterp = tuple(ColorInterp[name] for name in colours)


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("B04", "B04"),
        ("b4", "B04"),
        ("red", "B04"),
        ("B4, central wavelength 665 nm", "B04"),
        ("Red (B4)", "B04"),
        ("S2_B8A_20m", "B8A"),
        ("4", ""),
        ("Band 4", ""),
        ("B02 B03", ""),
        ("stackstac-b4f17268de174fbd3bcc5609aaf5f0522", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_what_a_description_names(text: str | None, band: str) -> None:
    assert find_band("sentinel2_l2a", text) == band


def test_polarisations_are_named_by_their_code() -> None:
    assert find_band("sentinel1_rtc", "Gamma0_VH_dB") == "VH"


def test_descriptions_in_another_order_are_refused_with_both(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path / "a.tif", scene(rng))
    describe(path, "B04", "B03", "B02")
    with pytest.raises(
        UserError, match=r"the bands B02, B03, B04 in .*a\.tif, got a file that calls them B04, B03, B02"
    ):
        image_of(tmp_path, card(tmp_path, RASTER))
    image = image_of(tmp_path, card(tmp_path, RASTER, bands=["red", "green", "blue"]))
    with rasterio.open(path) as file:
        np.testing.assert_allclose(image, file.read([3, 2, 1]) * 1e-4, rtol=1e-6)


def test_names_that_only_count_the_bands_are_ignored_where_the_card_says_why(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = write(tmp_path / "a.tif", scene(rng))
    describe(path, "b1", "b2", "b3")
    with pytest.raises(UserError, match=r"calls them B01, B02, B03; .*`ignored_names: why`"):
        image_of(tmp_path, card(tmp_path, RASTER))
    image = image_of(tmp_path, card(tmp_path, RASTER, ignored_names="the exporter numbers its bands"))
    with rasterio.open(path) as file:
        np.testing.assert_allclose(image, file.read() * np.float32(1e-4), rtol=1e-6)


def test_one_wrong_name_among_nameless_bands_is_enough(tmp_path: Path, rng: np.random.Generator) -> None:
    describe(write(tmp_path / "a.tif", scene(rng)), "", "nir", "")
    with pytest.raises(UserError, match=r"calls them \(no name\), B08, \(no name\)"):
        image_of(tmp_path, card(tmp_path, RASTER))


def test_names_of_chosen_layers_are_compared_too(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write(tmp_path / "a.tif", scene(rng, 6))
    describe(path, *(f"{band}_{year}" for year in (2020, 2021) for band in ("B02", "B03", "B04")))
    layers = {"2020": [1, 2, 3], "2021": [4, 5, 6]}
    assert len([part.open() for part in list_products(card(tmp_path, RASTER, layers=layers), tmp_path).products]) == 2
    crossed = card(tmp_path, RASTER, layers={"2020": [1, 2, 6], "2021": [4, 3, 5]})
    fine, wrong = list_products(crossed, tmp_path).products
    fine.open()
    with pytest.raises(UserError, match="calls them"):
        wrong.open()


@pytest.mark.parametrize(
    ("bands", "refused"),
    [
        (["red", "green", "blue"], False),
        (["blue", "green", "red"], True),
        (["nir", "red", "green"], False),  # false colour: what is shown in red is a choice
    ],
)
def test_colours_that_permute_red_green_and_blue_are_refused(
    tmp_path: Path, rng: np.random.Generator, bands: list[str], refused: bool
) -> None:
    describe(write(tmp_path / "a.tif", scene(rng)), colours=("red", "green", "blue"))
    known = card(tmp_path, RASTER, bands=bands)
    if not refused:
        assert image_of(tmp_path, known).shape == (3, 32, 32)
        return
    with pytest.raises(UserError, match=r"the bands B02, B03, B04 in .* calls them B04, B03, B02"):
        image_of(tmp_path, known)


def folder(root: Path, rng: np.random.Generator) -> dict[str, Path]:
    return {band: write(root / "scene" / f"{band}.tif", scene(rng, 1)) for band in ("B02", "B03", "B04")}


def test_a_file_of_a_folder_that_names_another_band_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    files = folder(tmp_path, rng)
    describe(files["B03"], "B03")
    image_of(tmp_path, card(tmp_path, FOLDER))
    describe(files["B03"], "B08")
    with pytest.raises(UserError, match=r"the bands B03 in .*B03\.tif, got a file that calls them B08"):
        image_of(tmp_path, card(tmp_path, FOLDER))


def test_a_file_of_several_bands_is_no_band_of_a_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    """Its first band used to be taken for each of the card's."""
    folder(tmp_path, rng)
    write(tmp_path / "scene" / "B04.tif", scene(rng, 3))
    with pytest.raises(UserError, match=r"expected one band in .*B04\.tif, got 3"):
        image_of(tmp_path, card(tmp_path, FOLDER))


def test_labels_in_a_band_of_the_image_are_that_band(tmp_path: Path, rng: np.random.Generator) -> None:
    """The first band, a reflectance, used to be taken for them."""
    values = scene(rng, 4)
    values[3] = rng.integers(0, 3, (32, 32))
    describe(write(tmp_path / "a.tif", values), "B02", "B03", "B04", "cover")
    labels = {"source": "cover", "classes": {0: "water", 1: "forest", 2: "crop"}}
    (product,) = list_products(card(tmp_path, RASTER, labels=labels), tmp_path).products
    np.testing.assert_array_equal(product.open()["label"].values, values[3])


# --- offsets by file


def two_folders(root: Path, rng: np.random.Generator) -> np.ndarray:
    """The same place before and after processing baseline 04.00, in files of one name."""
    values = scene(rng)
    write(root / "old" / "x.tif", values)
    write(root / "new" / "x.tif", values + 1000)
    return values * 1e-4


def offsets(root: Path, **table: Any) -> dict[str, float]:
    known = card(root, RASTER, files="**/*.tif", offset_by_file=table)
    return {product.place: product.offset for product in list_products(known, root).products}


def test_files_of_one_name_get_their_own_offsets(tmp_path: Path, rng: np.random.Generator) -> None:
    truth = two_folders(tmp_path, rng)
    table = {"old/x.tif": 0, "new/x.tif": -1000}
    assert offsets(tmp_path, **table) == table
    known = card(tmp_path, RASTER, files="**/*.tif", offset_by_file=table)
    for product in list_products(known, tmp_path).products:
        np.testing.assert_allclose(product.open()["image"].values, truth, rtol=1e-5, atol=1e-7)
    with pytest.raises(UserError, match=r"radiometric offset of old/x\.tif in offset_by_file"):
        offsets(tmp_path, **{"new/x.tif": -1000})


def test_a_bare_name_stands_for_the_only_file_that_has_it(tmp_path: Path, rng: np.random.Generator) -> None:
    two_folders(tmp_path, rng)
    write(tmp_path / "new" / "y.tif", scene(rng))
    with pytest.raises(UserError, match=r"say which x\.tif it means, got one offset for new/x\.tif, old/x\.tif"):
        offsets(tmp_path, **{"x.tif": -1000, "y.tif": 5})
    table = {"old/x.tif": 0, "new/x.tif": -1000, "y.tif": 5, "absent.tif": 7}
    assert offsets(tmp_path, **table) == {"old/x.tif": 0, "new/x.tif": -1000, "new/y.tif": 5}


def test_a_path_that_is_also_a_bare_name_is_that_path_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    two_folders(tmp_path, rng)
    write(tmp_path / "x.tif", scene(rng))
    assert offsets(tmp_path, **{"x.tif": 3, "old/x.tif": 0, "new/x.tif": -1000})["x.tif"] == 3
    with pytest.raises(UserError, match=r"offset of new/x\.tif .*\(2 of 3 products\)"):
        offsets(tmp_path, **{"x.tif": 3})


def test_a_folder_of_bands_is_listed_by_its_path(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("a/scene", "b/scene"):
        for band in ("B02", "B03", "B04"):
            write(tmp_path / name / "R10m" / f"{band}.tif", scene(rng, 1))
    layout = {"folder": "*/scene", "files": {band: f"R10m/{band}.tif" for band in ("B02", "B03", "B04")}}
    table = {"a/scene": 0.0, "b/scene": -100.0}
    known = card(tmp_path, FOLDER, **layout, offset_by_file=table)
    assert {product.place: product.offset for product in list_products(known, tmp_path).products} == table
    with pytest.raises(UserError, match="say which scene it means, got one offset for a/scene, b/scene"):
        list_products(card(tmp_path, FOLDER, **layout, offset_by_file={"scene": 0}), tmp_path)


def test_the_doctor_names_files_by_path(tmp_path: Path, rng: np.random.Generator) -> None:
    """Dark water that still carries +1000: what it prints can be put into the card as it is."""
    dark = rng.integers(1020, 1200, (3, 300, 300)).astype(np.uint16)
    write(tmp_path / "old" / "x.tif", dark - 1000)
    write(tmp_path / "new" / "x.tif", dark)
    known = card(tmp_path, RASTER, files="**/*.tif")
    named = set(collect_offsets(examine_products(list_for_doctor(known, tmp_path))))
    assert named and named <= {"old/x.tif", "new/x.tif"}
