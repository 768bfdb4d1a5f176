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


def turn_windows(theta: Tensor, *, rng: torch.Generator) -> Tensor:
    """The windows so turned that cutting them gives one of the eight symmetries of each: [batch, 2, 3].

    Draws as `turn_randomly` does for the tiles that are cut, and costs nothing beside the cutting.
    """
    down, across, transposed = torch.rand(3, len(theta), generator=rng) < 0.5
    signs = 1 - 2 * torch.stack([across, down], dim=1).to(theta)  # [B, 2], of x and y
    axes = theta[:, :, :2] * signs[:, None]
    axes = torch.where(transposed[:, None, None], axes.flip(2), axes)
    return torch.cat([axes, theta[:, :, 2:]], dim=2)


def draw_windows(batch: int, *, scale: tuple[float, float], rng: torch.Generator) -> Tensor:
    """Random parts of tiles, for `cut_windows`: [batch, 2, 3] float32.

    Args:
        batch: number of tiles.
        scale: range of the share of the area.
        rng: source of randomness (CPU).
    """
    area = scale[0] + (scale[1] - scale[0]) * torch.rand(batch, generator=rng)  # [B], share of the tile
    low, high = (math.log(bound) for bound in CROP_ASPECT)
    aspect = (low + (high - low) * torch.rand(batch, generator=rng)).exp()  # [B]
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)  # [B], share of a side
    left, top = (1 - width) * torch.rand(batch, generator=rng), (1 - height) * torch.rand(batch, generator=rng)
    theta = torch.zeros(batch, 2, 3)  # maps output to input coordinates in [-1, 1]
    theta[:, 0, 0], theta[:, 0, 2] = width, 2 * left + width - 1
    theta[:, 1, 1], theta[:, 1, 2] = height, 2 * top + height - 1
    return theta


def span_whole(batch: int) -> Tensor:
    """Windows that are all of each tile: [batch, 2, 3] float32."""
    return torch.eye(2, 3).expand(batch, -1, -1)


def measure_enlargement(theta: Tensor, *, tile_px: int, size_px: int) -> Tensor:
    """Side of a pixel of the windows on the ground, as a multiple of that of the tile: [B].

    The root of the area of a pixel, which is not square where the window is not.
    """
    return (theta[:, 0, 0] * theta[:, 1, 1]).sqrt() * tile_px / size_px


def cut_windows(image: Tensor, valid: Tensor, theta: Tensor, *, size_px: int) -> tuple[Tensor, Tensor]:
    """Windows of tiles, bilinearly resized, weighing measured pixels only.

    Args:
        image: [B, C, H, W] float32, normalised.
        valid: [B, C, H, W] bool.
        theta: [B, 2, 3], maps output to input coordinates, both in [-1, 1].
        size_px: side of the result, pixels.

    Returns:
        image [B, C, size_px, size_px], zero where invalid, and valid.
    """
    shape = [*image.shape[:2], size_px, size_px]
    grid = functional.affine_grid(theta.to(image.device), shape, align_corners=False)  # [B, H, W, 2]
    if bool(valid.all()):
        return _resample(image, grid), valid.new_ones(shape)
    values, known = resample_masked(image, valid, lambda x: _resample(x, grid))
    return torch.where(known, values, values.new_zeros(())), known


def _resample(x: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
