"""Which Sentinel-1 products are one acquisition, the cloud-optimised form, and satellites that were not calibrated yet."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from eo_ssl.cards import Card, Vignettes, load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import fingerprint
from eo_ssl.scene import ProductList, list_products
from eo_ssl.scene.commissioning import sort_out_commissioning
from eo_ssl.sensors import Quantity
from safe_products import edit
from worlds.safe import S1GrdSpec, S1GrdTruth, S1WvSpec, make_s1_grd_safe, make_s1_wv_safe

SPEC = S1GrdSpec(lines=200, samples=280, seed=6)


def listed(folder: Path, **changes: object) -> ProductList:
    return list_products(replace(load_card("s1_safe_grd"), **changes), folder)  # type: ignore[arg-type]


def names(found: ProductList) -> list[str]:
    return [product.source.name for product in found.products]


def stem(truth: S1GrdTruth) -> str:
    return truth.name.removesuffix(".SAFE")


def test_the_cloud_optimised_form_holds_the_same_pixels(tmp_path: Path) -> None:
    plain, cog = (make_s1_grd_safe(tmp_path / str(form), replace(SPEC, cog=form)) for form in (False, True))
    (image, *_) = sorted(cog.path.glob("measurement/*-vv-*-cog.tiff"))
    with rasterio.open(image) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and len(file.gcps[0]) > 4
    (mine,), (its,) = (listed(truth.path.parent).products for truth in (cog, plain))
    assert mine.product_id.endswith("_COG")
    cube, expected = mine.open().load(), its.open().load()
    assert set(cube.data_vars) == set(expected.data_vars) > {"image", "border_noise"}
    for name in expected.data_vars:
        np.testing.assert_array_equal(cube[name].values, expected[name].values)
    assert len(mine.checksum()) == 64


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_product_and_its_cloud_optimised_form_are_one_acquisition(tmp_path: Path, order: str) -> None:
    """Names end in a checksum and _COG: whichever is listed first, the form of ESA is kept and the other reported."""
    plain, cog = (make_s1_grd_safe(tmp_path, replace(SPEC, cog=form)) for form in (False, True))
    start = stem(plain).rpartition("_")[0]
    named = {"before": ("0000", "FFFF_COG"), "after": ("FFFF", "0000_COG")}[order]
    for truth, end in zip((plain, cog), named, strict=True):
        truth.path.rename(tmp_path / f"{start}_{end}.SAFE")
    found = listed(tmp_path)
    assert names(found) == [f"{start}_{named[0]}"]
    ((left_out, reason),) = found.dropped
    assert left_out == f"s1_safe_grd/{start}_{named[1]}"
    assert reason == f"the same acquisition as {start}_{named[0]}, by the same processor 003.31"


def test_a_copy_under_any_other_name_is_a_copy(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path, SPEC)
    shutil.copytree(truth.path, tmp_path / "S1X_my_GRD_copy.SAFE")
    found = listed(tmp_path)
    assert len(found.products) == 1 and "the same acquisition as" in found.dropped[0][1]


def test_a_reprocessing_that_begins_in_another_second_replaces_the_older(tmp_path: Path) -> None:
    """Real processors cut one slice 0.2 s apart, so that the times in names may differ."""
    older = make_s1_grd_safe(tmp_path, replace(SPEC, ipf="003.10"))
    newer = make_s1_grd_safe(tmp_path, replace(SPEC, datetime="2021-01-19T03:16:54.031000Z"))
    assert stem(older)[:32] != stem(newer)[:32]
    found = listed(tmp_path)
    assert names(found) == [stem(newer)]
    assert f"processed again as {stem(newer)} by processor 003.31 (this one: 003.10)" in found.dropped[0][1]


def test_a_product_that_lacks_files_gives_way_to_its_complete_form(tmp_path: Path) -> None:
    plain, cog = (make_s1_grd_safe(tmp_path, replace(SPEC, cog=form)) for form in (False, True))
    next(plain.path.glob("measurement/*-vh-*")).unlink()
    assert names(listed(tmp_path)) == [stem(cog)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<s1sarl1:productComposition>", "<s1sarl1:sliceNumber>4</s1sarl1:sliceNumber><s1sarl1:productComposition>"),
        ("missionDataTakeID>", "missionDataTakeID>1"),
    ],
    ids=["slice", "data take"],
)
def test_another_slice_or_data_take_at_the_same_time_is_no_copy(tmp_path: Path, old: str, new: str) -> None:
    truth = make_s1_grd_safe(tmp_path, SPEC)
    twin = tmp_path / f"{stem(truth)[:-4]}0000.SAFE"
    shutil.copytree(truth.path, twin)
    edit(twin / "manifest.safe", ((old, new),))
    found = listed(tmp_path)
    assert (len(found.products), found.dropped) == (2, ())


def test_other_polarisations_times_and_satellites_stay(tmp_path: Path) -> None:
    specs = [
        replace(SPEC, datetime="2025-08-06T09:22:02Z", platform=platform, polarisations=polarisations)
        for platform, polarisations in (("S1A", ("VV", "VH")), ("S1C", ("VV", "VH")), ("S1C", ("VV",)))
    ]
    specs.append(replace(specs[0], datetime="2025-08-06T09:22:12Z"))
    for spec in specs:
        make_s1_grd_safe(tmp_path, spec)
    found = listed(tmp_path, bands=("VV",))
    assert (len(found.products), found.dropped) == (4, ())
    orbits = {product.acquisition.platform: product.acquisition.relative_orbit for product in found.products}
    assert orbits["S1C"] == 54  # (3550 - 172) % 175 + 1


WAVE = Card(
    name="wave",
    title="",
    sensor="sentinel1_wv",
    reader="sentinel1_wv_safe",
    bands=("VV",),
    quantity=Quantity.SIGMA0,
    gsd_m=50.0,
    licence="",
    attribution="",
    source="",
    files="*",
    vignettes=Vignettes(crop_px=16),
)
VIGNETTES = S1WvSpec(vignettes=1, extent_m=1000.0)


def test_a_wave_product_under_two_names_is_one(tmp_path: Path) -> None:
    truth = make_s1_wv_safe(tmp_path, VIGNETTES)
    shutil.copytree(truth.path, tmp_path / f"{truth.name[:-9]}0000_COG.SAFE")
    found = list_products(WAVE, tmp_path)
    assert len(found.products) == 1 and "the same acquisition as" in found.dropped[0][1]


EARLY = [("S1C", "2025-05-18T23:59:50Z", "2025-05-19"), ("S1D", "2026-04-16T09:22:02Z", "2026-04-17")]


@pytest.mark.parametrize(("platform", "when", "since"), EARLY)
@pytest.mark.parametrize("wave", [False, True])
def test_data_from_before_the_calibration_are_refused_or_carry_a_remark(
    tmp_path: Path, platform: str, when: str, since: str, wave: bool
) -> None:
    card = WAVE if wave else load_card("s1_safe_grd")

    def make(moment: str) -> None:
        if wave:
            make_s1_wv_safe(tmp_path, replace(VIGNETTES, platform=platform, datetime=moment))
        else:
            make_s1_grd_safe(tmp_path, replace(SPEC, platform=platform, datetime=moment))

    make(when)
    remark = f"commissioning data of {platform}, not calibrated before {since}"
    with pytest.raises(UserError, match=f"got 1 that do not, .*; {remark}: set `commissioning: accept` in the card"):
        list_products(card, tmp_path)
    make(f"{since}T09:22:02Z")
    found = list_products(card, tmp_path)
    assert [product.acquisition.datetime[:10] for product in found.products] == [since]
    assert found.products[0].acquisition.remarks == ""
    assert remark in found.dropped[0][1]
    accepted = list_products(replace(card, commissioning="accept"), tmp_path)
    assert sorted(product.acquisition.remarks for product in accepted.products) == ["", remark]
    assert accepted.dropped == ()


@pytest.mark.parametrize(("when", "kept"), [("2025-05-18", 0), ("2025-05-19", 1), ("", 1)])
def test_a_date_alone_counts_from_its_first_second(tmp_path: Path, when: str, kept: int) -> None:
    """As STAC items and cards give it; where no date is known nothing is said."""
    make_s1_grd_safe(tmp_path, SPEC)
    (product,) = listed(tmp_path).products
    dated = replace(product, acquisition=replace(product.acquisition, platform="S1C", datetime=when))
    assert len(sort_out_commissioning(product.card, [dated])[0]) == kept


def test_the_remark_stands_in_the_cube_and_in_the_index_of_the_corpus(tmp_path: Path) -> None:
    for when in ("2025-05-18T09:22:02Z", "2025-05-20T09:22:02Z"):
        make_s1_grd_safe(tmp_path / "data", replace(SPEC, platform="S1C", datetime=when))
    found = listed(tmp_path / "data", commissioning="accept").products
    remark = "commissioning data of S1C, not calibrated before 2025-05-19"
    assert sorted(product.open().attrs["remarks"] for product in found) == ["", remark]
    ingest(found, out=tmp_path / "corpus", config=IngestConfig(size_px=32), client="synchronous")
    corpus = Corpus.open(tmp_path / "corpus")
    (name,) = corpus.streams
    rows = corpus.index(name).to_pylist()
    assert {(row["datetime"][:10], row["remarks"]) for row in rows} == {("2025-05-18", remark), ("2025-05-20", None)}


def test_cards_without_the_key_keep_the_fingerprint_that_corpora_know() -> None:
    card = load_card("s1_safe_grd")
    assert "commissioning" not in card.to_json()
    accepted = replace(card, commissioning="accept")
    assert accepted.to_json()["commissioning"] == "accept"
    assert fingerprint(accepted.to_json()) != fingerprint(card.to_json())
