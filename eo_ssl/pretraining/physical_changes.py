"""Changes of a sensor and what lies before it in physical units: sun, haze, blur, noise; speckle, gain, drift in dB.

They act on normalised images as they would have on physical values before normalisation: a linear change of reflectance
and a sum of decibels are linear after it too, and a blur of unit sum is the same on both sides of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eo_ssl.errors import UserError, expect
from eo_ssl.objectives import ViewSpec
from eo_ssl.objectives.views import OPTICAL, RADAR
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.augmentation import apply_gain
from eo_ssl.sensors import FLOOR_DB, Quantity, sensor

HAZE_UM = 0.55  # at which aerosol optical depth is stated by custom
SOLAR_UM = 3.0  # longer waves are emitted by the ground, not reflected
BLUR_RADIUS = 3  # taps on each side of the middle
_SMALLEST = 1e-30  # of a speckle that rounds to zero, -300 dB


class Chance(IntEnum):
    """Kinds of random numbers of a view; asking for one change moves no other's numbers."""

    GEOMETRY = 0  # shared by aligned views
    RADIOMETRY = 1
    SUN = 2
    HAZE = 3
    OFFSET = 4
    MTF = 5
    NOISE = 6
    SPECKLE = 7
    GAIN = 8
    DRIFT = 9
    BANDS = 10
    NETWORK = 11  # what a network draws while it trains


Draw = Callable[[Chance], torch.Generator]
"""The seeded generator of a view for one kind of random numbers."""


def refuse_misplaced_changes(name: str, spec: ViewSpec, contracts: Sequence[Preprocessing]) -> None:
    """Check that every change that the views `name` ask for has a stream to act on.

    Views of several streams take each change where it belongs: haze the optical one, speckle the radar.

    Args:
        name: of the group.
        spec: what is asked for.
        contracts: of the streams that views of the group are made of.

    Raises:
        UserError: a change of another quantity than any of the streams has, an SNR by other bands, a thermal band.
    """
    optical = [contract for contract in contracts if contract.final_quantity.is_reflectance]
    radar = [contract for contract in contracts if _is_backscatter(contract.final_quantity)]
    several = [contract for contract in contracts if len(contract.bands) > 1]
    given = " and ".join(sorted({contract.final_quantity.value for contract in contracts}))
    for names, streams, wanted, got in (
        (OPTICAL, optical, "reflectance", given),
        (RADAR, radar, "backscatter", given),
        (("drop_bands",), several, "several bands", "one band"),
    ):
        asked = ", ".join(spec.list_changes(names))
        if asked and not streams:
            raise UserError(
                f"expected a stream of {wanted} for {asked} in the views of '{name}', got {got};"
                f" leave out {asked}, or train on another stream"
            )
    for contract in optical if spec.list_changes(OPTICAL) else ():
        thermal = [band for band, um in zip(contract.bands, _wavelengths(contract), strict=True) if um > SOLAR_UM]
        expect(
            not thermal,
            expected=f"bands that reflect the sun in the views of '{name}'",
            got=", ".join(thermal),
            remedy="leave the band out of the stream, or the changes of reflectance out of the views",
        )
        if isinstance(spec.snr, Mapping):
            expect(
                set(spec.snr) == set(contract.bands),
                expected=f"snr of the bands {', '.join(contract.bands)} in the views of '{name}'",
                got=", ".join(spec.snr),
                remedy="give one number for each, or one for all",
            )


def augment_tiles(image: Tensor, valid: Tensor, spec: ViewSpec, contract: Preprocessing, draw: Draw) -> Tensor:
    """The tiles as another moment and another instrument might have given them: [B, C, H, W], normalised as they were.

    Nothing but measured pixels enters a measured pixel; what is invalid stays so, with any value.

    Args:
        image: [B, C, H, W] float32, normalised, on the sensor's own pixels.
        valid: [B, C, H, W] bool.
        spec: largest changes.
        contract: what normalised the image.
        draw: chance of these views.
    """
    if contract.final_quantity.is_reflectance:
        return _change_reflectance(image, valid, spec, contract, draw)
    if _is_backscatter(contract.final_quantity):
        return _change_backscatter(image, spec, contract, draw)
    return image


def drop_bands(valid: Tensor, *, share: float, rng: torch.Generator) -> Tensor:
    """Validity [B, C, H, W] bool without bands drawn for each tile, each with chance `share`, never all measured."""
    chance = torch.rand(valid.shape[:2], generator=rng)  # [B, C]
    measured = valid.flatten(2).any(2).cpu()
    dropped = chance < share
    kept = (chance + measured).argmax(1)  # the last that a rising share would drop
    dropped[torch.arange(len(kept)), kept] = False
    return valid & ~dropped.to(valid.device)[:, :, None, None]


# Reflectance


def _change_reflectance(image: Tensor, valid: Tensor, spec: ViewSpec, contract: Preprocessing, draw: Draw) -> Tensor:
    """Light, air, optics, detector, in this order: [B, C, H, W]."""
    batch, bands = image.shape[:2]
    std = image.new_tensor(contract.std).view(1, -1, 1, 1)
    if spec.sun_deg is not None:
        low, high = spec.sun_deg
        zenith = low + (high - low) * torch.rand(2, batch, generator=draw(Chance.SUN))
        image = apply_gain(image, compute_sun_ratio(*zenith)[:, None, None, None].to(image), contract)
    if spec.haze:
        amount = spec.haze * torch.rand(batch, 1, generator=draw(Chance.HAZE))
        path = amount * compute_haze_spectrum(_wavelengths(contract)).float()  # [B, C]
        image = image + path[:, :, None, None].to(image) / std
    if spec.offset:
        offset = spec.offset * (2 * torch.rand(batch, bands, 1, 1, generator=draw(Chance.OFFSET)) - 1)
        image = image + offset.to(image) / std
    if spec.mtf < 1:
        image = blur(image, valid, spec.mtf + (1 - spec.mtf) * torch.rand(batch, bands, generator=draw(Chance.MTF)))
    if spec.snr is not None:
        ratio = [spec.snr[band] if isinstance(spec.snr, Mapping) else spec.snr for band in contract.bands]
        deviation = image.new_tensor(contract.mean).abs().div(image.new_tensor(ratio)).view(1, -1, 1, 1)
        image = image + deviation / std * torch.randn(image.shape, generator=draw(Chance.NOISE)).to(image)
    return image


def compute_sun_ratio(zenith: Tensor, assumed: Tensor) -> Tensor:
    """Radiance of a horizontal surface under the sun at `zenith` over that at the `assumed` angle, both degrees."""
    return torch.deg2rad(zenith).cos() / torch.deg2rad(assumed).cos()


def compute_haze_spectrum(wavelengths_um: Sequence[float]) -> Tensor:
    """Path reflectance of each wavelength over that at `HAZE_UM`: [C] float64, inverse fourth powers.

    Chavez (1988) predicts the haze of all bands from one by a relative scattering model; this is that of molecules.
    """
    return (torch.tensor(wavelengths_um, dtype=torch.float64) / HAZE_UM) ** -4


def compute_blur_taps(mtf: Tensor) -> Tensor:
    """Filters whose response is the Gaussian that is `mtf` at Nyquist: any shape -> [..., 2 `BLUR_RADIUS` + 1] float64.

    Frequency sampling: equal to the Gaussian at `BLUR_RADIUS` + 1 frequencies from 0 to Nyquist. A sampled Gaussian
    would not be: its spectrum repeats, and at Nyquist two copies add up to twice the response.
    """
    order = torch.arange(BLUR_RADIUS + 1, dtype=torch.float64)
    response = mtf.double()[..., None] ** (order / BLUR_RADIUS) ** 2  # at order / (2 radius) cycles per pixel
    ends = torch.ones_like(order)
    ends[[0, -1]] = 0.5  # trapezoidal rule over the frequencies, and over the taps
    taps = (response * ends) @ torch.cos(torch.pi / BLUR_RADIUS * order[:, None] * order) * ends / BLUR_RADIUS
    taps[..., 0] *= 2
    return torch.cat([taps[..., 1:].flip(-1), taps], dim=-1)


def blur(image: Tensor, valid: Tensor, mtf: Tensor) -> Tensor:
    """Images [B, C, H, W] through optics of modulation transfer `mtf` [B, C] at Nyquist, in rows and columns.

    Weighs measured pixels only, which all keep a value; edge pixels repeat beyond the edge. Zero where invalid.
    """
    taps = compute_blur_taps(mtf).to(image)
    kernel = (taps[..., :, None] * taps[..., None, :]).flatten(0, 1)[:, None]  # [B C, 1, 7, 7]

    def convolve(x: Tensor) -> Tensor:
        padded = functional.pad(x.flatten(0, 1)[None], (BLUR_RADIUS,) * 4, mode="replicate")
        return functional.conv2d(padded, kernel, groups=len(kernel)).view_as(x)

    blank = image.new_zeros(())
    total = convolve(torch.where(valid, image, blank))
    if bool(valid.all()):
        return total
    return torch.where(valid, total / convolve(valid.to(image.dtype)), blank)


def _wavelengths(contract: Preprocessing) -> list[float]:
    """Centre of each band, micrometres."""
    bands = [sensor(contract.sensor).band(name) for name in contract.bands]
    missing = [band.name for band in bands if band.wavelength_um is None]
    expect(not missing, expected="bands with a wavelength", got=", ".join(missing), remedy="leave out the change")
    return [band.wavelength_um or 0.0 for band in bands]


# Backscatter


def _is_backscatter(quantity: Quantity) -> bool:
    """Power, its dB, or its root."""
    return quantity.is_power or quantity.is_db or quantity == Quantity.AMPLITUDE


def _change_backscatter(image: Tensor, spec: ViewSpec, contract: Preprocessing, draw: Draw) -> Tensor:
    """Geometry, gain and speckle as one sum of decibels: [B, C, H, W]."""
    if not spec.list_changes(RADAR):
        return image
    batch, bands = image.shape[:2]
    change = torch.zeros(batch, bands, 1, 1)
    if spec.gain_db:
        change = spec.gain_db * (2 * torch.rand(change.shape, generator=draw(Chance.GAIN)) - 1)
    if spec.drift_db:
        slope = spec.drift_db * (2 * torch.rand(batch, bands, 1, 1, generator=draw(Chance.DRIFT)) - 1)
        change = change + slope * torch.linspace(-0.5, 0.5, image.shape[-1])
    if spec.looks is not None:
        change = change + 10 * draw_speckle(image.shape, looks=spec.looks, rng=draw(Chance.SPECKLE)).log10()
    return add_decibels(image, change.to(image), contract)


def draw_speckle(shape: Sequence[int], *, looks: float, rng: torch.Generator) -> Tensor:
    """Factors of power, float32: gamma with mean 1 and variance 1 / `looks`, each pixel for itself.

    Fully developed speckle of averaged looks (Goodman 1976). NumPy draws it, because torch's gamma takes no generator.
    """
    gamma = np.random.default_rng(rng.initial_seed()).standard_gamma(looks, size=tuple(shape), dtype=np.float32)
    return torch.from_numpy(gamma).div_(looks).clamp_(min=_SMALLEST)


def add_decibels(image: Tensor, change: Tensor, contract: Preprocessing) -> Tensor:
    """The normalised image whose power is `change` dB higher; dB stay above the floor that the contract reads with.

    Args:
        image: [B, C, H, W], normalised by `contract`, of power, amplitude or dB.
        change: broadcasts to the image, dB.
        contract: gives mean and standard deviation of each band, and the quantity.
    """
    if contract.final_quantity.is_db:
        mean, std = (image.new_tensor(values).view(1, -1, 1, 1) for values in (contract.mean, contract.std))
        return torch.maximum(image + change / std, (FLOOR_DB - mean) / std)
    decade = 20 if contract.final_quantity == Quantity.AMPLITUDE else 10  # dB of a factor of ten
    return apply_gain(image, 10 ** (change / decade), contract)
