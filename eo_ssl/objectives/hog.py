"""Histograms of oriented gradients by cell, the target of MaskFeat (Wei et al. 2022, arXiv 2112.09133).

Formula as in the authors' `slowfast/models/operators.py`, class `HOGLayerC`, of each band by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect
from eo_ssl.models import View, split_patches


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Hog:
    """Cells and orientations of the histograms."""

    orientations: int = 9
    """Bins of the half circle of unsigned orientations (authors' code)."""
    cell_px: int = 8
    """Side of a cell, pixels; divides the patch (authors' code: four cells of a patch of 16 px)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.orientations < 1 or self.cell_px < 1:
            raise UserError(
                f"orientations and cell_px must be at least 1, got {self.orientations} and {self.cell_px}: try 9 and 8"
            )

    def check_patch(self, patch_px: int) -> None:
        """Refuse patches that are not made of whole cells.

        Raises:
            UserError: naming both sides.
        """
        expect(
            patch_px % self.cell_px == 0,
            expected="a cell of gradients that divides the patch",
            got=f"cells of {self.cell_px} px and patches of {patch_px} px",
            remedy="choose another cell_px",
        )


def compute_hog(image: Tensor, valid: Tensor, config: Hog) -> tuple[Tensor, Tensor]:
    """Histogram of unsigned gradient orientations of each cell, weighted by length, at Euclidean length 1.

    The gradient is Sobel's on the image mirrored at its edges. A cell that a missing pixel is part of, or the gradient
    of one of its pixels touches, is not known.

    Args:
        image: [B, C, H, W] float, finite everywhere; H and W multiples of the cell.
        valid: [B, C, H, W] bool.
        config: cells and orientations.

    Returns:
        histograms [B, C, O, H/cell, W/cell] and whether each cell is known [B, C, 1, H/cell, W/cell].
    """
    padded = nn.functional.pad(image, (1, 1, 1, 1), mode="reflect").flatten(0, 1)  # [B*C, H+2, W+2]
    # Differences first: at an edge both neighbours are one pixel, and what rounding leaves of it would choose the bin.
    x, y = padded[..., :-2] - padded[..., 2:], padded[:, :-2] - padded[:, 2:]
    x, y = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:], y[..., :-2] + 2 * y[..., 1:-1] + y[..., 2:]  # [B*C, H, W]
    place = (torch.atan2(x, y) / math.pi * config.orientations).floor().long() % config.orientations
    length = torch.hypot(x, y)
    cells = [
        nn.functional.avg_pool2d(length * (place == orientation), config.cell_px, divisor_override=1)
        for orientation in range(config.orientations)
    ]
    histograms = nn.functional.normalize(torch.stack(cells, dim=1), dim=1)  # [B*C, O, H/cell, W/cell]
    missing = nn.functional.max_pool2d((~valid).float(), 3, stride=1, padding=1)
    known = nn.functional.max_pool2d(missing, config.cell_px) == 0  # [B, C, H/cell, W/cell]
    return histograms.reshape(*image.shape[:2], *histograms.shape[1:]), known[:, :, None]


@torch.no_grad()
def compute_hog_patches(view: View, config: Hog, *, patch_px: int) -> tuple[Tensor, Tensor]:
    """Histograms of the cells of each patch, band by band: values [B, N, C*O*cells] and whether each is known, bool."""
    histograms, known = compute_hog(view.pixels, view.valid, config)
    side, known = patch_px // config.cell_px, known.expand_as(histograms)
    values, counts = (split_patches(x.flatten(1, 2), side).flatten(2) for x in (histograms, known))
    return values, counts
