"""Joint tokens of two sensors of the same ground (Fuller et al. 2023, arXiv 2311.00566)."""

from __future__ import annotations

from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from eo_ssl.models.alibi_attention import AlibiAttention, average_nearby, compute_slopes, measure_distances


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


class FusionEncoder(nn.Module):
    """Joint tokens of two sensors: those of the first sensor, which saw those of the second."""

    def __init__(self, dim: int, *, depth: int, heads: int) -> None:
        """Build it for tokens of `dim` channels."""
        super().__init__()
        self.sizes = {"dim": dim, "depth": depth, "heads": heads}
        """What rebuilds it without its weights."""
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


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6)
