"""Augmentations of normalised images that keep their physics: geometry, and the radiometric gain in physical units."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from eo_ssl.preprocessing import Preprocessing, resample_masked

CROP_ASPECT = (3 / 4, 4 / 3)  # width over height of a random resized crop (Szegedy et al. 2015, section 6)
_TURNS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.flip(2),
    lambda x: x.flip(3),
    lambda x: x.transpose(2, 3),
)  # generate the eight symmetries of the square


def apply_gain(image: Tensor, gain: Tensor, contract: Preprocessing) -> Tensor:
    """The normalised image whose physical linear values are `gain` times as large.

    A gain multiplies reflectance, amplitude and power; in dB it adds 10 log10(gain).

    Args:
        image: [B, C, H, W] float32, normalised by `contract`.
        gain: [B, C, 1, 1] float32, linear.
        contract: gives mean and standard deviation of each band, and the quantity.
    """
    mean, std = (image.new_tensor(values).view(1, -1, 1, 1) for values in (contract.mean, contract.std))
    if contract.final_quantity.is_db:
        return image + 10 * gain.log10() / std
    return gain * image + (gain - 1) * mean / std


def turn_randomly(image: Tensor, valid: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries of the square for each tile: [B, C, S, S] twice, pixels moved, never changed."""
    for chosen, turn in zip(torch.rand(3, image.shape[0], generator=rng) < 0.5, _TURNS, strict=True):
        where = chosen.to(image.device).view(-1, 1, 1, 1)
        image, valid = torch.where(where, turn(image), image), torch.where(where, turn(valid), valid)
    return image, valid


def crop_randomly(
    image: Tensor, valid: Tensor, *, scale: tuple[float, float], rng: torch.Generator, size_px: int | None = None
) -> tuple[Tensor, Tensor]:
    """A random part of each tile, bilinearly resized, weighing measured pixels only.

    Args:
        image: [B, C, H, W] float32, normalised.
        valid: [B, C, H, W] bool.
        scale: range of the share of the area.
        rng: source of randomness (CPU).
        size_px: side of the result, pixels; None for the tile's.

    Returns:
        image [B, C, size_px, size_px], zero where invalid, and valid.
    """
    batch = image.shape[0]
    area = scale[0] + (scale[1] - scale[0]) * torch.rand(batch, generator=rng)  # [B], share of the tile
    low, high = (math.log(bound) for bound in CROP_ASPECT)
    aspect = (low + (high - low) * torch.rand(batch, generator=rng)).exp()  # [B]
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)  # [B], share of a side
    left, top = (1 - width) * torch.rand(batch, generator=rng), (1 - height) * torch.rand(batch, generator=rng)
    theta = torch.zeros(batch, 2, 3)  # maps output to input coordinates in [-1, 1]
    theta[:, 0, 0], theta[:, 0, 2] = width, 2 * left + width - 1
    theta[:, 1, 1], theta[:, 1, 2] = height, 2 * top + height - 1
    return _resample_window(image, valid, theta, size_px or image.shape[-1])


def resize_whole(image: Tensor, valid: Tensor, *, size_px: int) -> tuple[Tensor, Tensor]:
    """Tiles brought to a side, weighing measured pixels only: [B, C, S, S] twice -> [B, C, size_px, size_px] twice."""
    theta = torch.eye(2, 3).expand(len(image), -1, -1)
    return _resample_window(image, valid, theta, size_px)


def _resample_window(image: Tensor, valid: Tensor, theta: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """The windows that `theta` [B, 2, 3] maps output to input coordinates of, both in [-1, 1]."""
    shape = [*image.shape[:2], size_px, size_px]
    grid = functional.affine_grid(theta.to(image.device), shape, align_corners=False)  # [B, H, W, 2]
    if bool(valid.all()):
        return _resample(image, grid), valid.new_ones(shape)
    values, known = resample_masked(image, valid, lambda x: _resample(x, grid))
    return torch.where(known, values, values.new_zeros(())), known


def _resample(x: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
