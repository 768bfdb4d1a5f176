"""Augmentations of a normalised batch that keep its physics: geometry, calibration gain and noise, seeded by the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from eo_ssl.errors import UserError
from eo_ssl.objectives import Batch
from eo_ssl.preprocessing import Preprocessing

CROP_ASPECT = (3 / 4, 4 / 3)  # width over height of a random resized crop (Szegedy et al. 2015, section 6)
_TURNS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.flip(2),
    lambda x: x.flip(3),
    lambda x: x.transpose(2, 3),
)  # generate the eight symmetries of the square
_OWN = 0x5DEECE66D  # tells this stream from the objective's, whose masks would else repeat the numbers of the crops
VALID_SHARE = 0.5  # share of measured pixels in an interpolated one, above which it counts as measured


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class AugmentConfig:
    """What may change between the tile and what the encoder sees."""

    crop: tuple[float, float] | None = (0.5, 1.0)
    """Range of the share of the area that a random crop, resized to the full size, covers; None for no crop."""
    flips: bool = True
    """Mirror and turn by quarters: the eight symmetries of a square, an overhead view has no preferred one."""
    gain: float = 0.0
    """Largest relative change of the radiometric gain, drawn for each band: 0.1 for 0.9 to 1.1 in linear units."""
    noise: float = 0.0
    """Standard deviation of added noise in units of the band's standard deviation over the corpus."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UserError(f"crop must be an increasing pair within 0 and 1, got {self.crop}: try (0.5, 1.0)")
        if not 0 <= self.gain < 1 or self.noise < 0:
            raise UserError(f"gain must lie in [0, 1) and noise be >= 0, got {self.gain} and {self.noise}: lower them")


DEFAULT_AUGMENT = {
    "mae": AugmentConfig(crop=(0.2, 1.0)),  # He et al. 2022, table 8: random resized crop and flip
    "ijepa": AugmentConfig(crop=(0.3, 1.0), flips=False),  # Assran et al. 2023, appendix A.1: crop alone
    "simclr": AugmentConfig(crop=(0.2, 1.0), gain=0.2, noise=0.1),  # crop as Wang et al. 2023 (SSL4EO-S12), MoCo
}


class Augmentation:
    """Applies an `AugmentConfig` to batches normalised by a `Preprocessing`."""

    def __init__(self, config: AugmentConfig, preprocessing: Preprocessing, *, views: int = 1) -> None:
        """Prepare for batches of `preprocessing`, making `views` of each tile."""
        self.config, self.views = config, views
        self.is_db = preprocessing.final_quantity.is_db
        self.mean = torch.tensor(preprocessing.mean).view(1, -1, 1, 1)  # [1, C, 1, 1], physical
        self.std = torch.tensor(preprocessing.std).view(1, -1, 1, 1)  # [1, C, 1, 1], physical

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its image augmented, or with `views` independently augmented versions of it.

        Everything random comes from the batch's seed, so that a resumed run sees the same pixels.
        """
        image, valid = batch["image"], batch["valid"]
        rng = torch.Generator().manual_seed(batch["seed"] ^ _OWN)
        drawn = [self._view(image, valid, rng) for _ in range(self.views)]
        rest: Batch = {"row": batch["row"], "seed": batch["seed"]}
        if self.views == 1:
            return {"image": drawn[0][0], "valid": drawn[0][1], **rest}
        return {"views": [{"image": x, "valid": v, **rest} for x, v in drawn], **rest}

    def _view(self, image: Tensor, valid: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        config = self.config
        if config.crop is not None:
            image, valid = random_crop(image, valid, scale=config.crop, rng=rng)
        if config.flips:
            image, valid = random_symmetry(image, valid, rng=rng)
        if config.gain:
            draw = 1 + config.gain * (2 * torch.rand(*image.shape[:2], 1, 1, generator=rng) - 1)  # [B, C, 1, 1]
            image = self.apply_gain(image, draw.to(image.device))
        if config.noise:
            image = image + config.noise * torch.randn(image.shape, generator=rng).to(image.device)
        return torch.where(valid, image, image.new_zeros(())), valid

    def apply_gain(self, image: Tensor, gain: Tensor) -> Tensor:
        """The normalised image whose physical linear values are `gain` times as large.

        A gain multiplies reflectance, amplitude and power; in dB it adds 10 log10(gain).

        Args:
            image: [B, C, H, W] float32, normalised.
            gain: [B, C, 1, 1] float32, linear.
        """
        mean, std = self.mean.to(image.device), self.std.to(image.device)
        if self.is_db:
            return image + 10 * gain.log10() / std
        return gain * image + (gain - 1) * mean / std


def random_symmetry(image: Tensor, valid: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries of the square for each tile: [B, C, S, S] twice, pixels moved, never changed."""
    for chosen, turn in zip(torch.rand(3, image.shape[0], generator=rng) < 0.5, _TURNS, strict=True):
        where = chosen.to(image.device).view(-1, 1, 1, 1)
        image, valid = torch.where(where, turn(image), image), torch.where(where, turn(valid), valid)
    return image, valid


def random_crop(
    image: Tensor, valid: Tensor, *, scale: tuple[float, float], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random part of each tile, bilinearly resized to the full size, weighing measured pixels only.

    Args:
        image: [B, C, H, W] float32, normalised.
        valid: [B, C, H, W] bool.
        scale: range of the share of the area.
        rng: source of randomness (CPU).

    Returns:
        image, zero where invalid, and valid, of the same shapes.
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
    grid = functional.affine_grid(theta.to(image.device), list(image.shape), align_corners=False)  # [B, H, W, 2]
    if bool(valid.all()):
        return _resample(image, grid), valid
    weight = _resample(valid.to(image.dtype), grid)  # [B, C, H, W], share of measured pixels
    total = _resample(torch.where(valid, image, image.new_zeros(())), grid)
    known = weight >= VALID_SHARE
    return torch.where(known, total / weight.clamp(min=VALID_SHARE), image.new_zeros(())), known


def _resample(x: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
