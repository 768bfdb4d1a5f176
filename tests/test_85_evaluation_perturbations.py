"""What is done to test images on purpose is the same physical departure in whichever quantity they are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from eo_ssl.evaluation.perturbations import Perturbation, PerturbedSource, list_perturbations
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

POWER = np.random.default_rng(0).uniform(0.02, 0.3, size=(2, 2, 16, 16)).astype(np.float32)


@dataclass(frozen=True)
class Images:
    """Images in memory."""

    x: np.ndarray
    sensor: str
    quantity: Quantity
    bands: tuple[str, ...]
    gsd_m: float = 10.0
    fingerprint: str = "f" * 64

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.shape[1:]  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.x)

    def read(self, positions: np.ndarray, out: np.ndarray) -> None:
        out[...] = self.x[positions]


def tried(
    x: np.ndarray, quantity: Quantity, *, sensor: str = "sentinel1_rtc", bands: tuple[str, ...] = ("VV", "VH")
) -> dict[str, np.ndarray]:
    """Each perturbation's images."""
    low, high = quantity.plausible
    contract = Preprocessing(
        sensor=sensor,
        quantity=quantity,
        bands=bands,
        convert=(),
        range=(low, high),
        clip=None,
        mean=(0.0,) * len(bands),
        std=(1.0,) * len(bands),
        size_px=16,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
    source = Images(x, sensor, quantity, bands)

    def made(one: Perturbation) -> np.ndarray:
        images = PerturbedSource(source, one)
        out = np.empty((len(x), *images.shape), np.float32)
        images.read(np.arange(len(x)), out)
        return out

    return {one.name: made(one) for one in list_perturbations(source, contract, seed=3)}


def test_decibels_change_as_the_power_they_stand_for() -> None:
    power = tried(POWER, Quantity.GAMMA0)
    decibel = tried(10 * np.log10(POWER), Quantity.GAMMA0_DB)
    assert list(power) == list(decibel)
    assert {"speckle", "gain", "without VV", "without VH", "half resolution", "centre half"} == set(power)
    for name in power:
        np.testing.assert_allclose(10 ** (decibel[name] / 10), power[name], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(power["gain"], POWER * 10**0.1, rtol=1e-5)
    np.testing.assert_allclose(power["half resolution"][0, 0, 0, 0], POWER[0, 0, :2, :2].mean(), rtol=1e-5)


def test_amplitude_is_the_root_of_power() -> None:
    power, amplitude = tried(POWER, Quantity.GAMMA0), tried(np.sqrt(POWER), Quantity.AMPLITUDE)
    for name in ("speckle", "gain"):
        np.testing.assert_allclose(amplitude[name] ** 2, power[name], rtol=1e-4, err_msg=name)


def test_noise_of_plain_numbers_is_a_hundredth_of_8_bits() -> None:
    grey = np.full((1, 3, 64, 64), 100, np.float32)
    found = tried(grey, Quantity.DN, sensor="aerial_rgb", bands=("R", "G", "B"))
    assert (found["noise"] - grey).std() == pytest.approx(2.55, rel=0.05)
    np.testing.assert_allclose(found["gain"], 110, rtol=1e-6)
    assert {"without R", "without G", "without B"} <= set(found)
