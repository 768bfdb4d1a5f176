"""Windows of an image with most of their patches hidden (LoMaR, Chen et al. 2022, arXiv 2206.00790)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class WindowMasks:
    """How many windows of which size, and how much of each is hidden."""

    count: int = 4
    """Windows of an image (authors' code of SAR-JEPA)."""
    side: int | None = None
    """Side of a window, patches; None for half of the grid's, rounded up: the 7 of 14 of SAR-JEPA."""
    mask_ratio: float = 0.8
    """Share of the patches of a window that is hidden (authors' code of SAR-JEPA)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.count < 1 or (self.side is not None and self.side < 1):
            raise UserError(
                f"count and side of windows must be at least 1, got {self.count} and {self.side}: raise them"
            )
        if not 0 < self.mask_ratio < 1:
            raise UserError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}: try 0.8")

    def choose_side(self, grid: tuple[int, int]) -> int:
        """Side of a window on a grid of patches.

        Raises:
            UserError: a grid on which that many windows cannot lie at different rows and columns, or windows in which
                nothing or all would be hidden.
        """
        side = self.side or (min(grid) + 1) // 2
        room = max(min(grid) - side + 1, 0)
        expect(
            room >= self.count,
            expected=f"room for {self.count} windows of {side} x {side} patches at different rows and columns",
            got=f"a {grid[0]} x {grid[1]} grid with {room}",
            remedy="choose smaller patches, or fewer or smaller windows",
        )
        hidden = int(side**2 * self.mask_ratio)
        expect(
            0 < hidden < side**2,
            expected="windows of which a part is hidden",
            got=f"{hidden} of {side**2} patches",
            remedy="choose larger windows or another mask_ratio",
        )
        return side


def draw_windows(
    grid: tuple[int, int], batch: int, *, masks: WindowMasks, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Windows at different rows and columns, the same for the batch; hidden patches for each image and window.

    Args:
        grid: rows and columns of patches.
        batch: images B.
        masks: number, size and share.
        rng: source of randomness (CPU).

    Returns:
        places [B, M, K] int64, raster indices of the patches of M windows of K patches, and hidden [B, M, K] bool, true
        for floor(K * mask_ratio) of each.

    Raises:
        UserError: as `WindowMasks.choose_side`.
    """
    side = masks.choose_side(grid)
    top, left = (torch.randperm(length - side + 1, generator=rng)[: masks.count] for length in grid)  # [M]
    inside = torch.arange(side)
    rows, cols = top[:, None] + inside, left[:, None] + inside  # [M, side]
    places = (rows[:, :, None] * grid[1] + cols[:, None, :]).reshape(1, masks.count, -1).expand(batch, -1, -1)
    order = torch.rand(places.shape, generator=rng).argsort(dim=2).argsort(dim=2)  # [B, M, K], rank of each patch
    return places, order < int(side**2 * masks.mask_ratio)
