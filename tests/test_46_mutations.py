"""Damaged and hostile products of every archive: nothing crashes, hangs or takes others along, and where a checksum exists every change is seen.

Forty of the 500 mutations of ``python -m bench robustness`` (seed 46), and a few of its kills when slow tests run.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from bench import hostile_files, hostile_zips, kills, mutations, trials
from bench.subjects import Subject, make_subjects
from eo_ssl.errors import UserError
from eo_ssl.scene import gdal_files, list_products

SEED, COUNT = 46, 40


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return make_subjects(tmp_path_factory.mktemp("sound"), seed=SEED)


def by_name(subjects: list[Subject], name: str) -> Subject:
    return next(subject for subject in subjects if subject.name == name)


def test_forty_mutations_are_refused_in_words_or_change_nothing(subjects, tmp_path: Path) -> None:
    planned = trials.plan(subjects, count=500, ingest_every=4)[::12][:COUNT]
    found = list(trials.run(planned, tmp_path, seed=SEED))
    print(f"seed {SEED}:", [(one.number, one.subject, one.mutation, one.verdict) for one in found])
    assert len(found) == COUNT and len({one.subject for one in found}) >= 8
    assert [one for one in found if one.violation] == []
    guarded = [one for one in found if one.guarded]
    assert len(guarded) >= 8 and {one.verdict for one in guarded} <= {*trials.CAUGHT, "equal"}


def test_a_crash_and_a_hang_of_a_reader_are_seen_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench must be able to fail: its worker dies, then does not answer, then works again."""
    monkeypatch.setattr(trials, "SECONDS", 0.5)
    worker = trials._Worker()
    try:
        worker._process.kill()
        worker._process.join()
        with pytest.raises(BrokenPipeError):
            worker.ask(("x", Path(), {}, frozenset(), False))
    finally:
        worker.close()


def test_a_change_that_no_checksum_sees_counts_as_one() -> None:
    """By hand: the verdicts that are violations, and those that are not."""
    base = {
        "number": 0,
        "subject": "s",
        "kind": "xml",
        "mutation": "flip",
        "file": "f",
        "done": "d",
        "detail": "",
        "others": "",
    }
    seen = {
        (guarded, verdict): trials.Outcome(guarded=guarded, verdict=verdict, **base).violation
        for guarded in (True, False)
        for verdict in ("checksum", "equal", "pixels", "metadata", "crash", "hang", "unworded", "gone", "executed")
    }
    assert {key for key, violation in seen.items() if not violation} == {
        (True, "checksum"),
        (True, "equal"),
        (False, "checksum"),
        (False, "equal"),
        (False, "pixels"),
        (False, "metadata"),
    }
    assert trials.Outcome(guarded=False, verdict="checksum", **{**base, "others": "lost"}).violation == "lost"


def test_a_raster_that_is_a_list_of_other_files_is_refused(tmp_path: Path) -> None:
    """A VRT under the name of an image could show any file of the machine."""
    secret = tmp_path / "secret.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 4, "width": 4, "dtype": "uint16", "crs": "EPSG:32632"}
    with rasterio.open(secret, "w", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **profile) as file:
        file.write(np.full((1, 4, 4), 7, np.uint16))
    for name in ("B02.jp2", "vv.tiff", "B02.tif"):
        rasterio.shutil.copy(secret, tmp_path / name, driver="VRT")
        with pytest.raises(UserError, match="expected a readable raster"):
            gdal_files.open_raster(tmp_path / name)
    assert gdal_files.read_grid(secret).shape == (4, 4)


def test_one_damaged_side_car_does_not_stop_the_others(subjects, tmp_path: Path) -> None:
    subject = by_name(subjects, "geotiff-json")
    for name in ("one", "both"):
        root = tmp_path / name
        shutil.copytree(subject.root, root)
        cars = sorted(root.glob("s2_l2a/*/product.json"))
        for car in cars[: 1 if name == "one" else 2]:
            car.write_text("[" * 100_000)
    listed = list_products(subject.card, tmp_path / "one").products
    assert len(listed) == 2
    with pytest.raises(UserError, match="expected JSON in"):
        listed[0].checksum()
    assert listed[1].open()["image"].shape == (12, 120, 120)
    with pytest.raises(UserError, match="expected JSON in"):
        list_products(subject.card, tmp_path / "both")


@pytest.mark.parametrize("lost", ["IMG_DATA/R20m/*_SCL_20m.jp2", "QI_DATA/MSK_CLDPRB_20m.jp2"])
def test_what_the_manifest_lists_is_missed_but_for_the_cloud_probability(subjects, tmp_path: Path, lost: str) -> None:
    subject = by_name(subjects, "s2-l2a-folder")
    shutil.copytree(subject.root, tmp_path / "set")
    (file,) = (tmp_path / "set" / subject.victim).glob(f"GRANULE/*/{lost}")
    file.unlink()
    product = next(
        one for one in list_products(subject.card, tmp_path / "set").products if subject.key in one.product_id
    )
    if "CLDPRB" in lost:
        said = "MSK_CLDPRB (cloud probability) is absent, a coarser one is read"
        assert product.checksum() and product.open().attrs["remarks"] == said
    else:
        with pytest.raises(UserError, match=r"_SCL_20m\.jp2.*(found none|No such file)"):
            product.checksum()


def test_a_zarr_codec_that_unpickles_runs_nothing(subjects, tmp_path: Path) -> None:
    subject, rng = by_name(subjects, "ssl4eo-zarr"), np.random.default_rng(SEED)
    shutil.copytree(subject.root, tmp_path / "set")
    mutations.apply(mutations.PICKLED, subject, tmp_path / "set", rng)
    with zipfile.ZipFile(tmp_path / "set" / subject.victim) as archive:
        assert json.loads(archive.read("sample/.zarray"))["filters"] == [{"id": "pickle", "protocol": 2}]
    product = next(
        one for one in list_products(subject.card, tmp_path / "set").products if subject.key in one.product_id
    )
    with pytest.raises(UserError):
        list(product.open_chips())
    assert not (tmp_path / hostile_files.EXECUTED).exists()


@pytest.mark.parametrize("name", sorted(set(hostile_zips.ALL) - {"70,000 members"}))
def test_hostile_zips_are_what_they_claim(subjects, tmp_path: Path, name: str) -> None:
    """The mutations themselves: each leaves a zip that differs from the sound one."""
    subject = by_name(subjects, "s1-grd-zip")
    path = tmp_path / "x.zip"
    path.write_bytes(subject.path.read_bytes())
    hostile_zips.ALL[name](np.random.default_rng(SEED), path)
    assert path.read_bytes() != subject.path.read_bytes()


@pytest.mark.slow
def test_a_dozen_kills_lose_nothing(tmp_path: Path) -> None:
    pytest.importorskip("moto")
    rows = list(kills.run(tmp_path, kills=12, seed=SEED))
    print(rows)
    assert sum(row["kills"] for row in rows) >= 12
    assert {point for row in rows for point in row["points"]} == set(kills.POINTS)
    assert all(row[key] == 0 for row in rows for key in ("lost", "doubled", "changed", "unreadable"))
