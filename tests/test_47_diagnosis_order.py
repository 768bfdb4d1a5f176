"""The order of the bands: footprints made by hand, spectra of known surfaces, and real patches in other orders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.cards import load_card
from eo_ssl.diagnosis import Sample, sample_product
from eo_ssl.diagnosis.endmembers import compute_unmixing_residual, get_endmembers
from eo_ssl.diagnosis.order import _measure_remainders, check_order, reorder
from eo_ssl.diagnosis.resolution import FACTORS, measure_block_width, measure_roughness, score_bands, score_resolution
from eo_ssl.scene import list_products
from eo_ssl.sensors import Quantity, sensor

L1C = sensor("sentinel2_l1c").band_names
EUROSAT = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


def walk(rng: np.random.Generator, size: int) -> np.ndarray:
    """A surface whose slope changes at every pixel: cumulated noise along both axes."""
    return np.cumsum(rng.normal(0, 0.01, (size, size)), axis=1) + np.cumsum(rng.normal(0, 0.01, (size, size)), axis=0)


def of(windows: np.ndarray, bands: tuple[str, ...]) -> Sample:
    return Sample("set/a", "sentinel2_l1c", Quantity.TOA_REFLECTANCE, bands, (windows.astype(np.float32),))


@pytest.mark.parametrize("factor", FACTORS)
def test_the_size_of_copied_pixels_is_measured_at_any_phase(rng: np.random.Generator, factor: int) -> None:
    plane = np.kron(walk(rng, 40), np.ones((factor, factor)))[1:121, 1:121]
    assert measure_block_width([plane[None]])[0] == pytest.approx(factor, rel=0.25)


def test_interpolated_pixels_are_smoother_in_proportion(rng: np.random.Generator) -> None:
    fine = walk(rng, 120)
    coarse = walk(rng, 21)
    at = np.arange(120) / 6
    rows = np.array([np.interp(at, np.arange(21), row) for row in coarse])
    smooth = np.array([np.interp(at, np.arange(21), column) for column in rows.T]).T
    ratio = measure_roughness([fine[None]])[0] / measure_roughness([smooth[None]])[0]
    assert 4 < ratio < 15  # 6 along one axis; interpolating the other too smooths once more
    table = score_resolution(of(np.stack([fine, smooth]), ("B02", "B01")))
    assert FACTORS[int(table[0].argmax())] == 1 and FACTORS[int(table[1].argmax())] == 6
    assert score_bands(table, ("B02", "B01")) == 0 > score_bands(table, ("B01", "B02"))


def test_bands_of_one_size_say_nothing_of_their_order(rng: np.random.Generator) -> None:
    table = score_resolution(of(np.stack([walk(rng, 60) for _ in range(3)]), ("B02", "B05", "B09")))
    assert score_bands(table, ("B02", "B05", "B09")) == score_bands(table, ("B09", "B02", "B05"))


def test_a_mixture_of_known_surfaces_fits_and_another_order_of_it_does_not() -> None:
    ends = get_endmembers(L1C, top=True)
    mixed = (0.5 * ends[:, 1] + 0.5 * ends[:, 8])[None]  # forest without leaves, forest in leaf and haze alike
    assert compute_unmixing_residual(mixed, ends) < 1e-12
    assert compute_unmixing_residual(mixed[:, [EUROSAT.index(name) for name in L1C]], ends) > 50


def eurosat(sample: Sample) -> Sample:
    """The planes as EuroSAT stores them under the names of the canonical order."""
    order = [name for name in EUROSAT if name in sample.bands]
    planes = [sample.bands.index(name) for name in order]
    return replace(sample, windows=tuple(window[planes] for window in sample.windows))


@pytest.mark.parametrize("name", ["terramesh_s2l1c", "ssl4eo_patch_l1c", "eolearn_l1c"])
def test_b8a_last_is_found_in_top_of_atmosphere_patches_and_named(name: str, real_data: Path) -> None:
    for product in list_products(load_card(name), real_data).products[:3]:
        sample = sample_product(product)
        found = check_order(eurosat(sample))
        assert found is not None and found.outcome == "wrong" and "B8A last" in found.sentence
        assert found.remedy["bands"] == list(EUROSAT)
        assert reorder(eurosat(sample), found).bands == EUROSAT
        clean = check_order(sample)
        assert clean is not None and clean.outcome != "wrong"


def test_two_near_twins_are_not_told_apart_and_said_so(real_data: Path) -> None:
    product = list_products(load_card("terramesh_s2l1c"), real_data).products[0]
    found = check_order(sample_product(product))
    assert found is not None and found.outcome == "fine"
    assert "B07/B8A" in found.evidence["not told apart"]


def test_correlations_of_few_blocks_do_not_count(rng: np.random.Generator) -> None:
    spectra = rng.random((12, 4))
    assert not _measure_remainders(spectra[:11]).any()
    assert _measure_remainders(spectra)[0, 1] == pytest.approx(
        np.log(1 - np.corrcoef(spectra[:, 0], spectra[:, 1])[0, 1] ** 2)
    )


def test_few_bands_and_unknown_bands_tell_nothing(rng: np.random.Generator) -> None:
    three = check_order(of(rng.random((3, 60, 60)), ("B02", "B03", "B04")))
    assert three is not None and three.outcome == "cannot tell" and "at least 4 bands" in three.sentence
    thermal = replace(of(rng.random((4, 60, 60)), ("B1", "B2", "B3", "B6")), sensor="landsat5_tm")
    found = check_order(thermal)
    assert found is not None and found.outcome == "cannot tell" and "another" in found.sentence
