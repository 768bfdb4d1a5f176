"""Attention among the tokens of an image that are there."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def run_blocks(blocks: nn.Sequential, tokens: Tensor, seen: Tensor | None = None, *, prefix: int = 0) -> Tensor:
    """What transformer blocks of timm make of tokens, none of which attends to one that is not seen.

    Args:
        blocks: timm's.
        tokens: [B, prefix + T, D]; finite where not seen.
        seen: [B, T] bool; None for all.
        prefix: leading tokens that are always seen.

    Returns:
        [B, prefix + T, D]; what stands where nothing is seen depends on the others, and nothing on it.
    """
    seen = None if seen is None else find_gaps(seen)
    if seen is None:
        whole: Tensor = blocks(tokens)
        return whole
    keys = mask_keys(seen, prefix=prefix)
    for block in blocks:
        tokens = block(tokens, attn_mask=keys)
    return tokens


def mask_keys(seen: Tensor, *, prefix: int = 0) -> Tensor:
    """Keys for all heads and queries: the prefix, and what is `seen` [B, T]: [B, 1, 1, prefix + T] bool."""
    return torch.cat([seen.new_ones(seen.shape[0], prefix), seen], dim=1)[:, None, None]


def find_gaps(seen: Tensor) -> Tensor | None:
    """The mask itself, or None where it hides nothing; always itself in a graph that is traced and has no values."""
    return seen if torch.compiler.is_compiling() or not bool(seen.all()) else None
