"""Names, units and conversions: the facts that every other room relies on."""

from __future__ import annotations

import numpy as np
import pytest

from eo_ssl.errors import UserError
from eo_ssl.sensors import FLOOR_DB, SENSORS, Quantity, convert, sensor, translate_bands

S2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]

# One row per family of spellings found in the wild, all in the order of S2.
FAMILIES = {
    "torchgeo datasets": S2,
    "torchgeo weights": ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8a", "B9", "B10", "B11", "B12"],
    "earth engine": ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"],
    "geo-bench": ["01", "02", "03", "04", "05", "06", "07", "08", "08A", "09", "10", "11", "12"],
    "terratorch": [
        *("COASTAL_AEROSOL", "BLUE", "GREEN", "RED", "RED_EDGE_1", "RED_EDGE_2", "RED_EDGE_3"),
        *("NIR_BROAD", "NIR_NARROW", "WATER_VAPOR", "CIRRUS", "SWIR_1", "SWIR_2"),
    ],
    "stac common names": [
        "coastal",
        "blue",
        "green",
        "red",
        "rededge1",
        "rededge2",
        "rededge3",
        "nir",
        "nir08",
        "nir09",
        "cirrus",
        "swir16",
        "swir22",
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_spelling_resolves_to_one_band(family: str) -> None:
    assert sensor("sentinel2_l1c").resolve_all(FAMILIES[family]) == tuple(S2)


def test_torchgeo_bench_calls_the_narrow_nir_red_edge_4() -> None:
    assert sensor("sentinel2_l2a").resolve("red_edge_4") == "B8A"


def test_no_spelling_means_two_bands_of_one_sensor() -> None:
    for known in SENSORS.values():
        for band in known.bands:
            for spelling in (band.name, band.common or band.name, *band.aliases):
                assert known.resolve(spelling) == band.name, (known.name, spelling)


def test_the_same_spelling_means_another_band_on_another_sensor() -> None:
    assert sensor("sentinel2_l1c").resolve("blue") == "B02"
    assert sensor("landsat5_tm").resolve("blue") == "B1"
    assert sensor("landsat8_oli").resolve("blue") == "B2"
    assert sensor("hls_l30").resolve("B5") == "B05"  # near infrared there, red edge on Sentinel-2


def test_band_order_of_torchgeo_sentinel2_wavelengths() -> None:
    from torchgeo.datasets import Sentinel2

    theirs = Sentinel2.wavelengths
    for band in sensor("sentinel2_l1c").bands:
        assert band.wavelength_um == pytest.approx(theirs[band.name], abs=0.003), band.name


def test_cross_sensor_bands_go_by_common_name() -> None:
    names = ("B1", "B2", "B3", "B4", "B5", "B7")
    assert translate_bands(names, source="landsat5_tm", target="sentinel2_l1c") == (
        "B02",
        "B03",
        "B04",
        "B08",
        "B11",
        "B12",
    )
    with pytest.raises(UserError, match="corresponds to landsat5_tm B6"):
        translate_bands(["B6"], source="landsat5_tm", target="sentinel2_l1c")


def test_refusals_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'sentinel2_l1c'"):
        sensor("sentinel2_lc1")
    with pytest.raises(UserError, match="B8A more than once"):
        sensor("sentinel2_l2a").resolve_all(["B8A", "08A"])
    with pytest.raises(UserError, match="expected a band of sentinel2_l2a"):
        sensor("sentinel2_l2a").resolve("cirrus")  # L2A has no B10


def test_power_and_decibel_convert_into_each_other_and_nothing_else(rng: np.random.Generator) -> None:
    power = rng.gamma(4.0, 0.02, size=1000).astype(np.float32)
    decibel = convert(power, source=Quantity.GAMMA0, target=Quantity.GAMMA0_DB)
    np.testing.assert_allclose(decibel, 10 * np.log10(power), rtol=1e-6)
    np.testing.assert_allclose(convert(decibel, source=Quantity.GAMMA0_DB, target=Quantity.GAMMA0), power, rtol=1e-5)
    assert convert(np.array([1.0, 0.1]), source=Quantity.SIGMA0, target=Quantity.SIGMA0_DB).tolist() == [0.0, -10.0]
    for source, target in (
        (Quantity.SIGMA0, Quantity.GAMMA0),
        (Quantity.AMPLITUDE, Quantity.SIGMA0_DB),
        (Quantity.DN, Quantity.TOA_REFLECTANCE),
    ):
        with pytest.raises(UserError, match="expected a conversion between a power and its own dB form"):
            convert(power, source=source, target=target)


def test_negative_power_left_by_noise_removal_is_floored_and_nan_stays() -> None:
    values = convert(np.array([-0.001, 0.0, np.nan, 1e-9]), source=Quantity.SIGMA0, target=Quantity.SIGMA0_DB)
    np.testing.assert_array_equal(values, np.array([FLOOR_DB, FLOOR_DB, np.nan, FLOOR_DB], dtype=np.float32))
