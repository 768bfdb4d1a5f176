"""Sentinel-2 of the sample archive: what is read from its files is what its truth says was planted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from archives import GSD, SPEC, of_sensor, planned_truth, read, repeat
from eo_ssl.landcover import CLASS_NAMES, CLASSES, S2_BANDS, compute_greenness
from eo_ssl.sample import SITES, ArchiveSpec, Truth, make_archive
from eo_ssl.sample.product_plans import locate_sun


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


def test_stored_numbers_give_the_true_reflectance_under_both_baselines(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    offsets = set()
    for identifier in of_sensor(truth, "sentinel2_l2a"):
        sidecar = json.loads((folder / truth.product(identifier).acquisition.folder / "product.json").read_text())
        offsets.add(sidecar["offset"])
        for band in S2_BANDS:
            stored = read(folder, truth, identifier, band)
            expected = truth.reflectance(identifier, band=band)
            assert stored.dtype == np.uint16
            invalid = (stored == 0) | (stored == 65535)
            np.testing.assert_array_equal(np.isnan(expected), invalid)
            physical = (stored.astype(np.float64) + sidecar["offset"]) * sidecar["scale"]
            assert np.abs(physical - expected)[~invalid].max() <= 0.5e-4 + 1e-7
    assert offsets == {0, -1000}


def test_all_bands_at_ten_metres_repeat_the_native_pixels(archive: tuple[Path, Truth]) -> None:
    _, truth = archive
    identifier = of_sensor(truth, "sentinel2_l2a")[0]
    cube = truth.reflectance(identifier)
    assert cube.shape == (12, SPEC.size_px, SPEC.size_px)
    for index, band in enumerate(S2_BANDS):
        np.testing.assert_array_equal(cube[index], repeat(truth.reflectance(identifier, band=band), GSD[band] // 10))


def test_reprocessing_moves_the_stored_numbers_by_a_thousand_and_nothing_else(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    (copy,) = [duplicate for duplicate in truth.duplicates if duplicate.kind == "reprocessed"]
    for band in S2_BANDS:
        old, new = (
            read(folder, truth, identifier, band).astype(int) for identifier in (copy.original, copy.product_id)
        )
        valid = (old != 0) & (old != 65535)
        np.testing.assert_array_equal(new[valid] - old[valid], 1000)
        np.testing.assert_array_equal(new[~valid], old[~valid])
        np.testing.assert_array_equal(
            truth.reflectance(copy.original, band=band), truth.reflectance(copy.product_id, band=band)
        )


def test_only_offset_products_store_negative_reflectance(tmp_path: Path) -> None:
    no_copies = {"exact_duplicates": 0, "near_duplicates": 0, "reprocessed": 0}
    spec = ArchiveSpec(
        sites=1, dates=2, size_px=96, shares=(("water", 1.0),), cloud_cover=0.0, sensors=("sentinel2_l2a",), **no_copies
    )
    truth = make_archive(tmp_path / "water", spec=spec)
    least = {
        truth.product(name).acquisition.offset: np.nanmin(truth.reflectance(name))
        for name in of_sensor(truth, "sentinel2_l2a")
    }
    assert least[0] == pytest.approx(1e-4)
    assert -0.01 < least[-1000] < 1e-4


def clear(truth: Truth, identifier: str) -> np.ndarray:
    return repeat(np.isin(truth.scene_classes(identifier), (4, 5, 6, 11)), 2).astype(bool)


def ndvi_by_class(truth: Truth, identifier: str) -> dict[str, float]:
    cube = truth.reflectance(identifier)
    red, infrared = cube[S2_BANDS.index("B04")], cube[S2_BANDS.index("B08")]
    classes, usable = truth.class_map(truth.product(identifier).acquisition.site), clear(truth, identifier)
    ndvi = (infrared - red) / (infrared + red)
    return {
        name: float(np.nanmedian(ndvi[usable & (classes == label)]))
        for label, name in truth.classes.items()
        if np.any(usable & (classes == label))
    }


def test_vegetation_indices_stand_in_the_planted_order(seasons: Truth) -> None:
    plans = [product.acquisition for product in seasons.products if product.acquisition.sensor == "sentinel2_l2a"]
    (summer,) = [plan for plan in plans if plan.site == "plain" and datetime.fromisoformat(plan.datetime).month == 6]
    ndvi = ndvi_by_class(seasons, summer.product_id)
    assert min(ndvi["forest"], ndvi["crop"]) > ndvi["grass"] > ndvi["bare"] > ndvi["snow"] > ndvi["water"]
    assert ndvi["grass"] > ndvi["built"] > ndvi["snow"]
    assert ndvi["forest"] > 0.75 and ndvi["water"] < -0.2


def test_seasons_turn_round_at_the_equator(seasons: Truth) -> None:
    plans = [product.acquisition for product in seasons.products if product.acquisition.sensor == "sentinel2_l2a"]
    for place, green_months, brown_months in (("plain", (6,), (12,)), ("highveld", (12,), (6,))):
        months = {
            datetime.fromisoformat(plan.datetime).month: ndvi_by_class(seasons, plan.product_id)
            for plan in plans
            if plan.site == place
        }
        green = next(value for month, value in months.items() if month in green_months)
        brown = next(value for month, value in months.items() if month in brown_months)
        assert green["crop"] - brown["crop"] > 0.3
        assert green["forest"] - brown["forest"] > 0.05
        assert abs(green["built"] - brown["built"]) < 0.03


def test_greenness_peaks_where_it_was_told_to() -> None:
    crop = np.full((1, 1), CLASS_NAMES.index("crop"), dtype=np.uint8)
    year = np.arange(1, 366)
    for shift, southern, peak in ((0.0, False, 190), (20.0, False, 210), (0.0, True, 7)):
        curve = [
            float(compute_greenness(crop, np.full((1, 1), shift, np.float32), day=int(day), southern=southern)[0, 0])
            for day in year
        ]
        assert abs(int(year[np.argmax(curve)]) - peak) <= 1
        assert max(curve) == pytest.approx(0.95, abs=1e-3)  # floor 0.05 + amplitude 0.90
        assert min(curve) == pytest.approx(0.05, abs=1e-3)


def test_spectra_of_each_class_are_the_planted_ones(seasons: Truth) -> None:
    """Class means over clear pixels lie on the planted line between dormant and green, to a few per cent of light and haze."""
    plans = [product.acquisition for product in seasons.products if product.acquisition.sensor == "sentinel2_l2a"]
    for plan in plans[:4]:
        cube, classes = seasons.reflectance(plan.product_id), seasons.class_map(plan.site)
        for name in ("forest", "built", "crop"):
            label = CLASS_NAMES.index(name)
            chosen = (classes == label) & ~seasons.nodata(plan.product_id)
            chosen[:, 1:] &= classes[:, 1:] == classes[:, :-1]  # borders are mixed
            chosen[1:] &= classes[1:] == classes[:-1]
            mean = np.nanmean(cube[:, chosen], axis=1, dtype=np.float64)
            ends = np.array([CLASSES[label].dormant, CLASSES[label].green])
            span = (ends[1] - ends[0]) @ (ends[1] - ends[0])
            position = (mean - ends[0]) @ (ends[1] - ends[0]) / span if span else 0.0
            expected = ends[0] + position * (ends[1] - ends[0])
            # 10 % of light, 0.004 haze, and mixing in 60 m pixels
            np.testing.assert_allclose(mean, expected, rtol=0.15, atol=0.015, err_msg=f"{plan.product_id} {name}")


def test_scene_classes_tell_the_planted_clouds(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    seen = []
    for identifier in of_sensor(truth, "sentinel2_l2a"):
        product, scl = truth.product(identifier), read(folder, truth, identifier, "SCL")
        np.testing.assert_array_equal(scl, truth.scene_classes(identifier))
        blue, swir = (truth.reflectance(identifier, band=band) for band in ("B02", "B11"))
        valid = scl != 0
        assert np.isin(scl[valid], (8, 9)).mean() == pytest.approx(product.cloud_fraction, abs=1e-6)
        assert (scl[valid] == 3).mean() == pytest.approx(product.shadow_fraction, abs=1e-6)
        assert (~valid).mean() == pytest.approx(product.nodata_fraction, abs=1e-6)
        np.testing.assert_array_equal(np.isnan(swir), ~valid)
        assert (scl == 1).sum() == product.saturated_pixels == SPEC.saturated
        if product.nodata_fraction == 0:
            assert product.cloud_fraction == pytest.approx(product.acquisition.cloud_cover, abs=0.03)
        thick, land = repeat(scl == 9, 2), repeat(np.isin(scl, (4, 5)), 2)
        if thick.sum() > 50:
            assert np.nanmean(blue[thick]) > 0.35 > np.nanmean(blue[land]) + 0.15
        dark, lit = scl == 3, np.isin(scl, (4, 5))
        if dark.sum() > 50:
            assert np.nanmean(swir[dark]) < 0.8 * np.nanmean(swir[lit])
            seen.append(identifier)
    assert seen


def explained(cloudy: np.ndarray, shadow: np.ndarray, *, zenith_deg: float, azimuth_deg: float) -> float:
    """Best share of the shadow, over cloud heights, that lies under a cloud when moved back along an azimuth; 20 m pixels."""
    rows, columns = np.nonzero(shadow)
    best = 0.0
    for height in range(800, 1501, 20):
        length = min(height * np.tan(np.radians(zenith_deg)), 1500.0) / 20.0
        up = rows + round(float(length * np.cos(np.radians(azimuth_deg))))
        left = columns - round(float(length * np.sin(np.radians(azimuth_deg))))
        inside = (up >= 0) & (up < shadow.shape[0]) & (left >= 0) & (left < shadow.shape[1])
        if inside.mean() > 0.15:
            best = max(best, float(cloudy[up[inside], left[inside]].mean()))
    return best


def test_shadows_lie_away_from_the_sun_at_a_cloud_height() -> None:
    spec = ArchiveSpec(sites=3, dates=3, size_px=384, cloud_cover=0.2, edge_share=0.0, sensors=("sentinel2_l2a",))
    truth, tested, wrong_way = planned_truth(1, spec), set(), []
    for product in truth.products:
        plan, scl = product.acquisition, truth.scene_classes(product.product_id)
        shadow = scl == 3
        if not 0.02 < shadow.mean() < 0.3:
            continue
        cloudy = np.isin(scl, (8, 9))
        away = explained(cloudy, shadow, zenith_deg=plan.sun_zenith_deg, azimuth_deg=plan.sun_azimuth_deg + 180.0)
        towards = explained(cloudy, shadow, zenith_deg=plan.sun_zenith_deg, azimuth_deg=plan.sun_azimuth_deg)
        assert away > 0.95, plan.product_id
        wrong_way.append(towards)
        tested.add(SITES[plan.site_index].southern)
    assert tested == {False, True} and np.mean(wrong_way) < 0.7


@pytest.mark.parametrize(
    ("when", "longitude", "latitude", "zenith", "azimuth"),
    [
        (
            datetime(2021, 3, 21, 12, tzinfo=UTC),
            0.0,
            45.0,
            45.0,
            180.0,
        ),  # equinox noon: the zenith angle is the latitude
        (datetime(2021, 6, 21, 12, tzinfo=UTC), 0.0, 45.0, 45.0 - 23.44, 180.0),
        (
            datetime(2021, 6, 21, 12, tzinfo=UTC),
            0.0,
            -30.0,
            53.44,
            0.0,
        ),  # in the south the noon sun stands in the north
        (datetime(2021, 3, 21, 0, tzinfo=UTC), 180.0, 45.0, 45.0, 180.0),  # noon where it is noon
        (datetime(2021, 3, 21, 6, tzinfo=UTC), 0.0, 45.0, 90.0, 90.0),  # it rises in the east
    ],
)
def test_sun_stands_where_astronomy_puts_it(
    when: datetime, longitude: float, latitude: float, zenith: float, azimuth: float
) -> None:
    got = locate_sun(when, longitude, latitude)
    assert got[0] == pytest.approx(zenith, abs=0.7)
    assert abs((got[1] - azimuth + 180) % 360 - 180) < 1.0


def test_labels_are_the_class_map_where_there_are_data(archive: tuple[Path, Truth]) -> None:
    folder, truth = archive
    unknown = 0
    for product in truth.products:
        label = read(folder, truth, product.product_id, "label")
        first = "VV" if product.looks else "B02"
        stored = read(folder, truth, product.product_id, first)
        missing = np.isnan(stored) if product.looks else stored == 0
        np.testing.assert_array_equal(label == 255, missing)
        np.testing.assert_array_equal(label[~missing], truth.class_map(product.acquisition.site)[~missing])
        np.testing.assert_array_equal(label, truth.label(product.product_id))
        unknown += int(missing.sum())
    assert unknown
