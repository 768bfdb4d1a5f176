"""Attention that falls with the distance on the ground between two patches, whatever the size of the image.

2-D ALiBi and, between the patches of two sensors, X-ALiBi (Fuller et al. 2023, arXiv 2311.00566): a score gains -m_h
times the distance of query and key in patches, with a fixed slope m_h for each head. Formulae of `get_alibi` in the
authors' pretrain_croma.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from eo_ssl.models.relative_attention import PlacedBlock


def compute_slopes(heads: int) -> Tensor:
    """Slope of each head: 2**(-8 h / H) for h = 1 to H where H is a power of two, [H] float32.

    Else those of the next smaller power of two, and then the first, third ... of twice as many (`get_slopes` of the
    authors' code, which is that of Press et al. 2022, arXiv 2108.12409).
    """
    fewer = 2 ** int(math.log2(heads))
    exponents = [8 * (h + 1) / fewer for h in range(fewer)]
    exponents += [8 * (h + 1) / (2 * fewer) for h in range(0, 2 * (heads - fewer), 2)]
    return 2.0 ** -torch.tensor(exponents)


def measure_distances(queries: Tensor, keys: Tensor, *, columns: int, prefix: int = 0) -> Tensor:
    """How far patches lie apart, in patches; tokens in front of them have no place and are at 0 from all.

    Args:
        queries: [B, K] int64, raster indices.
        keys: [B, M] int64, raster indices.
        columns: patches in a row of the grid.
        prefix: tokens in front of both.

    Returns:
        [B, prefix + K, prefix + M] float32.
    """
    row, col = (
        (one[:, :, None] - other[:, None, :]).float()
        for one, other in ((queries // columns, keys // columns), (queries % columns, keys % columns))
    )  # [B, K, M]
    return nn.functional.pad((row.square() + col.square()).sqrt(), (prefix, 0, prefix, 0))


def average_nearby(q: Tensor, k: Tensor, v: Tensor, distances: Tensor, slopes: Tensor) -> Tensor:
    """Values [B, H, N, d] that queries [B, H, N, d] find at keys, the less the further these are.

    Args:
        q: queries.
        k: keys, [B, H, M, d].
        v: values, [B, H, M, d].
        distances: [B or 1, N, M].
        slopes: [H].
    """
    bias = -slopes[:, None, None] * distances[:, None]  # [B, H, N, M]
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


class AlibiAttention(nn.Module):
    """Self-attention of timm, whose scores fall with distance; it has no parameter more."""

    def __init__(self, attention: nn.Module) -> None:
        """Take over the maps of a plain `Attention` of timm."""
        super().__init__()
        self.qkv: nn.Linear = attention.qkv  # type: ignore[assignment]
        self.proj: nn.Linear = attention.proj  # type: ignore[assignment]
        self.heads = int(attention.num_heads)  # type: ignore[arg-type]
        self.register_buffer("slopes", compute_slopes(self.heads), persistent=False)
        self.slopes: Tensor  # [H]

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        """Tokens [B, N, D] that saw each other; distances [B or 1, N, N] of `measure_distances`."""
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, N, d]
        seen = average_nearby(q, k, v, distances, self.slopes)
        answer: Tensor = self.proj(seen.transpose(1, 2).reshape(batch, n, dim))
        return answer


class AlibiBlock(PlacedBlock):
    """A transformer block of timm with 2-D ALiBi; its parameters keep their names."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Build timm's block and take over its attention."""
        super().__init__(*args, **options)
        self.attn = AlibiAttention(self.attn)

    @staticmethod
    def relate(places: Tensor, *, columns: int, prefix: int) -> Tensor:
        """Distances of the tokens: [B, prefix + K, prefix + K] float32."""
        return measure_distances(places, places, columns=columns, prefix=prefix)
