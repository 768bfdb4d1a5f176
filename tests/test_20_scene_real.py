"""Every real card opens its files and gives values that physics allows."""

from __future__ import annotations

import csv
import hashlib
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr

from eo_ssl.cards import list_cards, load_card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import BENCHMARKS
from eo_ssl.scene import check_cube, list_products

# products, bands, rows, columns of the first product
CUBES = {
    "s2_29rkh_l2a": (1, (12, 1098, 1098)),
    "s2_19udp_l1c": (1, (13, 687, 687)),
    "s2_100k": (21, (12, 256, 256)),
    "terramesh_s2l1c": (5, (13, 224, 224)),
    "terramesh_s2l2a": (5, (12, 224, 224)),
    "terramesh_s1rtc": (5, (2, 224, 224)),
    "eolearn_l1c": (5, (13, 101, 100)),
    "csmask_sentinel2": (1, (6, 512, 512)),
    "csmask_landsat5": (1, (6, 512, 512)),
    "csmask_landsat7": (1, (6, 512, 512)),
    "opera_rtc_s1": (330, (2, 100, 100)),
    "ssl4eo_patch_l1c": (1, (13, 264, 264)),
    "hls_l30_patch": (1, (7, 224, 224)),
    "ftw_austria": (2, (4, 379, 578)),
    "worldcereal_s2_20m": (472, (6, 32, 32)),
    "worldcereal_s1": (456, (2, 32, 32)),
}
_NEEDS = {
    "sample_s2_l2a",
    "sample_s1_rtc",
    "eurosat",
    "mstar_pool",
    "mstar_soc",
    "mstar_soc_128",
}  # synthetic, benchmark, chips


def cubes(card: str, root: Path, *, limit: int = 5) -> list[xr.Dataset]:
    return [
        product.open().load()
        for product in list_products(load_card(card), root, accept_unknown_offset="drop").products[:limit]
    ]


def median(cube: xr.Dataset, band: str) -> float:
    return float(np.nanmedian(cube["image"].sel(band=band).values))


def test_no_real_card_is_left_out() -> None:
    elsewhere = (
        "s1_safe_",
        "s2_safe_",
        "stac_",
        "ssl4eo_v",
        "ssl4eo_lmdb",
    )  # archives of which no real product is here
    benchmarks = {name for one in BENCHMARKS.values() for cards in one.cards.values() for name in cards}
    assert {name for name in list_cards() if not name.startswith(elsewhere)} - benchmarks == (
        set(CUBES) | _NEEDS
    ) - benchmarks


@pytest.mark.parametrize("name", sorted(CUBES))
def test_a_card_yields_what_its_set_holds(name: str, real_data: Path) -> None:
    card = load_card(name)
    found = list_products(card, real_data, accept_unknown_offset="drop")
    count, shape = CUBES[name]
    assert len(found.products) == count
    assert len({product.product_id for product in found.products}) == count
    first = found.products[0]
    assert first.shape == shape
    cube = check_cube(first.open())
    assert cube["image"].shape == shape
    assert tuple(cube["band"].values) == first.bands
    assert cube.attrs["gsd_m"] == card.gsd_m
    for text in (card.licence, card.attribution, card.citation, card.source):
        assert len(text) > 3
    if card.sensor.startswith("sentinel"):
        assert "modified Copernicus Sentinel data" in card.attribution


@pytest.mark.parametrize("name", sorted(name for name in CUBES if not name.startswith("worldcereal")))
def test_values_are_physical(name: str, real_data: Path) -> None:
    for cube in cubes(name, real_data, limit=23):
        values = cube["image"].values
        values = values[np.isfinite(values)]
        low, mid, high = np.percentile(values, [1, 50, 99])
        quantity = cube.attrs["quantity"]
        if quantity.endswith("reflectance"):
            assert -0.03 < low < mid < high < 1.3, cube.attrs["product_id"]
            assert mid > 0.01, cube.attrs["product_id"]  # open water is the darkest patch
        elif quantity.endswith("_db"):
            assert -35 < low < -20 < mid < 0, cube.attrs["product_id"]
        else:
            assert 0 <= low < mid < 0.2, cube.attrs["product_id"]
            assert values.min() >= 0


def test_desert_is_bright_and_red(real_data: Path) -> None:
    (cube,) = cubes("s2_29rkh_l2a", real_data)
    assert cube.attrs["gsd_m"] == 100.0  # decimated: not the 10 m the STAC item speaks of
    assert cube.attrs["processing_baseline"] == "02.14"
    assert cube.attrs["datetime"] == "2020-02-19T11:34:25Z"
    assert cube.attrs["crs"] == "EPSG:32629"
    low, high = np.nanpercentile(cube["image"].sel(band="B04").values, [5, 95])
    assert 0.2 < low < high < 0.6
    assert (
        median(cube, "B02") < median(cube, "B03") < median(cube, "B04") < median(cube, "B11")
    )  # soil rises with wavelength
    cloud = float(cube["cloud"].mean())
    assert abs(cloud - 0.0405) < 0.003  # medium, high and cirrus of the STAC item: 0.35 + 0.29 + 3.41 %


def test_a_real_tile_in_strips_is_the_tile(real_data: Path, rng: np.random.Generator) -> None:
    (product,) = list_products(load_card("s2_29rkh_l2a"), real_data).products
    whole = product.open()["image"].values
    edges = [0, *sorted(rng.choice(np.arange(1, 1098), 5, replace=False).tolist()), 1098]
    strips = [product.open()["image"].isel(y=slice(a, b)).values for a, b in pairwise(edges)]
    assert np.concatenate(strips, axis=1).tobytes() == whole.tobytes()
    with rasterio.open(
        real_data / "s2_tile_29RKH_l2a" / "B04.tif"
    ) as file:  # the band that needs no resampling, by hand
        np.testing.assert_allclose(whole[3], file.read(1) * 1e-4, rtol=1e-6)
    with rasterio.open(real_data / "s2_tile_29RKH_l2a" / "B11.tif") as file:  # bilinear keeps the mean of a 20 m band
        assert abs(float(whole[10].mean(dtype=np.float64)) - file.read(1).mean() * 1e-4) < 2e-5


def test_bands_without_georeference_share_the_grid_of_b01(real_data: Path) -> None:
    (cube,) = cubes("s2_19udp_l1c", real_data)
    assert cube.attrs["crs"] == "EPSG:32619"
    assert abs(float(np.isfinite(cube["image"].values).mean()) - 0.6213) < 0.003  # dataCoveragePercentage 62.13
    assert cube.attrs["transform"][2] == 399_960.0
    image = np.nan_to_num(cube["image"].values)
    assert np.corrcoef(image[3].ravel(), image[2].ravel())[0, 1] > 0.97  # B04 and B03 lie on each other


def test_cirrus_is_dark_in_every_terramesh_file(real_data: Path) -> None:
    found = cubes("terramesh_s2l1c", real_data)
    assert sorted(product.offset for product in list_products(load_card("terramesh_s2l1c"), real_data).products) == [
        -1000,
        -1000,
        -1000,
        0,
        0,
    ]
    for cube in found:
        assert 0.0 < median(cube, "B10") < 0.02
        assert np.nanpercentile(cube["image"].sel(band="B11").values, 1) > 0


def test_surface_and_top_of_atmosphere_agree_in_the_swir(real_data: Path) -> None:
    """Above 1.5 um the atmosphere takes about 15 %; an offset of 0.1 on either side would break the ratio."""
    for top, surface in zip(cubes("terramesh_s2l1c", real_data), cubes("terramesh_s2l2a", real_data), strict=True):
        assert 1.1 < median(surface, "B12") / median(top, "B12") < 1.25
        assert top.attrs["crs"] == surface.attrs["crs"]


def test_code_steps_confirm_the_offsets_of_the_surface_sets(real_data: Path) -> None:
    """Codes above 1024 are even in the 10 m bands: the largest odd one is 1023, or 2023 under an offset of +1000."""
    decided = 0
    for name, folder in (("s2_100k", "s2_100k_samples/images"), ("terramesh_s2l2a", "terramesh_examples/S2L2A")):
        card = load_card(name)
        for file, offset in card.offset_by_file.items():
            with rasterio.open(real_data / folder / file) as dataset:
                stored = dataset.read([2, 3, 4]).astype(int)
            odd = stored[stored % 2 == 1]
            if ((stored > 1023) & (stored < 2023)).sum() < 100 or stored.max() < 2023:
                continue  # nothing in the range where the two cases differ
            decided += 1
            assert 900 < odd.max() <= 1023 - offset, file
            assert (odd.max() > 1100) == (offset == -1000), file
    assert decided >= 20


def test_a_file_whose_offset_pixels_do_not_settle_is_refused_or_dropped(real_data: Path) -> None:
    card = load_card("s2_100k")
    with pytest.raises(UserError, match=r"offset of s2_100k_samples/images/patch_70541\.tif .*2 of 23 products"):
        list_products(card, real_data)
    dropped = list_products(card, real_data, accept_unknown_offset="drop").dropped
    assert [name for name, _ in dropped] == ["s2_100k/patch_70541", "s2_100k/patch_770287"]


def test_backscatter_units(real_data: Path) -> None:
    for cube in cubes("terramesh_s1rtc", real_data):
        assert median(cube, "VH") < median(cube, "VV") < 0  # dB; the cross-polarised return is weaker
    for cube in cubes("opera_rtc_s1", real_data, limit=30):
        assert 0 < median(cube, "VH") < median(cube, "VV") < 0.2  # linear power
        assert cube.attrs["datetime"][:4] in ("2021", "2022", "2023", "2024", "2025")
    for cube in cubes("worldcereal_s1", real_data, limit=10):
        assert -25 < median(cube, "VH") < median(cube, "VV") < -3
    with pytest.raises(UserError, match=r"gamma0 between -0\.01 and 50"):
        wrong = load_card("terramesh_s1rtc")
        object.__setattr__(wrong, "quantity", load_card("opera_rtc_s1").quantity)
        list_products(wrong, real_data).products[0].open()


def test_time_series_are_dated(real_data: Path) -> None:
    found = list_products(load_card("worldcereal_s2_20m"), real_data).products
    dates = [product.acquisition.datetime for product in found]
    assert min(dates) == "2017-08-04T10:53:28Z"
    assert max(dates) < "2022-01-25"  # before processing baseline 04.00
    cloudy = [float(product.open()["cloud"].mean()) for product in found[:20]]
    assert min(cloudy) < 0.01
    assert max(cloudy) == 1.0


def test_labels_of_the_masks(real_data: Path) -> None:
    (cube,) = cubes("csmask_sentinel2", real_data)
    label = cube["label"].values
    shares = {value: float((label == value).mean()) for value in (0, 1, 3, 4)}
    assert [round(shares[value], 3) for value in (3, 4, 0, 1)] == [0.699, 0.189, 0.109, 0.003]
    nir = cube["image"].sel(band="B08").values
    assert nir[label == 1].mean() < nir[label == 3].mean() < nir[label == 4].mean()  # water, land, cloud
    assert np.array_equal(cube["cloud"].values, label == 4)


def test_chips_are_all_accounted_for(real_data: Path) -> None:
    soc = list_products(load_card("mstar_soc"), real_data)
    entries = [entry for product in soc.products for entry in product.entries]
    assert (sum(entry.split == "train" for entry in entries), sum(entry.split == "test" for entry in entries)) == (
        3671,
        3203,
    )
    assert soc.dropped == ()
    assert len({entry.label for entry in entries}) == 10
    pool = list_products(load_card("mstar_pool"), real_data)
    kept = sum(len(product.entries) for product in pool.products)
    small = [name for name, reason in pool.dropped if "54 x 54 pixels" in reason]
    assert (kept, len(small), len(pool.dropped)) == (11_354, 2_539, 5_742)
    assert kept + len(pool.dropped) == 17_096
    chip = next(soc.products[0].open_chips())
    assert chip.image.shape == (1, 64, 64)
    assert 0.0 <= float(chip.image.min()) < float(chip.image.max()) <= 1.0


def test_the_pool_holds_no_test_chip_by_file_hash(real_data: Path) -> None:
    """Hashes are taken from the tar by another route than the reader's."""
    folder = real_data / "mstar_sar_chips"
    with (folder / "mstar_soc_manifest.csv").open(newline="") as file:
        held = {row["linear_path"] for row in csv.DictReader(file) if row["split"] == "test"}
    with tarfile.open(folder / "mstar_all_linear.tar") as archive:
        held_hashes = {
            hashlib.sha256(stream.read()).hexdigest()
            for member in archive
            if member.name in held and (stream := archive.extractfile(member)) is not None
        }
    assert len(held) == len(held_hashes) == 3203
    pool = list_products(load_card("mstar_pool"), real_data).products
    pool_hashes = {chip.sha256 for product in pool for chip in product.open_chips()}
    assert len(pool_hashes) == 11_354
    assert not pool_hashes & held_hashes
