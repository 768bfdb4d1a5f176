"""BigEarthNet v1, EuroSAT-SAR and m-eurosat: the known defects are shown and ours is right."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio

from benchmark_reading import images, sizes
from eo_ssl.cards import load_card
from eo_ssl.diagnosis.cardcheck import check_card
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.benchmarks.geobench import KEYS, MEuroSat
from eo_ssl.sensors import Quantity, sensor
from worlds.benchmarks import EUROSAT_BANDS, make_bigearthnet_v1, make_eurosat_sar, make_m_eurosat
from worlds.benchmarks.eurosat import draw_eurosat_chip


@pytest.fixture(scope="module")
def bigearthnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bigearthnet_v1(tmp_path_factory.mktemp("ben1") / "ben", seed=6, patches=5)


@pytest.fixture(scope="module")
def m_eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_m_eurosat(tmp_path_factory.mktemp("geobench") / "geobench", seed=6, per_class=3)


def test_bigearthnet_v1_agrees_with_torchgeo_where_torchgeo_is_right(bigearthnet: Path) -> None:
    from torchgeo.datasets import BigEarthNet

    task = load_benchmark("bigearthnet_v1", bigearthnet, variant="both")
    optical, radar = task.sources[0], task.partners[0]
    assert sizes(task) == (3, 1, 1) and task.class_names == tuple(BigEarthNet.class_sets[19])
    s2, s1, position = images(optical) * 10_000, images(radar), 0
    for split in ("train", "val", "test"):
        dataset = BigEarthNet(str(bigearthnet), split=split, bands="all", num_classes=19)
        for item in range(len(dataset)):
            sample = dataset[item]
            theirs = sample["image"].numpy()
            np.testing.assert_allclose(s2[position], theirs[2:], atol=0.51)
            # Defects: whole numbers of dB, and VH before VV.
            assert np.array_equal(theirs[:2], np.rint(theirs[:2]))
            assert np.abs(theirs[0] - s1[position, 1]).max() <= 1.0 and np.abs(theirs[1] - s1[position, 0]).max() <= 1.0
            assert task.labels[position].tolist() == sample["label"].tolist()
            position += 1
    assert (task.labels.sum(axis=1) == 1).all()  # airports are none of the 19
    assert radar.bands == ("VV", "VH") and (s1[:, 0].mean() - s1[:, 1].mean()) > 5
    (path,) = bigearthnet.glob("BigEarthNet-S1-v1.0/*_0_45/*_VV.tif")
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(s1[0, 0], file.read(1))
    assert len(np.unique(task.blocks)) == 2  # two days


def test_bigearthnet_v1_in_another_layout_is_refused(bigearthnet: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / f"bigearthnet-{split}.csv").write_text((bigearthnet / f"bigearthnet-{split}.csv").read_text())
    with pytest.raises(UserError, match=r"got no BigEarthNet-v1\.0/S2A_MSIL2A.*get it from torchgeo"):
        load_benchmark("bigearthnet_v1", tmp_path)
    (tmp_path / "bigearthnet-val.csv").write_text("S2A_MSIL2A_20170613T101031_0_45\n")
    with pytest.raises(UserError, match=r"expected lines 'Sentinel-2 patch,Sentinel-1 patch'"):
        load_benchmark("bigearthnet_v1", tmp_path)


def test_eurosat_sar_is_in_decibel_and_numbers_classes_as_torchgeo(tmp_path: Path) -> None:
    from torchgeo.datasets import CopernicusBenchEuroSATS1, EuroSAT  # noqa: F401

    root = make_eurosat_sar(tmp_path / "sar", seed=6, per_class=3)
    task = load_benchmark("eurosat_sar", root)
    (source,) = task.sources
    assert source.bands == ("VV", "VH") == CopernicusBenchEuroSATS1.all_bands and sizes(task) == (10, 10, 10)
    ours, position = images(source), 0
    for split in ("train", "val", "test"):
        dataset = CopernicusBenchEuroSATS1(str(root), split=split)
        for item in range(len(dataset)):
            sample = dataset[item]
            np.testing.assert_array_equal(ours[position], sample["image"].numpy())
            assert task.labels[position] == int(sample["label"])
            position += 1
    level = {name: ours[task.labels == number, 0].mean() for number, name in enumerate(task.class_names)}
    assert min(level, key=level.__getitem__) == "SeaLake" and max(level, key=level.__getitem__) == "Industrial"
    assert source.quantity is Quantity.SIGMA0_DB and list(task.class_names) != sorted(task.class_names)
    linear = replace(load_card("eurosat_sar"), quantity=Quantity.SIGMA0)
    findings = check_card(linear, load_benchmark("eurosat_sar", root, card=linear).sources[0])
    assert [(item.kind, item.remedy) for item in findings if item.outcome == "wrong"] == [
        ("unit", {"quantity": "sigma0_db"})
    ]
    assert not [item for item in check_card(load_card("eurosat_sar"), source) if item.outcome in ("wrong", "suspect")]
    (root / "eurosat_s1/all_imgs/Forest/Forest_1.tif").unlink()
    with pytest.raises(UserError, match=r"no eurosat_s1/all_imgs/Forest/Forest_1\.tif; get it from torchgeo"):
        load_benchmark("eurosat_sar", root)


def test_m_eurosat_names_planes_by_what_they_are(m_eurosat: Path) -> None:
    task = load_benchmark("m_eurosat", m_eurosat)
    (source,) = task.sources
    assert sizes(task) == (10, 10, 10) and source.bands == EUROSAT_BANDS == MEuroSat.all_band_names
    ours = images(source)
    for position in (0, 7, 29):
        number, label = divmod(position, 10)
        np.testing.assert_allclose(ours[position] * 10_000, draw_eurosat_chip(6, label, number), rtol=1e-6)
        assert task.labels[position] == label
    # The defect: by the names of the arrays one gets B09 where B8A is wanted, and so on to the end.
    called = {
        "B8A": "08A - Vegetation Red Edge",
        "B09": "09 - Water vapour",
        "B10": "10 - SWIR - Cirrus",
        "B11": "11 - SWIR",
        "B12": "12 - SWIR",
    }
    with h5py.File(m_eurosat / "classification_v1.0/m-eurosat/id_00000.hdf5") as file:
        assert tuple(sorted(file)) == KEYS
        planes = dict(zip(source.bands, ours[0], strict=True))
        stored = {band: file[key][:] / 10_000 for band, key in called.items()}
    held = {
        band: next(name for name, plane in planes.items() if np.allclose(plane, values))
        for band, values in stored.items()
    }
    assert held == {"B8A": "B09", "B09": "B10", "B10": "B11", "B11": "B12", "B12": "B8A"}


def test_m_eurosat_read_by_the_names_of_its_arrays_is_found_out(m_eurosat: Path) -> None:
    card = load_card("m_eurosat")
    (source,) = load_benchmark("m_eurosat", m_eurosat).sources
    assert [item.kind for item in check_card(card, source) if item.outcome in ("wrong", "suspect")] == []
    trusting = replace(card, bands=sensor("sentinel2_l1c").band_names)
    (wrong,) = load_benchmark("m_eurosat", m_eurosat, card=trusting).sources
    (finding,) = [item for item in check_card(trusting, wrong) if item.outcome in ("wrong", "suspect")]
    assert finding.kind == "order" and tuple(finding.remedy["bands"]) == card.bands


class Explosive:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


def test_m_eurosat_opens_no_pickle_and_allows_dates_in_names(m_eurosat: Path, tmp_path: Path) -> None:
    base = tmp_path / "m-eurosat"
    base.mkdir()
    source = m_eurosat / "classification_v1.0" / "m-eurosat"
    classes = json.loads((source / "label_map.json").read_text())
    first = [members[0] for members in classes.values()]
    (base / "label_map.json").write_text(
        json.dumps({name: [sample] for name, sample in zip(classes, first, strict=True)})
    )
    (base / "default_partition.json").write_text(json.dumps({"train": first[:8], "valid": [], "test": first[8:]}))
    for sample in first:
        with h5py.File(source / f"{sample}.hdf5") as old, h5py.File(base / f"{sample}.hdf5", "w") as new:
            for key in old:
                new[f"{key}_2018-05-01"] = old[key][:]
            new.attrs["pickle"] = str(pickle.dumps(Explosive()))
    task = load_benchmark("m_eurosat", tmp_path)
    assert sizes(task) == (8, 0, 2)
    every = images(load_benchmark("m_eurosat", m_eurosat).sources[0])
    np.testing.assert_array_equal(images(task.sources[0]), every[:10])


def test_m_eurosat_in_another_layout_is_refused(m_eurosat: Path, tmp_path: Path) -> None:
    base = tmp_path / "m-eurosat"
    base.mkdir()
    (base / "label_map.json").write_text(json.dumps({"Forest": ["a"], "River": ["b"]}))
    (base / "default_partition.json").write_text(json.dumps({"train": ["a"], "valid": [], "test": ["c"]}))
    with pytest.raises(UserError, match=r"expected a class in label_map\.json for every sample.*got none for c"):
        load_benchmark("m_eurosat", tmp_path)
    (base / "default_partition.json").write_text(json.dumps({"train": ["a"], "valid": [], "test": ["b"]}))
    with pytest.raises(UserError, match=r"got no a\.hdf5; get it from github"):
        load_benchmark("m_eurosat", tmp_path)
    for sample in "ab":
        with h5py.File(base / f"{sample}.hdf5", "w") as file:
            file["01 - VH.Real"] = np.zeros((32, 32))
    task = load_benchmark("m_eurosat", tmp_path)
    with pytest.raises(UserError, match=r"expected the arrays '01 - Coastal aerosol'.*got 01 - VH\.Real \(1\)"):
        images(task.sources[0], [0])
