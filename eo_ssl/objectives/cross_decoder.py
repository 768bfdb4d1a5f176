"""A decoder whose hidden patches look at the visible ones alone (CrossMAE, Fu et al. 2024, arXiv 2401.14391)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from eo_ssl.models import Tokens, make_sincos_positions, take_patches


class CrossBlock(nn.Module):
    """Hidden patches attend to visible ones, then each is transformed by itself; both are added to what came in."""

    def __init__(self, dim: int, *, width: int, heads: int) -> None:
        """Build it for visible patches of `dim` channels and hidden ones of `width`."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, kdim=dim, vdim=dim, batch_first=True)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, hidden: Tensor, visible: Tensor, absent: Tensor | None = None) -> Tensor:
        """Hidden patches [B, M, width] after a look at the visible ones [B, K, dim], less `absent` [B, K] bool."""
        seen, _ = self.attention(self.norm1(hidden), visible, visible, key_padding_mask=absent, need_weights=False)
        hidden = hidden + seen
        moved: Tensor = hidden + self.mlp(self.norm2(hidden))
        return moved


class CrossDecoder(nn.Module):
    """Says what stands at named positions; each of them looks at the visible patches, none at another.

    What a block looks at is its own learned mixture of what the encoder's blocks made of the visible patches, as in
    the authors' command (`--weight_fm --use_input`). One difference: the last of them comes after the encoder's norm,
    which would else never be trained.
    """

    def __init__(
        self, dim: int, grid: tuple[int, int], *, sources: int, width: int, depth: int, heads: int, out: int
    ) -> None:
        """Build it for `sources` tensors of `dim` channels, with `depth` blocks of `width` and `out` channels out."""
        super().__init__()
        self.mixtures = nn.Parameter(torch.randn(depth, sources) / math.sqrt(sources))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(depth))
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.blocks = nn.ModuleList(CrossBlock(dim, width=width, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, out)
        self.register_buffer("positions", make_sincos_positions(grid, width, prefix=0), persistent=False)
        self.positions: Tensor  # [1, N, width]

    def forward(self, tokens: Tokens, entered: Sequence[Tensor], targets: Tensor) -> Tensor:
        """What stands at the targets.

        Args:
            tokens: of the visible patches, as `MaskableBackbone.visible_layers` gives them; no unseen one is looked at.
            entered: [B, P + K, D] each, what entered the encoder's blocks.
            targets: [B, M] int64, raster indices.

        Returns:
            [B, M, out].
        """
        sources = torch.stack([*entered, torch.cat([tokens.prefix, tokens.patches], dim=1)])  # [S, B, P + K, D]
        seen = torch.tensordot(self.mixtures, sources, dims=1)  # [depth, B, P + K, D]
        hidden = self.mask_token + take_patches(self.positions.expand(len(targets), -1, -1), targets)  # [B, M, width]
        absent = None if tokens.seen is None else nn.functional.pad(~tokens.seen, (tokens.prefix.shape[1], 0))
        for block, norm, mixture in zip(self.blocks, self.norms, seen, strict=True):
            hidden = block(hidden, norm(mixture), absent)
        values: Tensor = self.head(self.norm(hidden))
        return values
