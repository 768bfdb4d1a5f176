"""Masks made of blocks of hidden patches (BEiT, Bao et al. 2021, arXiv 2106.08254, section 2.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 40  # blocks that are proposed for each mask before single patches fill it up


def draw_beit_blocks(
    grid: tuple[int, int], wanted: Tensor, *, smallest: int, aspect: float, rng: torch.Generator
) -> Tensor:
    """Hidden patches of each mask, exactly as many as are wanted.

    Blocks are laid on each other as in the code of BEiT: an area between the smallest and what is still missing, an
    aspect (height over width) drawn evenly on a logarithmic scale, any place; a block that would hide too many is drawn
    again. Theirs leaves a mask short that no block fits after ten draws, and takes no block of the grid's full height
    or width; here single patches, drawn at random, fill it up, and any block that fits is taken. All masks are drawn
    together.

    Args:
        grid: rows and columns of patches.
        wanted: [n] int64, hidden patches of each mask, at most those of the grid.
        smallest: area of a block, patches, while as many are missing.
        aspect: smallest aspect, 0 to 1; the largest is its inverse.
        rng: source of randomness (CPU).

    Returns:
        [n, N] bool, patches in raster order.
    """
    height, width = grid
    hidden = torch.zeros(len(wanted), height, width, dtype=torch.bool)
    row, col = torch.arange(height), torch.arange(width)
    for _ in range(ROUNDS):
        missing = wanted - hidden.sum(dim=(1, 2))  # [n]
        if not missing.any():
            break
        share, bend, down, right = torch.rand(4, len(wanted), generator=rng)  # [n] each
        area = smallest + (missing - smallest) * share
        ratio = torch.exp((2 * bend - 1) * -math.log(aspect))
        rows = (area * ratio).sqrt().round().long().clamp(min=1)
        cols = (area / ratio).sqrt().round().long().clamp(min=1)
        top = (down * (height - rows + 1)).long()
        left = (right * (width - cols + 1)).long()
        inside_row = (row >= top[:, None]) & (row < (top + rows)[:, None])  # [n, H]
        inside_col = (col >= left[:, None]) & (col < (left + cols)[:, None])  # [n, W]
        block = inside_row[:, :, None] & inside_col[:, None, :]  # [n, H, W]
        more = (block & ~hidden).sum(dim=(1, 2))
        fits = (rows <= height) & (cols <= width) & (more <= missing)
        hidden |= block & fits[:, None, None]
    order = torch.rand(hidden.flatten(1).shape, generator=rng) - hidden.flatten(1).float()  # hidden ones first
    return order.argsort(dim=1).argsort(dim=1) < wanted[:, None]  # rank of each patch
