"""What a band is, in numbers: its wavelength or its polarisation as a code that a network can compute with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.sensors import sensor as sensor_named

POLARISATIONS = ("VV", "VH", "HH", "HV")
PERIODS = (8.0, 0.25)
"""Longest and shortest period of the waves, in units of ln(wavelength): 0.4 to 12.5 um span 3.4 of them, Sentinel-2's
two nearest bands (B08 and B8A) lie 0.038 apart, blue of Sentinel-2 and Landsat 8 0.022. Ours: bands of two sensors
that see the same colour get nearly the same code, where DOFA's waves of whole nanometres (Xiong et al. 2024, arXiv
2403.15356) would tell them apart."""
WAVES = 16
"""Pairs of sine and cosine, their periods a geometric series; ours."""
CODE_DIM = 2 * WAVES + len(POLARISATIONS)
"""Numbers of a code."""


def encode_bands(sensor: str, bands: Sequence[str]) -> Tensor:
    """Codes of bands of a registered sensor, [C, 36] float32, each of mean square 1.

    An optical band has sine and cosine of 2 pi ln(wavelength in um) / period, sixteen pairs, and zeros; a radar band
    has zeros and one of four numbers, for VV, VH, HH and HV.

    Raises:
        UserError: a band with neither a central wavelength nor a polarisation.
    """
    known = sensor_named(sensor)
    longest, shortest = PERIODS
    periods = [longest * (shortest / longest) ** (wave / (WAVES - 1)) for wave in range(WAVES)]
    codes = torch.zeros(len(bands), CODE_DIM, dtype=torch.float64)
    for row, name in enumerate(bands):
        band = known.band(name)
        expect(
            band.wavelength_um is not None or band.name in POLARISATIONS,
            expected="bands with a central wavelength or a polarisation, by which the network knows them",
            got=f"{band.name} of {sensor}",
            remedy="choose --model Vit",
        )
        if band.wavelength_um is None:
            codes[row, 2 * WAVES + POLARISATIONS.index(band.name)] = math.sqrt(CODE_DIM)
            continue
        for wave, period in enumerate(periods):
            phase = 2 * math.pi * math.log(band.wavelength_um) / period
            codes[row, 2 * wave], codes[row, 2 * wave + 1] = math.sin(phase), math.cos(phase)
        codes[row] *= math.sqrt(CODE_DIM / WAVES)
    return codes.float()
