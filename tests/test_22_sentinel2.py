"""Sentinel-2 SAFE products: reflectance against the planted truth, GDAL's and TorchGeo's readers and the formula; windows, zip, pickling."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from eo_ssl.cards import Card, load_card
from eo_ssl.scene import list_products
from eo_ssl.scene.product import Product
from eo_ssl.scene.sentinel2.tile_product import SafeTileSource
from safe_products import card_of, edit, only, unlisted
from worlds.safe import S2SafeSpec, S2SafeTruth, make_s2_safe

SIZE = 96
NATIVE = {"B01": 60, "B09": 60, "B10": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}  # all others 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], S2SafeTruth]:
    """One surface as eight products: both levels, four processing baselines."""
    root = tmp_path_factory.mktemp("baselines")
    specs = [
        S2SafeSpec(level=level, baseline=baseline, size_px=SIZE, seed=5)
        for level in ("L1C", "L2A")
        for baseline in ("02.04", "03.01", "04.00", "05.09")
    ]
    return {(spec.level, spec.baseline): make_s2_safe(root / spec.level / spec.baseline, spec) for spec in specs}


def opened(truth: S2SafeTruth, **changes: Any) -> Any:
    return only(card_of(truth.spec.level, **changes), truth.path.parent).open()


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("gsd", [10, 20, 60])
def test_every_baseline_gives_the_true_reflectance_at_each_bands_own_resolution(
    made: dict[tuple[str, str], S2SafeTruth], level: str, gsd: int
) -> None:
    bands = [band for band in load_card(f"s2_safe_{level.lower()}").bands if NATIVE.get(band, 20) == gsd]
    cubes = []
    for baseline in ("02.04", "03.01", "04.00", "05.09"):
        truth = made[level, baseline]
        cube = opened(truth, bands=bands, gsd_m=float(gsd)).load()
        cubes.append(cube["image"].values)
        for band in bands:
            expected, got = truth.reflectance[band], cube["image"].sel(band=band).values
            if level == "L2A":  # its scene classification also says where there is no data
                empty = np.repeat(np.repeat(truth.scl == 0, 2, 0), 2, 1) if gsd == 10 else truth.scl == 0
                expected = np.where(empty[1::3, 1::3] if gsd == 60 else empty, np.nan, expected)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
            assert np.nanmax(np.abs(got - expected)) < 5.01e-5  # half a stored unit
            assert np.isfinite(got).mean() > 0.5
    for cube in cubes[1:]:
        np.testing.assert_array_equal(cube, cubes[0])


def test_the_formula_with_numbers_by_hand(tmp_path: Path) -> None:
    """B02 with -1000 and B03 with -500, over 20000: (1234 - 1000) / 20000 = 0.0117; 0 and 65535 are no reflectance."""
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L1C", baseline="04.00", size_px=SIZE, edge=False, saturated=0))
    unlisted(truth.path)
    edit(
        truth.path / "MTD_MSIL1C.xml",
        (
            ('<QUANTIFICATION_VALUE unit="none">10000<', '<QUANTIFICATION_VALUE unit="none">20000<'),
            ('<RADIO_ADD_OFFSET band_id="2">-1000<', '<RADIO_ADD_OFFSET band_id="2">-500<'),
        ),
    )
    stored = np.full((SIZE, SIZE), 3000, dtype=np.uint16)
    stored[0, :5] = [0, 65535, 1234, 1000, 21000]
    for band in ("B02", "B03"):
        (file,) = truth.path.glob(f"GRANULE/*/IMG_DATA/*_{band}.jp2")
        with rasterio.open(file) as old:
            place = {"crs": old.crs, "transform": old.transform}
        with rasterio.open(
            file,
            "w",
            driver="JP2OpenJPEG",
            width=SIZE,
            height=SIZE,
            count=1,
            dtype="uint16",
            QUALITY="100",
            REVERSIBLE="YES",
            **place,
        ) as new:
            new.write(stored, 1)
    cube = opened(truth, bands=["B02", "B03"])
    nan = np.nan
    np.testing.assert_allclose(cube["image"].values[0, 0, :6], [nan, nan, 0.0117, 0.0, 1.0, 0.1], atol=1e-7)
    np.testing.assert_allclose(cube["image"].values[1, 0, :6], [nan, nan, 0.0367, 0.025, 1.025, 0.125], atol=1e-7)
    np.testing.assert_array_equal(cube["saturated"].values[0, :4], [False, True, False, False])
    assert cube["saturated"].values.sum() == 1


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("baseline", ["03.01", "05.09"])
def test_gdals_sentinel2_driver_reads_the_same(
    made: dict[tuple[str, str], S2SafeTruth], level: str, baseline: str
) -> None:
    truth = made[level, baseline]
    compared = 0
    for gsd in (10, 20, 60):
        with rasterio.open(f"SENTINEL2_{level}:{truth.path}/MTD_MSI{level}.xml:{gsd}m:EPSG_32632") as file:
            names = [(file.tags(index).get("BANDNAME", ""), index) for index in file.indexes]
            bands = {f"B{name[1:].zfill(2)}": index for name, index in names if name[1:].rstrip("A").isdecimal()}
            offset = float(file.tags(1).get("RADIO_ADD_OFFSET" if level == "L1C" else "BOA_ADD_OFFSET", "0"))
            cube = opened(truth, bands=sorted(bands), gsd_m=float(gsd))
            assert tuple(cube.attrs["transform"]) == tuple(file.transform)[:6]
            assert offset == (0.0 if baseline == "03.01" else -1000.0)
            for band, index in bands.items():
                stored = file.read(index)
                got = cube["image"].sel(band=band).values
                valid = np.isfinite(got)
                np.testing.assert_allclose(got[valid], (stored[valid] + offset) / 10000.0, atol=1e-7)
                assert set(np.unique(stored[~valid])) <= {0, 65535} or level == "L2A"
                compared += 1
    assert compared == (13 if level == "L1C" else 12)


def test_torchgeo_reads_the_same_numbers(made: dict[tuple[str, str], S2SafeTruth]) -> None:
    from torchgeo.datasets import Sentinel2

    truth = made["L2A", "05.09"]
    bands = ["B02", "B03", "B04", "B08"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = Sentinel2(str(truth.path), res=10, bands=bands)
        stored = dataset[dataset.bounds]["image"].numpy()
    got = opened(truth, bands=bands)["image"].values
    assert stored.shape == got.shape
    valid = np.isfinite(got)
    np.testing.assert_allclose(got[valid], (stored[valid] - 1000) / 10000.0, atol=1e-7)


def test_coarse_bands_reach_ten_metres_by_bilinear_weights(made: dict[tuple[str, str], S2SafeTruth]) -> None:
    """The second 10 m pixel has its centre a quarter of a 20 m pixel from the first 20 m centre: weights 3/4 and 1/4."""
    truth = made["L1C", "05.09"]
    fine = opened(truth, bands=["B02", "B11"])["image"].sel(band="B11").values
    own = opened(truth, bands=["B11"], gsd_m=20.0)["image"].values[0]
    row = next(y for y in range(8, 40) if np.isfinite(own[y - 1 : y + 2, 20:23]).all())
    top, bottom = (0.75 * own[y, 20] + 0.25 * own[y, 21] for y in (row, row + 1))
    assert fine[2 * row + 1, 41] == pytest.approx(0.75 * top + 0.25 * bottom, rel=1e-5)


def test_a_band_is_taken_at_the_sensors_own_resolution(made: dict[tuple[str, str], S2SafeTruth]) -> None:
    product = only(card_of("L2A"), made["L2A", "05.09"].path.parent)
    source = product.source
    assert isinstance(source, SafeTileSource)
    names = sorted(
        Path(name).stem.rsplit("_", 2)[1:] for name in source.files() if "/IMG_DATA/" in name and "_SCL_" not in name
    )
    assert names == [
        ["B01", "60m"],
        ["B02", "10m"],
        ["B03", "10m"],
        ["B04", "10m"],
        ["B05", "20m"],
        ["B06", "20m"],
        ["B07", "20m"],
        ["B08", "10m"],
        ["B09", "60m"],
        ["B11", "20m"],
        ["B12", "20m"],
        ["B8A", "20m"],
    ]


def everything(product: Product) -> dict[str, np.ndarray]:
    return {str(name): np.asarray(variable.values) for name, variable in product.open().data_vars.items()}


@pytest.mark.parametrize(("level", "baseline"), [("L1C", "02.04"), ("L1C", "05.09"), ("L2A", "05.09")])
def test_any_window_is_cut_from_the_whole(
    made: dict[tuple[str, str], S2SafeTruth], level: str, baseline: str, rng: np.random.Generator
) -> None:
    product = only(card_of(level), made[level, baseline].path.parent)
    whole, cube = everything(product), product.open()
    assert set(whole) >= {"image", "cloud", "saturated"}
    for _ in range(12):
        top, left = (int(value) for value in rng.integers(0, SIZE - 1, 2))
        rows, columns = (
            slice(top, int(rng.integers(top + 1, SIZE + 1))),
            slice(left, int(rng.integers(left + 1, SIZE + 1))),
        )
        for name, values in whole.items():
            np.testing.assert_array_equal(cube[name].isel(y=rows, x=columns).values, values[..., rows, columns])


@pytest.mark.parametrize(("level", "baseline"), [("L1C", "02.04"), ("L2A", "05.09")])
def test_a_zip_is_the_folder(
    made: dict[tuple[str, str], S2SafeTruth], tmp_path: Path, level: str, baseline: str
) -> None:
    folder = made[level, baseline]
    zipped = make_s2_safe(tmp_path, folder.spec, zipped=True)
    assert zipped.path.suffix == ".zip"
    one, other = (only(card_of(level), truth.path.parent) for truth in (folder, zipped))
    assert other.product_id == one.product_id == f"{one.card.name}/{folder.name.removesuffix('.SAFE')}"
    assert other.checksum() == one.checksum()
    assert other.acquisition == one.acquisition
    assert other.nbytes == one.nbytes
    assert other.open().attrs == one.open().attrs
    expected = everything(one)
    for name, values in everything(other).items():
        np.testing.assert_array_equal(values, expected[name])


def test_products_pickle_small_and_open_alike(made: dict[tuple[str, str], S2SafeTruth]) -> None:
    product = only(card_of("L1C"), made["L1C", "02.04"].path.parent)
    product.open().load()  # handles are open now
    data = pickle.dumps(product)
    assert len(data) < 10_000
    copy = pickle.loads(data)
    assert copy == product
    assert copy.checksum() == product.checksum()
    expected = everything(product)
    for name, values in everything(copy).items():
        np.testing.assert_array_equal(values, expected[name])


def test_facts_come_from_the_metadata(made: dict[tuple[str, str], S2SafeTruth], tmp_path: Path) -> None:
    truth = made["L1C", "05.09"]
    renamed = tmp_path / "S2Z_MSIL1C_19990101T000000_N0101_R001_T01AAA_19990101T000000.SAFE"
    renamed.symlink_to(truth.path)
    facts = only(card_of("L1C"), tmp_path).acquisition
    assert facts == only(card_of("L1C"), truth.path.parent).acquisition
    assert (facts.platform, facts.orbit, facts.relative_orbit) == ("S2A", "descending", 22)
    assert facts.processing_baseline == "05.09"
    assert facts.datetime == "2022-07-15T10:14:38Z"  # the tile was seen 247 s after the datatake began
    assert (facts.sun_zenith_deg, facts.sun_azimuth_deg) == pytest.approx(truth.sun, abs=1e-9)
    views = np.radians([truth.view(band) for band in truth.spec.bands])
    assert facts.view_zenith_deg == pytest.approx(np.degrees(views[:, 0].mean()))
    direction = np.degrees(np.arctan2(np.sin(views[:, 1]).mean(), np.cos(views[:, 1]).mean())) % 360
    assert facts.view_azimuth_deg == pytest.approx(direction)


@pytest.mark.parametrize("platform", ["S2A", "S2C", "S2Z"])
def test_platform_letters_are_not_enumerated(tmp_path: Path, platform: str) -> None:
    make_s2_safe(tmp_path, S2SafeSpec(level="L1C", size_px=SIZE, platform=platform))
    product = only(card_of("L1C", files="*", bands=["B01"], gsd_m=60.0), tmp_path)
    assert product.acquisition.platform == platform
    assert np.isfinite(product.open()["image"].values).any()


def test_a_folder_around_products_and_the_product_itself_are_found(made: dict[tuple[str, str], S2SafeTruth]) -> None:
    path = made["L1C", "05.09"].path
    expected = only(card_of("L1C"), path.parent).product_id
    for pattern, root in (
        (path.parent.name, path.parent.parent),
        (".", path.parent),
        (".", path),
        ("**/*", path.parent),
    ):
        assert only(card_of("L1C", files=pattern), root).product_id == expected


def test_real_previews_keep_their_values_in_a_safe_product(real_data: Path, tmp_path: Path) -> None:
    """JPEG 2000 files that ESA's processor wrote (tile 19UDP, 687 x 687 previews), under the metadata of a product with their grid."""
    source = real_data / "s2_tile_19UDP_l1c"
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L1C", baseline="02.04", size_px=SIZE, tile="19UDP"))
    unlisted(truth.path)
    metres = 109_800 / 687
    (tile,) = truth.path.glob("GRANULE/*/MTD_TL.xml")
    edit(
        tile,
        tuple(
            (f"<{axis}DIM>{sign}{gsd}<", f"<{axis}DIM>{sign}{metres!r}<")
            for axis, sign in (("X", ""), ("Y", "-"))
            for gsd in (10, 20, 60)
        )
        + tuple(
            (f">{SIZE * 10 // gsd}</N{side}", f">687</N{side}") for side in ("ROWS", "COLS") for gsd in (10, 20, 60)
        ),
    )
    for file in truth.path.glob("GRANULE/*/IMG_DATA/*_B*.jp2"):
        file.write_bytes((source / f"{file.stem[-3:]}.jp2").read_bytes())
    for mask in truth.path.glob("GRANULE/*/QI_DATA/MSK_CLOUDS*"):
        mask.unlink()
    cube = opened(truth, gsd_m=160.0)
    assert "cloud" not in cube
    for band in ("B01", "B04", "B10"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(source / f"{band}.jp2") as file:
                stored = file.read(1)
        got = cube["image"].sel(band=band).values
        np.testing.assert_array_equal(np.isnan(got), stored == 0)
        np.testing.assert_allclose(got[stored > 0], stored[stored > 0] / 10000.0, atol=1e-7)


def test_a_card_that_states_what_products_state_is_refused(tmp_path: Path) -> None:
    for field, value in (("scale", 1e-4), ("offset", -1000.0), ("nodata", 0.0), ("dtype_max", 65535.0)):
        with pytest.raises(ValueError, match=f"to leave {field} to the metadata"):
            list_products(card_of("L1C", **{field: value}), tmp_path)
    with pytest.raises(ValueError, match="a reflectance and one pattern"):
        list_products(card_of("L1C", quantity="dn"), tmp_path)


def test_cards_are_shipped() -> None:
    for name, count in (("s2_safe_l1c", 13), ("s2_safe_l2a", 12)):
        card: Card = load_card(name)
        assert (card.reader, len(card.bands), card.gsd_m) == ("sentinel2_safe", count, 10.0)
