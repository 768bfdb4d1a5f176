"""Sentinel-1 of the sample archive: speckle and backscatter are the planted ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archives import SPEC, of_sensor, planned_truth, read
from eo_ssl.landcover import CLASS_NAMES, CLASSES
from eo_ssl.sample import ArchiveSpec, Truth, make_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("archive") / "sample"
    return folder, make_archive(folder, seed=3, spec=SPEC)


@pytest.fixture(scope="module")
def seasons() -> Truth:
    """Four cloudless dates of all classes at northern and southern places."""
    spec = ArchiveSpec(
        sites=3,
        dates=4,
        size_px=192,
        cloud_cover=0.0,
        edge_share=0.0,
        exact_duplicates=0,
        near_duplicates=0,
        reprocessed=0,
    )
    return planned_truth(0, spec)


@pytest.mark.parametrize("looks", [1.0, 4.4])
def test_speckle_has_the_stated_number_of_looks(tmp_path: Path, looks: float) -> None:
    spec = ArchiveSpec(
        sites=1,
        dates=1,
        size_px=288,
        looks=looks,
        sensors=("sentinel1_rtc",),
        exact_duplicates=0,
        near_duplicates=0,
        reprocessed=0,
        shares=(("water", 0.6), ("forest", 0.4)),
    )
    truth = make_archive(tmp_path / "radar", seed=5, spec=spec)
    (product,) = truth.products
    expected = truth.gamma0(product.product_id)
    for index, name in enumerate(("VV", "VH")):
        stored = read(tmp_path / "radar", truth, product.product_id, name).astype(np.float64)
        assert stored[~np.isnan(stored)].min() > 0
        ratio = (stored / expected[index])[~np.isnan(stored)]
        assert ratio.mean() == pytest.approx(1.0, abs=0.01)
        assert 1.0 / ratio.var() == pytest.approx(looks, rel=0.04)
        # The estimate a person makes without the truth: mean^2 / variance in small windows over water.
        blocks = stored.reshape(36, 8, 36, 8).transpose(0, 2, 1, 3).reshape(36, 36, 64)
        water = (truth.class_map("harbour") == 0).reshape(36, 8, 36, 8).all(axis=(1, 3)) & ~np.isnan(blocks).any(
            axis=-1
        )
        water[1:-1, 1:-1] &= (
            water[:-2, 1:-1] & water[2:, 1:-1] & water[1:-1, :-2] & water[1:-1, 2:]
        )  # away from bright shores
        windows = blocks[water]
        local = (windows.mean(axis=1) ** 2).mean() / windows.var(axis=1, ddof=1).mean()
        assert local == pytest.approx(looks, rel=0.15)
    both = np.stack([read(tmp_path / "radar", truth, product.product_id, name) for name in ("VV", "VH")]) / expected
    assert abs(np.corrcoef(both[:, ~np.isnan(both[0])])[0, 1]) < 0.02  # the polarisations speckle apart


def test_classes_scatter_as_planted(seasons: Truth) -> None:
    names = of_sensor(seasons, "sentinel1_rtc")
    measured: dict[str, list[np.ndarray]] = {name: [] for name in CLASS_NAMES}
    for identifier in names:
        classes = seasons.class_map(seasons.product(identifier).acquisition.site)
        values = seasons.gamma0(identifier, speckle=True)
        for label, name in enumerate(CLASS_NAMES):
            inside = (classes == label) & ~np.isnan(values[0])
            if inside.sum() > 200:
                measured[name].append(10 * np.log10(values[:, inside].mean(axis=1)))
    for cover in CLASSES:
        vv, vh = np.mean(measured[cover.name], axis=0)
        # Weather, leaves, mixed borders and the mean of a log-normal roughness shift class means by up to 2 dB (built most).
        assert vv == pytest.approx(cover.vv_db, abs=2.2), cover.name
        assert vh == pytest.approx(cover.vh_db, abs=2.2), cover.name
    mean = {name: np.mean(values, axis=0)[0] for name, values in measured.items()}
    assert mean["built"] > mean["forest"] > mean["crop"] > mean["bare"] > mean["water"]


def test_each_date_has_one_direction_and_both_occur(archive: tuple[Path, Truth]) -> None:
    _, truth = archive
    orbits = {truth.product(name).acquisition.orbit.split("-")[1] for name in of_sensor(truth, "sentinel1_rtc")}
    assert orbits == {"ascending", "descending"}
