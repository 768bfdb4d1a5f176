"""Block-wise masks of BEiT (Bao et al. 2022, arXiv 2106.08254; its `MaskingGenerator`), by which MaskFeat hides."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RECTANGLES = 32  # drawn for an image; hidden patches are those that the first of them reach
LEAST_SHARE = 0.2  # of the hidden patches: the smallest rectangle (`_gen_mask` in the datasets of MaskFeat's code)
LEAST_ASPECT = 0.3  # height over width, to its inverse (`min_aspect` of the `MaskingGenerator`)


def draw_rectangles(grid: tuple[int, int], batch: int, *, hidden: int, rng: torch.Generator) -> Tensor:
    """Patches that rectangles of random place, area and aspect cover, the last one cut so that the number is exact.

    Areas are uniform from a fifth of `hidden` to all of it, aspects log-uniform; every place on the grid is as likely.

    Args:
        grid: rows and columns of patches.
        batch: images B.
        hidden: patches to hide.
        rng: source of randomness (CPU).

    Returns:
        [B, N] bool, true for `hidden` patches of each image.
    """
    height, width = grid
    area, aspect, y, x = torch.rand(4, batch, RECTANGLES, generator=rng)  # [B, R]
    area = hidden * (LEAST_SHARE + (1 - LEAST_SHARE) * area)
    aspect = torch.exp((2 * aspect - 1) * -math.log(LEAST_ASPECT))
    rows, cols = ((area * aspect).sqrt().round().clamp(1, height), (area / aspect).sqrt().round().clamp(1, width))
    inside = _span(y, rows, height)[..., :, None] & _span(x, cols, width)[..., None, :]  # [B, R, H, W]
    number = torch.arange(RECTANGLES)[:, None]
    first = torch.where(inside.flatten(2), number, RECTANGLES).amin(dim=1)  # [B, N], the rectangle that reaches it
    order = (first + torch.rand(first.shape, generator=rng)).argsort(dim=1).argsort(dim=1)
    return order < hidden


def _span(share: Tensor, size: Tensor, length: int) -> Tensor:
    """Places along an axis within intervals of a size [B, R] that begin at a share of the room: [B, R, length] bool."""
    begin = ((length - size + 1) * share).floor()[..., None]
    place = torch.arange(length)
    return (place >= begin) & (place < begin + size[..., None])
