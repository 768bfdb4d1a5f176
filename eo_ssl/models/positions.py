"""Fixed two-dimensional sine-cosine position codes."""

from __future__ import annotations

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect

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


def make_group_positions(
    grid: tuple[int, int], dim: int, *, groups: int, group_dim: int | None = None, prefix: int = 0
) -> Tensor:
    """Codes of the tokens of a grid of patches in several groups: where the patch lies, then which group it is.

    The first channels are `make_sincos_positions` of the grid, the last `group_dim` the sine and cosine of the number
    of the group at group_dim/2 wavelengths (Cong et al. 2022; their models_mae_group_channels.py).

    Args:
        grid: rows and columns of patches.
        dim: channels.
        groups: number of groups.
        group_dim: channels that say which group, even; None takes about a quarter, as 256 of the 1024 of ViT-L.
        prefix: number of leading zero rows, one per prefix token.

    Returns:
        [1, prefix + groups*rows*cols, dim] float32: the patches of the first group in raster order, then those of the
        next.

    Raises:
        UserError: group_dim is odd or below 2, or leaves no multiple of 4 for the grid.
    """
    group_dim = dim // 16 * 4 if group_dim is None else group_dim
    expect(
        group_dim >= 2 and group_dim % 2 == 0 and dim - group_dim >= 4,
        expected=f"an even group_dim of at least 2 that leaves 4 of the {dim} channels or more",
        got=group_dim,
        remedy="leave it out, which takes about a quarter",
    )
    place = make_sincos_positions(grid, dim - group_dim, prefix=0)[0]  # [N, dim - group_dim]
    frequency = WAVELENGTH_BASE ** -(torch.arange(group_dim // 2, dtype=torch.float64) / (group_dim // 2))
    angle = torch.arange(groups, dtype=torch.float64)[:, None] * frequency  # [G, group_dim/2]
    group = torch.cat([angle.sin(), angle.cos()], dim=1).float()  # [G, group_dim]
    code = torch.cat([place.repeat(groups, 1), group.repeat_interleave(len(place), dim=0)], dim=1)  # [G*N, dim]
    return torch.cat([code.new_zeros(prefix, dim), code])[None]
