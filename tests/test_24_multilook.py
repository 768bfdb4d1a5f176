"""Slant range to ground pixels: every number here has a closed form."""

from __future__ import annotations

import numpy as np
import pytest

from eo_ssl.errors import UserError
from eo_ssl.scene.sentinel1.multilook import average, lay_even_axis, lay_slant_axis

NEAR, FAR = 21.6, 25.1  # degrees; about the extent of WV1


def _angles(count: int) -> np.ndarray:
    return np.linspace(NEAR, FAR, count)


def _whole(power: np.ndarray, along: object, across: object) -> np.ndarray:
    return average([(0, power.astype(np.float32))], along=along, across=across)


def test_blocks_of_whole_samples_are_plain_means() -> None:
    power = np.random.default_rng(0).exponential(size=(60, 48)).astype(np.float32)
    along = lay_even_axis(60, spacing_m=5.0, pixel_m=50.0)
    across = lay_slant_axis(np.full(48, 30.0), spacing_m=6.25, pixel_m=50.0)  # sin 30 = 1/2: 12.5 m on the ground
    assert (along.size, across.size) == (6, 12)
    expected = power.reshape(6, 10, 12, 4).astype(np.float64).mean(axis=(1, 3))
    np.testing.assert_allclose(_whole(power, along, across), expected, rtol=1e-6)


def test_weights_written_by_hand() -> None:
    """Samples of 20 m in pixels of 50 m: 20 + 20 + 10, then 10 + 20 + 20; a single line makes half a pixel of 50 m from 30 m."""
    across = lay_even_axis(5, spacing_m=20.0, pixel_m=50.0)
    np.testing.assert_allclose(across.weights().toarray(), [[20, 20, 10, 0, 0], [0, 0, 10, 20, 20]])
    along = lay_even_axis(2, spacing_m=25.0, pixel_m=50.0)
    power = np.array([[1, 2, 3, 4, 5], [3, 4, 5, 6, 7]])
    np.testing.assert_allclose(
        _whole(power, along, across), [[(2 * 20 + 3 * 20 + 4 * 10) / 50, (4 * 10 + 5 * 20 + 6 * 20) / 50]]
    )


def test_a_constant_stays_and_total_power_is_conserved() -> None:
    along = lay_even_axis(311, spacing_m=4.13, pixel_m=50.0)
    across = lay_slant_axis(_angles(907), spacing_m=1.7, pixel_m=50.0)
    np.testing.assert_array_equal(_whole(np.full((311, 907), 0.25), along, across), np.float32(0.25))
    power = np.random.default_rng(1).exponential(size=(311, 907)).astype(np.float32)
    ground = _whole(power, along, across).astype(np.float64)
    weight = np.outer(along.weights().sum(axis=0), across.weights().sum(axis=0))
    assert ground.sum() * 50.0**2 == pytest.approx((weight * power).sum(), rel=1e-6)


def test_ground_range_of_a_spherical_earth_is_recovered() -> None:
    """Law of cosines in the triangle of Earth's centre, satellite and target; the slant range is even, the ground range is not."""
    radius, orbit = 6_371_000.0, 6_371_000.0 + 693_000.0
    slant = 745_000.0 + 1.7 * np.arange(12_001)
    centre = np.arccos((radius**2 + orbit**2 - slant**2) / (2 * radius * orbit))
    middle = (slant[1:] + slant[:-1]) / 2
    incidence = np.rad2deg(np.arccos((orbit**2 - radius**2 - middle**2) / (2 * radius * middle)))
    across = lay_slant_axis(incidence, spacing_m=1.7, pixel_m=50.0)
    np.testing.assert_allclose(across.edges, radius * (centre - centre[0]), atol=0.01)
    constant = 1.7 / np.sin(np.deg2rad(incidence[len(incidence) // 2])) * np.arange(12_001)
    assert np.abs(constant - across.edges).max() > 400  # one spacing for all would misplace the edge by 8 pixels


@pytest.mark.parametrize("wavelength", [200.0, 411.0])
def test_a_wave_keeps_its_length_and_loses_only_what_the_pixel_averages(wavelength: float) -> None:
    across = lay_slant_axis(_angles(9000), spacing_m=1.7, pixel_m=50.0)
    along = lay_even_axis(25, spacing_m=4.0, pixel_m=50.0)
    middle = (across.edges[1:] + across.edges[:-1]) / 2
    power = np.broadcast_to(1 + 0.5 * np.sin(2 * np.pi * middle / wavelength), (25, 9000))
    ground = _whole(power, along, across)[0].astype(np.float64)
    centres = 50.0 * (np.arange(across.size) + 0.5)
    expected = 1 + 0.5 * np.sinc(50.0 / wavelength) * np.sin(2 * np.pi * centres / wavelength)
    np.testing.assert_allclose(ground, expected, atol=0.02)  # a sample is 4.6 m wide: a tenth of a pixel
    tried = np.linspace(0.97, 1.03, 1201) * wavelength
    energy = np.abs(np.exp(-2j * np.pi * np.outer(1 / tried, centres)) @ (ground - ground.mean()))
    assert tried[energy.argmax()] == pytest.approx(wavelength, rel=1e-3)


def test_speckle_loses_its_variance_by_the_number_of_looks() -> None:
    """Fully developed single-look speckle is exponential; the mean of weighted looks has ENL (sum w)^2 / sum w^2."""
    power = np.random.default_rng(2).exponential(size=(1250, 1600)).astype(np.float32)
    along, across = (
        lay_even_axis(1250, spacing_m=4.0, pixel_m=50.0),
        lay_slant_axis(_angles(1600), spacing_m=1.9, pixel_m=50.0),
    )
    ground = _whole(power, along, across).astype(np.float64)
    looks = [axis.weights().multiply(axis.weights()).sum(axis=1) for axis in (along, across)]
    expected = 50.0**4 / (np.asarray(looks[0]) * np.asarray(looks[1]).T)
    measured = ground.mean() ** 2 / ground.var()
    assert measured == pytest.approx(1 / np.mean(1 / expected), rel=0.05)
    assert measured == pytest.approx(12.5 * 50.0 * np.sin(np.deg2rad((NEAR + FAR) / 2)) / 1.9, rel=0.08)


def test_strips_and_gaps() -> None:
    power = np.random.default_rng(3).exponential(size=(130, 200)).astype(np.float32)
    power[:, :9] = np.nan  # nothing measured: 9 of the 20 samples of the first pixel, less than half
    power[:11] = np.nan
    along, across = lay_even_axis(130, spacing_m=2.5, pixel_m=50.0), lay_even_axis(200, spacing_m=2.5, pixel_m=50.0)
    whole = _whole(power, along, across)
    assert np.isnan(whole[0]).all()  # 11 of 20 lines missing
    assert np.isfinite(whole[1:]).all()
    np.testing.assert_allclose(whole[1, 0], power[20:40, 9:20].mean(dtype=np.float64), rtol=1e-6)
    split = average([(start, power[start : start + 37]) for start in range(0, 130, 37)], along=along, across=across)
    np.testing.assert_allclose(split, whole, rtol=1e-6)


def test_sample_at_turns_pixel_edges_into_sample_coordinates() -> None:
    across = lay_even_axis(100, spacing_m=10.0, pixel_m=50.0)
    assert across.sample_at(0) == -0.5  # the outer edge of the first sample
    assert across.sample_at(3) == 14.5


@pytest.mark.parametrize("angle", [0.0, 90.0, np.nan])
def test_impossible_angles_are_refused(angle: float) -> None:
    with pytest.raises(UserError, match="incidence angles between 0 and 90"):
        lay_slant_axis(np.array([30.0, angle]), spacing_m=2.0, pixel_m=1.0)


def test_an_image_smaller_than_a_pixel_is_refused() -> None:
    with pytest.raises(UserError, match="at least one pixel of 50 m"):
        lay_even_axis(4, spacing_m=10.0, pixel_m=50.0)
