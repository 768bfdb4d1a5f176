"""The benchmark in EuroSAT's layout: TorchGeo's own class opens it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from archives import hashes
from eo_ssl.errors import UserError
from eo_ssl.sensors import sensor
from worlds.benchmarks import EUROSAT_BANDS, EUROSAT_CLASSES, make_eurosat


def test_torchgeo_opens_the_benchmark_with_b8a_last(tmp_path: Path) -> None:
    from torchgeo.datasets import EuroSAT

    root = make_eurosat(tmp_path / "eurosat", seed=1, per_class=5)
    assert EuroSAT.all_band_names == EUROSAT_BANDS and EUROSAT_BANDS[-1] == "B8A"
    chips = 0
    for split, share in (("train", 3), ("val", 1), ("test", 1)):
        dataset = EuroSAT(str(root), split=split, download=False, checksum=False)
        assert len(dataset) == 10 * share and tuple(dataset.classes) == EUROSAT_CLASSES
        chips += len(dataset)
        one = EuroSAT(str(root), split=split, bands=("B8A",), download=False, checksum=False)
        for index in range(len(dataset)):
            image = dataset[index]["image"].numpy()
            assert image.shape == (13, 64, 64)
            np.testing.assert_array_equal(one[index]["image"].numpy()[0], image[12])
            # Vegetation is as bright at 865 nm as at 842 nm; the cirrus band is dark everywhere.
            assert np.abs(image[12].mean() / image[7].mean() - 1) < 0.15
            assert image[9].mean() < 40
    assert chips == 50
    forest = EuroSAT(str(root), split="train", download=False, checksum=False)
    green = [sample for sample in forest if forest.classes[int(sample["label"])] == "Forest"]
    sea = [sample for sample in forest if forest.classes[int(sample["label"])] == "SeaLake"]
    assert min(float(s["image"][12].mean()) for s in green) > 2 * max(float(s["image"][12].mean()) for s in sea)


def test_band_order_permutes_planes_and_changes_no_pixel(tmp_path: Path) -> None:
    wavelength = sensor("sentinel2_l1c").band_names  # B8A after B08
    default = make_eurosat(tmp_path / "default", per_class=3)
    other = make_eurosat(tmp_path / "other", per_class=3, bands_order=wavelength)
    paths = sorted(default.rglob("*.tif"))
    assert len(paths) == 30
    for path in paths:
        with rasterio.open(path) as first, rasterio.open(other / path.relative_to(default)) as second:
            assert first.descriptions == EUROSAT_BANDS and second.descriptions == wavelength
            planes = dict(zip(first.descriptions, first.read(), strict=True))
            for band, plane in zip(wavelength, second.read(), strict=True):
                np.testing.assert_array_equal(plane, planes[band])
    assert hashes(default) == hashes(make_eurosat(tmp_path / "again", per_class=3))
    with pytest.raises(UserError, match="add B8A"):
        make_eurosat(tmp_path / "bad", bands_order=EUROSAT_BANDS[:-1])
    with pytest.raises(UserError, match="at least 3"):
        make_eurosat(tmp_path / "bad", per_class=1)
    with pytest.raises(UserError, match="bands_order"):
        make_eurosat(default, per_class=3, bands_order=wavelength)
