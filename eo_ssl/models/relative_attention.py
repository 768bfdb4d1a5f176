"""Attention that knows how far apart two patches are, whatever the size of the image.

Contextual relative position encoding on keys (iRPE, Wu et al. 2021, arXiv 2107.14222) with the settings of SAR-JEPA:
`ratio=1.9, method="product", mode="ctx", shared_head=True, skip=1, rpe_on="k"` in its `vision_transformer_irpe.py`;
the formulae are those of `irpe.py` beside it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

ALPHA, BETA, GAMMA = 1.9, 3.8, 15.2  # of the piecewise function, in patches: 1, 2 and 8 times the ratio of 1.9
REACH = int(BETA)  # largest index of an offset along an axis
SIDE = 2 * REACH + 1
BUCKETS = SIDE**2 + 1  # products of the indices of both axes, and one for pairs with a prefix token


def bin_offsets(offset: Tensor) -> Tensor:
    """Index of offsets along an axis, whole patches: themselves up to 2, then by logarithm, at most 3.

    `piecewise_index` of the authors' code, equation 18 of their paper.

    Args:
        offset: any shape, int64.

    Returns:
        The same shape, int64, between -REACH and REACH.
    """
    size = offset.abs().double().clamp(min=ALPHA)
    far = ALPHA + (size / ALPHA).log() / math.log(GAMMA / ALPHA) * (BETA - ALPHA)
    index = torch.where(offset.abs() <= ALPHA, offset.abs(), far.round().clamp(max=BETA).long())
    return offset.sign() * index


def index_pairs(places: Tensor, *, columns: int, prefix: int) -> Tensor:
    """Which bucket each pair of tokens falls into, query by key.

    Args:
        places: [B, K] int64, raster indices of patches.
        columns: patches in a row of the grid.
        prefix: tokens in front of the patches.

    Returns:
        [B, prefix + K, prefix + K] int64, below BUCKETS.
    """
    rows, cols = places // columns, places % columns
    row, col = (bin_offsets(axis[:, :, None] - axis[:, None, :]) + REACH for axis in (rows, cols))  # [B, K, K]
    return nn.functional.pad(row * SIDE + col, (prefix, 0, prefix, 0), value=BUCKETS - 1)


class RelativeAttention(nn.Module):
    """Self-attention of timm, whose scores gain q . r of the bucket of each pair; r is shared by the heads."""

    def __init__(self, attention: nn.Module) -> None:
        """Take over the maps of a plain `Attention` of timm; r begins at zero, as in iRPE."""
        super().__init__()
        self.qkv: nn.Linear = attention.qkv  # type: ignore[assignment]
        self.proj: nn.Linear = attention.proj  # type: ignore[assignment]
        self.heads = int(attention.num_heads)  # type: ignore[arg-type]
        self.relative_keys = nn.Parameter(torch.zeros(self.qkv.in_features // self.heads, BUCKETS))

    def forward(self, x: Tensor, buckets: Tensor) -> Tensor:
        """Tokens [B, N, D] that saw each other; buckets [B or 1, N, N] int64 of `index_pairs`."""
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # [B, h, N, d]
        scores = q @ self.relative_keys  # [B, h, N, BUCKETS]
        bias = scores.gather(3, buckets[:, None].expand(batch, self.heads, -1, -1))  # [B, h, N, N]
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        answer: Tensor = self.proj(seen.transpose(1, 2).reshape(batch, n, dim))
        return answer


class PlacedBlock(Block, ABC):
    """A transformer block of timm whose attention is told where tokens lie to each other."""

    @staticmethod
    @abstractmethod
    def relate(places: Tensor, *, columns: int, prefix: int) -> Tensor:
        """What the attention is told of each pair of tokens, [B, prefix + K, prefix + K].

        Args:
            places: [B, K] int64, raster indices of patches.
            columns: patches in a row of the grid.
            prefix: tokens in front of the patches.
        """

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Tokens [B, N, D]; without `pairs` they are all patches of a square image after its prefix tokens."""
        if pairs is None:
            side = math.isqrt(x.shape[1])
            whole = torch.arange(side**2, device=x.device)[None]
            pairs = self.relate(whole, columns=side, prefix=x.shape[1] - side**2)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), pairs)))
        mixed: Tensor = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return mixed


class RelativeBlock(PlacedBlock):
    """A transformer block of timm with relative attention; its parameters keep their names."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Build timm's block and take over its attention."""
        super().__init__(*args, **options)
        self.attn = RelativeAttention(self.attn)

    @staticmethod
    def relate(places: Tensor, *, columns: int, prefix: int) -> Tensor:
        """Buckets of the pairs: [B, prefix + K, prefix + K] int64."""
        return index_pairs(places, columns=columns, prefix=prefix)
