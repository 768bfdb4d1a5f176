"""Masks that leave blocks of patches visible (Baevski et al. 2023, arXiv 2212.07525, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from eo_ssl.errors import expect


def draw_inverse_blocks(
    grid: tuple[int, int], count: int, *, share: float, side: int, surplus: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patches that stay visible, squares that a border may cut, and those that are hidden.

    As the authors' `compute_block_mask_2d` (fairseq): so many centres that their squares cover `share + surplus` of the
    grid if none met, anywhere on it; then single patches are added or removed at random until exactly the share is
    visible. At least one square is drawn, where theirs has none on small grids; the grid need not be square.

    Args:
        grid: rows and columns of patches.
        count: number of masks n.
        share: of the patches that stay visible; rounded down, at least one patch.
        side: of a square, patches.
        surplus: share that is covered in addition, for squares that meet.
        rng: source of randomness (CPU).

    Returns:
        visible [n, K] and hidden [n, N - K] int64, raster indices in no particular order.

    Raises:
        UserError: a grid with no patch to hide.
    """
    height, width = grid
    patches = height * width
    visible = max(int(patches * share + 1e-9), 1)  # 0.2 of a number may come out just below
    expect(
        visible < patches,
        expected="a grid with a patch to hide",
        got=f"{height} x {width} patches",
        remedy="use smaller patches or larger tiles",
    )
    squares = max(int(patches * (share + surplus) / side**2), 1)
    centre = torch.randint(0, patches, (count, squares), generator=rng)  # [n, s]
    reach = torch.arange(side) - side // 2  # [side]
    row = (centre // width)[..., None] + reach  # [n, s, side]
    col = (centre % width)[..., None] + reach
    inside_row = (row[..., None] == torch.arange(height)).any(dim=2)  # [n, s, H]
    inside_col = (col[..., None] == torch.arange(width)).any(dim=2)  # [n, s, W]
    covered = (inside_row[..., :, None] & inside_col[..., None, :]).any(dim=1).flatten(1)  # [n, N]
    order = (torch.rand(count, patches, generator=rng) - covered.float()).argsort(dim=1)  # covered ones first
    return order[:, :visible], order[:, visible:]
