"""The shift between two images: recovered where it was planted, through contrast reversal and speckle, and not claimed where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from eo_ssl.pairing import PairConfig, ShiftEstimator
from eo_ssl.pairing.shift import compute_orientation


def scene(rng: np.random.Generator, size: int) -> np.ndarray:
    """Fields with edges in all directions, smooth inside, periodic."""
    y, x = np.mgrid[:size, :size] / size
    image = np.zeros((size, size))
    for _ in range(60):
        a, b = rng.integers(-6, 7, 2)
        image += np.where(np.sin(2 * np.pi * (a * x + b * y + rng.random())) > 0.3, rng.normal(), 0)
    return image


def moved(image: np.ndarray, row: float, col: float) -> np.ndarray:
    """The periodic image shifted exactly, by the phase of its Fourier transform."""
    rows, cols = np.meshgrid(np.fft.fftfreq(len(image)), np.fft.fftfreq(len(image)), indexing="ij")
    return np.real(np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * (rows * row + cols * col))))


def blurred(image: np.ndarray) -> np.ndarray:
    """Band-limited, as an instrument's point spread makes it: only then is a sub-pixel shift defined."""
    rows, cols = np.meshgrid(np.fft.fftfreq(len(image)), np.fft.fftfreq(len(image)), indexing="ij")
    return np.real(np.fft.ifft2(np.fft.fft2(image) * np.exp(-((rows**2 + cols**2) / (2 * 0.16**2)))))


@pytest.mark.parametrize(("row", "col"), [(0.0, 0.0), (1.0, -2.0), (0.35, 0.7), (-2.6, 1.45), (4.5, -4.25)])
def test_a_planted_shift_comes_back_from_radar_like_pictures_of_the_same_ground(row: float, col: float) -> None:
    rng = np.random.default_rng(7)
    estimator = ShiftEstimator(64)
    for _ in range(12):
        ground = blurred(scene(rng, 256))
        optical = ground[64:128, 64:128]
        # Radar: contrast reversed and bent, gamma speckle of 4.4 looks, in dB.
        power = np.exp(-0.8 * moved(ground, row, col)) * rng.gamma(4.4, 1 / 4.4, ground.shape)
        radar = 10 * np.log10(power)[64:128, 64:128]
        estimator.add(optical[None].astype(np.float32), radar[None].astype(np.float32))
    found = estimator.estimate()
    assert found.row_px == pytest.approx(row, abs=0.15)
    assert found.col_px == pytest.approx(col, abs=0.15)
    assert found.score > PairConfig().min_score
    assert found.tiles == 12


def test_unrelated_pictures_give_no_score_that_counts() -> None:
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(40):
        estimator = ShiftEstimator(64)
        for _ in range(6):
            one, two = (blurred(scene(rng, 128))[:64, :64] for _ in range(2))
            estimator.add(one[None].astype(np.float32), two[None].astype(np.float32))
        scores.append(estimator.estimate().score)
    assert max(scores) < PairConfig().min_score


def test_invalid_pixels_and_the_border_add_nothing() -> None:
    rng = np.random.default_rng(2)
    image = scene(rng, 64)[None].astype(np.float32)
    hole = image.copy()
    hole[0, 20:30, 20:30] = np.nan
    field = compute_orientation(hole)
    assert not field[18:32, 18:32].any()
    assert not field[:3].any() and not field[:, -3:].any()
    untouched = np.s_[40:58, 40:58]
    np.testing.assert_allclose(np.angle(field[untouched]), np.angle(compute_orientation(image)[untouched]), atol=1e-9)


def test_brightness_does_not_matter_and_reversal_does_not_either() -> None:
    rng = np.random.default_rng(3)
    image = blurred(scene(rng, 64))[None].astype(np.float32)
    np.testing.assert_allclose(compute_orientation(image), compute_orientation(-3 * image + 5), atol=1e-4)
