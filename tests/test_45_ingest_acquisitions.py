"""An acquisition that a corpus holds is not ingested again in a later run, whatever its name, form and packing."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, IngestConfig, IngestReport, ingest
from eo_ssl.scene import is_same_acquisition, list_products
from worlds.safe import S1GrdSpec, S2SafeSpec, make_s1_grd_safe, make_s2_safe

S1 = S1GrdSpec(lines=200, samples=280, seed=6)
S2 = S2SafeSpec(level="L2A", baseline="05.09", size_px=96, seed=5, edge=False)


def run(folder: Path, out: Path, card: str, *, edge: str = "pad") -> IngestReport:
    found = list_products(load_card(card), folder)
    config = IngestConfig(size_px=64, min_valid=0.0, edge=edge)  # type: ignore[arg-type]
    return ingest(found.products, out=out, config=config, client="synchronous", dropped=found.dropped)


def held(out: Path) -> list[str]:
    corpus = Corpus.open(out)
    return sorted({name for stream in corpus.streams for name in corpus.index(stream)["product_id"].to_pylist()})


@pytest.mark.parametrize("first", ["plain", "cog"])
def test_a_cloud_optimised_twin_of_a_later_run_is_left_out(tmp_path: Path, first: str) -> None:
    made = {name: make_s1_grd_safe(tmp_path / name, replace(S1, cog=name == "cog")) for name in ("plain", "cog")}
    second = "cog" if first == "plain" else "plain"
    before = run(tmp_path / first, tmp_path / "corpus", "s1_safe_grd")
    after = run(tmp_path / second, tmp_path / "corpus", "s1_safe_grd")
    kept, twin = (f"s1_safe_grd/{made[name].name.removesuffix('.SAFE')}" for name in (first, second))
    assert held(tmp_path / "corpus") == [kept]
    assert (before.added, after.added, after.tiles, after.fingerprint) == (1, 0, before.tiles, before.fingerprint)
    assert after.dropped == ((twin, f"the same acquisition as {kept}, which the corpus holds since another run"),)
    assert "1 left out" in after.sentence()
    assert run(tmp_path / second, tmp_path / "corpus", "s1_safe_grd").state == "done"
    assert Corpus.open(tmp_path / "corpus").verify() == []


def test_a_renamed_twin_of_equal_start_is_recognised_by_its_metadata_alone(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path / "a", S1)
    run(tmp_path / "a", tmp_path / "corpus", "s1_safe_grd")
    shutil.copytree(truth.path, tmp_path / "b" / "S1X_mine_GRD.SAFE")
    assert [name for name, _ in run(tmp_path / "b", tmp_path / "corpus", "s1_safe_grd").dropped] == [
        "s1_safe_grd/S1X_mine_GRD"
    ]


def test_other_acquisitions_of_a_later_run_are_added_beside_a_twin(tmp_path: Path) -> None:
    make_s1_grd_safe(tmp_path / "a", S1)
    run(tmp_path / "a", tmp_path / "corpus", "s1_safe_grd")
    make_s1_grd_safe(tmp_path / "b", replace(S1, cog=True))
    make_s1_grd_safe(tmp_path / "b", replace(S1, datetime="2021-01-20T03:16:54.031000Z"))
    after = run(tmp_path / "b", tmp_path / "corpus", "s1_safe_grd")
    assert (after.added, len(after.dropped), len(held(tmp_path / "corpus"))) == (1, 1, 2)


def test_what_the_listing_prefers_takes_the_place_of_what_the_corpus_holds(tmp_path: Path) -> None:
    """The cloud-optimised form was ingested first; then ESA's came beside it."""
    make_s1_grd_safe(tmp_path / "a", replace(S1, cog=True))
    run(tmp_path / "a", tmp_path / "corpus", "s1_safe_grd")
    plain = make_s1_grd_safe(tmp_path / "a", S1)
    after = run(tmp_path / "a", tmp_path / "corpus", "s1_safe_grd")
    assert held(tmp_path / "corpus") == [f"s1_safe_grd/{plain.name.removesuffix('.SAFE')}"]
    assert after.added == 1 and "the same acquisition as" in after.dropped[0][1]


def pack(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))


def test_a_sentinel2_product_as_zip_and_later_as_folder_is_one(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path / "folder", S2)
    pack(truth.path, tmp_path / "zip" / f"{truth.path.stem}.zip")
    before = run(tmp_path / "zip", tmp_path / "corpus", "s2_safe_l2a")
    after = run(tmp_path / "folder", tmp_path / "corpus", "s2_safe_l2a")
    assert before.added == 1 and (after.state, after.fingerprint) == ("done", before.fingerprint)


def test_a_sentinel2_product_whose_images_were_stored_as_geotiff_under_another_name_is_the_same(tmp_path: Path) -> None:
    make_s2_safe(tmp_path / "esa", S2)
    truth = make_s2_safe(tmp_path / "pc", replace(S2, image_format="GeoTIFF"))
    truth.path.rename(truth.path.with_name("S2X_MSIL2A_from_the_planetary_computer.SAFE"))
    before = run(tmp_path / "esa", tmp_path / "corpus", "s2_safe_l2a")
    after = run(tmp_path / "pc", tmp_path / "corpus", "s2_safe_l2a")
    assert (after.added, after.tiles, after.fingerprint) == (0, before.tiles, before.fingerprint)
    ((name, reason),) = after.dropped
    assert (
        name == "s2_safe_l2a/S2X_MSIL2A_from_the_planetary_computer"
        and "which the corpus holds since another run" in reason
    )


def test_the_same_under_its_own_name_is_replaced_as_ever(tmp_path: Path) -> None:
    make_s2_safe(tmp_path / "esa", S2)
    make_s2_safe(tmp_path / "pc", replace(S2, image_format="GeoTIFF"))
    run(tmp_path / "esa", tmp_path / "corpus", "s2_safe_l2a")
    after = run(tmp_path / "pc", tmp_path / "corpus", "s2_safe_l2a")
    assert after.added == 1 and len(held(tmp_path / "corpus")) == 1 and not after.dropped


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("S1A/IW/9 2021-01-19T03:16:53 2021-01-19T03:17:18.500000", True),
        ("S1A/IW/9 2021-01-19T03:16:55 2021-01-19T03:17:18", False),
        ("S1A/IW/9 2021-01-19T03:16:53 2021-01-19T03:17:22", False),
        ("S1A/IW/8 2021-01-19T03:16:53 2021-01-19T03:17:18", False),
        ("", False),
    ],
)
def test_keys_agree_where_all_but_two_seconds_does(other: str, same: bool) -> None:
    key = "S1A/IW/9 2021-01-19T03:16:53 2021-01-19T03:17:18"
    assert is_same_acquisition(key, other) is same and is_same_acquisition(other, key) is same
    assert not is_same_acquisition("", "")
