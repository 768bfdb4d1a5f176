"""The embedded sample archive as a product: made once, made again, interrupted, described; its classes and its copies."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio

from archives import GSD, SPEC, TINY, hashes, of_sensor, read
from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.landcover import CLASS_NAMES, S2_BANDS
from eo_ssl.manifest import require
from eo_ssl.sample import SITES, ArchiveSpec, Truth, make_archive
from eo_ssl.sample.spec import compute_site_shares, get_baseline_offset


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("archive") / "sample"
    return folder, make_archive(folder, seed=3, spec=SPEC)


def test_same_seed_same_bytes_other_seed_other_bytes(archive: tuple[Path, Truth], tmp_path: Path) -> None:
    folder, truth = archive
    assert make_archive(tmp_path / "again", seed=3, spec=SPEC) == truth
    first = hashes(folder)
    assert hashes(tmp_path / "again") == first
    # 3 x 2 products per sensor, one exact and one near copy each, and one reprocessed Sentinel-2 product; and the truth.
    assert len(first) == 9 * (12 + 3) + 8 * (2 + 2) + 1
    make_archive(tmp_path / "other", seed=4, spec=SPEC)
    other = hashes(tmp_path / "other")
    shared = [name for name in first.keys() & other.keys() if name.endswith(("B02.tif", "VV.tif"))]
    assert shared and not any(first[name] == other[name] for name in shared)


def test_finished_archive_is_left_alone_and_another_is_refused(tmp_path: Path) -> None:
    truth = make_archive(tmp_path / "a", seed=1, spec=TINY)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert make_archive(tmp_path / "a", seed=1, spec=TINY) == truth
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before
    assert require(tmp_path / "a", "synthetic").seed == 1
    with pytest.raises(UserError, match=r"config\.seed"):
        make_archive(tmp_path / "a", seed=2, spec=TINY)
    with pytest.raises(UserError, match=r"config\.spec"):
        make_archive(tmp_path / "a", seed=1, spec=ArchiveSpec(sites=2, dates=2, size_px=96))
    assert make_archive(tmp_path / "a", seed=2, spec=TINY, overwrite=True).seed == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(UserError, match="other files"):
        make_archive(tmp_path / "mine", spec=TINY)


@pytest.mark.parametrize("point", ["before-fsync:7", "after-link:16"])
def test_killed_archive_is_completed_to_the_same_bytes(tmp_path: Path, point: str) -> None:
    make_archive(tmp_path / "whole", spec=TINY)
    call = (
        "import sys; from pathlib import Path; from eo_ssl.sample import ArchiveSpec, make_archive;"
        "make_archive(Path(sys.argv[1]), spec=ArchiveSpec(sites=1, dates=1, size_px=96, exact_duplicates=0, near_duplicates=0, reprocessed=0))"
    )
    environment = {**os.environ, "EO_SSL_FAULT": point}
    done = subprocess.run(
        [sys.executable, "-c", call, str(tmp_path / "cut")], env=environment, start_new_session=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="finished sample archive"):
        Truth.load(tmp_path / "cut")
    make_archive(tmp_path / "cut", spec=TINY)
    kept = {name: value for name, value in hashes(tmp_path / "cut").items() if not name.endswith(".tmp")}
    assert kept == hashes(tmp_path / "whole")


def test_truth_survives_its_file(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    assert Truth.load(folder) == truth
    assert Truth.from_json(json.loads(json.dumps(truth.to_json()))) == truth
    assert list(truth.products) == sorted(truth.products, key=lambda product: product.product_id)
    with pytest.raises(UserError, match="did you mean"):
        truth.product(truth.products[0].product_id[:-1])
    with pytest.raises(UserError, match="optical"):
        truth.reflectance(of_sensor(truth, "sentinel1_rtc")[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sites": 0}, "1 to 8 sites, got 0"),
        ({"dates": 0}, "1 to 36 dates"),
        ({"size_px": 100}, "multiple of 6"),
        ({"shares": (("water", 0.5), ("forest", 0.4))}, "sum of 0.9"),
        ({"shares": (("water", 0.5), ("florest", 0.5))}, "did you mean 'forest'"),
        ({"shares": (("water", 1.0), ("forest", 0.0))}, "positive shares"),
        ({"baselines": ("new",)}, "processing baseline such as"),
        ({"baselines": ("05.09",)}, "at most 0 reprocessed"),
        ({"looks": 0.0}, "looks > 0"),
        ({"cloud_cover": 0.9}, "cloud_cover in 0-0.6"),
        ({"exact_duplicates": 99}, "copies in all"),
        ({"sensors": ("landsat",)}, "sensors out of"),
    ],
)
def test_impossible_archives_are_refused_in_a_sentence(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ArchiveSpec(**change)


def test_bands_share_one_nested_grid_in_their_zone(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    zones = set()
    for product in truth.products:
        site = SITES[product.acquisition.site_index]
        bounds = set()
        for path in sorted((folder / product.acquisition.folder).glob("*.tif")):
            gsd = GSD.get(path.stem, 20 if path.stem == "SCL" else 10)
            with rasterio.open(path) as file:
                assert file.crs.to_epsg() == site.epsg
                assert file.shape == (SPEC.size_px * 10 // gsd,) * 2
                # Same corner, whole multiples of the finest pixel: each coarse pixel holds whole fine ones.
                assert file.transform[:6] == (gsd, 0.0, site.left_m, 0.0, -gsd, site.top_m)
                assert (
                    file.block_shapes[0][0] == file.block_shapes[0][1] <= 192
                    and file.compression.name == "deflate"
                    and file.descriptions == (path.stem,)
                )
                bounds.add(tuple(file.bounds))
        assert len(bounds) == 1
        zones.add((site.epsg // 100, site.epsg % 100))
    assert {half for half, _ in zones} == {326, 327} and len(zones) == 3
    assert not list(folder.rglob("B10.tif"))  # surface reflectance has no cirrus band


def test_places_lie_inside_their_zones() -> None:
    for site in SITES:
        (longitude,), (latitude,) = rasterio.warp.transform(
            f"EPSG:{site.epsg}", "EPSG:4326", [site.left_m], [site.top_m]
        )
        middle = -183 + 6 * (site.epsg % 100)
        assert abs(longitude - middle) < 3
        assert (latitude < 0) == site.southern


def test_cards_describe_the_files(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    for name in ("sample_s2_l2a", "sample_s1_rtc"):
        card = load_card(name)
        products = sorted(folder.glob(card.folder))
        assert [path.name for path in products] == of_sensor(truth, card.sensor)
        assert isinstance(card.files, dict) and set(card.files) == set(card.bands) and card.labels and card.metadata
        assert card.labels.classes == dict(enumerate(CLASS_NAMES))
        assert truth.classes.items() <= card.labels.classes.items()
        for path in products:
            plan = truth.product(path.name).acquisition
            sidecar = json.loads((path / card.metadata.file).read_text())
            assert all((path / file).is_file() for file in [*card.files.values(), card.labels.source])
            assert sidecar[card.metadata.datetime] == plan.datetime and sidecar[card.metadata.orbit] == plan.orbit
            if card.metadata.offset:
                assert (
                    sidecar[card.metadata.offset]
                    == plan.offset
                    == get_baseline_offset(sidecar[card.metadata.processing_baseline])
                )


@pytest.mark.parametrize("sites", [1, 3, 8])
def test_places_differ_but_the_archive_keeps_its_shares(sites: int) -> None:
    spec = ArchiveSpec(sites=sites)
    shares, wanted = compute_site_shares(spec), dict(spec.shares)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(shares.mean(axis=0), [wanted[name] for name in CLASS_NAMES], atol=1e-6)
    assert sites == 1 or shares[0, CLASS_NAMES.index("water")] > 1.3 * wanted["water"]  # the harbour


def test_class_maps_have_the_long_tail_asked_for(archive: tuple[Path, Truth]) -> None:
    _, truth = archive
    counts = sum(
        np.bincount(truth.class_map(site.name).ravel(), minlength=len(CLASS_NAMES)) for site in SITES[: SPEC.sites]
    )
    for name, share in SPEC.shares:
        got = counts[CLASS_NAMES.index(name)] / counts.sum()
        assert got == pytest.approx(share, abs=1e-4)
        assert got == pytest.approx(truth.shares[name], abs=1e-12)
    ordered = np.sort(counts)[::-1] / counts.sum()
    assert ordered[0] / ordered[-1] > 15 and ordered[:2].sum() > 0.55
    # Land cover comes in patches: far more neighbours agree than at random.
    classes = truth.class_map("plain")
    shares = np.bincount(classes.ravel()) / classes.size
    assert (classes[:, 1:] == classes[:, :-1]).mean() > 0.93 > 0.6 > (shares**2).sum()


def test_exact_copies_are_byte_equal_and_nothing_else_is(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    exact = {(copy.original, copy.product_id) for copy in truth.duplicates if copy.kind == "exact"}
    assert len(exact) == 2
    content: dict[str, list[str]] = {}
    for product in truth.products:
        bands = ("VV", "VH") if product.looks else (*S2_BANDS, "SCL")
        files = b"".join((folder / product.acquisition.folder / f"{band}.tif").read_bytes() for band in bands)
        content.setdefault(hashlib.sha256(files).hexdigest(), []).append(product.product_id)
    assert {tuple(sorted(names)) for names in content.values() if len(names) > 1} == {
        tuple(sorted(pair)) for pair in exact
    }


def test_near_copies_are_nearer_than_any_other_date(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    near = [copy for copy in truth.duplicates if copy.kind == "near"]
    assert len(near) == 2
    for copy in near:
        plan = truth.product(copy.original).acquisition
        bands = ("VV", "VH") if plan.sensor == "sentinel1_rtc" else S2_BANDS

        def values(identifier: str) -> np.ndarray:
            if identifier.startswith("S1"):
                return 10 * np.log10(truth.gamma0(identifier, speckle=True))
            return truth.reflectance(identifier)

        original = values(copy.original)
        distance = np.nanmean(np.abs(values(copy.product_id) - original))
        siblings = [
            name
            for name in of_sensor(truth, plan.sensor, copies=False)
            if truth.product(name).acquisition.site == plan.site and name != copy.original
        ]
        others = [np.nanmean(np.abs(values(name) - original)) for name in siblings]
        assert 0 < distance < 0.15 * min(others)
        for band in bands:
            assert not np.array_equal(
                read(folder, truth, copy.original, band), read(folder, truth, copy.product_id, band), equal_nan=True
            )
        gap = datetime.fromisoformat(truth.product(copy.product_id).acquisition.datetime) - datetime.fromisoformat(
            plan.datetime
        )
        assert 0 < gap.total_seconds() <= 5 * 86400
