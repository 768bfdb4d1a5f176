"""Perturbations of test images: offset, gain, noise, speckle, a missing band, half the resolution, a crop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from eo_ssl.evaluation.sources import DerivedSource, ImageSource, Matrix, Rows, read_images
from eo_ssl.fingerprints import fingerprint
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity

Pixels = Callable[[Matrix, Rows], None]
"""Changes images [n, C, H, W] in place, given their positions."""
OFFSET = 0.1
"""1,000 numbers of 1e-4: the offset of Sentinel-2's baselines from 04.00 on, forgotten or subtracted twice."""


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One departure from the images an encoder was trained on."""

    name: str
    about: str
    "what is done, in words"
    pixels: Pixels | None = None
    contract: Callable[[Preprocessing], Preprocessing] | None = None
    "changes how the encoder takes its input"
    dropped: str | None = None
    "band that is not given"
    crop_px: int | None = None
    "side of the centre that is given alone"
    instead: tuple[ImageSource, ...] = ()
    "images taken in place of those of each source; none for the same"


@dataclass(frozen=True, slots=True)
class PerturbedSource(DerivedSource):
    """Images of another source with one perturbation; their tags stay, since nobody noticed."""

    perturbation: Perturbation

    @property
    def bands(self) -> tuple[str, ...]:
        """Those of the source, a dropped one under a name that no contract asks for."""
        dropped = self.perturbation.dropped
        return tuple(f"no {band}" if band == dropped else band for band in self.source.bands)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width of each image."""
        crop, (bands, height, width) = self.perturbation.crop_px, self.source.shape
        return (bands, height, width) if crop is None else (bands, crop, crop)

    @property
    def fingerprint(self) -> str:
        """Of the source and what was done to it."""
        return fingerprint([self.source.fingerprint, self.perturbation.name, self.perturbation.about])

    def __len__(self) -> int:
        return len(self.source)

    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, C, H, W] with the perturbed images at ``positions``."""
        crop = self.perturbation.crop_px
        if crop is None:
            self.source.read(positions, out)
        else:
            whole = read_images(self.source, positions).numpy()
            top, left = ((side - crop) // 2 for side in whole.shape[2:])
            out[...] = whole[:, :, top : top + crop, left : left + crop]
        if self.perturbation.pixels is not None:
            self.perturbation.pixels(out, positions)


def list_perturbations(source: ImageSource, contract: Preprocessing, *, seed: int = 0) -> tuple[Perturbation, ...]:
    """Return what can be tried on images like those of ``source`` for an encoder with ``contract``.

    All: gain (10 %; of radar 1 dB, Sentinel-1's absolute accuracy), noise (of radar speckle of 5 looks), each of
    several bands missing in turn and filled with its mean, half the resolution, and the centre alone, half the input
    size. Reflectance: also the offset of baseline 04 left in or subtracted twice.
    """
    quantity, found = source.quantity, []
    if quantity.is_reflectance:
        found += [
            Perturbation("offset +0.1", "reflectance + 0.1: the offset of baseline 04.00 left in", _added(OFFSET)),
            Perturbation("offset -0.1", "reflectance - 0.1: the offset subtracted twice", _added(-OFFSET)),
        ]
    if quantity.is_power or quantity.is_db or quantity == Quantity.AMPLITUDE:
        found.append(
            Perturbation("speckle", "power times gamma noise of mean 1 and 5 looks", _speckle(5.0, quantity, seed))
        )
        raised = _added(1.0) if quantity.is_db else _scaled(10 ** (0.1 if quantity.is_power else 0.05))
        found.append(Perturbation("gain", "power raised by 1 dB", raised))
    else:
        std = 0.01 if quantity.is_reflectance else 2.55  # a hundredth of what 8 bits hold
        found.append(Perturbation("noise", f"Gaussian noise of standard deviation {std:g}", _noise(std, seed)))
        found.append(Perturbation("gain", "values raised by 10 %", _scaled(1.1)))
    found += [_without(band) for band in contract.bands if len(contract.bands) > 1]
    half = min(source.shape[1:]) // 2
    if half:
        found.append(Perturbation("half resolution", "means of 2 x 2 pixels in place of each", _halved(quantity)))
        found.append(Perturbation("centre half", f"only the centre of {half} px is given", crop_px=half))
    return tuple(found)


def _without(band: str) -> Perturbation:
    return Perturbation(
        f"without {band}",
        f"band {band} missing, filled with its training mean",
        contract=lambda contract: replace(contract, missing="fill_mean"),
        dropped=band,
    )


def _added(offset: float) -> Pixels:
    def change(out: Matrix, _: Rows) -> None:
        out += np.float32(offset)

    return change


def _scaled(gain: float) -> Pixels:
    def change(out: Matrix, _: Rows) -> None:
        out *= np.float32(gain)

    return change


def _noise(std: float, seed: int) -> Pixels:
    def change(out: Matrix, positions: Rows) -> None:
        for image, position in zip(out, positions.tolist(), strict=True):  # seeded by image: batches do not matter
            image += np.random.default_rng([seed, position]).normal(0.0, std, image.shape).astype(np.float32)

    return change


def _speckle(looks: float, quantity: Quantity, seed: int) -> Pixels:
    def change(out: Matrix, positions: Rows) -> None:
        for image, position in zip(out, positions.tolist(), strict=True):
            gamma = np.random.default_rng([seed, position]).gamma(looks, 1 / looks, image.shape)
            if quantity.is_db:
                image += (10 * np.log10(gamma)).astype(np.float32)
            else:
                image *= (gamma if quantity.is_power else np.sqrt(gamma)).astype(np.float32)

    return change


def _halved(quantity: Quantity) -> Pixels:
    """Means of 2 x 2 pixels, each repeated: the size stays, the resolution halves. Decibels are averaged as power."""

    def change(out: Matrix, _: Rows) -> None:
        height, width = (side // 2 * 2 for side in out.shape[2:])
        whole = out[:, :, :height, :width]
        fine = 10 ** (whole / 10) if quantity.is_db else whole
        blocks = fine.reshape(*out.shape[:2], height // 2, 2, width // 2, 2).mean(axis=(3, 5))
        blocks = 10 * np.log10(blocks) if quantity.is_db else blocks
        whole[...] = blocks.repeat(2, axis=2).repeat(2, axis=3)

    return change
