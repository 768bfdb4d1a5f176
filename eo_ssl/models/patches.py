"""Images as patches in raster order."""

from __future__ import annotations

import torch
from torch import Tensor


def split_patches(image: Tensor, patch_size: int) -> Tensor:
    """Pixels of each patch, in the order of the patch projection's weight.

    Args:
        image: [B, C, H, W], any dtype; H and W are multiples of patch_size.
        patch_size: side of a patch, pixels.

    Returns:
        [B, N, C, p*p], patches in raster order, pixels of a patch in raster order.
    """
    batch, channels, height, width = image.shape
    rows, cols = height // patch_size, width // patch_size
    grid = image.reshape(batch, channels, rows, patch_size, cols, patch_size)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * cols, channels, patch_size**2)  # [B, N, C, p*p]


def take_patches(patches: Tensor, index: Tensor) -> Tensor:
    """Rows of the second dimension: patches [B, N, ...], index [B, M] int64 -> [B, M, ...]."""
    return patches[torch.arange(index.shape[0], device=index.device)[:, None], index]
