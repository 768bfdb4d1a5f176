"""Fixed two-dimensional sine-cosine position codes."""

from __future__ import annotations

import torch
from torch import Tensor

from eo_ssl.errors import UserError

WAVELENGTH_BASE = 10_000.0  # 1; base of the geometric series of wavelengths (Vaswani et al. 2017, section 3.5)


def make_sincos_positions(grid: tuple[int, int], dim: int, *, prefix: int = 1) -> Tensor:
    """Position codes of a grid of patches, the row in the first half of the channels and the column in the second.

    Each half holds sin and cos of the coordinate at dim/4 wavelengths (Vaswani et al. 2017, section 3.5, applied to
    each axis as in He et al. 2022, appendix A.1). Prefix tokens (class token) get zeros.

    Args:
        grid: rows and columns of patches.
        dim: channels, a multiple of 4.
        prefix: number of leading zero rows, one per prefix token.

    Returns:
        [1, prefix + rows*cols, dim] float32, patches in raster order.

    Raises:
        UserError: if dim is no multiple of 4.
    """
    if dim % 4:
        raise UserError(
            f"sine-cosine positions need a width that is a multiple of 4, got {dim}: choose another width, such as"
            f" {dim - dim % 4 + 4}"
        )
    rows, cols = grid
    frequency = WAVELENGTH_BASE ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))  # [dim/4]
    row = torch.arange(rows, dtype=torch.float64)[:, None] * frequency  # [rows, dim/4]
    col = torch.arange(cols, dtype=torch.float64)[:, None] * frequency  # [cols, dim/4]
    row_code = torch.cat([row.sin(), row.cos()], dim=1)[:, None].expand(rows, cols, -1)  # [rows, cols, dim/2]
    col_code = torch.cat([col.sin(), col.cos()], dim=1)[None].expand(rows, cols, -1)  # [rows, cols, dim/2]
    code = torch.cat([row_code, col_code], dim=2).reshape(rows * cols, dim)  # [N, dim]
    return torch.cat([torch.zeros(prefix, dim, dtype=torch.float64), code])[None].float()  # [1, prefix + N, dim]
