"""Gradients of radar images as ratios: the authors' dense windows, closed forms, and what must not make an edge."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import View, split_patches
from eo_ssl.objectives.ratio_gradients import (
    RatioGradients,
    compute_gradient_patches,
    compute_ratio_gradients,
    find_known_gradients,
)
from eo_ssl.preprocessing import compute_amplitude
from eo_ssl.sensors import Quantity
from tiles import radar_contract

SCALES = (5, 9, 13, 17)


def dense(x: np.ndarray, k: int, window: str, floor: float = 0.01) -> np.ndarray:
    """Pixel by pixel over whole windows, as the authors define them: x [H, W] -> [H, W]."""
    offset = np.arange(-k, k + 1)
    weight = np.ones((2 * k + 1, 2 * k + 1))
    left, right = np.tile(offset <= 0, (2 * k + 1, 1)), np.tile(offset >= 0, (2 * k + 1, 1))
    if window == "gauss":
        sigma = 0.3 * ((2 * k + 1 - 1) * 0.5 - 1) + 0.8
        weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * sigma**2))
        left, right = np.tile(offset < 0, (2 * k + 1, 1)), np.tile(offset > 0, (2 * k + 1, 1))
    padded = np.pad(x, k, mode="reflect") + floor
    out = np.empty_like(x)
    for i, j in np.ndindex(x.shape):
        part = padded[i : i + 2 * k + 1, j : j + 2 * k + 1] * weight
        gx = math.log(part[left].sum() / part[right].sum())
        gy = math.log(part[left.T].sum() / part[right.T].sum())
        out[i, j] = math.sqrt(gx**2 + gy**2)
    return out


def one(x: np.ndarray, **options: object) -> np.ndarray:
    """Gradients of one image [H, W]: [S, H, W]."""
    image = torch.from_numpy(np.ascontiguousarray(x))[None, None]
    return compute_ratio_gradients(image, RatioGradients(**options))[0, 0].numpy()


@pytest.mark.parametrize("window", ["box", "gauss"])
def test_separable_windows_equal_the_dense_ones(window: str, rng) -> None:
    x = rng.gamma(1, 0.2, size=(23, 20))
    wanted = np.stack([dense(x, k, window) for k in (2, 9, 17)])
    np.testing.assert_allclose(one(x, scales=(2, 9, 17), window=window), wanted, atol=1e-10)
    np.testing.assert_allclose(one(np.float32(x), scales=(2, 9, 17), window=window), wanted, atol=1e-5)


def test_a_constant_has_no_gradient_and_a_black_image_a_finite_one() -> None:
    assert np.abs(one(np.full((40, 40), 0.3))).max() < 1e-12
    assert np.abs(one(np.zeros((40, 40), np.float32))).max() < 1e-5


def test_a_step_peaks_at_the_edge_as_the_closed_form_says() -> None:
    x = np.full((96, 96), 0.1)
    x[:, 48:] = 0.8
    for k, found, wanted in zip(SCALES, one(x), (1.841, 1.906, 1.933, 1.947), strict=True):
        row = found[48]
        assert row.argmax() in (47, 48) and row.max() == pytest.approx(wanted, abs=1e-3)
        assert row[47] == pytest.approx(math.log((0.11 + 0.81 * k) / (0.11 * (k + 1))), rel=1e-9)
        assert np.flatnonzero(row > 1e-9)[[0, -1]].tolist() == [48 - k, 47 + k]  # no pixel further than a window
        assert (np.diff(row[:48]) > -1e-12).all() and (np.diff(row[48:]) < 1e-12).all()


def test_gain_does_not_change_it_and_noise_falls_with_the_scale(rng) -> None:
    power = rng.gamma(1, 1, size=(256, 256))  # one look
    x = 0.2 * np.sqrt(power)
    change = np.abs(one(2.5 * x).mean((1, 2)) - one(x).mean((1, 2)))
    assert change.max() < 0.02  # the floor of 0.01 weighs less on a brighter image
    assert np.abs(one(2.5 * x, floor=1e-9) - one(x, floor=1e-9)).max() < 1e-6
    mean = one(x)[:, 64:-64, 64:-64].mean((1, 2))
    assert (np.diff(mean) < 0).all()
    assert mean[0] / mean[3] == pytest.approx(17 / 5, rel=0.25)  # about 1 / k
    looks = rng.gamma(4, 1 / 4, size=(256, 256))
    assert one(0.2 * np.sqrt(looks)).mean() / one(x).mean() == pytest.approx(0.5, rel=0.15)  # 1 / sqrt(looks)


def test_decibels_are_not_ratios(rng) -> None:
    """A target of dB would have no meaning: negative values are refused, and a dB stream is converted back."""
    with pytest.raises(UserError, match="linear amplitudes of at least 0 for gradients of ratios, got -1"):
        compute_ratio_gradients(torch.full((1, 1, 32, 32), -12.0), RatioGradients())
    amplitude = torch.from_numpy(rng.gamma(2, 0.1, size=(2, 2, 32, 32)))
    wanted = split_patches(compute_ratio_gradients(amplitude, RatioGradients()).flatten(1, 2), 8).flatten(2)
    shown = {
        Quantity.SIGMA0_DB: 20 * amplitude.log10(),
        Quantity.SIGMA0: amplitude.square(),
        Quantity.AMPLITUDE: amplitude,
    }
    for quantity, values in shown.items():
        contract = radar_contract(2, quantity)
        image = (values - contract.mean[0]) / contract.std[0]
        view = View(image, torch.ones_like(image, dtype=torch.bool), ("VV", "VH"))
        found, known = compute_gradient_patches(view, contract, RatioGradients(), patch_px=8)
        torch.testing.assert_close(found, wanted)
        assert found.shape == (2, 16, 2 * 4 * 64) and known.all()
    contract = radar_contract(1, Quantity.AMPLITUDE)
    dark = torch.full((1, 1, 2, 2), (0 - contract.mean[0]) / contract.std[0] - 0.1)  # below zero after noise
    assert torch.equal(compute_amplitude(dark, contract), torch.zeros(1, 1, 2, 2))


def test_a_missing_pixel_is_in_no_known_gradient(rng) -> None:
    config = RatioGradients(scales=(2, 5))
    valid = torch.from_numpy(rng.random((2, 1, 20, 24)) > 0.01)
    known = find_known_gradients(valid, config)
    for s, k in enumerate(config.scales):
        for b, i, j in np.ndindex(2, 20, 24):
            part = valid[b, 0, max(i - k, 0) : i + k + 1, max(j - k, 0) : j + k + 1]
            assert bool(known[b, 0, s, i, j]) == bool(part.all())
    amplitude = torch.from_numpy(rng.gamma(2, 0.1, size=(2, 1, 20, 24)))
    first = compute_ratio_gradients(torch.where(valid, amplitude, 0.0), config)
    second = compute_ratio_gradients(torch.where(valid, amplitude, 9.0), config)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first[known], second[known])


def test_refusals() -> None:
    for make, words in (
        (lambda: RatioGradients(scales=()), "one or more whole numbers"),
        (lambda: RatioGradients(window="disc"), "'box' or 'gauss'"),
        (lambda: RatioGradients(floor=0), "floor must be above 0"),
        (lambda: RatioGradients().check_size(17), "scales of gradients below the tile's 17 px, got 17"),
    ):
        with pytest.raises(UserError, match=words):
            make()
