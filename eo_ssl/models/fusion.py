"""Joint tokens of two sensors of the same ground (Fuller et al. 2023, arXiv 2311.00566)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from eo_ssl.models.alibi_attention import AlibiAttention, average_nearby, compute_slopes, measure_distances
from eo_ssl.models.backbone import MaskableBackbone, View


class SensorFusion(nn.Module, ABC):
    """What makes one vector of a radar and an optical image of the same ground, by the encoders of both."""

    kind: ClassVar[str]
    """Its name in a file."""
    format: ClassVar[int]
    """Format of the file that first knew it."""
    sizes: dict[str, int]
    """What rebuilds it without its weights."""

    def join_encoders(self, encoders: Sequence[MaskableBackbone]) -> None:
        """Make encoders that were read from files its own.

        Raises:
            UserError: encoders that it cannot have been trained with.
        """

    @abstractmethod
    def pool(self, encoders: Sequence[MaskableBackbone], views: Sequence[View]) -> Tensor:
        """One vector for each pair of images, [B, D].

        Args:
            encoders: of radar and optical images, in this order.
            views: a radar and an optical one, of the same ground and with the same grid of patches.
        """


class CrossAlibiAttention(nn.Module):
    """Attention of the patches of one sensor to those of another, whose scores fall with distance (X-ALiBi)."""

    def __init__(self, dim: int, heads: int) -> None:
        """Build it for tokens of `dim` channels."""
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.register_buffer("slopes", compute_slopes(heads), persistent=False)
        self.slopes: Tensor  # [H]

    def forward(self, x: Tensor, context: Tensor, distances: Tensor) -> Tensor:
        """Tokens [B, N, D] that saw the context [B, M, D], at distances [B or 1, N, M]."""
        batch, n, dim = x.shape
        q = self.q(x).reshape(batch, n, self.heads, -1).transpose(1, 2)  # [B, H, N, d]
        k, v = self.kv(context).reshape(batch, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        seen = average_nearby(q, k, v, distances, self.slopes)
        answer: Tensor = self.proj(seen.transpose(1, 2).reshape(batch, n, dim))
        return answer


class FusionBlock(nn.Module):
    """Patches of one sensor see each other, then those of another, then each is transformed by itself.

    One norm serves tokens and context, as in the authors' code. Unlike there, the distances of tokens among themselves
    are their own, and not those between the sensors, by which a token is far from itself.
    """

    def __init__(self, dim: int, heads: int) -> None:
        """Build it for tokens of `dim` channels."""
        super().__init__()
        self.norm1, self.norm2, self.norm3 = _norm(dim), _norm(dim), _norm(dim)
        self.attn = AlibiAttention(Attention(dim, heads, qkv_bias=True))
        self.cross, self.mlp = CrossAlibiAttention(dim, heads), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, context: Tensor, own: Tensor, between: Tensor) -> Tensor:
        """Tokens [B, N, D] after a look at each other and at the context [B, M, D], by the distances of each kind."""
        x = x + self.attn(self.norm1(x), own)
        x = x + self.cross(self.norm2(x), self.norm2(context), between)
        mixed: Tensor = x + self.mlp(self.norm3(x))
        return mixed


class FusionEncoder(SensorFusion):
    """Joint tokens of two sensors: those of the first sensor, which saw those of the second."""

    kind = "cross_attention"
    format = 1

    def __init__(self, dim: int, *, depth: int, heads: int) -> None:
        """Build it for tokens of `dim` channels."""
        super().__init__()
        self.sizes = {"dim": dim, "depth": depth, "heads": heads}
        self.blocks = nn.ModuleList(FusionBlock(dim, heads) for _ in range(depth))
        self.norm = _norm(dim)

    def forward(self, first: Tensor, second: Tensor, places: tuple[Tensor, Tensor], *, columns: int) -> Tensor:
        """Joint tokens at the places of the first sensor's.

        Args:
            first: [B, K, D], encoded patches of the first sensor.
            second: [B, M, D], those of the second.
            places: [B or 1, K] and [B or 1, M] int64, their raster indices on one grid.
            columns: patches in a row of the grid.

        Returns:
            [B, K, D].
        """
        own = measure_distances(places[0], places[0], columns=columns)
        between = measure_distances(places[0], places[1], columns=columns)
        for block in self.blocks:
            first = block(first, second, own, between)
        joint: Tensor = self.norm(first)
        return joint

    def pool(self, encoders: Sequence[MaskableBackbone], views: Sequence[View]) -> Tensor:
        """The mean of the joint tokens of all patches."""
        first, second = (encoder(view).patches for encoder, view in zip(encoders, views, strict=True))  # [B, N, D]
        columns = views[0].image.shape[-1] // encoders[0].patch_px
        places = torch.arange(first.shape[1], device=first.device)[None]
        joint: Tensor = self(first, second, (places, places), columns=columns)
        return joint.mean(dim=1)


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6)
