"""Scale, unit, fill, constant and copied bands, exchanged polarisations: numbers planted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eo_ssl.diagnosis import Sample, examine
from eo_ssl.diagnosis.bands import check_bands, check_nodata
from eo_ssl.diagnosis.findings import Finding
from eo_ssl.diagnosis.polarisation import check_polarisation
from eo_ssl.diagnosis.units import check_scale, check_unit, estimate_quantum
from eo_ssl.sensors import Quantity

ALL_SIDES = ((True, True, True, True),)


def optical(codes: np.ndarray, **changes: object) -> Sample:
    """A Sentinel-2 product of four bands whose reflectance is ``codes`` / 10000."""
    window = (codes * 1e-4).astype(np.float32)
    sample = Sample(
        "set/a", "sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("B02", "B03", "B04", "B08"), (window,), ALL_SIDES, 1e-4
    )
    return replace(sample, file_bands=sample.bands, **changes)


def radar(db: np.ndarray, quantity: Quantity) -> Sample:
    values = db if quantity.is_db else 10 ** (db / 10)
    return Sample("set/r", "sentinel1_rtc", quantity, ("VV", "VH"), (values.astype(np.float32),), ALL_SIDES)


@pytest.fixture
def codes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(200, 4000, (4, 60, 60)).astype(np.float64)


def only(findings: list[Finding], kind: str) -> Finding:
    (found,) = (finding for finding in findings if finding.kind == kind)
    return found


def test_the_step_between_stored_numbers_is_found_whatever_multiplied_them(codes: np.ndarray) -> None:
    assert estimate_quantum(optical(codes)) == pytest.approx(1e-4, rel=1e-4)
    assert estimate_quantum(optical(codes).times(1 / 2750 / 1e-4)) == pytest.approx(1 / 2750, rel=1e-4)
    assert (
        estimate_quantum(optical(codes + np.random.default_rng(1).normal(0, 0.3, codes.shape))) is None
    )  # resampled: no lattice


@pytest.mark.parametrize(
    "factor", [1e4, 1e-4, 10_000 / 2750]
)  # forgotten; applied twice; divided by 2750 instead of 10000
def test_a_wrong_scale_is_found_with_the_right_one_for_the_card(codes: np.ndarray, factor: float) -> None:
    found = check_scale(optical(codes).times(factor))
    assert found is not None and found.outcome == "wrong"
    assert found.remedy["scale"] == pytest.approx(1e-4, rel=1e-3)
    right = check_scale(optical(codes))
    assert right is not None and right.outcome == "fine"


def test_dark_water_and_bright_snow_are_no_wrong_scale(rng: np.random.Generator) -> None:
    for low, high in ((20, 400), (7000, 11000)):
        found = check_scale(optical(rng.integers(low, high, (4, 60, 60)).astype(float)))
        assert found is not None and found.outcome == "fine"


@pytest.mark.parametrize("quantity", [Quantity.GAMMA0, Quantity.GAMMA0_DB])
def test_decibel_and_power_are_told_apart(rng: np.random.Generator, quantity: Quantity) -> None:
    db = rng.normal([[[-11.0]], [[-18.0]]], 3.0, (2, 60, 60))
    right, other = (
        radar(db, quantity),
        replace(radar(db, quantity.in_power if quantity.is_db else quantity.in_db), quantity=quantity),
    )
    found, wrong = check_unit(right), check_unit(other)
    assert found is not None and found.outcome == "fine"
    assert wrong is not None and wrong.outcome == "wrong" and wrong.kind == "unit"
    assert wrong.remedy == {"quantity": (quantity.in_power if quantity.is_db else quantity.in_db).value}


def test_decibels_stored_as_integers_lack_their_scale(rng: np.random.Generator) -> None:
    db = rng.normal([[[-11.0]], [[-18.0]]], 3.0, (2, 60, 60))
    found = check_unit(radar(db, Quantity.GAMMA0_DB).times(1e4))
    assert found is not None and (found.kind, found.outcome) == ("scale", "wrong")
    assert found.remedy["scale"] == pytest.approx(1.0)  # of what the card declared, 10000


@pytest.mark.parametrize(("gap_db", "outcome"), [(7.0, "fine"), (0.5, "cannot tell"), (-7.0, "wrong")])
def test_polarisations_are_told_by_the_gap_between_them(rng: np.random.Generator, gap_db: float, outcome: str) -> None:
    cross = rng.normal(-18.0, 2.0, (60, 60))
    for quantity in (Quantity.GAMMA0, Quantity.GAMMA0_DB):
        found = check_polarisation(radar(np.stack([cross + gap_db, cross]), quantity))
        assert found is not None and found.outcome == outcome
        assert found.llr == pytest.approx(-2 * 7.6 * gap_db / 16, abs=1e-3)
        assert (found.remedy == {"bands": ["VH", "VV"]}) is (outcome == "wrong")


def test_fill_at_the_border_is_named_in_stored_units(codes: np.ndarray) -> None:
    slanted = codes.copy()
    slanted[:, np.tril(np.ones((60, 60), bool), -45)] = 0  # 120 pixels in the lower left corner
    sample = optical(slanted + 1000 - 1000, scale=1e-4, offset=-1000.0)  # stored 1000 under this card
    found = check_nodata(sample)
    assert found is not None and found.outcome == "wrong" and found.remedy == {"nodata": 1000.0}
    assert found.evidence["pixels"] == 120
    assert only([check_nodata(optical(slanted))], "nodata").remedy == {"nodata": 0.0}


def test_fill_needs_a_border_all_bands_and_an_area(codes: np.ndarray) -> None:
    middle, one_band, scattered = codes.copy(), codes.copy(), codes.copy()
    middle[:, 20:40, 20:40] = 0  # a lake of zeros inside is no fill
    one_band[0, :20] = 1  # a band clipped in shadow
    scattered[:, 0, ::2] = 0
    for values in (codes, middle, one_band, scattered):
        assert only([check_nodata(optical(values))], "nodata").outcome == "fine"
    assert check_nodata(optical(codes, borders=((False,) * 4,))) is None  # tiles of a corpus


def test_constant_and_copied_bands_are_named(codes: np.ndarray) -> None:
    flat, copied = codes.copy(), codes.copy()
    flat[1] = 700
    copied[3] = copied[0]
    assert only(check_bands(optical(flat)), "constant").bands == ("B03",)
    assert only(check_bands(optical(copied)), "duplicate").bands == ("B02", "B08")
    assert all(finding.outcome == "fine" for finding in check_bands(optical(codes)))
    empty = check_bands(optical(np.full((4, 60, 60), 0.0)))
    assert [finding.outcome for finding in empty] == ["cannot tell"]


def test_fill_does_not_show_as_other_mistakes_too(codes: np.ndarray) -> None:
    codes[:, :, :20] = 0
    found = {finding.kind: finding.outcome for finding in examine(optical(codes)).findings}
    assert found["nodata"] == "wrong"
    assert "wrong" not in [outcome for kind, outcome in found.items() if kind != "nodata"]


def test_an_offset_is_told_in_stored_units_although_the_scale_is_wrong_too(rng: np.random.Generator) -> None:
    codes = rng.integers(20, 6000, (4, 120, 120)).astype(np.float64)
    both = replace(optical(codes // 2 * 2 * (codes > 1024) + codes * (codes <= 1024) + 1000), listed_as="a.tif").times(
        1e4
    )
    found = {finding.kind: finding for finding in examine(both).findings}
    assert found["scale"].remedy == {"scale": pytest.approx(1e-4)}
    assert found["offset"].remedy == {"offset_by_file": {"a.tif": pytest.approx(-1000.0)}}


def test_what_is_empty_tells_nothing() -> None:
    nothing = optical(np.full((4, 60, 60), np.nan))
    assert {finding.outcome for finding in examine(nothing).findings} <= {"cannot tell", "fine"}
