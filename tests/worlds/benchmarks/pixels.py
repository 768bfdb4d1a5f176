"""Pixels of one patch: optical reflectance at the top of the atmosphere or at the surface, and backscatter in dB."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eo_ssl.landcover import CLASSES, S2_BANDS, tabulate
from eo_ssl.sample.fields import Floats, draw_smooth_noise
from eo_ssl.sample.optical import QUANTIFICATION
from worlds.benchmarks.eurosat import CHIP_PX, EUROSAT_BANDS, draw_eurosat_chip

Codes = npt.NDArray[np.uint16]
LOOKS = 4.4  # of ground-range products in IW mode (Sentinel-1 Product Definition, table 5-1: 4.4 looks)


def draw_top_codes(seed: int, label: int, number: int, *, bands: tuple[str, ...], size_px: int) -> Codes:
    """Return patch ``number`` of class ``label`` above the atmosphere, [band, y, x] uint16, reflectance x 10,000.

    The patch is that of the generated EuroSAT (class modulo ten), repeated by mirroring where it is too small.
    """
    chip = draw_eurosat_chip(seed, label % 10, number)[[EUROSAT_BANDS.index(band) for band in bands]]
    if size_px > CHIP_PX:
        chip = np.pad(chip, ((0, 0), (0, size_px - CHIP_PX), (0, size_px - CHIP_PX)), mode="symmetric")
    return np.asarray(chip[:, :size_px, :size_px])


def draw_surface_codes(seed: int, label: int, number: int, *, bands: tuple[str, ...], size_px: int) -> dict[str, Codes]:
    """Return patch ``number`` of class ``label`` at the surface: band -> [y, x] uint16, 10 m, reflectance x 10,000."""
    rng = np.random.default_rng([seed, 11, label, number])
    cover, growth = label % len(CLASSES), rng.uniform(0.2, 0.9)
    sigma = tabulate("texture")[cover]
    fine, medium = draw_smooth_noise(rng, size_px, scale_px=0.6), draw_smooth_noise(rng, size_px, scale_px=4.0)
    light = rng.uniform(0.85, 1.15) * np.exp(sigma[0] * fine + sigma[1] * medium)
    dormant, green = tabulate("dormant")[cover], tabulate("green")[cover]
    spectrum = dormant + growth * (green - dormant)
    return {
        band: np.clip(np.rint(spectrum[S2_BANDS.index(band)] * light * QUANTIFICATION), 1, 65_534).astype(np.uint16)
        for band in bands
    }


def draw_backscatter_db(seed: int, label: int, number: int, *, size_px: int) -> dict[str, Floats]:
    """Return patch ``number`` of class ``label`` in dB: VV and VH -> [y, x] float32, with speckle of `LOOKS` looks."""
    rng = np.random.default_rng([seed, 13, label, number])
    cover = CLASSES[label % len(CLASSES)]
    ground = cover.roughness_db * draw_smooth_noise(rng, size_px, scale_px=3.0) + rng.normal(0.0, 1.0)
    patch = {}
    for name, level in (("VV", cover.vv_db), ("VH", cover.vh_db)):
        speckle = rng.gamma(LOOKS, 1.0 / LOOKS, (size_px, size_px))
        patch[name] = (level + ground + 10.0 * np.log10(speckle)).astype(np.float32)
    return patch
