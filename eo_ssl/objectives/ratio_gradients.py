"""Gradients of radar images as ratios of averages, at several scales: unlike differences they do not grow with power.

The target of SAR-JEPA (Li et al. 2024, arXiv 2311.15153); formula, scales and offset as in the authors'
`Pretraining/models_lomar.py`, class `GF`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect
from eo_ssl.models import View, split_patches
from eo_ssl.objectives.precision import use_float32
from eo_ssl.preprocessing import Preprocessing, compute_amplitude


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class RatioGradients:
    """Scales and windows of the gradients."""

    scales: tuple[int, ...] = (5, 9, 13, 17)
    """Half sides of the windows, pixels: k for (2k+1) x (2k+1) (authors' code)."""
    window: Literal["box", "gauss"] = "box"
    """Weights in a half window: 1, the centre in both halves (authors' code), or a Gaussian of the distance with the
    centre in neither (the form that the authors' code holds as a comment)."""
    floor: float = 0.01
    """Added to the amplitude, in its units (authors' code, for amplitudes of 0 to 1): noise below it makes no edge."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or min(self.scales) < 1:
            raise UserError(f"scales must be one or more whole numbers >= 1, got {self.scales}: try (5, 9, 13, 17)")
        if self.window not in ("box", "gauss"):
            raise UserError(f"window must be 'box' or 'gauss', got '{self.window}': choose one of the two")
        if self.floor <= 0:
            raise UserError(f"floor must be above 0, or two dark halves have no ratio, got {self.floor}: try 0.01")

    def check_size(self, size_px: int) -> None:
        """Refuse tiles that the largest window cannot be mirrored at the edge of.

        Raises:
            UserError: naming the scale.
        """
        expect(
            max(self.scales) < size_px,
            expected=f"scales of gradients below the tile's {size_px} px",
            got=max(self.scales),
            remedy="leave out the largest scales",
        )


def compute_ratio_gradients(amplitude: Tensor, config: RatioGradients) -> Tensor:
    """Length of the gradient of the logarithm of averages, natural logarithm, at each scale.

    At a pixel it is sqrt(gx^2 + gy^2) with gx = ln(average left / average right) and gy = ln(average above / average
    below) over the halves of a (2k+1) x (2k+1) window; the image is mirrored at its edges. Windows are separable: sums
    across the gradient come first and serve both halves.

    Args:
        amplitude: [B, C, H, W] float, linear, at least 0.
        config: scales and windows.

    Returns:
        [B, C, S, H, W], S scales.

    Raises:
        UserError: negative values, such as decibels, which have no ratio.
    """
    expect(
        bool((amplitude >= 0).all()),
        expected="linear amplitudes of at least 0 for gradients of ratios",
        got=f"{float(amplitude.min()):.3g}",
        remedy="convert decibels to amplitudes first",
    )
    batch, channels, height, width = amplitude.shape
    single = amplitude.reshape(batch * channels, 1, height, width)
    made = [_measure_at(single, k, config) for k in config.scales]
    return torch.cat(made, dim=1).reshape(batch, channels, len(config.scales), height, width)


def find_known_gradients(valid: Tensor, config: RatioGradients) -> Tensor:
    """Whether the whole window of a gradient is valid, so that missing pixels make no edge.

    Args:
        valid: [B, C, H, W] bool.
        config: scales.

    Returns:
        [B, C, S, H, W] bool.
    """
    if bool(valid.all()):
        return valid[:, :, None].expand(-1, -1, len(config.scales), -1, -1)
    missing, known = (~valid).float(), []  # a mirrored pixel lies within the window that it is mirrored into
    for k in config.scales:
        down = nn.functional.max_pool2d(missing, (2 * k + 1, 1), stride=1, padding=(k, 0))
        known.append(nn.functional.max_pool2d(down, (1, 2 * k + 1), stride=1, padding=(0, k)) == 0)
    return torch.stack(known, dim=2)


@torch.no_grad()
@use_float32
def compute_gradient_patches(
    view: View, contract: Preprocessing | None, config: RatioGradients, *, patch_px: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the amplitude behind a normalised view, by patch: values and whether each is known.

    Args:
        view: images [B, C, H, W] with the bands of `contract` in its order.
        contract: what they were normalised by, that `Objective.accept` was given.
        config: scales and windows.
        patch_px: side of a patch p, pixels.

    Returns:
        [B, N, C*S*p*p] of the image's dtype, and bool; of a band scale by scale, of a scale its pixels in raster order.

    Raises:
        UserError: no contract.
    """
    if contract is None:
        raise UserError("expected the contract of the stream before the first step, got none: pass it to `accept`")
    gradients = compute_ratio_gradients(compute_amplitude(view.pixels, contract), config).flatten(1, 2)
    known = find_known_gradients(view.valid, config).flatten(1, 2)  # [B, C*S, H, W]
    return split_patches(gradients, patch_px).flatten(2), split_patches(known, patch_px).flatten(2)


def _measure_at(image: Tensor, k: int, config: RatioGradients) -> Tensor:
    """Gradient of images [n, 1, H, W] at one scale: [n, 1, H, W]."""
    padded = nn.functional.pad(image, (k, k, k, k), mode="reflect") + config.floor
    across, halves = _make_windows(k, config.window, image)  # [2k+1], [2, 2k+1]
    columns = nn.functional.conv2d(padded, across.view(1, 1, -1, 1))  # [n, 1, H, W + 2k]
    left, right = nn.functional.conv2d(columns, halves.view(2, 1, 1, -1)).unbind(1)  # [n, H, W]
    rows = nn.functional.conv2d(padded, across.view(1, 1, 1, -1))  # [n, 1, H + 2k, W]
    above, below = nn.functional.conv2d(rows, halves.view(2, 1, -1, 1)).unbind(1)
    return torch.hypot((left / right).log(), (above / below).log())[:, None]


def _make_windows(k: int, window: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights across the gradient [2k+1], and of its two halves along it [2, 2k+1]."""
    offset = torch.arange(-k, k + 1, dtype=like.dtype, device=like.device)
    if window == "box":
        return torch.ones_like(offset), torch.stack([offset <= 0, offset >= 0]).to(like.dtype)
    sigma = 0.3 * (k - 1) + 0.8  # authors' code: OpenCV's rule for a kernel of 2k+1
    weight = torch.exp(-(offset**2) / (2 * sigma**2))
    return weight, torch.stack([weight * (offset < 0), weight * (offset > 0)])
