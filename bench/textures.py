"""A radar archive of ten kinds of speckled texture, one of them most of it: what curation is to do is known in it.

The kinds differ in how their
reflectivity scatters (correlation length, contrast, stripes, points, edges); gain differs from chip to chip and tells
nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.chip_set import ChipSet, Images

SHARES = (0.72, 0.10, 0.06, 0.035, 0.025, 0.02, 0.015, 0.01, 0.008, 0.007)
"""of the kinds in the long-tailed set: the first is most of it"""
SIZE_PX = 24
LOOKS = 1.0
FULL_SCALE = 6.0  # amplitude of the largest grey level
Seed = int | list[int]


def make_textures(folder: Path, *, seed: Seed, rows: int, shares: Sequence[float] = SHARES) -> Path:
    """Write a set for training and return its card.

    Args:
        folder: of the set, which is named by its last part.
        seed: of everything random; another seed is another archive of the same world.
        rows: number of chips.
        shares: of the kinds among them.
    """
    counts = [max(1, round(share * rows)) for share in shares]
    counts[0] += rows - sum(counts)
    kinds = np.repeat(np.arange(len(shares)), counts)
    return _write(folder, kinds, np.full(rows, "train"), seed=seed)


def make_judged_textures(folder: Path, *, seed: Seed, each: int, tested: int) -> Path:
    """Write a balanced set to judge on, `each` training and `tested` test chips of each kind, and return its card."""
    kinds = np.repeat(np.arange(len(SHARES)), each + tested)
    split = np.tile(np.repeat(["train", "test"], [each, tested]), len(SHARES))
    return _write(folder, kinds, split, seed=seed)


def draw_textures(kinds: npt.NDArray[np.integer], rng: np.random.Generator) -> Images:
    """Amplitudes of chips of the given kinds: float64 [n, SIZE_PX, SIZE_PX]."""
    images = np.empty((len(kinds), SIZE_PX, SIZE_PX))
    for kind in np.unique(kinds):
        (places,) = np.nonzero(kinds == kind)
        images[places] = _draw_reflectivity(int(kind), len(places), rng)
    gain = 10 ** (rng.uniform(-3, 3, (len(kinds), 1, 1)) / 20)
    speckle = rng.gamma(LOOKS, 1 / LOOKS, images.shape)
    return np.asarray(gain * np.sqrt(images * speckle))


def _draw_reflectivity(kind: int, n: int, rng: np.random.Generator) -> Images:
    """Mean power of chips of one kind, which scatters about 1."""
    if kind in (5, 6):
        period = np.array([4.0, 7.0])[kind - 5] * rng.uniform(0.9, 1.1, (n, 1, 1))
        return np.asarray(np.exp(0.9 * np.sin(2 * np.pi * _slope(n, rng) / period) - 0.25))
    if kind == 7:
        points = rng.random((n, SIZE_PX, SIZE_PX)) < 0.012
        return np.asarray(0.5 + 25 * points * rng.uniform(0.5, 1.5, points.shape))
    if kind == 8:
        return np.asarray(np.where(_scatter(n, rng, length=3.0) > 0.4, 2.2, 0.5))
    if kind == 9:
        return np.asarray(np.where(_slope(n, rng) > rng.uniform(-4, 4, (n, 1, 1)), 1.8, 0.5))
    length, mean = ((1.5, 0.5), (3.0, 0.5), (0.8, 0.9), (6.0, 0.6), (1.5, 1.0))[kind]
    contrast = mean * rng.uniform(0.85, 1.15, (n, 1, 1))
    return np.asarray(np.exp(contrast * _scatter(n, rng, length=length) - contrast**2 / 2))


def _scatter(n: int, rng: np.random.Generator, *, length: float) -> Images:
    """Gaussian fields of unit variance with a correlation length in px, which scatters by 15 %."""
    lengths = length * rng.uniform(0.85, 1.15, (n, 1, 1))
    f = np.fft.fftfreq(SIZE_PX)
    power = np.exp(-2 * (np.pi * lengths) ** 2 * (f[:, None] ** 2 + f[None] ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, SIZE_PX, SIZE_PX))) * power).real
    return np.asarray((field - field.mean((1, 2), keepdims=True)) / field.std((1, 2), keepdims=True))


def _slope(n: int, rng: np.random.Generator) -> Images:
    """Distance in px along a random direction from the middle of each chip."""
    place = np.arange(SIZE_PX) - (SIZE_PX - 1) / 2
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    return np.asarray(np.cos(angle) * place[:, None] + np.sin(angle) * place[None])


def _write(folder: Path, kinds: npt.NDArray[np.integer], split: npt.NDArray[np.str_], *, seed: Seed) -> Path:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(kinds))
    kinds, split = kinds[order], split[order]
    named = np.array([f"kind_{kind}" for kind in kinds])
    images = draw_textures(kinds, rng)
    facts = {"licence": "generated", "attribution": "none", "source": "generated", "citation": "none"}
    pitfall = "Gain differs from chip to chip and tells nothing of the kind."
    chips = ChipSet(f"Generated speckled textures, {len(kinds)} chips", images, named, split, FULL_SCALE, facts)
    return chips.write(folder, pitfall=pitfall)
