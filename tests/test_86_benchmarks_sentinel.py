"""EuroSAT and So2Sat: bands by name, the physical quantity, the split; against TorchGeo's own classes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio

from benchmark_reading import images, sizes
from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import BENCHMARKS, load_benchmark
from eo_ssl.evaluation.sources import ImageSource
from eo_ssl.sensors import Quantity
from worlds.benchmarks import EUROSAT_BANDS, add_spatial_lists, make_eurosat, make_so2sat


def plane(source: ImageSource, band: str, position: int) -> np.ndarray:
    return images(source, [position])[0, source.bands.index(band)]


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_spatial_lists(make_eurosat(tmp_path_factory.mktemp("benchmarks") / "eurosat", seed=3, per_class=5))


@pytest.fixture(scope="module")
def so2sat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_so2sat(tmp_path_factory.mktemp("benchmarks") / "so2sat", seed=3, per_class=3)


# EuroSAT


@pytest.mark.parametrize("variant", ["ms", "spatial"])
def test_eurosat_gives_torchgeos_pixels_under_their_names(eurosat: Path, variant: str) -> None:
    from torchgeo.datasets import EuroSAT, EuroSATSpatial

    task = load_benchmark("eurosat", eurosat, variant=variant)
    reader = EuroSAT if variant == "ms" else EuroSATSpatial
    theirs = [reader(str(eurosat), split=split) for split in ("train", "val", "test")]
    assert sizes(task) == tuple(map(len, theirs)) == (30, 10, 10)
    (source,) = task.sources
    assert source.bands == EUROSAT_BANDS and source.quantity is Quantity.TOA_REFLECTANCE and source.gsd_m == 10.0
    ours, position = images(source), 0
    for dataset in theirs:
        assert tuple(dataset.classes) == task.class_names
        for item in range(len(dataset)):
            sample = dataset[item]
            np.testing.assert_allclose(ours[position], sample["image"].numpy() / 10_000, rtol=1e-6)
            assert task.labels[position] == int(sample["label"])
            position += 1
    assert np.array_equal(task.blocks, np.arange(50))


def test_eurosat_splits_differ_and_say_so(eurosat: Path) -> None:
    random, spatial = (load_benchmark("eurosat", eurosat, variant=one) for one in ("ms", "spatial"))
    assert random.name == "eurosat-ms" and spatial.name == "eurosat-spatial"
    assert "at random" in random.split and "longitude" in spatial.split and random.fingerprint != spatial.fingerprint
    names = [
        [source.files.paths[row].name for row in task.folds[0].test]  # type: ignore[attr-defined]
        for task, source in ((random, random.sources[0]), (spatial, spatial.sources[0]))
    ]
    assert set(names[0]) != set(names[1])
    # The test strip lies west of everything that teaches, class by class.
    places: dict[tuple[int, str], list[float]] = {}
    for split in ("train", "test"):
        for row in getattr(spatial.folds[0], split):
            with rasterio.open(spatial.sources[0].files.paths[row]) as file:  # type: ignore[attr-defined]
                places.setdefault((int(spatial.labels[row]), split), []).append(file.lnglat()[0])
    assert all(max(places[label, "test"]) < min(places[label, "train"]) for label in range(10))


def test_eurosat_rgb_is_red_green_blue_by_name(eurosat: Path) -> None:
    from torchgeo.datasets import EuroSAT

    (source,) = load_benchmark("eurosat", eurosat, variant="rgb").sources
    assert source.bands == ("B04", "B03", "B02") == EuroSAT.rgb_bands
    sample = EuroSAT(str(eurosat), split="train", bands=EuroSAT.rgb_bands)[7]["image"].numpy()
    np.testing.assert_allclose(images(source, [7])[0], sample / 10_000, rtol=1e-6)


def test_eurosat_b8a_stands_last_and_a_card_in_spectral_order_is_wrong_on_these_files(eurosat: Path) -> None:
    card = load_card("eurosat")
    assert card.bands[-1] == "B8A"
    right = load_benchmark("eurosat", eurosat).sources[0]
    spectral = (*EUROSAT_BANDS[:8], "B8A", *EUROSAT_BANDS[8:12])
    wrong = load_benchmark("eurosat", eurosat, card=replace(card, bands=spectral)).sources[0]
    assert right.fingerprint != wrong.fingerprint
    np.testing.assert_array_equal(plane(wrong, "B8A", 0), plane(right, "B09", 0))  # what a reader by position gets
    assert not np.allclose(plane(right, "B8A", 0), plane(right, "B09", 0))
    bright = images(right)[:, [right.bands.index(band) for band in ("B08", "B8A", "B10")]].mean(axis=(0, 2, 3))
    assert abs(bright[1] / bright[0] - 1) < 0.15 and bright[2] < 0.004  # B8A is as B08, the cirrus band is black


def test_eurosat_incomplete_or_of_three_bands_is_refused(eurosat: Path, tmp_path: Path) -> None:
    shutil.copytree(eurosat, tmp_path / "rgb")
    (gone,) = (tmp_path / "rgb").rglob("Forest_2.tif")
    kept = gone.read_bytes()
    gone.unlink()  # TorchGeo leaves it out without a word
    with pytest.raises(UserError, match=r"expected the 30 images that .*eurosat-train\.txt lists, got 29"):
        load_benchmark("eurosat", tmp_path / "rgb")
    gone.write_bytes(kept)
    for path in (tmp_path / "rgb").rglob("*.tif"):
        with rasterio.open(path) as file:
            profile, pixels = file.profile, file.read([4, 3, 2])
        with rasterio.open(path, "w", **{**profile, "count": 3}) as file:
            file.write(pixels)
    with pytest.raises(UserError, match=r"expected EuroSAT images \[13, 64, 64\].*got \[3, 64, 64\].*13-band files"):
        load_benchmark("eurosat", tmp_path / "rgb")


# So2Sat


@pytest.mark.parametrize(
    ("variant", "version", "expected"),
    [
        ("random", "3_random", (34, 0, 17)),
        ("block", "3_block", (34, 0, 17)),
        ("culture10", "3_culture_10", (34, 0, 17)),
        ("v2", "2", (17, 17, 17)),
    ],
)
def test_so2sat_gives_torchgeos_pixels_and_never_divides(
    so2sat: Path, variant: str, version: str, expected: tuple[int, int, int]
) -> None:
    from torchgeo.datasets import So2Sat

    task = load_benchmark("so2sat", so2sat, variant=variant)
    splits = ("train", "validation", "test") if version == "2" else ("train", "test")
    theirs = [
        So2Sat(str(so2sat), version=version, split=split, bands=So2Sat.BAND_SETS["s2"], checksum=False)
        for split in splits
    ]
    assert sizes(task) == expected and task.class_names == So2Sat.classes
    source = task.sources[0]
    assert tuple(f"S2_{band}" for band in source.bands) == So2Sat.BAND_SETS["s2"]
    ours, position = images(source), 0
    for dataset in theirs:
        for item in range(len(dataset)):
            sample = dataset[item]
            np.testing.assert_array_equal(ours[position], sample["image"].numpy())  # reflectance as it stands
            assert task.labels[position] == int(sample["label"])
            position += 1
    assert position == len(source) and 0.005 < np.median(ours) < 1.0 and source.quantity is Quantity.TOA_REFLECTANCE


def test_so2sat_versions_are_tasks_of_their_own(so2sat: Path) -> None:
    tasks = [load_benchmark("so2sat", so2sat, variant=variant) for variant in ("random", "block", "culture10", "v2")]
    assert len({task.fingerprint for task in tasks}) == len({task.split for task in tasks}) == 4
    assert not len(tasks[0].folds[0].validation) and len(tasks[3].folds[0].validation)
    assert all("not comparable" in task.notes[0] for task in tasks)


def test_so2sat_radar_is_named_by_polarisation(so2sat: Path) -> None:
    from torchgeo.datasets import So2Sat

    task = load_benchmark("so2sat", so2sat, variant="random-both")
    (radar,) = task.partners
    assert radar.bands == ("VH", "VV") and radar.quantity is Quantity.SIGMA0 and len(radar) == len(task.sources[0])
    theirs = So2Sat(str(so2sat), version="3_random", split="train", bands=So2Sat.BAND_SETS["s1"], checksum=False)
    sample = theirs[3]["image"].numpy()  # S1_B1 ... S1_B8
    np.testing.assert_array_equal(images(radar, [3])[0], sample[[4, 5]])
    decibel = 10 * np.log10(images(radar))
    gap = decibel[:, 1].mean() - decibel[:, 0].mean()
    assert 5 < gap < 10  # VV is the brighter one
    # The intensity is that of the complex numbers of the same polarisation before the filter.
    vh = np.array([(theirs[i]["image"].numpy()[:2] ** 2).sum(0).mean() for i in range(len(theirs))])
    assert np.corrcoef(np.log(vh), np.log(images(radar)[: len(theirs), 0].mean(axis=(1, 2))))[0, 1] > 0.9
    alone = load_benchmark("so2sat", so2sat, variant="random-s1")
    assert alone.sources[0].fingerprint == radar.fingerprint and alone.sources[0].sensor == "sentinel1_grd"


def test_so2sat_reads_any_positions(so2sat: Path) -> None:
    source = load_benchmark("so2sat", so2sat, variant="v2").sources[0]
    every = images(source)
    for positions in ([0, 1, 2], [16, 17, 18, 33, 34, 35], [50, 3, 4, 3], []):
        np.testing.assert_array_equal(images(source, positions), every[positions])


def test_so2sat_in_another_layout_is_refused(so2sat: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"so2sat-block at .*sen1, sen2, label.*no block/training\.h5; get it from mediatum"
    ):
        load_benchmark("so2sat", tmp_path, variant="block")
    (tmp_path / "random").mkdir()
    for name in ("training.h5", "testing.h5"):
        with h5py.File(so2sat / "random" / name) as good, h5py.File(tmp_path / "random" / name, "w") as bad:
            bad["sen2"] = good["sen2"][:, :, :, :3]
            bad["label"] = good["label"][:]
    with pytest.raises(
        UserError, match=r"expected sen1 \[n, 32, 32, 8\].*got label \[34, 17\], sen2 \[34, 32, 32, 3\]"
    ):
        load_benchmark("so2sat", tmp_path, variant="random")
    (tmp_path / "random" / "training.h5").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="expected an HDF5 file"):
        load_benchmark("so2sat", tmp_path, variant="random")
    (tmp_path / "random" / "training.h5").unlink()
    with (
        h5py.File(tmp_path / "random" / "training.h5", "w") as bad,
        h5py.File(so2sat / "random" / "training.h5") as good,
    ):
        bad["sen1"], bad["sen2"], bad["label"] = good["sen1"][:], good["sen2"][:], np.full((34, 17), 0.5)
    with pytest.raises(UserError, match="expected one class out of 17 for each patch"):
        load_benchmark("so2sat", tmp_path, variant="random")


# All


def test_unknown_names_and_foreign_cards_are_refused(eurosat: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'eurosat'"):
        load_benchmark("eurosta", eurosat)
    with pytest.raises(
        UserError, match=r"expected a variant of eurosat out of ms, rgb, spatial.*did you mean 'spatial'"
    ):
        load_benchmark("eurosat", eurosat, variant="spatail")
    with pytest.raises(UserError, match="use the card eurosat"):
        load_benchmark("eurosat", eurosat, card=load_card("mstar_soc"))
    with pytest.raises(UserError, match="use the card so2sat_s2"):
        load_benchmark("so2sat", eurosat, card=load_card("eurosat"))


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_an_absent_benchmark_says_where_it_is_to_be_had_and_how_it_is_laid_out(name: str, tmp_path: Path) -> None:
    known = BENCHMARKS[name]
    for variant in known.variants:
        with pytest.raises(UserError) as caught:
            load_benchmark(name, tmp_path / "none", variant=variant)
        assert known.layout in str(caught.value) and known.origin in str(caught.value)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_variant_has_cards_that_say_they_saw_no_real_file(name: str) -> None:
    for cards in BENCHMARKS[name].cards.values():
        for card in map(load_card, cards):
            assert card.splits and card.citation and card.attribution and card.source
            assert "untested: no real file seen" in card.pitfalls
    assert BENCHMARKS[name].card == BENCHMARKS[name].cards[BENCHMARKS[name].variants[0]][0]
