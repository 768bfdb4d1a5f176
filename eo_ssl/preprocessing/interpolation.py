"""Another size for images with missing pixels: interpolation that weighs measured pixels only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from eo_ssl.errors import expect

Interpolation = Literal["bilinear", "bicubic", "bilinear-corners", "nearest", "area"]
"""`bilinear-corners` lets the centres of the corner pixels coincide (as kornia does); all others their edges."""

MIN_VALID_WEIGHT = 0.5  # weight of measured pixels above which a resampled one counts as measured
_ROUNDING = 1e-5  # of a kernel that saw only measured pixels
_MODES = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "bilinear-corners": "bilinear",
    "nearest": "nearest-exact",
    "area": "area",
}  # names in torch


def resample_masked(x: Tensor, valid: Tensor, resample: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return ``x`` resampled by weighing measured pixels only, and where it rests mostly on them.

    Normalised convolution (Knutsson and Westin 1993): values times mask and the mask itself pass through the same
    kernel, then one is divided by the other.

    Args:
        x: [B, C, H, W] float32, anything finite where invalid.
        valid: [B, C, H, W] bool.
        resample: a linear kernel of unit sum, [B, C, H, W] to [B, C, H', W'].

    Returns:
        (values [B, C, H', W'] float32, valid [B, C, H', W'] bool: more than `MIN_VALID_WEIGHT` of the kernel saw
        measured pixels).
    """
    weight, total = resample(valid.to(x.dtype)), resample(torch.where(valid, x, 0.0))
    whole = (weight - 1).abs() < _ROUNDING
    known = weight > MIN_VALID_WEIGHT
    return torch.where(whole, total, total / torch.where(known, weight, 1.0)), known


def crop_center(x: Tensor, valid: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Return the centre of ``x`` and ``valid`` [B, C, H, W], each [B, C, size, size].

    Raises:
        UserError: an image smaller than the crop.
    """
    height, width = x.shape[-2:]
    expect(
        min(height, width) >= size,
        expected=f"images of at least {size} px to crop",
        got=f"{height} x {width}",
        remedy="choose resize = to_size",
    )
    top, left = (height - size) // 2, (width - size) // 2
    window = (..., slice(top, top + size), slice(left, left + size))
    return x[window].contiguous(), valid[window]


def interpolate_masked(
    x: Tensor, valid: Tensor, *, size: int, interpolation: Interpolation, antialias: bool
) -> tuple[Tensor, Tensor]:
    """Return ``x`` at another size and where it rests mostly on measured pixels, by `resample_masked`.

    Args:
        x: [B, C, H, W] float32, anything finite where invalid.
        valid: [B, C, H, W] bool.
        size: side of the result, pixels.
        interpolation: kernel.
        antialias: whether the kernel widens when shrinking (bilinear and bicubic only).

    Returns:
        (values [B, C, size, size] float32, valid [B, C, size, size] bool).

    Raises:
        UserError: images that are not square, which would be squeezed.
    """
    height, width = x.shape[-2:]
    expect(
        height == width,
        expected=f"square images to interpolate to {size} x {size} px",
        got=f"{height} x {width} px",
        remedy="cut square windows out of them, or choose resize = crop or native",
    )
    mode = _MODES[interpolation]
    aligned = interpolation == "bilinear-corners" if mode in ("bilinear", "bicubic") else None

    def resize(image: Tensor) -> Tensor:
        return functional.interpolate(image, size=(size, size), mode=mode, align_corners=aligned, antialias=antialias)

    return resample_masked(x, valid, resize)
