"""Attention among the tokens of an image that exist."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def run_blocks(blocks: nn.Sequential, tokens: Tensor, present: Tensor | None = None) -> Tensor:
    """What transformer blocks of timm make of tokens, none of which attends to one that is not there.

    Args:
        blocks: timm's.
        tokens: [B, T, D]; finite where not present.
        present: [B, T] bool, at least one in every row; None for all.

    Returns:
        [B, T, D]; rows that are not present hold finite values that nothing else depends on.
    """
    # an exported graph knows no branch over values: it always holds the mask
    if present is None or (not torch.compiler.is_exporting() and bool(present.all())):
        whole: Tensor = blocks(tokens)
        return whole
    mask = present[:, None, None]  # [B, 1, 1, T], for all heads and queries
    for block in blocks:
        tokens = block(tokens, attn_mask=mask)
    return tokens
